//! Remote Asset: Fetch and Push.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tonic::{Request, Response, Status};
use wardian_proto::asset::fetch_server::Fetch;
use wardian_proto::asset::push_server::Push;
use wardian_proto::asset::{
    FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, FetchDirectoryResponse, PushBlobRequest,
    PushBlobResponse, PushDirectoryRequest, PushDirectoryResponse,
};
use wardian_proto::{Digest, DigestFunction, asset, reapi, rpc};
use wardian_toolchains::ResolveError;

use super::{Context, bad_digest};
use crate::assets::qualifiers::Qualifiers;
use crate::assets::{Answer, Asset, FetchError, Kind, Wanted};
use crate::auth::{Caller, Verb};

/// URIs of one request, and bytes of one of them.
const URIS_MAX: usize = 100;
const URI_BYTES_MAX: usize = 4096;

/// References of one push: to blobs, and to trees, which are read whole at each push and fetch.
const REFERENCES_MAX: usize = 10_000;
const TREE_REFERENCES_MAX: usize = 64;

/// What URIs begin with that name a registered toolchain: `wardian-toolchain:NAME@VERSION`.
const TOOLCHAIN_SCHEME: &str = "wardian-toolchain:";

pub(super) struct Assets(pub(super) Arc<Context>);

fn check_uris(uris: &[String]) -> Result<(), Status> {
    if uris.is_empty() || uris.len() > URIS_MAX {
        return Err(Status::invalid_argument(format!("{} URIs; from 1 to {URIS_MAX} are taken", uris.len())));
    }
    if uris.iter().any(|uri| uri.is_empty() || uri.len() > URI_BYTES_MAX) {
        return Err(Status::invalid_argument(format!(
            "a URI is empty or has more than {URI_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}

fn time(wire: Option<prost_types::Timestamp>, what: &str) -> Result<Option<SystemTime>, Status> {
    let parse =
        |wire| SystemTime::try_from(wire).map_err(|_| Status::invalid_argument(format!("{what} is no time")));
    wire.map(parse).transpose()
}

/// The fields that both kinds of fetches have.
struct FetchFields {
    kind: Kind,
    instance_name: String,
    timeout: Option<prost_types::Duration>,
    oldest: Option<prost_types::Timestamp>,
    uris: Vec<String>,
    qualifiers: Vec<asset::Qualifier>,
    function: i32,
}

/// The fields that both kinds of pushes have.
struct PushFields {
    kind: Kind,
    instance_name: String,
    uris: Vec<String>,
    qualifiers: Vec<asset::Qualifier>,
    expire_at: Option<prost_types::Timestamp>,
    digest: Option<reapi::Digest>,
    references_blobs: Vec<reapi::Digest>,
    references_directories: Vec<reapi::Digest>,
    function: i32,
}

/// What both kinds of answers have.
struct Fetched {
    status: rpc::Status,
    uri: String,
    asset: Option<Asset>,
    function: DigestFunction,
}

impl Fetched {
    fn new(function: DigestFunction, (uri, outcome): Answer) -> Result<Self, Status> {
        let (status, asset) = match outcome {
            Ok(asset) => (rpc::Status::default(), Some(asset)),
            Err(error) => (error.to_wire()?, None),
        };
        Ok(Self { status, uri, asset, function })
    }

    fn expires_at(&self) -> Option<prost_types::Timestamp> {
        self.asset.as_ref().and_then(|asset| asset.expires_at).map(Into::into)
    }

    fn digest(&self) -> Option<reapi::Digest> {
        self.asset.as_ref().map(|asset| asset.digest.to_wire())
    }

    fn qualifiers(&self) -> Vec<asset::Qualifier> {
        self.asset.as_ref().map(|asset| asset.qualifiers.clone()).unwrap_or_default()
    }
}

impl Assets {
    async fn fetch(&self, caller: &Caller, fields: FetchFields) -> Result<Fetched, Status> {
        let instance = self.0.instance(caller, Verb::AssetFetch, &fields.instance_name)?;
        // Unset asks for SHA-256 here; there is no hash to tell from.
        let sha256 = DigestFunction::Sha256.wire().into();
        let asked = if fields.function == 0 { sha256 } else { fields.function };
        let function = instance.digest_functions.resolve(asked, None).map_err(bad_digest)?;
        check_uris(&fields.uris)?;
        let qualifiers = Qualifiers::parse(&fields.qualifiers)?;
        let negative = |_| Status::invalid_argument("timeout is negative");
        let timeout = fields.timeout.map(Duration::try_from).transpose().map_err(negative)?;
        let wanted = Wanted {
            kind: fields.kind,
            instance: instance.name.clone(),
            function,
            uris: fields.uris,
            qualifiers,
            oldest: time(fields.oldest, "oldest_content_accepted")?,
        };
        if let Some(toolchain) = self.toolchain(&wanted).await? {
            return Fetched::new(function, toolchain);
        }
        if let Some(known) = self.0.assets.find(&wanted).await? {
            return Fetched::new(function, known);
        }
        if !self.0.assets.limits().fetch {
            let text = "nothing was pushed for these URIs and qualifiers, and nothing is fetched here".into();
            return Fetched::new(function, (wanted.uris[0].clone(), Err(FetchError::NotFound(text))));
        }
        wanted.qualifiers.check_supported(wanted.kind == Kind::Directory)?;
        Fetched::new(function, self.0.assets.fetch(wanted, timeout).await)
    }

    /// The tree of the registered toolchain that one of the URIs names; `None` when none does. The server is the
    /// only origin of such URIs, so nothing else is asked for them.
    async fn toolchain(&self, wanted: &Wanted) -> Result<Option<Answer>, Status> {
        let name = |uri: &String| Some((uri.clone(), uri.strip_prefix(TOOLCHAIN_SCHEME)?.to_owned()));
        let Some((uri, name)) = wanted.uris.iter().find_map(name) else { return Ok(None) };
        if wanted.kind != Kind::Directory {
            return Err(Status::invalid_argument(format!("{uri} is a directory: FetchDirectory has it")));
        }
        wanted.qualifiers.check_supported(false)?;
        if !wanted.qualifiers.checksums.is_empty() {
            return Err(Status::invalid_argument(format!(
                "{uri} has no checksum but the digest of its tree"
            )));
        }
        self.0.toolchains.ready().await?;
        let found = self.0.toolchains.resolve(&name).map_err(|error| match error {
            ResolveError::Malformed(_) => FetchError::Invalid(error.to_string()),
            ResolveError::Unknown { .. } | ResolveError::Incomplete(_) => {
                FetchError::NotFound(error.to_string())
            }
        });
        let outcome = found.and_then(|toolchain| {
            if toolchain.tree.function() != wanted.function {
                return Err(FetchError::NotFound("toolchains are stored under SHA256 only".into()));
            }
            Ok(Asset {
                digest: toolchain.tree,
                since: SystemTime::now(),
                expires_at: None,
                qualifiers: Vec::new(),
                references_blobs: Vec::new(),
                references_directories: Vec::new(),
            })
        });
        Ok(Some((uri, outcome)))
    }

    async fn push(&self, caller: &Caller, fields: PushFields) -> Result<(), Status> {
        let instance = self.0.instance(caller, Verb::AssetPush, &fields.instance_name)?;
        if fields.uris.iter().any(|uri| uri.starts_with(TOOLCHAIN_SCHEME)) {
            let text = format!("URIs that begin with {TOOLCHAIN_SCHEME} mean registered toolchains only");
            return Err(Status::invalid_argument(text));
        }
        if !self.0.assets.limits().push {
            return Err(Status::unimplemented("nothing can be pushed here (setting assets.push)"));
        }
        check_uris(&fields.uris)?;
        let qualifiers = Qualifiers::parse(&fields.qualifiers)?;
        let digest = instance.digest(fields.function, fields.digest.as_ref())?;
        let references = |wire: &[reapi::Digest]| {
            if wire.len() > REFERENCES_MAX {
                let text = format!("{} references; limit is {REFERENCES_MAX}", wire.len());
                return Err(Status::invalid_argument(text));
            }
            instance.digests(digest.function().wire().into(), wire)
        };
        let mut trees = references(&fields.references_directories)?;
        trees.sort();
        trees.dedup();
        if trees.len() > TREE_REFERENCES_MAX {
            let text = format!("{} references to directories; limit is {TREE_REFERENCES_MAX}", trees.len());
            return Err(Status::invalid_argument(text));
        }
        let asset = Asset {
            digest,
            since: SystemTime::now(),
            expires_at: time(fields.expire_at, "expire_at")?,
            qualifiers: qualifiers.to_wire(),
            references_blobs: references(&fields.references_blobs)?,
            references_directories: trees,
        };
        let wanted = Wanted {
            kind: fields.kind,
            instance: instance.name.clone(),
            function: digest.function(),
            uris: fields.uris,
            qualifiers,
            oldest: None,
        };
        let missing: Vec<Digest> = self.0.assets.push(&wanted, asset).await?;
        match missing.first() {
            None => Ok(()),
            Some(first) => Err(Status::failed_precondition(format!(
                "{} blobs of what is pushed are not stored, such as {first}: upload them first",
                missing.len()
            ))),
        }
    }
}

#[tonic::async_trait]
impl Fetch for Assets {
    async fn fetch_blob(
        &self,
        request: Request<FetchBlobRequest>,
    ) -> Result<Response<FetchBlobResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let fetched = self
            .fetch(
                &caller,
                FetchFields {
                    kind: Kind::Blob,
                    instance_name: request.instance_name,
                    timeout: request.timeout,
                    oldest: request.oldest_content_accepted,
                    uris: request.uris,
                    qualifiers: request.qualifiers,
                    function: request.digest_function,
                },
            )
            .await?;
        Ok(Response::new(FetchBlobResponse {
            qualifiers: fetched.qualifiers(),
            expires_at: fetched.expires_at(),
            blob_digest: fetched.digest(),
            digest_function: fetched.function.wire().into(),
            status: Some(fetched.status),
            uri: fetched.uri,
        }))
    }

    async fn fetch_directory(
        &self,
        request: Request<FetchDirectoryRequest>,
    ) -> Result<Response<FetchDirectoryResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let fetched = self
            .fetch(
                &caller,
                FetchFields {
                    kind: Kind::Directory,
                    instance_name: request.instance_name,
                    timeout: request.timeout,
                    oldest: request.oldest_content_accepted,
                    uris: request.uris,
                    qualifiers: request.qualifiers,
                    function: request.digest_function,
                },
            )
            .await?;
        Ok(Response::new(FetchDirectoryResponse {
            qualifiers: fetched.qualifiers(),
            expires_at: fetched.expires_at(),
            root_directory_digest: fetched.digest(),
            digest_function: fetched.function.wire().into(),
            status: Some(fetched.status),
            uri: fetched.uri,
        }))
    }
}

#[tonic::async_trait]
impl Push for Assets {
    async fn push_blob(
        &self,
        request: Request<PushBlobRequest>,
    ) -> Result<Response<PushBlobResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let fields = PushFields {
            kind: Kind::Blob,
            instance_name: request.instance_name,
            uris: request.uris,
            qualifiers: request.qualifiers,
            expire_at: request.expire_at,
            digest: request.blob_digest,
            references_blobs: request.references_blobs,
            references_directories: request.references_directories,
            function: request.digest_function,
        };
        self.push(&caller, fields).await?;
        Ok(Response::new(PushBlobResponse {}))
    }

    async fn push_directory(
        &self,
        request: Request<PushDirectoryRequest>,
    ) -> Result<Response<PushDirectoryResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let fields = PushFields {
            kind: Kind::Directory,
            instance_name: request.instance_name,
            uris: request.uris,
            qualifiers: request.qualifiers,
            expire_at: request.expire_at,
            digest: request.root_directory_digest,
            references_blobs: request.references_blobs,
            references_directories: request.references_directories,
            function: request.digest_function,
        };
        self.push(&caller, fields).await?;
        Ok(Response::new(PushDirectoryResponse {}))
    }
}
