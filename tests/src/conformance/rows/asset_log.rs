//! Remote Asset and LogStream.

use super::{LATER, Row, client, field, gap, may, must, should, stated};

pub(super) const ASSETS: &[Row] = &[
    client("AST-01", "there is a URI at least, and no qualifier twice")
        .choice("if not: INVALID_ARGUMENT")
        .without(LATER),
    must("AST-02", "qualifiers that are not supported are refused, each by a violation").without(LATER),
    must("AST-03", "what is fetched satisfies all qualifiers").without(LATER),
    stated("AST-04", "faults of the call are its status, faults of the origin are in the response")
        .without(LATER),
    should("AST-05", "what is returned is stored, and stays").without(LATER),
    stated("AST-06", "the timeout bounds the fetch").without(LATER),
    stated("AST-07", "content that is too old is fetched anew").without(LATER),
    may("AST-08", "any of the URIs may be used, and the response says which").without(LATER),
    may("AST-09", "expiry and qualifiers may be told").without("a freedom of the server"),
    should("AST-10", "without a digest function it is SHA256, and the response says so").without(LATER),
    stated("AST-11", "a fetched directory is a tree in the CAS").without(LATER),
    should("AST-12", "only trusted clients push").without(LATER),
    client("AST-13", "what is pushed is stored before").without(LATER),
    stated("AST-14", "what is pushed is found under each of its URIs").without(LATER),
    should("AST-15", "what has expired is not returned").without(LATER),
    should("AST-16", "a push's digest function is told by the length").without(LATER),
    may("AST-17", "a server may only be pushed to, or only fetch").without(LATER),
    stated("AST-18", "the qualifiers with a meaning: type, checksum, directory, branch, commit")
        .without(LATER),
    field("AST-19", "Bazel sends qualifiers of its own").without(LATER),
    gap("AST-20", "fetching from where a client could not reach")
        .choice("only allowed origins, and no private addresses")
        .without(LATER),
];

pub(super) const LOGS: &[Row] = &[
    stated("LOG-01", "a log stream has a name to read and a name to write").without(LATER),
    stated("LOG-02", "the name to write cannot be guessed and is told to nobody else").without(LATER),
    stated("LOG-03", "the two names are not interchangeable").without(LATER),
    stated("LOG-04", "what is written can be read").without(LATER),
    stated("LOG-05", "readers stay until the stream is finished").without(LATER),
    stated("LOG-06", "what is written stays, and nothing follows the end").without(LATER),
    stated("LOG-07", "writing may be resumed").without(LATER),
    stated("LOG-08", "readers read each for himself").without(LATER),
    gap("LOG-09", "reading beyond what is written").without(LATER),
    gap("LOG-10", "streams that nobody finishes")
        .choice("they are finished when nobody has written for a while")
        .without(LATER),
];
