//! Calls again while the server is unavailable, and only then.

use std::time::Duration;

use tonic::Status;

use crate::is_unavailable;

/// Pause before the second attempt; it doubles each time.
const BACK_OFF_FIRST: Duration = Duration::from_millis(50);

/// Longest pause between two attempts.
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// Makes a call up to `attempts_max` times (at least once) until the server was there to answer it.
pub(super) async fn while_unavailable<T, F>(
    attempts_max: u32,
    mut call: impl FnMut() -> F,
) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    let mut pause = BACK_OFF_FIRST;
    for _ in 1..attempts_max {
        match call().await {
            Err(status) if is_unavailable(&status) => {
                tracing::debug!(%status, ?pause, "remote store is unavailable; trying again");
            }
            outcome => return outcome,
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(BACK_OFF_MAX);
    }
    call().await
}

/// Somewhere between half of the pause and all of it, so that clients do not return in step.
fn jittered(pause: Duration) -> Duration {
    // A random UUID is the source of randomness that is at hand already.
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    let fraction = f64::from(u32::try_from(random >> 32).expect("32 bits are left")) / f64::from(u32::MAX);
    pause.mul_f64(0.5 + fraction / 2.0)
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn pauses_vary_within_half_and_whole() {
        let pauses: Vec<_> = (0..50).map(|_| jittered(BACK_OFF_MAX)).collect();
        assert!(pauses.iter().all(|p| (BACK_OFF_MAX / 2..=BACK_OFF_MAX).contains(p)));
        assert!(pauses.windows(2).any(|two| two[0] != two[1]));
    }

    async fn calls_made(code: Code, attempts_max: u32) -> u32 {
        let mut calls = 0;
        let outcome = while_unavailable(attempts_max, || {
            calls += 1;
            async move { Err::<(), _>(Status::new(code, "")) }
        });
        assert_eq!(outcome.await.unwrap_err().code(), code);
        calls
    }

    #[tokio::test]
    async fn only_unavailable_is_tried_again_and_not_for_ever() {
        assert_eq!(calls_made(Code::Unavailable, 3).await, 3);
        assert_eq!(calls_made(Code::Unavailable, 0).await, 1);
        assert_eq!(calls_made(Code::Internal, 3).await, 1);
    }
}
