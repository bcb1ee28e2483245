//! Trees out of git repositories: one commit without its history, over git's own protocol.

mod http;
mod pack;
mod tree;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gix_error::{ResultExt as _, bail, message};
use gix_hash::ObjectId;
use gix_protocol::fetch::negotiate::{Action, Round, one_round};
use gix_protocol::fetch::{Arguments, Context, Negotiate, Options, Response, Shallow, Tags};
use gix_protocol::handshake::Ref;
use gix_protocol::ls_refs::RefPrefixes;
use gix_protocol::{Handshake, LsRefsCommand};
use gix_transport::client::blocking_io::http::Transport;
use gix_transport::{Protocol, Service};
use gix_utils::progress::Discard;
use tokio::runtime::Handle;
use wardian_proto::{Digest, DigestFunction, RelPath};
use wardian_store::BlobStore;

use self::http::{GitHttp, Talk};
use self::pack::ReceiveError;
use super::origin::{Headers, Origins, checked, parse};
use super::{FetchError, archive};

/// Bytes of all that an origin says before it sends objects: mostly the names of its branches and tags.
const TALK_BYTES_MAX: u64 = 16 << 20;

/// Bytes of the name of a branch or a commit.
const NAME_BYTES_MAX: usize = 255;

/// Which commit of a repository is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Revision {
    /// What the repository shows first.
    Head,
    Branch(String),
    /// The name of a tag or of a branch.
    Name(String),
    Commit(ObjectId),
}

impl Revision {
    /// A commit by its whole hash, or what a tag or a branch leads to.
    pub(crate) fn commit(text: &str) -> Option<Self> {
        if let Ok(id) = ObjectId::from_hex(text.as_bytes()) {
            return Some(Self::Commit(id));
        }
        name(text).map(Self::Name)
    }

    pub(crate) fn branch(text: &str) -> Option<Self> {
        name(text).map(Self::Branch)
    }

    /// The full names that it may have, the best first.
    fn refs(&self) -> Vec<String> {
        match self {
            Self::Head => vec!["HEAD".into()],
            Self::Branch(name) => vec![format!("refs/heads/{name}")],
            Self::Name(name) => vec![format!("refs/tags/{name}"), format!("refs/heads/{name}")],
            Self::Commit(_) => vec![],
        }
    }
}

/// What git takes as a part of a reference's name.
fn name(text: &str) -> Option<String> {
    let is_odd = |c: char| c.is_ascii_control() || " ~^:?*[\\".contains(c);
    let is_name = !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.contains(is_odd);
    (is_name && !text.contains("..") && !text.starts_with('/') && !text.ends_with('/'))
        .then(|| text.to_owned())
}

/// What of a repository to fetch, and into what.
pub(super) struct GitFetch<'a> {
    pub(super) uri: &'a str,
    pub(super) secrets: &'a [(&'a str, &'a str)],
    pub(super) revision: &'a Revision,
    pub(super) directory: &'a RelPath,
    pub(super) function: DigestFunction,
    /// A folder for objects.
    pub(super) folder: &'a Path,
    pub(super) bytes_max: u64,
}

/// Sets the flag when the fetch ends or nobody waits for it.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Stores the tree of a commit. Returns its root and the commit's hash.
pub(super) async fn store(
    blobs: &Arc<dyn BlobStore>,
    origins: &Arc<Origins>,
    fetch: GitFetch<'_>,
) -> Result<(Digest, String), FetchError> {
    let stop = StopOnDrop(Arc::default());
    let (stopped, origins, runtime) = (Arc::clone(&stop.0), Arc::clone(origins), Handle::current());
    let first = parse(fetch.uri)?;
    let secrets: Headers = checked(fetch.secrets)?;
    let (revision, directory) = (fetch.revision.clone(), fetch.directory.clone());
    let (function, bytes_max) = (fetch.function, fetch.bytes_max);
    let spool = fetch.folder.to_owned();
    archive::store_tree(blobs, move |deliver, _| {
        let folder = tempfile::tempdir_in(&spool).map_err(|error| super::fetch::spool_failed(&error))?;
        let talk = Talk {
            origins,
            secrets: Rc::new(secrets),
            first,
            runtime,
            stopped,
            allowance: Rc::new(Cell::new(TALK_BYTES_MAX)),
            failed: Rc::new(RefCell::new(None)),
        };
        let fetched = objects(&talk, &revision, folder.path(), bytes_max);
        let (commit, bundle) = fetched.map_err(|error| talk.failed.take().unwrap_or(error))?;
        let objects = tree::Objects::new(bundle, &talk.stopped);
        let built = tree::build(objects, commit, &directory, function, &spool, deliver)?;
        Ok((built, commit.to_string()))
    })
    .await
}

fn failed(error: gix_error::Error) -> FetchError {
    // What the origin said is told by the innermost of several errors.
    let text = error.probable_cause().to_string();
    if text.contains("not our ref") {
        return FetchError::NotFound("the repository has no such commit".into());
    }
    FetchError::Aborted(format!("git: {error}: {text}"))
}

