//! `poll_oneoff`.

use super::prelude::*;

const FAR: u64 = 1 << 60;

cases! {
    fn nothing_to_wait_for_is_invalid(g) {
        g.fails(poll_oneoff(&[]), INVAL);
    }

    fn a_short_time_passes(g) {
        g.gives(poll_oneoff(&[after(7, clock::MONOTONIC, 1000)]), events(&[clock_event(7)]));
        g.gives(poll_oneoff(&[after(8, clock::REALTIME, 1000)]), events(&[clock_event(8)]));
        g.gives(poll_oneoff(&[after(9, clock::MONOTONIC, 0)]), events(&[clock_event(9)]));
    }

    fn a_time_that_is_over_is_not_waited_for(g) {
        g.gives(poll_oneoff(&[at(1, clock::MONOTONIC, 0)]), events(&[clock_event(1)]));
        g.gives(poll_oneoff(&[at(2, clock::REALTIME, 0)]), events(&[clock_event(2)]));
        g.gives(poll_oneoff(&[at(3, clock::REALTIME, 1_000_000_000)]), events(&[clock_event(3)]));
    }

    fn the_first_of_two_times_counts(g) {
        g.gives(
            poll_oneoff(&[after(1, clock::MONOTONIC, FAR), after(2, clock::MONOTONIC, 1000)]),
            events(&[clock_event(2)]),
        );
        g.gives(
            poll_oneoff(&[after(3, clock::MONOTONIC, 0), at(4, clock::REALTIME, FAR * 8)]),
            events(&[clock_event(3)]),
        );
    }

    fn sleeping_takes_time(g) {
        let before = g.ok(clock_time_get(clock::MONOTONIC)).id();
        g.gives(poll_oneoff(&[after(1, clock::MONOTONIC, 5_000_000)]), events(&[clock_event(1)]));
        let after = g.ok(clock_time_get(clock::MONOTONIC)).id();
        g.compare("the clock moved by what was slept", [before, after], |[before, after]| {
            after.last() - before.last() >= 5_000_000
        });
    }

    fn a_long_sleep_is_over_at_once_on_the_fixed_clock(g) {
        g.only_ours("it really sleeps");
        let before = g.ok(clock_time_get(clock::MONOTONIC)).id();
        let hour = 3_600_000_000_000;
        g.gives(poll_oneoff(&[after(1, clock::MONOTONIC, hour)]), events(&[clock_event(1)]));
        let after = g.ok(clock_time_get(clock::MONOTONIC)).id();
        g.compare("the clock moved by an hour", [before, after], move |[before, after]| {
            after.last() - before.last() >= hour
        });
    }

    fn a_file_is_always_ready(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a").read_write());
        g.gives(poll_oneoff(&[readable(1, a)]), events(&[read_event(1)]));
        g.gives(poll_oneoff(&[writable(2, a)]), events(&[write_event(2)]));
        g.gives(poll_oneoff(&[readable(1, a), writable(2, a)]), events(&[read_event(1), write_event(2)]))
            .wasmtime(anything(), "it does not always notice both at once");
    }

    fn a_file_at_its_end_is_ready_too(g) {
        g.file("a", "");
        let a = g.open(path_open(ROOT, "a"));
        g.gives(poll_oneoff(&[readable(1, a)]), events(&[read_event(1)]));
    }

    fn the_standard_streams_are_ready(g) {
        g.gives(poll_oneoff(&[readable(1, STDIN)]), events(&[read_event(1)]));
        g.gives(poll_oneoff(&[writable(2, STDOUT)]), events(&[write_event(2)]));
        let all = [readable(1, STDIN), writable(2, STDOUT), writable(3, STDERR)];
        g.gives(poll_oneoff(&all), events(&[read_event(1), write_event(2), write_event(3)]));
    }

    fn what_is_ready_is_not_kept_waiting_by_a_clock(g) {
        g.gives(
            poll_oneoff(&[after(1, clock::MONOTONIC, FAR), writable(2, STDERR)]),
            events(&[write_event(2)]),
        );
    }

    fn one_descriptor_is_asked_for_twice(g) {
        g.gives(
            poll_oneoff(&[writable(1, STDERR), writable(2, STDERR)]),
            events(&[write_event(1), write_event(2)]),
        );
        g.gives(
            poll_oneoff(&[writable(1, STDERR), writable(1, STDERR)]),
            events(&[write_event(1), write_event(1)]),
        );
    }

    fn user_data_comes_back_as_it_went(g) {
        g.gives(poll_oneoff(&[writable(u64::MAX, STDERR)]), events(&[write_event(u64::MAX)]));
        g.gives(poll_oneoff(&[writable(0, STDERR)]), events(&[write_event(0)]));
    }

    fn a_bad_descriptor_is_an_event(g) {
        let why = "the whole call fails";
        g.gives(poll_oneoff(&[readable(1, NO_FD)]), events(&[read_event(1).failed(BADF)]))
            .wasmtime(fails(BADF), why);
        g.gives(poll_oneoff(&[writable(2, NO_FD)]), events(&[write_event(2).failed(BADF)]))
            .wasmtime(fails(BADF), why);
        g.gives(
            poll_oneoff(&[after(1, clock::MONOTONIC, FAR), readable(3, NO_FD)]),
            events(&[read_event(3).failed(BADF)]),
        )
        .wasmtime(fails(BADF), why);
    }

    fn a_hundred_subscriptions(g) {
        let all: Vec<_> = (0..100).map(|number| writable(number, STDERR)).collect();
        let expected: Vec<_> = (0..100).map(write_event).collect();
        g.gives(poll_oneoff(&all), events(&expected));
    }

    fn clocks_of_the_processor_are_not_waited_for(g) {
        // By the call or by an event.
        let outcome = [SUCCESS, INVAL, NOTSUP, BADF];
        g.fails_with_one_of(poll_oneoff(&[after(1, clock::PROCESS_CPUTIME, 0)]), &outcome);
        g.fails_with_one_of(poll_oneoff(&[after(1, clock::THREAD_CPUTIME, 0)]), &outcome);
    }

    fn what_does_not_exist_is_invalid(g) {
        // Read by the host itself and not, as parameters are, by what is in front of it.
        g.fails(poll_oneoff(&[after(1, clock::MONOTONIC, 0).flags(2)]), INVAL);
        g.fails(poll_oneoff(&[after(1, 9, 0)]), INVAL);
    }
}
