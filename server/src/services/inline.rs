//! Contents inside a result, for clients that ask for them and only while they fit.

use std::collections::HashSet;

use bytes::Bytes;
use prost::Message as _;
use wardian_proto::{Digest, DigestFunction, reapi};
use wardian_store::BlobStore;

use super::REPLY_BYTES_MAX;

/// Bytes of contents in one result, all together.
const INLINE_BYTES_MAX: u64 = 1 << 20;

/// What a request asks for.
pub(super) struct Inline<'a> {
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) output_files: &'a [String],
}

impl Inline<'_> {
    /// Fills in what was asked for and fits. What cannot be read is left out: it is only a hint.
    pub(super) async fn apply(
        &self,
        blobs: &dyn BlobStore,
        function: DigestFunction,
        result: &mut reapi::ActionResult,
    ) {
        // The rest of the operation takes some hundred bytes; leave it ample space.
        let left = REPLY_BYTES_MAX.saturating_sub(result.encoded_len()) as u64;
        let mut room = INLINE_BYTES_MAX.min(left);
        if self.stdout {
            result.stdout_raw = fetch(blobs, function, result.stdout_digest.as_ref(), &mut room).await;
        }
        if self.stderr {
            result.stderr_raw = fetch(blobs, function, result.stderr_digest.as_ref(), &mut room).await;
        }
        if self.output_files.is_empty() {
            return;
        }
        let asked: HashSet<&str> = self.output_files.iter().map(String::as_str).collect();
        for file in result.output_files.iter_mut().filter(|file| asked.contains(file.path.as_str())) {
            file.contents = fetch(blobs, function, file.digest.as_ref(), &mut room).await;
        }
    }
}

async fn fetch(
    blobs: &dyn BlobStore,
    function: DigestFunction,
    wire: Option<&reapi::Digest>,
    room: &mut u64,
) -> Bytes {
    let Ok(digest) = Digest::from_wire(function, wire) else { return Bytes::new() };
    if digest.size() > *room {
        return Bytes::new();
    }
    let data = blobs.get(&digest, *room).await.unwrap_or_default();
    *room -= data.len() as u64;
    data
}
