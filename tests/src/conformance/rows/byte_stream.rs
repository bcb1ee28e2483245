//! ByteStream over the CAS.

use super::{CLIENTS, Row, client, gap, may, must, should, stated};

pub(super) const ROWS: &[Row] = &[
    stated(
        "BS-01",
        "blobs are read as `blobs/HASH/SIZE` and written as `uploads/UUID/blobs/HASH/SIZE`, or encoded",
    ),
    stated(
        "BS-02",
        "the instance comes before the first keyword; what follows a written size is the client's own",
    ),
    stated("BS-03", "an upload's id may serve for several blobs")
        .choice("any segment that is not empty is an id"),
    must("BS-04", "only `sha256tree`, `blake3` and `gitsha1` are spelled out before the hash")
        .choice("other functions spelled out: INVALID_ARGUMENT"),
    stated("BS-05", "an encoding is spelled as announced, and identity never")
        .choice("others: INVALID_ARGUMENT"),
    stated("BS-06", "hash and size in the name of an encoded blob are those of the decoded one"),
    stated("BS-07", "names that follow no rule are refused").choice("INVALID_ARGUMENT"),
    must("BS-08", "the header that repeats the resource name says the same")
        .choice("another name: INVALID_ARGUMENT"),
    stated("BS-20", "a blob that is not there is NOT_FOUND"),
    stated("BS-21", "offsets below zero or beyond the end are OUT_OF_RANGE; the end itself has no data"),
    stated("BS-22", "a limit caps the whole read, and none is no limit")
        .choice("a negative limit: INVALID_ARGUMENT"),
    must("BS-23", "an encoded read with a limit is INVALID_ARGUMENT"),
    stated("BS-24", "offsets of encoded reads count decoded bytes"),
    may("BS-25", "the level of an encoding is the server's affair").without("nothing to break"),
    may("BS-26", "messages without data keep a read alive").without("a freedom of the server"),
    gap("BS-27", "encoded reads of nothing").choice("a stream of the encoding that decodes to nothing"),
    stated("BS-28", "DEFLATE is the bare format, without zlib's or gzip's frame"),
    must("BS-40", "the first message of a write has the name; later ones repeat it or have none")
        .choice("another name: INVALID_ARGUMENT"),
    stated("BS-41", "each message starts where the one before ended")
        .choice("another offset: INVALID_ARGUMENT"),
    must("BS-42", "offsets of encoded writes count the bytes sent, from where the first began"),
    stated("BS-43", "an upload is complete with `finish_write` and not before; nothing may follow it")
        .choice("parts of uploads are not kept: the committed size is 0; a message after the end is refused if it comes in time"),
    stated("BS-44", "the committed size is that of the blob; of an encoded one the bytes sent"),
    stated("BS-45", "a write of what is stored ends at once with OK, and -1 for an encoded one"),
    stated(
        "BS-46",
        "an upload that is not what its name says is INVALID_ARGUMENT, and nothing of it is stored",
    ),
    stated("BS-47", "more bytes than the name says fail early")
        .choice("INVALID_ARGUMENT with the first byte too many"),
    should("BS-48", "a name with more than the announced size of blobs is INVALID_ARGUMENT before any data"),
    stated("BS-49", "without room an upload is RESOURCE_EXHAUSTED")
        .without("needs a full disk; the tests of durability have one"),
    may("BS-50", "messages without data keep a write alive"),
    stated("BS-51", "the empty blob can be written in one message without data"),
    client("BS-52", "an upload that ended early, or did not match, is not tried again").without(CLIENTS),
    client("BS-53", "encoded blobs are sent without gRPC's own compression").without(CLIENTS),
    stated("BS-60", "the state of an upload that nobody began is NOT_FOUND"),
    stated("BS-61", "the committed size of an upload never shrinks"),
    stated("BS-62", "an upload is complete only after its end was processed")
        .choice("a blob that is stored is a complete upload under any id"),
    stated("BS-63", "an upload goes on at the committed size").choice("see BS-64"),
    gap("BS-64", "servers that keep no parts of uploads")
        .choice("committed size 0, or NOT_FOUND: begin again"),
];
