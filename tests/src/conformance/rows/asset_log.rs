//! Remote Asset and LogStream.

use super::{Row, client, field, gap, may, must, should, stated};

pub(super) const ASSETS: &[Row] = &[
    client("AST-01", "there is a URI at least, and no qualifier twice").choice("if not: INVALID_ARGUMENT"),
    must("AST-02", "qualifiers that are not supported are refused, each by a violation"),
    must("AST-03", "what is fetched satisfies all qualifiers"),
    stated("AST-04", "faults of the call are its status, faults of the origin are in the response"),
    should("AST-05", "what is returned is stored, and stays"),
    stated("AST-06", "the timeout bounds the fetch"),
    stated("AST-07", "content that is too old is fetched anew"),
    may("AST-08", "any of the URIs may be used, and the response says which")
        .choice("in their order; of the last one when none has it"),
    may("AST-09", "expiry and qualifiers may be told").without("a freedom of the server"),
    should("AST-10", "without a digest function it is SHA256, and the response says so"),
    stated("AST-11", "a fetched directory is a tree in the CAS"),
    should("AST-12", "only trusted clients push")
        .without("needs a server with tokens; the tests of access call every method with, without and beside the right"),
    client("AST-13", "what is pushed is stored before").choice("if not: FAILED_PRECONDITION"),
    stated("AST-14", "what is pushed is found under each of its URIs").choice("by the very same qualifiers"),
    should("AST-15", "what has expired is not returned"),
    should("AST-16", "a push's digest function is told by the length"),
    may("AST-17", "a server may only be pushed to, or only fetch")
        .choice("settings; what was not pushed and cannot be fetched is NOT_FOUND in the response"),
    stated("AST-18", "the qualifiers with a meaning: type, checksum, directory, branch, commit"),
    field("AST-19", "Bazel sends qualifiers of its own"),
    gap("AST-20", "fetching from where a client could not reach")
        .choice("only allowed origins, and no private addresses"),
];

pub(super) const LOGS: &[Row] = &[
    stated("LOG-01", "a log stream has a name to read and a name to write")
        .choice("parents are instance names; others: INVALID_ARGUMENT"),
    stated("LOG-02", "the name to write cannot be guessed and is told to nobody else"),
    stated("LOG-03", "the two names are not interchangeable")
        .choice("a write to the name for readers: INVALID_ARGUMENT"),
    stated("LOG-04", "what is written can be read"),
    stated("LOG-05", "readers stay until the stream is finished")
        .choice("or until its room is needed, once it has ended: ABORTED"),
    stated("LOG-06", "what is written stays, and nothing follows the end"),
    stated("LOG-07", "writing may be resumed"),
    stated("LOG-08", "readers read each for himself"),
    gap("LOG-09", "reading beyond what is written").choice("OUT_OF_RANGE"),
    gap("LOG-10", "streams that nobody finishes")
        .choice("they are finished when nobody has written for a while"),
];
