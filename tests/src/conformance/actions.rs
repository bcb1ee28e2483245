//! Actions, uploaded and executed on the subject.

use bytes::Bytes;
use wardian_proto::Digest;

use super::outcome::told;
use super::{Stop, Subject};
use crate::{Built, Ended, Following, TestAction};

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
    pub(super) async fn upload(&self, action: TestAction) -> Result<Built, Stop> {
        self.executes()?;
        let built = action.build();
        self.needs_function(built.action.function())?;
        self.put_all(&built.blobs).await?;
        Ok(built)
    }

    /// Sends an uploaded action to Execute and follows the stream, each message of which is checked.
    pub(super) async fn follow(&self, built: &Built) -> Result<Following, Stop> {
        let request =
            wardian_proto::reapi::ExecuteRequest { instance_name: self.instance(), ..built.request() };
        Ok(Following::new(self.execution().execute(request).await?.into_inner()))
    }

    /// Executes an uploaded action to its end, whatever comes of it.
    pub(super) async fn execute(&self, built: &Built) -> Result<Ended, Stop> {
        let ended = self.follow(built).await?.ended().await;
        ended.map_err(|status| Stop::failed(format!("the stream of an execution broke: {}", told(&status))))
    }

    /// Runs an action that must finish with exit code 0.
    pub(super) async fn succeed(&self, action: TestAction) -> Result<Ended, Stop> {
        let ended = self.execute(&self.upload(action).await?).await?;
        match (ended.refusal(), ended.result().exit_code) {
            (None, 0) => Ok(ended),
            (refusal, code) => {
                Err(Stop::failed(format!("an action should succeed: {refusal:?}, exit code {code}")))
            }
        }
    }
}
