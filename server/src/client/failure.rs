//! A google.rpc.Status in a form that people can read, details included.

use std::fmt;

use prost::Message;
use wardian_proto::rpc;

/// Why a call or an execution failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The code's number.
    pub code: i32,
    /// What the server says.
    pub message: String,
    /// What has to be put right first.
    pub violations: Vec<Violation>,
}

/// One thing that has to be put right before the call can succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Violation {
    pub kind: String,
    pub subject: String,
    pub description: String,
}

impl Failure {
    /// The code's name, such as FAILED_PRECONDITION.
    pub fn code_name(&self) -> &'static str {
        rpc::Code::try_from(self.code).map_or("UNKNOWN", |code| code.as_str_name())
    }
}

impl From<rpc::Status> for Failure {
    fn from(status: rpc::Status) -> Self {
        let violations = status.details.iter().filter_map(precondition_failure).flat_map(|d| d.violations);
        let violations = violations
            .map(|v| Violation { kind: v.r#type, subject: v.subject, description: v.description })
            .collect();
        Self { code: status.code, message: status.message, violations }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        // gRPC carries the same status once more, with details, in a trailer.
        let detailed = rpc::Status::decode(status.details()).unwrap_or_default();
        let plain = rpc::Status {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: detailed.details,
        };
        plain.into()
    }
}

fn precondition_failure(detail: &prost_types::Any) -> Option<rpc::PreconditionFailure> {
    let (_, name) = detail.type_url.rsplit_once('/')?;
    (name == "google.rpc.PreconditionFailure")
        .then(|| rpc::PreconditionFailure::decode(detail.value.as_slice()).ok())
        .flatten()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code_name(), self.message)?;
        for violation in &self.violations {
            write!(f, "\n  {} {}", violation.kind, violation.subject)?;
            if !violation.description.is_empty() {
                write!(f, ": {}", violation.description)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> rpc::Status {
        let violation = rpc::precondition_failure::Violation {
            r#type: "MISSING".to_owned(),
            subject: "blobs/abc/3".to_owned(),
            description: String::new(),
        };
        let detail = rpc::PreconditionFailure { violations: vec![violation] };
        rpc::Status {
            code: rpc::Code::FailedPrecondition.into(),
            message: "inputs are missing".to_owned(),
            details: vec![wardian_proto::pack_any("google.rpc.PreconditionFailure", &detail)],
        }
    }

    #[test]
    fn violations_are_listed_from_messages_and_from_trailers() {
        let expected = "FAILED_PRECONDITION: inputs are missing\n  MISSING blobs/abc/3";
        assert_eq!(Failure::from(status()).to_string(), expected);
        let trailer = tonic::Status::with_details(
            tonic::Code::FailedPrecondition,
            "inputs are missing",
            status().encode_to_vec().into(),
        );
        assert_eq!(Failure::from(trailer).to_string(), expected);
    }

    #[test]
    fn foreign_details_and_codes_do_no_harm() {
        let mut odd = status();
        odd.code = 77;
        odd.details[0].type_url = "nothing".to_owned();
        assert_eq!(Failure::from(odd).to_string(), "UNKNOWN: inputs are missing");
    }
}
