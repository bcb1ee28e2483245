//! Actions and their input trees, platforms, and the Remote Workers API.

use super::{NO_BOTS, Row, client, field, gap, may, must, should, stated};

pub(super) const ACTIONS: &[Row] = &[
    must("ACT-01", "Command, input root and all that is in it must be stored"),
    should("ACT-02", "the Action's platform counts before the Command's"),
    stated("ACT-03", "platform properties are sorted, and their case matters")
        .choice("taken in any order; `OSFamily=Linux` is `linux`, as clients send it"),
    stated("ACT-04", "argv[0] is a path, or a name that is looked up on PATH"),
    stated("ACT-05", "variables of the Command win over the worker's own")
        .choice("a name twice: INVALID_ARGUMENT"),
    stated("ACT-06", "the working directory is in the input root").choice("if not: INVALID_ARGUMENT"),
    stated("ACT-07", "directories are canonical: sorted, names once, single segments")
        .choice("others: INVALID_ARGUMENT"),
    may("ACT-08", "names that differ only in case are different names"),
    stated("ACT-09", "files are executable if and only if their node says so"),
    stated("ACT-10", "links to absolute paths are refused where they are announced as disallowed"),
    stated("ACT-11", "output node properties that the server does not know are INVALID_ARGUMENT"),
    stated("ACT-12", "the timeout covers the run alone, and ends it as DEADLINE_EXCEEDED"),
    gap("ACT-13", "timeouts of zero or less").choice("zero is none, less is INVALID_ARGUMENT"),
    gap("ACT-14", "inputs that an action changes").choice("it has copies of its own"),
];

pub(super) const PLATFORM: &[Row] = &[
    may("PLT-01", "only `OSFamily` and `ISA` are standard names").without("a freedom of the server"),
    stated("PLT-02", "OSFamily has one value, which must match")
        .choice("in lower case; two values: INVALID_ARGUMENT"),
    stated("PLT-03", "ISA may have several values, which must all match"),
    client("PLT-04", "no extension without a base ISA").without("a duty of clients"),
];

pub(super) const BOTS: &[Row] = &[
    stated("RW-01", "a bot opens a session and is given its name").without(NO_BOTS),
    stated("RW-02", "updates are for the session that they name").without(NO_BOTS),
    stated("RW-03", "each update lists all leases").without(NO_BOTS),
    stated("RW-04", "leases go through their states in order").without(NO_BOTS),
    stated("RW-05", "a lease's status is not its task's").without(NO_BOTS),
    stated("RW-06", "payloads are the server's, results the bot's").without(NO_BOTS),
    stated("RW-07", "a session that is not renewed is dead, and its leases are queued again")
        .without(NO_BOTS),
    stated("RW-08", "only bots that are well get leases").without(NO_BOTS),
    stated("RW-09", "leases may be renewed").without(NO_BOTS),
    field("RW-10", "payloads are Actions or their digests").without(NO_BOTS),
    field("RW-11", "updates are held while there is nothing to say").without(NO_BOTS),
    field("RW-12", "metadata travel in trailers").without(NO_BOTS),
    field("RW-13", "capacity is a setting of the worker").without(NO_BOTS),
    field("RW-14", "the older call for events is gone").without(NO_BOTS),
];
