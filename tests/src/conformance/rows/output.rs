//! Outputs and metadata of executions.

use super::{CLIENTS, Row, client, gap, may, must, should, stated};

pub(super) const OUTPUTS: &[Row] = &[
    stated("OUT-01", "with output_paths the two older lists mean nothing"),
    stated("OUT-02", "outputs are relative to the working directory")
        .choice("`..` is fine while it stays in the input root"),
    stated("OUT-03", "outputs do not lie in each other, but for directories")
        .choice("a file of the older lists in or at another: INVALID_ARGUMENT"),
    stated("OUT-04", "the directories that lead to an output are made before the run"),
    stated("OUT-05", "what is not listed is dropped"),
    stated("OUT-06", "outputs that were not made are left out"),
    stated("OUT-07", "what an output path is shows after the run"),
    stated("OUT-08", "an output of the older lists that is of the other kind is FAILED_PRECONDITION"),
    should("OUT-09", "links are told in the older lists too, for older clients"),
    stated("OUT-10", "links to absolute paths are FAILED_PRECONDITION where they are disallowed"),
    gap("OUT-11", "links to nothing").choice("told as links"),
    stated("OUT-12", "outputs are told under the very path that was asked for"),
    stated("OUT-13", "a Tree has its root and every directory below"),
    must("OUT-14", "a Tree that says it is sorted is: each directory once, parents first"),
    stated("OUT-15", "output directories come as Tree, as Directories, or as both"),
    stated("OUT-16", "an empty output directory is one"),
    stated("OUT-17", "whether a file is executable is told"),
    stated("OUT-18", "standard output and error come as digests, or inline when asked for"),
    client("OUT-19", "the order of the lists means nothing").without(CLIENTS),
    stated("OUT-20", "outputs are stored before the result can be seen"),
    gap("OUT-21", "outputs that are neither file, directory nor link").choice("FAILED_PRECONDITION"),
];

pub(super) const METADATA: &[Row] = &[
    stated("META-01", "the worker's name and times, in order"),
    must("META-02", "the virtual duration is told by the clock that the timeout goes by"),
    may("META-03", "workers may add what they like").without("a freedom of the server"),
    should("META-04", "no result is an empty message"),
    stated("META-05", "a result from the cache has the metadata of its run"),
];