/// Brings the objects of a commit into a folder.
fn objects(
    talk: &Talk,
    revision: &Revision,
    folder: &Path,
    bytes_max: u64,
) -> Result<(ObjectId, gix_pack::Bundle), FetchError> {
    let url = gix_url::parse(talk.first.as_str().as_bytes()).map_err(failed)?;
    let mut transport = Transport::new_http(GitHttp::new(talk.clone()), url, Protocol::V2, false);
    let no_credentials = |_| Ok(None);
    let mut handshake =
        gix_protocol::handshake(&mut transport, Service::UploadPack, no_credentials, vec![], &mut Discard)
            .map_err(failed)?;
    let agent = ("agent", Some(gix_protocol::agent("wardian")));
    let commit = match revision {
        Revision::Commit(id) => *id,
        named => find(named, &mut transport, &mut handshake, agent.clone())?,
    };
    talk.allowance.set(bytes_max);
    let path = folder.join("received.pack");
    let mut spool_error = None;
    let received = gix_protocol::fetch(
        &mut Want(commit),
        |pack, _, stopped| match pack::receive(pack, &path, stopped) {
            Ok(()) => Ok(true),
            Err(ReceiveError::Origin(error)) => {
                Err(error).or_raise(|| message("the repository stopped in the middle of its objects"))
            }
            Err(ReceiveError::Spool(error)) => {
                spool_error = Some(super::fetch::spool_failed(&error));
                bail!(message("the objects cannot be kept"))
            }
        },
        Discard,
        &talk.stopped,
        Context {
            handshake: &mut handshake,
            transport: &mut transport,
            user_agent: agent,
            trace_packetlines: false,
        },
        Options {
            shallow_file: folder.join("shallow"),
            shallow: &Shallow::DepthAtRemote(std::num::NonZeroU32::MIN),
            tags: Tags::None,
            reject_shallow_remote: false,
        },
    );
    if let Some(error) = spool_error {
        return Err(error);
    }
    received.map_err(failed)?;
    if !path.exists() {
        return Err(FetchError::NotFound("the repository sent no objects".into()));
    }
    Ok((commit, pack::open(&path, &talk.stopped)?))
}

/// Looks for what a name leads to.
fn find(
    revision: &Revision,
    transport: &mut Transport<GitHttp>,
    handshake: &mut Handshake,
    agent: gix_protocol::command::Feature,
) -> Result<ObjectId, FetchError> {
    let names = revision.refs();
    let refs = match handshake.refs.take() {
        Some(refs) => refs,
        None => {
            let mut prefixes = RefPrefixes::new();
            prefixes.extend(names.iter().map(|name| name.as_str().into()));
            LsRefsCommand::new(Some(prefixes), &handshake.capabilities, agent)
                .invoke_blocking(transport, &mut Discard, false)
                .map_err(failed)?
        }
    };
    let target = |name: &String| {
        refs.iter().find_map(|found| match found {
            Ref::Peeled { full_ref_name, object, .. }
            | Ref::Direct { full_ref_name, object }
            | Ref::Symbolic { full_ref_name, object, .. }
                if *full_ref_name == *name =>
            {
                Some(*object)
            }
            _ => None,
        })
    };
    names.iter().find_map(target).ok_or_else(|| {
        FetchError::NotFound(format!(
            "the repository has none of {names:?}; commits are named by their whole hash"
        ))
    })
}

/// One commit, of which nothing is there yet.
struct Want(ObjectId);

impl Negotiate for Want {
    fn mark_complete_and_common_ref(&mut self) -> gix_error::Result<Action> {
        Ok(Action::MustNegotiate { remote_ref_target_known: vec![] })
    }

    fn add_wants(&mut self, arguments: &mut Arguments, _: &[bool]) -> bool {
        arguments.want(self.0);
        true
    }

    fn one_round(
        &mut self,
        _: &mut one_round::State,
        _: &mut Arguments,
        _: Option<&Response>,
    ) -> gix_error::Result<(Round, bool)> {
        Ok((
            Round {
                haves_sent: 0,
                in_vain: 0,
                haves_to_send: 0,
                previous_response_had_at_least_one_in_common: false,
            },
            true,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ast_18_a_commit_is_a_hash_or_a_name() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(Revision::commit(hash), ObjectId::from_hex(hash.as_bytes()).ok().map(Revision::Commit));
        assert_eq!(Revision::commit("v1.0"), Some(Revision::Name("v1.0".into())));
        assert_eq!(Revision::branch("a/b"), Some(Revision::Branch("a/b".into())));
        for odd in ["", "a b", "a\nb", "a..b", "/a", "a:b", "^a", &"a".repeat(256)] {
            assert_eq!(Revision::branch(odd), None, "{odd:?}");
        }
    }
}
