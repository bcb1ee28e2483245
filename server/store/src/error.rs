//! What can go wrong in a store, and whose turn it is then.

use tonic::Status;
use wardian_proto::{Digest, DirectoryError};

/// A failure of a store.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StoreError {
    #[error("blob {0} not found")]
    NotFound(Digest),
    #[error("bytes do not match digest {expected}: they have digest {actual}")]
    Mismatch { expected: Digest, actual: Digest },
    #[error("more bytes were sent than digest {0} declares")]
    Overrun(Digest),
    #[error("blob {digest} has {} bytes; limit {limit_name} is {limit}", digest.size())]
    TooLarge { digest: Digest, limit_name: &'static str, limit: u64 },
    #[error("offset {offset} is outside blob {digest}")]
    OutOfRange { digest: Digest, offset: u64 },
    #[error("a record {what} has {bytes} bytes; the store's limit is {limit}")]
    RecordTooLarge { what: &'static str, bytes: u64, limit: u64 },
    #[error("directory {digest}: {source}")]
    Directory { digest: Digest, source: DirectoryError },
    #[error("tree below {root} has more than {limit} {what}")]
    TreeLimit { root: Digest, what: &'static str, limit: usize },
    /// The other side of an upload went away or failed while sending.
    #[error("upload was cut off: {0}")]
    Source(Status),
    #[error("no space left in the store ({0})")]
    NoSpace(&'static str),
    #[error("inputs of waiting actions are {0} blobs already; limit is {0}")]
    TooManyPins(usize),
    #[error("this store takes no uploads: it is read-only")]
    ReadOnly,
    #[error("remote store: {0}")]
    Remote(Status),
    #[error("{operation}: {source}")]
    Io { operation: &'static str, source: std::io::Error },
    #[error("database: {0}")]
    Database(sled::Error),
    /// The answer is not known until the index was brought up to date, which goes on by itself.
    #[error("the store's index is being brought up to date; try again")]
    Indexing,
    #[error("stored data is damaged: {0}")]
    Damaged(String),
}

impl StoreError {
    /// Whether the store is elsewhere and was not reached in time: the same may well succeed later.
    pub fn is_unavailable(&self) -> bool {
        let Self::Remote(status) = self else { return false };
        matches!(status.code(), tonic::Code::Unavailable | tonic::Code::DeadlineExceeded)
    }

    /// Names the operation that an I/O error belongs to; a full disk is told apart.
    pub(crate) fn io(operation: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::NoSpace(operation),
            _ => Self::Io { operation, source },
        }
    }
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(source) => match Self::io("write index")(source) {
                Self::Io { source, .. } => Self::Database(sled::Error::Io(source)),
                full => full,
            },
            other => Self::Database(other),
        }
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::NotFound(_) => Self::not_found(text),
            StoreError::Mismatch { .. }
            | StoreError::Overrun(_)
            | StoreError::TooLarge { .. }
            | StoreError::RecordTooLarge { .. }
            | StoreError::Directory { .. }
            | StoreError::TreeLimit { .. } => Self::invalid_argument(text),
            StoreError::OutOfRange { .. } => Self::out_of_range(text),
            StoreError::NoSpace(_) | StoreError::TooManyPins(_) => Self::resource_exhausted(text),
            StoreError::ReadOnly => Self::permission_denied(text),
            StoreError::Source(status) | StoreError::Remote(status) => status,
            StoreError::Io { .. } | StoreError::Database(_) => Self::internal(text),
            StoreError::Indexing => Self::unavailable(text),
            StoreError::Damaged(_) => Self::data_loss(text),
        }
    }
}
