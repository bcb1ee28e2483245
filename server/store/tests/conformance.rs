//! Every local backend under the one contract. (The gRPC backend runs it in the system tests.)

use wardian_store::backend::{MemoryStore, SledOptions, SledStore};

async fn memory() -> (MemoryStore, ()) {
    (MemoryStore::new(64 << 20), ())
}

async fn sled() -> (SledStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (SledStore::open(folder.path(), SledOptions::default()).unwrap(), folder)
}

wardian_store::blob_conformance!(memory_blobs, memory());
wardian_store::blob_conformance!(sled_blobs, sled());
wardian_store::record_conformance!(memory_records, memory());
wardian_store::record_conformance!(sled_records, sled());
