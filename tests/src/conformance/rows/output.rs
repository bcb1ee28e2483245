//! Outputs and metadata of executions.

use super::{CLIENTS, LATER, Row, client, gap, may, must, should, stated};

pub(super) const OUTPUTS: &[Row] = &[
    stated("OUT-01", "with output_paths the two older lists mean nothing").without(LATER),
    stated("OUT-02", "outputs are relative to the working directory")
        .choice("`..` is fine while it stays in the input root")
        .without(LATER),
    stated("OUT-03", "outputs do not lie in each other, but for directories").without(LATER),
    stated("OUT-04", "the directories that lead to an output are made before the run").without(LATER),
    stated("OUT-05", "what is not listed is dropped").without(LATER),
    stated("OUT-06", "outputs that were not made are left out").without(LATER),
    stated("OUT-07", "what an output path is shows after the run").without(LATER),
    stated("OUT-08", "an output of the older lists that is of the other kind is FAILED_PRECONDITION")
        .without(LATER),
    should("OUT-09", "links are told in the older lists too, for older clients").without(LATER),
    stated("OUT-10", "links to absolute paths are FAILED_PRECONDITION where they are disallowed")
        .without(LATER),
    gap("OUT-11", "links to nothing").choice("told as links").without(LATER),
    stated("OUT-12", "outputs are told under the very path that was asked for").without(LATER),
    stated("OUT-13", "a Tree has its root and every directory below").without(LATER),
    must("OUT-14", "a Tree that says it is sorted is: each directory once, parents first").without(LATER),
    stated("OUT-15", "output directories come as Tree, as Directories, or as both").without(LATER),
    stated("OUT-16", "an empty output directory is one").without(LATER),
    stated("OUT-17", "whether a file is executable is told").without(LATER),
    stated("OUT-18", "standard output and error come as digests, or inline when asked for").without(LATER),
    client("OUT-19", "the order of the lists means nothing").without(CLIENTS),
    stated("OUT-20", "outputs are stored before the result can be seen").without(LATER),
    gap("OUT-21", "outputs that are neither file, directory nor link")
        .choice("FAILED_PRECONDITION")
        .without(LATER),
];

pub(super) const METADATA: &[Row] = &[
    stated("META-01", "the worker's name and times, in order").without(LATER),
    must("META-02", "the virtual duration is told by the clock that the timeout goes by").without(LATER),
    may("META-03", "workers may add what they like").without("a freedom of the server"),
    should("META-04", "no result is an empty message").without(LATER),
    stated("META-05", "a result from the cache has the metadata of its run").without(LATER),
];
