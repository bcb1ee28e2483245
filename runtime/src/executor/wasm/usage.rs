//! What a guest used and looked at, for the result's auxiliary metadata.

use prost::Message as _;
use wardian_proto::DigestFunction;
use wardian_proto::wardian::{LimitHit, ObservedInput, WasmObservations, WasmUsage};
use wardian_store::Upload;

use crate::workspace::{self, Observed, Workspace};

/// Observations that take more room than this become a blob of their own: results are kept and sent whole.
const OBSERVED_BYTES_MAX: usize = 64 << 10;

/// Those that take more than this are counted only.
const OBSERVED_BLOB_BYTES_MAX: usize = 16 << 20;

/// Levels of observations that are told. Readers of messages commonly stop at 100 levels of all kinds.
const OBSERVED_LEVELS_MAX: usize = 64;

/// Adds what is known of a preview-1 guest's files.
pub(super) fn of_workspace(workspace: &Workspace, usage: &mut WasmUsage) {
    let used = workspace.usage();
    usage.bytes_read = used.bytes_read;
    usage.bytes_written = used.bytes_written;
    usage.files_read = used.files_read;
    usage.files_written = used.files_written;
    usage.workspace_bytes_peak = used.bytes_peak;
    let observed: Vec<ObservedInput> = workspace.observed().into_iter().map(observed_input).collect();
    usage.observed_count = observed.iter().map(count).sum();
    let bytes: usize = observed.iter().map(ObservedInput::encoded_len).sum();
    let fits = |root: &ObservedInput| levels(root) <= OBSERVED_LEVELS_MAX;
    if bytes <= OBSERVED_BLOB_BYTES_MAX && observed.iter().all(fits) {
        usage.observed = observed;
    }
}

/// A limit that was hit, in the words of the metadata.
pub(super) fn limit_hit(hit: &workspace::LimitHit) -> LimitHit {
    LimitHit { name: hit.name.to_owned(), used: hit.used, allowed: hit.allowed }
}

/// Takes observations that are too large for a result out of it, as a blob to be stored.
pub(crate) fn split(usage: &mut WasmUsage, function: DigestFunction) -> Option<Upload> {
    let bytes: usize = usage.observed.iter().map(ObservedInput::encoded_len).sum();
    if bytes <= OBSERVED_BYTES_MAX {
        return None;
    }
    let observations = WasmObservations { observed: std::mem::take(&mut usage.observed) }.encode_to_vec();
    let digest = function.digest(&observations);
    usage.observed_digest = Some(digest.to_wire());
    Some(Upload::bytes(digest, observations))
}

fn levels(observed: &ObservedInput) -> usize {
    1 + observed.children.iter().map(levels).max().unwrap_or(0)
}

fn count(observed: &ObservedInput) -> u64 {
    1 + observed.absent.len() as u64 + observed.children.iter().map(count).sum::<u64>()
}

fn observed_input(observed: Observed) -> ObservedInput {
    let hash = observed.digest.map(|digest| hex::decode(digest.hash_hex()).expect("a hash in hexadecimal"));
    ObservedInput {
        name: observed.name,
        hash: hash.unwrap_or_default().into(),
        size_bytes: observed.digest.map_or(0, |digest| digest.to_wire().size_bytes),
        stat: observed.stat,
        listed: observed.listed,
        target: observed.target,
        ranges: observed.content.iter().flat_map(|(start, end)| [start, end - start]).collect(),
        absent: observed.absent,
        children: observed.children.into_iter().map(observed_input).collect(),
    }
}
