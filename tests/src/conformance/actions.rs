//! Actions, uploaded and executed on the subject.

use bytes::Bytes;
use wardian_proto::{Digest, reapi};

use super::{Stop, Subject};
use crate::{Built, Ended, TestAction};

/// Above this a blob goes by ByteStream alone; below, many go in one batch.
const BATCHED_BYTES_MAX: usize = 64 << 10;

impl Subject {
    /// Stores blobs that may have any size.
    pub(super) async fn put_all(&self, blobs: &[(Digest, Bytes)]) -> Result<(), Stop> {
        let batch_max = self.batch_bytes_max();
        let mut batch = Vec::new();
        let mut room = batch_max;
        for (digest, data) in blobs {
            if data.len() > BATCHED_BYTES_MAX.min(batch_max) {
                self.put_as(digest.function(), data.clone()).await?;
                continue;
            }
            if data.len() > room {
                self.put_batch(std::mem::take(&mut batch)).await?;
                room = batch_max;
            }
            room -= data.len();
            batch.push((*digest, data.clone()));
        }
        self.put_batch(batch).await
    }

    async fn put_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Result<(), Stop> {
        let Some((first, _)) = blobs.first() else { return Ok(()) };
        let function = first.function();
        let entries = blobs.into_iter().map(|(digest, data)| super::calls::entry(digest.to_wire(), data));
        for response in self.update_as(function, entries.collect()).await? {
            let code = super::calls::code_of(response.status.as_ref());
            if code != tonic::Code::Ok {
                return Err(Stop::failed(format!("an entry of a batch failed: {:?}", response.status)));
            }
        }
        Ok(())
    }

    /// Uploads an action and everything it needs. Skipped when the subject executes nothing. The action is named
    /// by the function that it was given; without one, by SHA-256, which must then be announced.
    /// It asks for the platform that the subject's actions need, unless it asks for another.
    pub(super) async fn upload(&self, mut action: TestAction) -> Result<Built, Stop> {
        self.executes()?;
        if action.action.platform.is_none() && !self.platform().is_empty() {
            action = action.platform(&self.platform_and(&[]));
        }
        let built = action.build();
        self.needs_function(built.action.function())?;
        self.put_all(&built.blobs).await?;
        Ok(built)
    }

    /// Executes an uploaded action to its end, whatever comes of it.
    pub(super) async fn execute(&self, built: &Built) -> Result<Ended, Stop> {
        self.start(built).await?.ended().await
    }

    /// Runs an action that must finish with exit code 0.
    pub(super) async fn succeed(&self, action: TestAction) -> Result<Ended, Stop> {
        let built = self.upload(action).await?;
        self.succeed_as(&built, self.request(&built)).await
    }

    /// Sends a request for an uploaded action, which must finish with exit code 0.
    #[track_caller]
    pub(super) fn succeed_as(
        &self,
        built: &Built,
        request: reapi::ExecuteRequest,
    ) -> impl Future<Output = Result<Ended, Stop>> {
        let place = std::panic::Location::caller();
        let function_of = built.clone();
        async move {
            let failed = |message| Stop::Failed(super::Failure { message, place });
            let ended = match self.attempt(request).await? {
                Ok(ended) => ended,
                Err(fault) => {
                    let (code, text) = (fault.code, fault.message);
                    return Err(failed(format!("an action should succeed: {code:?} ({text})")));
                }
            };
            let result = ended.result();
            if result.exit_code == 0 {
                return Ok(ended);
            }
            let stderr =
                self.content(&function_of, result.stderr_digest.as_ref(), &result.stderr_raw).await?;
            let (code, text) = (result.exit_code, String::from_utf8_lossy(&stderr));
            Err(failed(format!("an action should succeed: exit code {code} ({})", text.trim())))
        }
    }
}
