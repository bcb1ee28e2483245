//! Toolchains: what is registered by name, and what an action that names one really runs.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tonic::{Request, Response, Status};
use wardian_proto::{Digest, DigestFunction, reapi, wardian};
use wardian_runtime::{Failure, action};
use wardian_store::Upload;
use wardian_toolchains::{
    Effective, EffectiveError, Registry, RegistryError, ResolveError, TOOLCHAINS_PER_ACTION_MAX, Toolchain,
};

use super::Context;
use crate::auth::Caller;
use crate::instance::Instance;

/// Bytes of the toolchains of one answer, which is not more than 4 MiB as a whole.
const LIST_BYTES_MAX: usize = 1 << 20;

pub(super) struct Toolchains(pub(super) Arc<Context>);

#[tonic::async_trait]
impl wardian::toolchains_server::Toolchains for Toolchains {
    async fn list_toolchains(
        &self,
        request: Request<wardian::ListToolchainsRequest>,
    ) -> Result<Response<wardian::ListToolchainsResponse>, Status> {
        self.0.toolchains.ready().await?;
        let after = request.into_inner().page_token;
        let mut page = wardian::ListToolchainsResponse::default();
        let mut bytes = 0;
        for toolchain in self.0.toolchains.list() {
            let label = toolchain.label();
            if label <= after {
                continue;
            }
            let wire = toolchain.to_wire();
            bytes += wire.encoded_len();
            if bytes > LIST_BYTES_MAX && !page.toolchains.is_empty() {
                // The last one that is on this page: what is registered or removed meanwhile moves nothing.
                page.next_page_token = page.toolchains.last().map(label_of).unwrap_or_default();
                break;
            }
            page.toolchains.push(wire);
        }
        Ok(Response::new(page))
    }

    async fn get_toolchain(
        &self,
        request: Request<wardian::GetToolchainRequest>,
    ) -> Result<Response<wardian::Toolchain>, Status> {
        self.0.toolchains.ready().await?;
        let found = self.0.toolchains.resolve(&request.get_ref().name).map_err(|error| match error {
            ResolveError::Malformed(_) => Status::invalid_argument(error.to_string()),
            ResolveError::Unknown { .. } => Status::not_found(error.to_string()),
            ResolveError::Incomplete(_) => Status::failed_precondition(error.to_string()),
        })?;
        Ok(Response::new(found.to_wire()))
    }

    async fn put_toolchain(
        &self,
        request: Request<wardian::PutToolchainRequest>,
    ) -> Result<Response<wardian::Toolchain>, Status> {
        // A registered module runs at the baseline tier and is kept for good: that is for the operator to say.
        Caller::of(&request)?.check_operates("the registry of toolchains")?;
        let wire = request.into_inner().toolchain;
        let wire = wire.ok_or_else(|| Status::invalid_argument("toolchain is missing"))?;
        let toolchain = Toolchain::from_wire(wire).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let put = self.0.toolchains.put(toolchain).await.map_err(registry_status)?;
        tracing::info!(toolchain = put.label(), tree = %put.tree, "registered");
        Ok(Response::new(put.to_wire()))
    }

    async fn remove_toolchain(
        &self,
        request: Request<wardian::RemoveToolchainRequest>,
    ) -> Result<Response<wardian::RemoveToolchainResponse>, Status> {
        // A registered module runs at the baseline tier and is kept for good: that is for the operator to say.
        Caller::of(&request)?.check_operates("the registry of toolchains")?;
        let wardian::RemoveToolchainRequest { name, version } = request.into_inner();
        self.0.toolchains.remove(&name, &version).await.map_err(registry_status)?;
        tracing::info!(name, version, "removed");
        Ok(Response::new(wardian::RemoveToolchainResponse {}))
    }
}

fn label_of(toolchain: &wardian::Toolchain) -> String {
    format!("{}@{}", toolchain.name, toolchain.version)
}

fn registry_status(error: RegistryError) -> Status {
    let text = error.to_string();
    match error {
        RegistryError::Changed { .. } => Status::already_exists(text),
        RegistryError::Missing { .. } => Status::failed_precondition(text),
        RegistryError::TooMany => Status::resource_exhausted(text),
        RegistryError::Unknown { .. } => Status::not_found(text),
        RegistryError::Store(error) => error.into(),
    }
}

fn effective_failure(error: EffectiveError) -> Failure {
    match error {
        EffectiveError::Missing(digest) => Failure::MissingBlobs(vec![digest]),
        EffectiveError::Store(error) => error.into(),
        EffectiveError::Tool { .. } => Failure::FailedPrecondition(error.to_string()),
        EffectiveError::OsFamily(_) | EffectiveError::Collision { .. } | EffectiveError::NoArguments => {
            Failure::InvalidArgument(error.to_string())
        }
    }
}

