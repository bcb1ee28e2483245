//! What can go wrong in a store, and whose turn it is then.

use std::error::Error;

use tonic::{Code, Status, TimeoutExpired};
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
        is_unavailable(status) || has_timed_out(status)
    }

    /// The same failure once more, for another who waited for the same.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::NotFound(digest) => Self::NotFound(*digest),
            Self::Mismatch { expected, actual } => Self::Mismatch { expected: *expected, actual: *actual },
            Self::TooLarge { digest, limit_name, limit } => {
                Self::TooLarge { digest: *digest, limit_name, limit: *limit }
            }
            Self::NoSpace(operation) => Self::NoSpace(operation),
            Self::Source(status) => Self::Source(status.clone()),
            Self::Remote(status) => Self::Remote(status.clone()),
            Self::Indexing => Self::Indexing,
            other => Self::Damaged(other.to_string()),
        }
    }

    /// Names the operation that an I/O error belongs to; a full disk is told apart.
    pub(crate) fn io(operation: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::NoSpace(operation),
            _ => Self::Io { operation, source },
        }
    }
}

/// Whether a call was not served because nobody was there, or the connection broke under it. The call may have had its
/// effect all the same.
pub fn is_unavailable(status: &Status) -> bool {
    let cut_off = made_here(status) && !has_timed_out(status);
    status.code() == Code::Unavailable || cut_off
}

/// Whether nobody at the other end has said this: only statuses that were made on this side have a source, and what was
/// made of another status is that one. What a server sends is just text, whatever it says.
fn made_here(status: &Status) -> bool {
    let codes = matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled);
    codes && status.source().is_some() && causes(status).all(|cause| !cause.is::<Status>())
}

fn has_timed_out(status: &Status) -> bool {
    status.code() == Code::DeadlineExceeded || causes(status).any(|cause| cause.is::<TimeoutExpired>())
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |&cause| cause.source())
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
            StoreError::Remote(status) if made_here(&status) => Self::unavailable(text),
            StoreError::Source(status) | StoreError::Remote(status) => status,
            StoreError::Io { .. } | StoreError::Database(_) => Self::internal(text),
            StoreError::Indexing => Self::unavailable(text),
            StoreError::Damaged(_) => Self::data_loss(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_of(cause: impl Error + Send + Sync + 'static) -> Status {
        Status::from_error(Box::new(cause))
    }

    #[derive(Debug, thiserror::Error)]
    #[error("transport error")]
    struct Transport(#[source] std::io::Error);

    fn broken() -> Status {
        made_of(Transport(std::io::ErrorKind::BrokenPipe.into()))
    }

    #[test]
    fn a_broken_connection_is_nobodys_answer() {
        assert_eq!(broken().code(), Code::Unknown);
        for status in [broken(), Status::unavailable("draining")] {
            assert!(
                is_unavailable(&status) && StoreError::Remote(status.clone()).is_unavailable(),
                "{status:?}"
            );
            assert_eq!(Status::from(StoreError::Remote(status)).code(), Code::Unavailable);
        }
    }

    #[test]
    fn what_a_server_says_is_its_answer() {
        for code in [Code::Unknown, Code::Internal, Code::Cancelled, Code::DataLoss] {
            let said = Status::new(code, "transport error");
            let passed_on = made_of(said.clone());
            for status in [said, passed_on] {
                assert!(!is_unavailable(&status), "{status:?}");
                assert!(!StoreError::Remote(status.clone()).is_unavailable());
                assert_eq!(Status::from(StoreError::Remote(status)).code(), code);
            }
        }
    }

    #[test]
    fn what_took_too_long_may_be_tried_later_and_not_at_once() {
        let late = made_of(TimeoutExpired(()));
        for status in [late, Status::deadline_exceeded("late")] {
            assert!(!is_unavailable(&status) && StoreError::Remote(status).is_unavailable());
        }
    }
}
