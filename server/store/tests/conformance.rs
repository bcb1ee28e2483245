//! Every local backend and every layer under the one contract. (The gRPC backend runs it in the system tests.)

use std::sync::Arc;

use wardian_store::backend::{MemoryStore, SledOptions, SledStore};
use wardian_store::layers::{AtHand, Existence, Handed, Metered, Meters, Tiered};

async fn memory() -> (MemoryStore, ()) {
    (MemoryStore::new(64 << 20), ())
}

async fn sled() -> (SledStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (SledStore::open(folder.path(), SledOptions::default()).unwrap(), folder)
}

async fn metered() -> (Metered<MemoryStore>, ()) {
    (Metered::new(memory().await.0, Arc::new(Meters::default())), ())
}

async fn existence() -> (Existence<SledStore>, tempfile::TempDir) {
    let (store, folder) = sled().await;
    (Existence::new(store), folder)
}

async fn tiered() -> (Tiered<SledStore, MemoryStore>, tempfile::TempDir) {
    let (store, folder) = sled().await;
    (Tiered::new(store, memory().await.0), folder)
}

/// Beside the store there is what nobody asks for.
async fn handed() -> (Handed<MemoryStore>, ()) {
    let at_hand = AtHand::new(1 << 20);
    at_hand.take(wardian_proto::DigestFunction::Sha256, "something else".into());
    (Handed::new(memory().await.0, at_hand), ())
}

wardian_store::blob_conformance!(memory_blobs, memory());
wardian_store::blob_conformance!(sled_blobs, sled());
wardian_store::blob_conformance!(metered_blobs, metered());
wardian_store::blob_conformance!(existence_blobs, existence());
wardian_store::blob_conformance!(tiered_blobs, tiered());
wardian_store::blob_conformance!(handed_blobs, handed());
wardian_store::record_conformance!(metered_records, metered());
wardian_store::record_conformance!(memory_records, memory());
wardian_store::record_conformance!(sled_records, sled());