fn resolved(registry: &Registry, text: &str) -> Result<Arc<Toolchain>, Failure> {
    registry.resolve(text).map_err(|error| match error {
        ResolveError::Malformed(_) => {
            Failure::InvalidArgument(format!("platform property toolchain: {error}"))
        }
        ResolveError::Unknown { .. } | ResolveError::Incomplete(_) => {
            Failure::FailedPrecondition(error.to_string())
        }
    })
}

/// A platform with the properties of an instance, in the order that the API asks for; `None` when it has them all.
fn with_properties(
    platform: Option<&reapi::Platform>,
    properties: &[(String, String)],
) -> Option<reapi::Platform> {
    let mut platform = platform.cloned().unwrap_or_default();
    let named: HashSet<String> = platform.properties.iter().map(|property| property.name.clone()).collect();
    let mut missing = properties.iter().filter(|(name, _)| !named.contains(name)).peekable();
    missing.peek()?;
    platform.properties.extend(
        missing.map(|(name, value)| reapi::platform::Property { name: name.clone(), value: value.clone() }),
    );
    platform.properties.sort_by(|a, b| (&a.name, &a.value).cmp(&(&b.name, &b.value)));
    Some(platform)
}

/// An action that needs nothing but itself.
fn alone(requested: Digest, action: reapi::Action) -> Effective {
    let bytes = Bytes::from(action.encode_to_vec());
    let digest = requested.function().digest(&bytes);
    Effective { digest, action, blobs: vec![(digest, bytes)] }
}

impl Context {
    /// What an action really runs that names toolchains, or that its instance adds properties to; `None` for one that
    /// is run as it is.
    ///
    /// The toolchains are looked up here, once: what is registered later does not change an action that waits.
    pub(super) async fn effective(
        &self,
        instance: &Instance,
        digest: Digest,
        action: &reapi::Action,
    ) -> Result<Option<Effective>, Failure> {
        let (blobs, limits) = (&*self.blobs, &self.limits);
        let with_platform = |platform: Option<&reapi::Platform>| {
            let platform = with_properties(platform, &instance.properties)?;
            Some(reapi::Action { platform: Some(platform), ..action.clone() })
        };
        if action.platform.is_some() && wardian_toolchains::asked(action.platform.as_ref()).next().is_none() {
            return Ok(with_platform(action.platform.as_ref()).map(|action| alone(digest, action)));
        }
        let (_, root) = action::inputs(action, &digest)?;
        let command = match action::read_command(blobs, action, &digest, limits).await {
            Ok((command, _)) => command,
            // Whether it names a toolchain cannot be known; what is missing is said when it is to be run.
            Err(Failure::MissingBlobs(_)) if action.platform.is_none() => return Ok(None),
            Err(failure) => return Err(failure),
        };
        #[allow(deprecated)]
        let platform = action.platform.as_ref().or(command.platform.as_ref());
        let added = with_platform(platform);
        let action = added.as_ref().unwrap_or(action);
        let asked: Vec<&str> =
            wardian_toolchains::asked(platform).take(TOOLCHAINS_PER_ACTION_MAX + 1).collect();
        if asked.is_empty() {
            return Ok(added.map(|action| alone(digest, action)));
        }
        if asked.len() > TOOLCHAINS_PER_ACTION_MAX {
            let text = format!("platform has more than {TOOLCHAINS_PER_ACTION_MAX} properties `toolchain`");
            return Err(Failure::InvalidArgument(text));
        }
        if digest.function() != DigestFunction::Sha256 {
            return Err(Failure::FailedPrecondition(format!(
                "toolchains are stored under SHA256, and the action is not: it has {:?}",
                digest.function()
            )));
        }
        self.toolchains.ready().await?;
        let mut toolchains: Vec<Arc<Toolchain>> = Vec::new();
        for text in asked {
            let toolchain = resolved(&self.toolchains, text)?;
            // Two names of one tree may have tools of their own; the same toolchain again has not.
            if !toolchains.iter().any(|other| Arc::ptr_eq(other, &toolchain)) {
                toolchains.push(toolchain);
            }
        }
        let parts = (action, command, root);
        let made =
            wardian_toolchains::effective(blobs, limits.tree.directory_bytes_max, parts, &toolchains).await;
        made.map(Some).map_err(effective_failure)
    }

    /// Stores the messages of an effective action.
    pub(super) async fn store_effective(&self, effective: &Effective) -> Result<(), Failure> {
        let uploads = effective.blobs.iter().map(|(digest, bytes)| Upload::bytes(*digest, bytes.clone()));
        for outcome in self.blobs.put_batch(uploads.collect()).await {
            outcome?;
        }
        Ok(())
    }
}
