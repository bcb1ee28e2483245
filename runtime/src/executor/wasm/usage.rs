//! What a guest used and looked at, for the result's auxiliary metadata.

use prost::Message as _;
use wardian_proto::wardian::{LimitHit, ObservedInput, WasmUsage};

use crate::workspace::{Observed, Workspace};

/// Observations that take more room than this are counted and left out: results are kept and sent whole.
const OBSERVED_BYTES_MAX: usize = 64 << 10;

/// Adds what is known of a preview-1 guest's files.
pub(super) fn of_workspace(workspace: &Workspace, usage: &mut WasmUsage) {
    let used = workspace.usage();
    usage.bytes_read = used.bytes_read;
    usage.bytes_written = used.bytes_written;
    usage.files_read = used.files_read;
    usage.files_written = used.files_written;
    usage.workspace_bytes_peak = used.bytes_peak;
    usage.limit_hit = workspace.limit_hit().map(|hit| LimitHit {
        name: hit.name.to_owned(),
        used: hit.used,
        allowed: hit.allowed,
    });
    let observed: Vec<ObservedInput> = workspace.observed().into_iter().map(observed_input).collect();
    usage.observed_count = observed.iter().map(count).sum();
    if observed.iter().map(ObservedInput::encoded_len).sum::<usize>() <= OBSERVED_BYTES_MAX {
        usage.observed = observed;
    }
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
