//! What a check comes to, and the words in which it says so.

use std::fmt;
use std::panic::Location;

use tonic::{Code, Status};

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server does what the requirement says.
    Passed,
    /// The server does not claim to do it, or there is nothing to try it on.
    Skipped(String),
    /// It does something else.
    Failed(String),
}

/// What a check returns: nothing, when the server did everything as it should.
pub type Verdict = Result<(), Stop>;

/// Why a check ended before its end.
#[derive(Debug)]
pub enum Stop {
    /// The server does not claim to do this.
    Skipped(String),
    /// The server does something else.
    Failed(Failure),
}

/// What the server did instead, and where in the check that was noticed.
#[derive(Debug)]
pub struct Failure {
    /// What was wrong.
    pub message: String,
    /// The line of the check.
    pub place: &'static Location<'static>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of the path only what tells the file.
        let file = self.place.file().rsplit(['/', '\\']).next().unwrap_or_default();
        write!(f, "{} ({file}:{})", self.message, self.place.line())
    }
}

impl Stop {
    /// The server does something else.
    #[track_caller]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(Failure { message: message.into(), place: Location::caller() })
    }

    /// The server does not claim to do this.
    pub fn skipped(reason: impl Into<String>) -> Self {
        Self::Skipped(reason.into())
    }
}

impl From<Status> for Stop {
    #[track_caller]
    fn from(status: Status) -> Self {
        Self::failed(format!("a call failed that should not: {}", told(&status)))
    }
}

/// A status in one line.
pub(super) fn told(status: &Status) -> String {
    const TEXT_CHARS_MAX: usize = 300;
    let text: String = status.message().chars().take(TEXT_CHARS_MAX).collect();
    format!("{:?} ({text})", status.code())
}

/// Ends the check as failed unless something holds.
macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err($crate::conformance::Stop::failed(format!($($text)+)));
        }
    };
}

/// Ends the check as failed unless two values are equal.
macro_rules! ensure_eq {
    ($got:expr, $expected:expr, $($text:tt)+) => {{
        let (got, expected) = (&$got, &$expected);
        if got != expected {
            let what = format!($($text)+);
            return Err($crate::conformance::Stop::failed(format!("{what}: got {got:?}, expected {expected:?}")));
        }
    }};
}

pub(super) use {ensure, ensure_eq};

/// A call must fail, with whatever code: the requirement names none.
#[track_caller]
pub(super) fn refused<T>(outcome: Result<T, Status>, what: &str) -> Result<Status, Stop> {
    match outcome {
        Ok(_) => Err(Stop::failed(format!("{what}: should be refused and was not"))),
        Err(status) if is_silence(&status) => Err(Stop::failed(format!("{what}: got no answer in time"))),
        Err(status) => Ok(status),
    }
}

/// Whether the client gave up on a call: no word of the server's.
fn is_silence(status: &Status) -> bool {
    status.code() == Code::Cancelled && status.message() == tonic::TimeoutExpired(()).to_string()
}

/// A call must fail with the code that the requirement names.
#[track_caller]
pub(super) fn refused_as<T>(outcome: Result<T, Status>, code: Code, what: &str) -> Result<Status, Stop> {
    let status = refused(outcome, what)?;
    if status.code() == code {
        return Ok(status);
    }
    Err(Stop::failed(format!("{what}: should be refused as {code:?}, and was as {}", told(&status))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_no_refusal() {
        let silence = Status::from_error(Box::new(tonic::TimeoutExpired(())));
        assert!(matches!(refused::<()>(Err(silence), "a call"), Err(Stop::Failed(_))));
        assert!(refused::<()>(Err(Status::cancelled("by the server")), "a call").is_ok());
    }
}
