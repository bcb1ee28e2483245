//! Arguments, environment, clocks, random numbers, and the end.

use super::prelude::*;

cases! {
    fn arguments_arrive(g) {
        g.arguments(&["tool", "two words", "", "ünï"]);
        g.gives(args_sizes_get(), numbers([4, 5 + 10 + 1 + 6]));
        g.gives(args_get(4, 22), strings(&["tool", "two words", "", "ünï"]));
    }

    fn there_may_be_no_arguments(g) {
        g.gives(args_sizes_get(), numbers([0, 0]));
        g.gives(args_get(0, 0), strings(&[]));
    }

    fn many_arguments_arrive(g) {
        let all: Vec<_> = (0..500).map(|number| format!("argument-{number:04}")).collect();
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        g.arguments(&all);
        g.gives(args_sizes_get(), numbers([500, 500 * 14]));
        g.gives(args_get(500, 500 * 14), strings(&all));
    }

    fn the_environment_arrives_and_nothing_else(g) {
        g.environment(&[("A", "1"), ("EMPTY", ""), ("B", "x=y")]);
        g.gives(environ_sizes_get(), numbers([3, 4 + 7 + 6]));
        g.gives(environ_get(3, 17), strings(&["A=1", "EMPTY=", "B=x=y"]));
    }

    fn there_may_be_no_environment(g) {
        g.gives(environ_sizes_get(), numbers([0, 0]));
        g.gives(environ_get(0, 0), strings(&[]));
    }

    fn success_is_an_exit_too(g) {
        g.exits(proc_exit(0), 0);
    }

    fn an_exit_code_arrives(g) {
        g.exits(proc_exit(1), 1);
    }

    fn the_largest_plain_exit_code_arrives(g) {
        g.exits(proc_exit(125), 125);
    }

    fn exit_codes_of_a_shell_arrive(g) {
        g.exits(proc_exit(255), 255).wasmtime(traps(), "it takes exit codes below 126 only");
    }

    fn nothing_is_done_after_the_exit(g) {
        g.stderr_is("before");
        g.gives(fd_write(STDERR, &["before"]), 6);
        g.exits(proc_exit(3), 3);
        g.expect(fd_write(STDERR, &["after"]), never());
    }

    fn signals_are_not_raised(g) {
        g.fails_with_one_of(proc_raise(6), &[NOTSUP, NOSYS]);
        g.fails_with_one_of(proc_raise(0), &[NOTSUP, NOSYS]);
    }

    fn a_signal_that_does_not_exist_is_a_trap(g) {
        g.traps(proc_raise(31));
    }

    fn yielding_is_fine(g) {
        g.ok(sched_yield());
        g.ok(sched_yield());
    }

    fn random_bytes_fill_the_buffer(g) {
        let one = g.ok(random_get(64)).id();
        let two = g.ok(random_get(64)).id();
        g.ok(random_get(0));
        g.compare("they differ from each other and from what was there", [one, two], |[one, two]| {
            let (one, two) = (one.filled().unwrap_or_default(), two.filled().unwrap_or_default());
            // Each byte could be what was there by chance; a run of eight could not.
            let touched = |bytes: &[u8]| !bytes.windows(8).any(|run| run == [0xaa; 8]);
            one != two && touched(&one) && touched(&two)
        });
    }

    fn a_large_buffer_is_filled_with_random_bytes(g) {
        let id = g.ok(random_get(10_000)).id();
        g.compare("every value occurs", [id], |[bytes]| {
            let bytes = bytes.filled().unwrap_or_default();
            (0..=255).all(|value: u8| bytes.contains(&value))
        });
    }

    fn clocks_have_a_resolution(g) {
        let sensible = || number_where("between 1 ns and 1 s", |ns| (1..=1_000_000_000).contains(&ns));
        g.gives(clock_res_get(clock::REALTIME), sensible());
        g.gives(clock_res_get(clock::MONOTONIC), sensible());
    }

    fn the_monotonic_clock_does_not_go_back(g) {
        let times = [(); 20].map(|()| g.ok(clock_time_get(clock::MONOTONIC)).id());
        g.compare("each time is not before the one before", times, |times| {
            times.is_sorted_by_key(|time| time.last())
        });
    }

    fn the_monotonic_clock_steps(g) {
        g.only_ours("a real clock may show the same time twice");
        let times = [(); 20].map(|()| g.ok(clock_time_get(clock::MONOTONIC)).id());
        g.compare("the steps are equal and not zero", times, |times| {
            let steps: Vec<_> = times.windows(2).map(|pair| pair[1].last() - pair[0].last()).collect();
            steps[0] > 0 && steps.iter().all(|step| *step == steps[0])
        });
    }

    fn the_wall_clock_shows_a_time_of_this_age(g) {
        // After 1980, which is where ZIP archives begin, and before 2100.
        let year = 365 * 86_400 * 1_000_000_000;
        let id = g.ok(clock_time_get(clock::REALTIME)).id();
        g.compare("it is a time that tools take for one", [id], move |[time]| {
            (10 * year + 2..130 * year).contains(&time.last())
        });
    }

    fn clocks_of_the_processor_are_refused_or_work(g) {
        // Preview 1 has them; wasmtime-wasi does not.
        for id in [clock::PROCESS_CPUTIME, clock::THREAD_CPUTIME] {
            g.fails_with_one_of(clock_res_get(id), &[SUCCESS, BADF, INVAL, NOTSUP]);
            g.fails_with_one_of(clock_time_get(id), &[SUCCESS, BADF, INVAL, NOTSUP]);
        }
    }

    fn a_clock_that_does_not_exist_is_a_trap(g) {
        g.traps(clock_time_get(4));
    }

    fn a_resolution_of_a_clock_that_does_not_exist_is_a_trap(g) {
        g.traps(clock_res_get(4));
    }
}
