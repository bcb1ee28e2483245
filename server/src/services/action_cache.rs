//! ActionCache: results by action.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Request, Response, Status};
use wardian_proto::{Digest, DigestFunction, reapi};
use wardian_runtime::Failure;
use wardian_runtime::action::read_action;
use wardian_store::{BlobStore, Upload};

use super::inline::Inline;
use super::{Context, failure_status};
use crate::auth::{Caller, Verb};
use crate::instance::Instance;

pub(super) struct ActionCache(pub(super) Arc<Context>);

#[tonic::async_trait]
impl reapi::action_cache_server::ActionCache for ActionCache {
    async fn get_action_result(
        &self,
        request: Request<reapi::GetActionResultRequest>,
    ) -> Result<Response<reapi::ActionResult>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let instance = self.0.instance(&caller, Verb::AcRead, &request.instance_name)?;
        let action = instance.digest(request.digest_function, request.action_digest.as_ref())?;
        // Of an action that names a toolchain, or gets properties of its instance, the result is found under what it really runs.
        let run = self.effective(instance, action).await?;
        let found = self.0.action_cache.get(&instance.name, &run).await?;
        let mut result =
            found.ok_or_else(|| Status::not_found(format!("no result of action {action} is cached")))?;
        let inline = Inline {
            stdout: request.inline_stdout,
            stderr: request.inline_stderr,
            output_files: &request.inline_output_files,
        };
        inline.apply(&*self.0.blobs, action.function(), &mut result).await;
        Ok(Response::new(result))
    }

    async fn update_action_result(
        &self,
        request: Request<reapi::UpdateActionResultRequest>,
    ) -> Result<Response<reapi::ActionResult>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let instance = self.0.instance(&caller, Verb::AcWrite, &request.instance_name)?;
        if !self.0.action_cache_update {
            return Err(Status::permission_denied(
                "clients may not write action results here (setting `action_cache_update`)",
            ));
        }
        let action = instance.digest(request.digest_function, request.action_digest.as_ref())?;
        let mut result =
            request.action_result.ok_or_else(|| Status::invalid_argument("action_result is missing"))?;
        check_digests(action.function(), &result)?;
        self.store_inlined(action.function(), &mut result).await?;
        // So that the stored bytes are never empty, whatever the client sent.
        let metadata = result.execution_metadata.get_or_insert_default();
        if metadata.worker.is_empty() {
            metadata.worker = "uploaded by a client".into();
        }
        let run = self.effective(instance, action).await?;
        self.0.action_cache.put(&instance.name, &run, &result).await?;
        Ok(Response::new(result))
    }
}

impl ActionCache {
    /// The digest that results of an action are cached under. An action that is not stored names no toolchain
    /// as far as anybody can tell here.
    async fn effective(&self, instance: &Instance, action: Digest) -> Result<Digest, Status> {
        self.0.toolchains.ready().await?;
        if self.0.toolchains.is_empty() && instance.properties.is_empty() {
            return Ok(action);
        }
        let effective = match read_action(&*self.0.blobs, &action, &self.0.limits).await {
            Ok(message) => self.0.effective(instance, action, &message).await,
            Err(failure) => Err(failure),
        };
        match effective {
            Ok(effective) => Ok(effective.map_or(action, |effective| effective.digest)),
            // Not stored, or no action at all: results that clients wrote are served for anything.
            Err(Failure::MissingBlobs(_) | Failure::InvalidArgument(_)) => Ok(action),
            // A toolchain that is not registered has no results.
            Err(failure @ Failure::FailedPrecondition(_)) => Err(Status::not_found(failure.to_string())),
            Err(failure) => Err(failure_status(&failure)),
        }
    }

    /// Moves contents that a client put into the result to where they belong.
    async fn store_inlined(
        &self,
        function: DigestFunction,
        result: &mut reapi::ActionResult,
    ) -> Result<(), Status> {
        let blobs = &*self.0.blobs;
        for (raw, digest) in [
            (&mut result.stdout_raw, &mut result.stdout_digest),
            (&mut result.stderr_raw, &mut result.stderr_digest),
        ] {
            store(blobs, function, std::mem::take(raw), digest).await?;
        }
        for file in &mut result.output_files {
            store(blobs, function, std::mem::take(&mut file.contents), &mut file.digest).await?;
        }
        Ok(())
    }
}

/// Stores raw bytes under the digest given beside them, or under their own when there is none.
async fn store(
    blobs: &dyn BlobStore,
    function: DigestFunction,
    raw: Bytes,
    wire: &mut Option<reapi::Digest>,
) -> Result<(), Status> {
    if raw.is_empty() {
        return Ok(());
    }
    let named = wire.as_ref().and_then(|wire| Digest::from_wire(function, Some(wire)).ok());
    let digest = named.unwrap_or_else(|| function.digest(&raw));
    blobs.put(Upload::bytes(digest, raw)).await?;
    *wire = Some(digest.to_wire());
    Ok(())
}

/// Every digest in a result must be one; whether its blob is there is looked at when it is served.
fn check_digests(function: DigestFunction, result: &reapi::ActionResult) -> Result<(), Status> {
    let directories = result.output_directories.iter();
    let all = result
        .output_files
        .iter()
        .filter(|file| file.contents.is_empty())
        .map(|file| (file.path.as_str(), file.digest.as_ref().or(Some(&NO_DIGEST))))
        .chain([("stdout", result.stdout_digest.as_ref()), ("stderr", result.stderr_digest.as_ref())])
        .chain(directories.clone().map(|d| (d.path.as_str(), d.tree_digest.as_ref())))
        .chain(directories.map(|d| (d.path.as_str(), d.root_directory_digest.as_ref())));
    for (what, wire) in all {
        if wire.is_some() {
            Digest::from_wire(function, wire)
                .map_err(|error| Status::invalid_argument(format!("action_result, {what}: {error}")))?;
        }
    }
    Ok(())
}

/// Stands for a digest that must be there and is not; refused like any malformed one.
static NO_DIGEST: reapi::Digest = reapi::Digest { hash: String::new(), size_bytes: 0 };
