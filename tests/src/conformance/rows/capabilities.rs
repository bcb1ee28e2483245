//! ActionCache and Capabilities.

use super::{Row, client, gap, may, must, should, stated};

pub(super) const ACTION_CACHE: &[Row] = &[
    stated("AC-01", "an action without a result is NOT_FOUND"),
    should("AC-02", "a result is served only while everything it names is stored")
        .choice("otherwise NOT_FOUND"),
    should("AC-03", "contents come inline only when they are asked for, and only while they fit the reply")
        .choice("paths that the result does not have are ignored"),
    stated("AC-04", "a result belongs to an instance, a digest function and an action"),
    stated("AC-10", "a bad result is INVALID_ARGUMENT"),
    client("AC-11", "Action and Command are uploaded before their result")
        .choice("not looked at: a result may come first")
        .without("a duty of clients, which we do not check"),
    may("AC-12", "the server may store an equivalent result, and returns it")
        .choice("contents move to the CAS; the worker's name is never empty"),
    stated("AC-13", "whether clients may write results is announced").choice("if not: PERMISSION_DENIED"),
    stated("AC-14", "a result may be given a priority among those announced")
        .choice("taken in, and not used"),
    gap("AC-15", "a result whose blobs are not there yet").choice("stored, and hidden until they are"),
    must("AC-16", "failed and uncacheable executions leave no result")
        .choice("nor does an exit code other than 0"),
];

pub(super) const CAPABILITIES: &[Row] = &[
    should("CAP-01", "what is served is announced, cache and execution each apart"),
    stated("CAP-02", "versions are SemVer, and lie in order"),
    stated("CAP-03", "digest functions are announced for both; the older single field is one of them"),
    stated("CAP-04", "writing results and ranges of priority are announced"),
    stated("CAP-05", "limits of batches and blobs are announced, and 0 is none"),
    stated("CAP-06", "the strategy for absolute links is announced, and never unknown"),
    must("CAP-07", "encodings of ByteStream and of batch updates are announced, each apart"),
    must("CAP-08", "chunkings are announced as they are"),
    stated("CAP-09", "whether actions are run, and node properties, are announced"),
    stated("CAP-10", "what is announced is the instance's own"),
    gap("CAP-11", "which versions to claim")
        .choice("2.3 to 2.12, and 2.0 as deprecated, which older Bazels need"),
];
