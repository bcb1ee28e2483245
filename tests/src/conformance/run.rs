//! Runs one check against one server.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;

use super::{Check, Outcome, Stop, Subject};

/// Tries a check. Whatever it does, something comes back in time: a panic inside is a failure, and so is a server
/// that never answers.
pub async fn try_check(check: &Check, subject: &Subject, limit: Duration) -> Outcome {
    if check.own && !subject.is_own() {
        return Outcome::Skipped("it is about a choice of Wardian's".into());
    }
    let verdict = AssertUnwindSafe((check.run)(subject)).catch_unwind();
    match tokio::time::timeout(limit, verdict).await {
        Err(_) => Outcome::Failed(format!("it did not come to an end within {} s", limit.as_secs())),
        Ok(Err(panic)) => Outcome::Failed(words(&*panic).to_owned()),
        Ok(Ok(Ok(()))) => Outcome::Passed,
        Ok(Ok(Err(Stop::Skipped(reason)))) => Outcome::Skipped(reason),
        Ok(Ok(Err(Stop::Failed(failure)))) => Outcome::Failed(failure.to_string()),
    }
}

/// The text of a panic.
fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked")
}
