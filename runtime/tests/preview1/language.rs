//! Tests of the language itself: a case that is wrong must not pass.

use crate::guest::call::*;
use crate::guest::check::*;
use crate::guest::functions::*;
use crate::guest::types::*;
use crate::guest::{Guest, fails};
use crate::hosts::{CANARY, complaints};

/// A case that must fail with this in its only complaint.
#[track_caller]
fn complains(expected: &str, script: impl FnOnce(&mut Guest)) {
    let mut guest = Guest::default();
    guest.file("a", "content");
    script(&mut guest);
    let complaints: Vec<_> =
        complaints(&guest).into_iter().filter(|complaint| complaint.starts_with("Wasmtime")).collect();
    assert!(complaints.len() == 1 && complaints[0].contains(expected), "{complaints:#?}");
}

#[test]
fn a_success_that_was_to_fail() {
    complains("step 0, path_open(fd 3, 1, \"a\"", |g| {
        g.fails(path_open(ROOT, "a"), Errno::NOENT);
    });
}

#[test]
fn a_failure_that_was_to_succeed() {
    complains("returned NOENT", |g| {
        g.ok(path_open(ROOT, "b"));
    });
}

#[test]
fn another_errno() {
    complains("returned NOENT, not [NOTDIR]", |g| {
        g.fails(path_open(ROOT, "b"), Errno::NOTDIR);
    });
}

#[test]
fn other_bytes() {
    complains("gave \"content\", not \"contents\"", |g| {
        let a = g.open(path_open(ROOT, "a"));
        g.gives(fd_read(a, &[20]), "contents");
    });
}

#[test]
fn another_number() {
    complains("gave 3, not 4", |g| {
        let a = g.open(path_open(ROOT, "a"));
        g.gives(fd_seek(a, 3, whence::SET), 4);
    });
}

#[test]
fn another_attribute() {
    complains("size is 0x7, not 0x8", |g| {
        g.gives(path_filestat_get(ROOT, "a"), filestat(filetype::REGULAR_FILE).size(8));
    });
}

#[test]
fn other_names() {
    complains("gave [\".\", \"..\", \"a\"]", |g| {
        g.gives(fd_readdir(ROOT, 512, 0), names(&[".", ".."]));
    });
}

#[test]
fn a_comparison_that_does_not_hold() {
    complains("it does not hold that a is larger", |g| {
        let one = g.ok(path_filestat_get(ROOT, "a")).id();
        g.compare("a is larger", [one], |[stat]| stat.field(SIZE) > 7);
    });
}

#[test]
fn a_trap_that_was_not_expected() {
    let mut guest = Guest::default();
    guest.ok(clock_time_get(clock::MONOTONIC).with("time", 1));
    let complaints = complaints(&guest).join("\n");
    assert!(complaints.contains("no report") && complaints.contains("step_0_clock_time_get"), "{complaints}");
}

#[test]
fn a_trap_that_did_not_come() {
    complains("returned SUCCESS", |g| {
        g.traps(sched_yield());
    });
}

#[test]
fn another_exit_code() {
    complains("the guest ended with Exit(2)", |g| {
        g.exits(proc_exit(2), 3);
    });
}

#[test]
fn an_exit_that_did_not_come() {
    complains("returned SUCCESS", |g| {
        g.exits(sched_yield(), 0);
    });
}

#[test]
fn a_call_after_the_end() {
    complains("was not reached", |g| {
        g.exits(proc_exit(2), 2);
        g.ok(sched_yield());
    });
}

#[test]
fn other_text_on_standard_error() {
    complains("standard error is \"x\"", |g| {
        g.stderr_is("y");
        g.ok(fd_write(STDERR, &["x"]));
    });
}

#[test]
fn a_canary_that_was_read() {
    complains("the canary was read", |g| {
        g.ok(fd_write(STDERR, &[CANARY]));
    });
}

#[test]
fn a_difference_is_the_only_thing_that_counts_there() {
    complains("returned SUCCESS, not [BADF]", |g| {
        g.ok(path_open(ROOT, "a")).wasmtime(fails(Errno::BADF), "it is a test");
    });
}
