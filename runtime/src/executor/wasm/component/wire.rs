//! What a worker and the process that runs a component for it say to each other, over one socket.
//!
//! The worker sends one [`Request`]. The process sends pieces of the component's two streams as they are
//! written, then one [`End`]. The worker believes neither more bytes than the limits allow nor any other order.

use std::io::{self, Write};

use prost::Message;
use wardian_proto::wardian::WasmUsage;

use crate::Failure;
use crate::executor::framing;

/// What to run, where, and within which bounds.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(string, tag = "1")]
    pub(super) tier: String,
    /// Path of the staged input root.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) root: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(super) working_directory: String,
    #[prost(string, repeated, tag = "4")]
    pub(super) arguments: Vec<String>,
    /// Names and values in turn.
    #[prost(string, repeated, tag = "5")]
    pub(super) environment: Vec<String>,
    /// The action, which seeds the random bytes.
    #[prost(string, tag = "6")]
    pub(super) action: String,
    #[prost(bool, tag = "7")]
    pub(super) clock_is_real: bool,
    #[prost(bool, tag = "8")]
    pub(super) random_is_system: bool,
    #[prost(uint64, tag = "9")]
    pub(super) timeout_nanos: u64,
    #[prost(uint64, optional, tag = "10")]
    pub(super) fuel: Option<u64>,
    #[prost(uint64, tag = "11")]
    pub(super) wasm_memory_bytes_max: u64,
    #[prost(uint64, tag = "12")]
    pub(super) wasm_table_elements_max: u64,
    #[prost(uint64, tag = "13")]
    pub(super) wasm_handles_max: u64,
    #[prost(uint64, tag = "14")]
    pub(super) stdout_bytes_max: u64,
    #[prost(uint64, tag = "15")]
    pub(super) wasm_workspace_bytes_max: u64,
}

/// How it ended.
#[derive(Clone, PartialEq, Message)]
pub(super) struct End {
    #[prost(sint32, tag = "1")]
    pub(super) exit_code: i32,
    /// What is to be added to standard error.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) note: Vec<u8>,
    /// Unset when the component ended by itself.
    #[prost(message, optional, tag = "3")]
    pub(super) failure: Option<Failed>,
    #[prost(message, optional, tag = "4")]
    pub(super) usage: Option<WasmUsage>,
}

/// Why it was cut short.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Failed {
    #[prost(enumeration = "FailureKind", tag = "1")]
    pub(super) kind: i32,
    #[prost(string, tag = "2")]
    pub(super) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum FailureKind {
    Internal = 0,
    InvalidArgument = 1,
    ResourceExhausted = 2,
    DeadlineExceeded = 3,
    Cancelled = 4,
    Unavailable = 5,
}

impl Failed {
    pub(super) fn new(failure: &Failure) -> Self {
        let kind = match failure {
            Failure::InvalidArgument(_) => FailureKind::InvalidArgument,
            Failure::ResourceExhausted(_) => FailureKind::ResourceExhausted,
            Failure::DeadlineExceeded(_) => FailureKind::DeadlineExceeded,
            Failure::Cancelled => FailureKind::Cancelled,
            Failure::Unavailable(_) => FailureKind::Unavailable,
            Failure::MissingBlobs(_) | Failure::FailedPrecondition(_) | Failure::Internal(_) => {
                FailureKind::Internal
            }
        };
        let text = match failure {
            Failure::Internal(text) => text.clone(),
            other => other.to_string(),
        };
        Self { kind: kind.into(), text }
    }

    pub(super) fn into_failure(self) -> Failure {
        match self.kind() {
            FailureKind::Internal => Failure::Internal(self.text),
            FailureKind::InvalidArgument => Failure::InvalidArgument(self.text),
            FailureKind::ResourceExhausted => Failure::ResourceExhausted(self.text),
            FailureKind::DeadlineExceeded => Failure::DeadlineExceeded(self.text),
            FailureKind::Cancelled => Failure::Cancelled,
            FailureKind::Unavailable => Failure::Unavailable(self.text),
        }
    }
}

/// What a message of the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Stdout,
    Stderr,
    End,
}

/// Bytes before each message: what it is, and its length.
pub(super) const HEADER_BYTES: usize = 5;

/// The header of a message.
pub(super) fn header(kind: Kind, length: usize) -> [u8; HEADER_BYTES] {
    let kind = match kind {
        Kind::Stdout => 1,
        Kind::Stderr => 2,
        Kind::End => 3,
    };
    let length = u32::try_from(length).expect("messages are cut to size");
    let [a, b, c, d] = length.to_le_bytes();
    [kind, a, b, c, d]
}

/// Takes a header apart.
pub(super) fn parse_header(header: [u8; HEADER_BYTES]) -> io::Result<(Kind, usize)> {
    let [kind, a, b, c, d] = header;
    let kind = match kind {
        1 => Kind::Stdout,
        2 => Kind::Stderr,
        3 => Kind::End,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "no such message")),
    };
    Ok((kind, framing::checked(u32::from_le_bytes([a, b, c, d]))?))
}

/// Sends one message of the process.
pub(super) fn send(to: &mut impl Write, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    to.write_all(&header(kind, bytes.len()))?;
    to.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_socket() {
        for kind in [Kind::Stdout, Kind::Stderr, Kind::End] {
            assert_eq!(parse_header(header(kind, 70_000)).unwrap(), (kind, 70_000));
        }
        assert!(parse_header([0, 1, 0, 0, 0]).is_err());
        assert!(parse_header([1, 255, 255, 255, 255]).is_err());
    }

    #[test]
    fn failures_keep_their_code() {
        for failure in [
            Failure::Internal("a".into()),
            Failure::InvalidArgument("b".into()),
            Failure::ResourceExhausted("c".into()),
            Failure::DeadlineExceeded("d".into()),
            Failure::Cancelled,
        ] {
            assert_eq!(Failed::new(&failure).into_failure().to_status(), failure.to_status());
        }
    }
}
