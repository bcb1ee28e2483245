//! What must hold when a server has been started again, whatever happened to the one before.

use std::collections::HashSet;

use tonic::Code;
use wardian_proto::reapi::action_cache_client::ActionCacheClient;
use wardian_proto::{Digest, DigestFunction, reapi};
use wardian_store::{BlobStore as _, StoreError};
use wardian_tests::{ServerProcess, digest};

use super::ledger::{Ledger, version_of};

/// Blobs that are read in one go.
const READ_TOGETHER: usize = 50;

/// Blobs above this are read through ByteStream.
const BATCHED_MAX: u64 = 256 << 10;

/// Checks all of it.
pub(super) async fn check(server: &ServerProcess, ledger: Ledger) -> Ledger {
    blobs(server, &ledger).await;
    results(server, &ledger).await;
    ledger
}

/// What was acknowledged is there, look-ups agree with reads, and all that can be read is right.
async fn blobs(server: &ServerProcess, ledger: &Ledger) {
    let store = server.store(BATCHED_MAX).await;
    let missing = store.find_missing(ledger.sent()).await.expect("a look-up succeeds");
    let missing: HashSet<Digest> = missing.into_iter().collect();
    if ledger.keeps_all {
        let lost: Vec<_> = missing.iter().filter(|blob| ledger.was_acknowledged(blob)).collect();
        assert!(lost.is_empty(), "{} acknowledged blobs are lost, one is {}", lost.len(), lost[0]);
    }
    for blobs in ledger.sent().chunks(READ_TOGETHER) {
        for (blob, outcome) in blobs.iter().zip(store.get_batch(blobs).await) {
            match outcome {
                Ok(bytes) => {
                    assert_eq!(digest(&bytes), *blob, "wrong bytes");
                    assert!(!missing.contains(blob), "{blob} was reported missing and can be read");
                }
                Err(StoreError::NotFound(_)) => {
                    assert!(missing.contains(blob), "{blob} was reported present and cannot be read");
                }
                Err(error) => panic!("{blob} cannot be read: {error}"),
            }
        }
    }
}

/// Results are complete and the newest: acknowledged last, or under way then.
async fn results(server: &ServerProcess, ledger: &Ledger) {
    let mut action_cache = ActionCacheClient::new(server.channel().await);
    let store = server.store(BATCHED_MAX).await;
    for (action, versions) in ledger.results() {
        let request =
            reapi::GetActionResultRequest { action_digest: Some(action.to_wire()), ..Default::default() };
        let result = match action_cache.get_action_result(request).await {
            Ok(result) => result.into_inner(),
            Err(status) => {
                assert_eq!(status.code(), Code::NotFound, "{status}");
                let lost = ledger.keeps_all && versions.acknowledged > 0;
                assert!(!lost, "the result of {action} is lost: {versions:?}");
                continue;
            }
        };
        let version = version_of(&result);
        let right = (versions.acknowledged..=versions.sent).contains(&version);
        assert!(right, "{action} has result {version} of {versions:?}");
        let outputs = result.output_files.iter().map(|file| {
            Digest::from_wire(DigestFunction::Sha256, file.digest.as_ref()).expect("outputs have a digest")
        });
        let missing = store.find_missing(&outputs.collect::<Vec<_>>()).await.expect("a look-up succeeds");
        assert!(missing.is_empty(), "the result of {action} is served and {missing:?} are missing");
    }
}
