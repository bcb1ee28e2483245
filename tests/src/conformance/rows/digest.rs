//! What holds for all services; digests.

use super::{Row, client, gap, may, must, should, stated};

pub(super) const GENERAL: &[Row] = &[
    may("GEN-01", "a failure may say in a RetryInfo detail when to ask again")
        .without("the server knows a delay only while it is overloaded; the tests of the queue cover it"),
    stated(
        "GEN-02",
        "instance names are the server's own affair; they may be empty and may have several segments",
    ),
    stated("GEN-03", "no segment of an instance name is a word that resource names use, such as `blobs`")
        .choice("such a name is refused when the server is configured, and INVALID_ARGUMENT in a call"),
    gap("GEN-04", "what an unknown instance answers").choice("INVALID_ARGUMENT, from every service"),
    may(
        "GEN-05",
        "calls may carry RequestMetadata in a header, which changes nothing but logs and scheduling",
    )
    .choice("metadata that cannot be decoded is ignored"),
    stated("GEN-06", "the fields of RequestMetadata are free text"),
    may(
        "GEN-07",
        "a server may refuse messages that are not in canonical form, or take them as different actions",
    )
    .choice(
        "directories must be canonical where they are run; of other messages the bytes are taken as they are",
    )
    .without("a freedom of the server; ACT-07 has what is refused"),
    stated("GEN-08", "a method that is not offered answers UNIMPLEMENTED"),
];

pub(super) const DIGESTS: &[Row] = &[
    stated("DIG-01", "a hash is lower-case hex of its function's full length")
        .choice("anything else: INVALID_ARGUMENT"),
    must(
        "DIG-02",
        "the size belongs to the identity: the right hash with another size names nothing that is stored",
    )
    .choice("a negative size: INVALID_ARGUMENT"),
    stated(
        "DIG-03",
        "messages whose digest the server reports are in canonical form: fields in order, nothing unknown",
    ),
    stated("DIG-04", "digest functions go by their numbers; a server never answers with UNKNOWN"),
    should("DIG-05", "without a named function the length of the hash tells it, among those announced"),
    stated("DIG-06", "each length of a hash means one function; those that share a length must be named"),
    must("DIG-07", "one request, and everything an action touches, uses one function")
        .choice("lengths that differ within a request: INVALID_ARGUMENT"),
    stated("DIG-08", "a function that is not announced is refused").choice("INVALID_ARGUMENT"),
    stated("DIG-09", "the same bytes under two functions are two blobs"),
    stated(
        "DIG-10",
        "SHA256TREE is a tree over leaves of 1024 bytes, with a compression of its own for the nodes",
    ),
    stated("DIG-11", "GITSHA1 hashes git's header too, and its size is the content's alone"),
    stated("DIG-12", "MURMUR3 is the variant of 128 bits for x64")
        .choice("its two numbers are spelled as their bytes in memory, the lowest first"),
    client("DIG-13", "metadata of an operation may leave the function out for some functions")
        .choice("it is always there"),
];
