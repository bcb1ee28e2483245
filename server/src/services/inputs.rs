//! Everything an action needs, kept from the moment it is taken in until its run ends.

use std::sync::Arc;

use wardian_proto::{Digest, reapi};
use wardian_runtime::{Failure, action};
use wardian_scheduler::Held;
use wardian_store::tree_pins::{PinnedTree, TreePin};
use wardian_store::{BlobStore as _, Pin};

use super::Context;

/// Keeps an action's blobs until it is dropped.
struct PinnedInputs {
    _messages: Pin,
    _root: Arc<PinnedTree>,
}

impl Context {
    /// Pins an action that was taken in some time ago.
    pub(crate) async fn pin_action(&self, digest: Digest) -> Result<Held, Failure> {
        let action = action::read_action(&*self.blobs, &digest, &self.limits).await?;
        self.pin_inputs(digest, &action).await
    }

    /// Pins an Action, its Command and its whole input root. Every blob that is missing is named in the
    /// failure.
    pub(super) async fn pin_inputs(&self, digest: Digest, action: &reapi::Action) -> Result<Held, Failure> {
        let (command, root) = action::inputs(action, &digest)?;
        let (messages, mut missing) = self.blobs.pin(&[digest, command]).await?;
        match self.tree_pins.pin(root).await? {
            TreePin::Pinned(root) if missing.is_empty() => {
                Ok(Held::new(PinnedInputs { _messages: messages, _root: root }))
            }
            TreePin::Pinned(_) => Err(Failure::MissingBlobs(missing)),
            TreePin::Missing(of_tree) => {
                missing.extend(of_tree);
                Err(Failure::MissingBlobs(missing))
            }
        }
    }
}
