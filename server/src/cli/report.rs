//! What `wardian run` says at the end.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use wardian_proto::Digest;

use super::format::{self, Timings};
use super::run::Finished;
use crate::client::{DownloadedOutput, Outcome, OutputKind, Sent};

/// A run that is over, with what was fetched of it.
pub(crate) struct Report<'a> {
    pub(crate) action: Digest,
    pub(crate) sent: Sent,
    pub(crate) total: Duration,
    pub(crate) outcome: &'a Outcome,
    pub(crate) finished: Finished,
}

impl Report<'_> {
    /// Passes the tool's output on, as if it had run here; whatever else there is to say goes to standard error.
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        super::print(&self.finished.stdout)?;
        let mut stderr = std::io::stderr().lock();
        stderr.write_all(&self.finished.stderr)?;
        if !self.outcome.message.is_empty() {
            writeln!(stderr, "server: {}", format::plain(&self.outcome.message))?;
        }
        for path in &self.finished.absent {
            writeln!(stderr, "note: the tool made no output {path}")?;
        }
        match (&self.outcome.failure, self.exit_code()) {
            (Some(failure), _) => {
                let why = format::plain_lines(&failure.to_string());
                writeln!(stderr, "error: the action could not be run: {why}")?;
                writeln!(stderr, "  see what it was made of: wardian action show {}", self.action)?;
            }
            (None, Some(code)) if u8::try_from(code).is_err() => {
                writeln!(
                    stderr,
                    "note: the tool's exit code {code} does not fit; this command exits with 1"
                )?;
            }
            _ => {}
        }
        Ok(())
    }

    fn exit_code(&self) -> Option<i32> {
        self.outcome.failure.is_none().then_some(self.outcome.result.as_ref()?.exit_code)
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> Value {
        let metadata =
            self.outcome.result.as_ref().and_then(|r| r.execution_metadata.clone()).unwrap_or_default();
        let error = self.outcome.failure.as_ref().map(|failure| {
            let violations = failure.violations.iter();
            let violations: Vec<_> = violations
                .map(|v| json!({"type": v.kind, "subject": v.subject, "description": v.description}))
                .collect();
            json!({"code": failure.code_name(), "message": failure.message, "violations": violations})
        });
        json!({
            "exit_code": self.exit_code(),
            "cached": self.outcome.cached,
            "action_digest": self.action.to_string(),
            "operation": self.outcome.operation,
            "worker": metadata.worker,
            "message": self.outcome.message,
            "stdout": String::from_utf8_lossy(&self.finished.stdout),
            "stderr": String::from_utf8_lossy(&self.finished.stderr),
            "outputs": self.finished.outputs.iter().map(output_json).collect::<Vec<_>>(),
            "absent_outputs": self.finished.absent.iter().map(|path| path.as_str()).collect::<Vec<_>>(),
            "sent": {"blobs": self.sent.blobs, "bytes": self.sent.bytes, "already_present": self.sent.present},
            "timings": Timings::of(&metadata),
            "total_ms": self.total.as_secs_f64() * 1e3,
            "error": error,
        })
    }
}

fn output_json(output: &DownloadedOutput) -> Value {
    let path = output.path.as_str();
    match &output.kind {
        OutputKind::File { digest } => {
            json!({"path": path, "kind": "file", "digest": digest.to_string(), "size": digest.size()})
        }
        OutputKind::Directory { digest, files, bytes } => {
            json!({"path": path, "kind": "directory", "digest": digest.to_string(), "size": bytes, "files": files})
        }
        OutputKind::Symlink { target } => json!({"path": path, "kind": "symlink", "target": target}),
    }
}

/// The tool's exit code; 1 when there is none or a process cannot have it.
pub(crate) fn exit_code(outcome: &Outcome) -> ExitCode {
    let code = match (&outcome.failure, &outcome.result) {
        (None, Some(result)) => u8::try_from(result.exit_code).unwrap_or(1),
        _ => 1,
    };
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use wardian_proto::reapi;

    use super::*;
    use crate::client::{DIGEST_FUNCTION, Failure};

    fn outcome(exit_code: i32, failure: Option<Failure>) -> Outcome {
        let result = Some(reapi::ActionResult { exit_code, ..Default::default() });
        Outcome { operation: "op".to_owned(), cached: false, message: String::new(), result, failure }
    }

    fn json(outcome: &Outcome) -> Value {
        let (action, finished) = (DIGEST_FUNCTION.digest(b"a"), Finished::default());
        Report { action, sent: Sent::default(), total: Duration::from_millis(5), outcome, finished }.json()
    }

    #[test]
    fn exit_codes_that_do_not_fit_become_one() {
        let code = |exit_code, failure| format!("{:?}", super::exit_code(&outcome(exit_code, failure)));
        assert_eq!(code(3, None), format!("{:?}", ExitCode::from(3)));
        assert_eq!(code(134, None), format!("{:?}", ExitCode::from(134)));
        assert_eq!(code(-1, None), format!("{:?}", ExitCode::from(1)));
        assert_eq!(code(256, None), format!("{:?}", ExitCode::from(1)));
        let failure = Failure { code: 4, message: String::new(), violations: Vec::new() };
        assert_eq!(code(0, Some(failure)), format!("{:?}", ExitCode::from(1)));
    }

    #[test]
    fn a_failure_has_no_exit_code_in_json() {
        let failure = Failure { code: 9, message: "no worker".to_owned(), violations: Vec::new() };
        let value = json(&outcome(0, Some(failure)));
        assert_eq!(
            (value["exit_code"].clone(), value["error"]["code"].clone()),
            (Value::Null, "FAILED_PRECONDITION".into())
        );
        let value = json(&outcome(7, None));
        assert_eq!((value["exit_code"].clone(), value["error"].clone()), (7.into(), Value::Null));
    }
}
