//! The CAS: look-ups, batches, trees, chunks.

use super::{CLIENTS, Row, UNSEEN, client, gap, may, must, should, stated};

pub(super) const BATCHES: &[Row] = &[
    must("CAS-01", "the empty blob is always there, under every function, whatever asks for it"),
    should("CAS-02", "what was uploaded or found stays long enough to be used")
        .without("how long shows only in a full store; the tests of eviction and pins cover it"),
    should("CAS-03", "finding a blob makes it stay longer")
        .without("shows only in a full store; the tests of eviction cover it"),
    must("CAS-04", "whatever form a blob came in, it can be had as it is and in every announced encoding"),
    must("CAS-05", "nothing is visible before the server itself has verified its digest"),
    may("CAS-06", "one blob may be uploaded several times at once, in any mix of encodings"),
    stated("CAS-10", "FindMissingBlobs names exactly those that are not stored")
        .choice("in the order asked, each once"),
    stated("CAS-11", "an empty look-up has an empty answer"),
    gap("CAS-12", "how many digests one look-up may have").choice("as many as fit a message"),
    stated("CAS-20", "a batch update beyond the announced sum of sizes is refused whole as INVALID_ARGUMENT"),
    stated("CAS-21", "otherwise each entry has a status of its own"),
    stated(
        "CAS-22",
        "an entry whose digest is not that of its data is INVALID_ARGUMENT; what is there already is OK",
    ),
    stated("CAS-23", "there is one response for each entry, with its digest").choice("in the same order"),
    stated("CAS-24", "an entry may be encoded as announced, and its digest is that of the decoded bytes")
        .choice("encodings that are not announced: INVALID_ARGUMENT for the entry"),
    should("CAS-25", "an entry above the announced size of blobs is INVALID_ARGUMENT"),
    gap("CAS-26", "what of an encoded entry counts towards a batch's limit")
        .choice("the larger of what was sent and what it becomes"),
    gap("CAS-27", "data that decodes to more than its digest says")
        .choice("stopped at the size, INVALID_ARGUMENT"),
    stated("CAS-30", "a batch read beyond the announced sum of sizes is refused whole as INVALID_ARGUMENT"),
    stated("CAS-31", "a blob that cannot be had is the fault of its entry alone")
        .choice("NOT_FOUND when it is absent"),
    stated("CAS-32", "entries come as they are or in an encoding that the request accepts")
        .choice("numbers that nobody knows are skipped"),
    stated("CAS-33", "there is one response for each digest; without data when it failed"),
    gap("CAS-34", "replies fit the client's limit of 4 MiB")
        .choice("what does not fit is RESOURCE_EXHAUSTED alone"),
];

pub(super) const TREES: &[Row] = &[
    stated("TREE-01", "a root that is not stored is NOT_FOUND"),
    stated("TREE-02", "other directories that are missing are left out, and the rest comes"),
    stated("TREE-03", "directories come in pages of at most `page_size`")
        .choice("a negative size: INVALID_ARGUMENT"),
    stated("TREE-04", "a page's token is empty at the end, and else goes on from there in another call"),
    stated("TREE-05", "the order is the server's, but the pages of one walk agree"),
    gap("TREE-06", "a token that nobody gave, and blobs that are no directories").choice("INVALID_ARGUMENT"),
    gap("TREE-07", "whether the root is among what comes").choice("it comes first"),
    gap("TREE-08", "directories that occur more than once").choice("each comes once"),
    stated("TREE-09", "the empty blob is the tree of one empty directory"),
];

pub(super) const CHUNKS: &[Row] = &[
    must("CHK-01", "splitting and splicing are announced if and only if they are offered"),
    stated("CHK-02", "the chunks of a split are stored, and make up the blob in their order"),
    stated("CHK-03", "a blob that is not there cannot be split: NOT_FOUND"),
    must("CHK-04", "chunks go by the function of the request"),
    may(
        "CHK-05",
        "the chunking asked for is a wish; the response says which one was used, and none is always fine",
    ),
    stated("CHK-06", "splitting makes blob and chunks stay longer, each apart")
        .without("shows only in a full store; the tests of eviction cover it"),
    should("CHK-07", "chunks end where the content says, so that a change moves few of them"),
    should("CHK-08", "all chunks of a split can be had"),
    client("CHK-10", "a splice names the blob that comes of it").choice("without it: INVALID_ARGUMENT"),
    must(
        "CHK-11",
        "a splice whose chunks make up another blob is INVALID_ARGUMENT; the client's word is not trusted",
    ),
    stated("CHK-12", "a splice of a chunk that is not there is NOT_FOUND"),
    stated(
        "CHK-13",
        "of a blob that is there a splice may answer OK, or ALREADY_EXISTS when the chunks are not kept",
    )
    .choice("OK when the chunks are there too, else ALREADY_EXISTS"),
    must("CHK-14", "the response of a splice has the blob's digest"),
    may("CHK-15", "how many ways of cutting one blob are kept is the server's affair").without(UNSEEN),
    stated("CHK-16", "a splice may say how its chunks were cut; only that they make up the blob is checked"),
    stated("CHK-17", "a spliced blob can be read like any other"),
    gap("CHK-18", "lists of chunks that do not fit a message")
        .choice("RESOURCE_EXHAUSTED")
        .without("needs a blob of many gigabytes; tests of the store cover it"),
    stated("CHK-20", "a chunking is offered if and only if its parameters are announced"),
    must(
        "CHK-21",
        "FastCDC 2020: parameters in range, chunks from a quarter of the mean to four times it, cut by the paper",
    ),
    must("CHK-22", "RepMaxCDC: parameters in range, chunks from the least size to less than twice it"),
    client("CHK-23", "parameters out of range are not used").without(CLIENTS),
];
