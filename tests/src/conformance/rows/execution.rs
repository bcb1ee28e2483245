//! Execution and Operations.

use super::{Row, gap, may, must, should, stated};

pub(super) const EXECUTION: &[Row] = &[
    stated("EXE-01", "Execute streams one operation until it is done, with metadata all along"),
    must(
        "EXE-02",
        "the operation's own error is never set: faults are in the call's status or in the response",
    ),
    stated("EXE-03", "each kind of fault has its code"),
    should("EXE-04", "missing blobs are FAILED_PRECONDITION, each in a violation of type MISSING"),
    stated("EXE-05", "results may come from the cache unless the request says otherwise"),
    stated("EXE-06", "an action that is not to be cached is neither cached nor joined"),
    stated("EXE-07", "salt and timeout make another action"),
    may("EXE-08", "an action may be run more than once").without("a freedom of the server"),
    must("EXE-09", "completed is the stage of the last message, which is done"),
    stated("EXE-10", "metadata has the action's digest"),
    stated("EXE-11", "an exit code other than 0 is a result and no failure"),
    stated("EXE-12", "a result from the cache says so"),
    stated("EXE-13", "outputs may be asked for inline"),
    stated("EXE-14", "a lower priority runs sooner").choice("every priority is in range"),
    must("EXE-15", "an execution uses one digest function"),
    must("EXE-16", "a timeout beyond the server's longest is refused").choice("INVALID_ARGUMENT"),
    should("EXE-17", "a platform that nobody has is refused")
        .choice("FAILED_PRECONDITION, naming the property"),
    gap("EXE-18", "a client that goes away").choice("its operation goes on"),
    stated("EXE-20", "WaitExecution answers at once with the present state, and follows to the end"),
    gap("EXE-21", "how long operations that are done can be found")
        .choice("a quarter of an hour, unless set otherwise; one that came from the cache is over at once"),
    stated("EXE-22", "an action digest that is missing or malformed is refused")
        .choice("INVALID_ARGUMENT, as the call's status"),
];

pub(super) const OPERATIONS: &[Row] = &[
    stated("OPS-01", "an operation can be asked for by name; one that nobody knows is NOT_FOUND"),
    stated("OPS-02", "cancelling is asked for and not waited for; the operation then ends as CANCELLED"),
    stated("OPS-03", "deleting forgets an operation"),
    stated("OPS-04", "operations can be listed in pages, or the call is UNIMPLEMENTED")
        .choice("a filter of NAME=VALUE terms joined by AND"),
    stated("OPS-05", "WaitOperation waits until it is done or the time is up"),
    stated("OPS-06", "an operation that is done has a response, and another has none"),
    stated("OPS-07", "names of operations").choice("`[INSTANCE/]operations/UUID`"),
    gap("OPS-08", "cancelling one of several operations that share a run").choice("the others go on"),
];
