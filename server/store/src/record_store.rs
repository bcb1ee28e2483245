//! The contract of the keyed records beside the blobs.

use async_trait::async_trait;
use bytes::Bytes;

use crate::StoreError;

/// A family of records; keys of different tables never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Action results, by instance and action digest.
    ActionCache,
    /// The toolchains that are registered by name.
    Toolchains,
    /// Where blobs were cut into chunks, by digest and chunking.
    Chunks,
    /// Remote assets, by URI and qualifiers.
    Assets,
    /// What is written to see whether writing works.
    Health,
}

impl Table {
    /// Every table.
    pub const ALL: &'static [Self] =
        &[Self::ActionCache, Self::Toolchains, Self::Chunks, Self::Assets, Self::Health];

    /// The name that backends keep the table under.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ActionCache => "action-cache",
            Self::Toolchains => "toolchains",
            Self::Chunks => "chunks",
            Self::Assets => "assets",
            Self::Health => "health",
        }
    }
}

/// Small values by key. A `put` that returned is seen by every later `get`.
#[async_trait]
pub trait RecordStore: Send + Sync + 'static {
    /// Returns the value under a key.
    async fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Stores a value, replacing an older one.
    async fn put(&self, table: Table, key: &[u8], value: Bytes) -> Result<(), StoreError>;

    /// Removes a value; removing nothing succeeds.
    async fn delete(&self, table: Table, key: &[u8]) -> Result<(), StoreError>;
}
