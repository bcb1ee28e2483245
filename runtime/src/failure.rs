//! Why an action did not finish, in the words of the Execution API.

use wardian_proto::{Digest, pack_any, rpc};
use wardian_store::StoreError;

/// A fault that ends an action with a status other than OK.
///
/// A command that exits with a code other than 0 is a result, not a failure.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Failure {
    #[error("{} input blob(s) are missing from the CAS: {}", .0.len(), some(.0))]
    MissingBlobs(Vec<Digest>),
    #[error("{0}")]
    InvalidArgument(String),
    #[error("{0}")]
    FailedPrecondition(String),
    #[error("{0}")]
    ResourceExhausted(String),
    #[error("{0}")]
    DeadlineExceeded(String),
    /// This worker cannot do it now, and another one may: its disk is full, or it does not reach the CAS.
    #[error("{0}")]
    Unavailable(String),
    #[error("nobody waits for this action any more")]
    Cancelled,
    #[error("worker: {0}")]
    Internal(String),
}

/// Longest message; a client's own text may be in it.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Missing blobs that the details name; more would not fit the 4 MiB that clients accept.
const VIOLATIONS_MAX: usize = 20_000;

/// Digests named in the text of a message; the details list them all.
const NAMED_MAX: usize = 3;

fn some(digests: &[Digest]) -> String {
    let named: Vec<String> = digests.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = if digests.len() > NAMED_MAX { ", ..." } else { "" };
    format!("{}{more}", named.join(", "))
}

impl Failure {
    /// An I/O fault on the worker's side; a full disk is told apart.
    pub fn io(operation: &str) -> impl Fn(std::io::Error) -> Self {
        move |error| match error.downcast::<Self>() {
            // It was on its way through an interface that knows I/O errors only.
            Ok(failure) => failure,
            Err(error) => match error.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    Self::Unavailable(format!("{operation}: no space left on the worker"))
                }
                _ => Self::Internal(format!("{operation}: {error}")),
            },
        }
    }

    /// The status that the client sees.
    pub fn to_status(&self) -> rpc::Status {
        let (code, details) = match self {
            Self::MissingBlobs(digests) => (rpc::Code::FailedPrecondition, vec![missing_detail(digests)]),
            Self::InvalidArgument(_) => (rpc::Code::InvalidArgument, vec![]),
            Self::FailedPrecondition(_) => (rpc::Code::FailedPrecondition, vec![]),
            Self::ResourceExhausted(_) => (rpc::Code::ResourceExhausted, vec![]),
            Self::DeadlineExceeded(_) => (rpc::Code::DeadlineExceeded, vec![]),
            Self::Unavailable(_) => (rpc::Code::Unavailable, vec![]),
            Self::Cancelled => (rpc::Code::Cancelled, vec![]),
            Self::Internal(_) => (rpc::Code::Internal, vec![]),
        };
        let mut message = self.to_string();
        if message.len() > MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
            message.push_str("...");
        }
        rpc::Status { code: code.into(), message, details }
    }
}

/// One violation of type MISSING for each blob, so that the client can upload them together.
fn missing_detail(digests: &[Digest]) -> prost_types::Any {
    let violation = |digest: &Digest| rpc::precondition_failure::Violation {
        r#type: "MISSING".into(),
        subject: format!("blobs/{digest}"),
        description: "blob is not in the CAS".into(),
    };
    let failure =
        rpc::PreconditionFailure { violations: digests.iter().take(VIOLATIONS_MAX).map(violation).collect() };
    pack_any("google.rpc.PreconditionFailure", &failure)
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        if error.is_unavailable() {
            return Self::Unavailable(text);
        }
        match error {
            StoreError::NotFound(digest) => Self::MissingBlobs(vec![digest]),
            StoreError::Directory { .. }
            | StoreError::TreeLimit { .. }
            | StoreError::TooLarge { .. }
            | StoreError::RecordTooLarge { .. }
            | StoreError::OutOfRange { .. } => Self::InvalidArgument(text),
            StoreError::NoSpace(_) | StoreError::TooManyPins(_) => Self::ResourceExhausted(text),
            StoreError::Mismatch { .. }
            | StoreError::Overrun(_)
            | StoreError::Source(_)
            | StoreError::Remote(_)
            | StoreError::Io { .. }
            | StoreError::Database(_)
            | StoreError::Indexing
            | StoreError::ReadOnly
            | StoreError::Damaged(_) => Self::Internal(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use wardian_proto::DigestFunction;

    use super::*;

    #[test]
    fn every_missing_blob_is_a_violation() {
        let digests: Vec<Digest> = (0..5_u8).map(|i| DigestFunction::Sha256.digest(&[i])).collect();
        let status = Failure::MissingBlobs(digests.clone()).to_status();
        assert_eq!(status.code, rpc::Code::FailedPrecondition as i32);
        let detail = rpc::PreconditionFailure::decode(&*status.details[0].value).unwrap();
        assert_eq!(detail.violations.len(), 5);
        assert_eq!(detail.violations[4].r#type, "MISSING");
        assert_eq!(detail.violations[4].subject, format!("blobs/{}", digests[4]));
    }
}
