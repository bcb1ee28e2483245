//! The Directories of an input tree, level by level: read in batches, and each subtree once in a while.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use wardian_proto::{Digest, PATH_BYTES_MAX};

use super::choice::Candidate;
use super::{BATCH_BYTES_MAX, BATCHES_IN_FLIGHT_MAX, Shared};
use crate::Failure;
use crate::workspace::{InputDirectory, InputKind};

/// Directories that were walked, as far as they are remembered.
pub(super) const WALKED_DIRECTORIES_MAX: u64 = 200_000;

/// How long a subtree that was walked is taken for looked through.
const WALKED_KEPT: Duration = Duration::from_secs(600);

/// Directories, and names in them, that are looked at for one action; what lies beyond is not fetched ahead.
const DIRECTORIES_PER_ACTION_MAX: usize = 8192;
const ENTRIES_PER_ACTION_MAX: usize = 200_000;

/// Letters of all paths that are remembered during a walk: names may be long, and trees deep.
const PATHS_BYTES_MAX: usize = 32 << 20;

/// Directories in one batch.
const BATCH_DIRECTORIES_MAX: usize = 256;

/// What is below a root, as far as it was not walked lately.
#[derive(Default)]
pub(super) struct Found {
    pub(super) directories: Vec<Digest>,
    pub(super) files: Vec<Candidate>,
    /// Whether that is all of it.
    pub(super) is_whole: bool,
}

impl Shared {
    /// Reads the Directories below `root`, which brings them near and into memory.
    pub(super) async fn walk(&self, root: Digest) -> Result<Found, Failure> {
        let mut found = Found { is_whole: true, ..Found::default() };
        let mut named = HashSet::from([root]);
        let mut level = vec![(String::new(), root)];
        let (mut depth, mut entries, mut path_bytes) = (0, 0, 0);
        loop {
            level.retain(|(_, digest)| !self.is_walked(digest));
            let room = DIRECTORIES_PER_ACTION_MAX - found.directories.len();
            found.is_whole &= level.len() <= room;
            level.truncate(room);
            if level.is_empty() {
                return Ok(found);
            }
            if depth > self.limits.tree.depth_max {
                return Ok(Found { is_whole: false, ..found });
            }
            let mut next = Vec::new();
            let digests: Vec<Digest> = level.iter().map(|(_, digest)| *digest).collect();
            let read: Vec<_> = batches(&digests).into_iter().map(|batch| self.read(batch).boxed()).collect();
            let read = futures::stream::iter(read).buffered(BATCHES_IN_FLIGHT_MAX);
            let mut read = read.flat_map(futures::stream::iter);
            let mut places = level.iter();
            while let Some(directory) = read.next().await {
                let Some((path, digest)) = places.next() else { break };
                let directory = directory?;
                entries += directory.entries.len();
                for entry in &directory.entries {
                    let path = if path.is_empty() {
                        entry.name.to_string()
                    } else {
                        format!("{path}/{}", entry.name)
                    };
                    path_bytes += path.len();
                    if path.len() > PATH_BYTES_MAX || path_bytes > PATHS_BYTES_MAX {
                        found.is_whole = false;
                        continue;
                    }
                    match entry.kind {
                        InputKind::File { digest, .. } => found.files.push(Candidate { path, digest }),
                        InputKind::Directory(digest) if named.insert(digest) => next.push((path, digest)),
                        InputKind::Directory(_) | InputKind::Symlink(_) => {}
                    }
                }
                found.directories.push(*digest);
                if entries > ENTRIES_PER_ACTION_MAX {
                    return Ok(Found { is_whole: false, ..found });
                }
            }
            drop(read);
            level = next;
            depth += 1;
        }
    }

    async fn read(&self, batch: &[Digest]) -> Vec<Result<Arc<InputDirectory>, Failure>> {
        match self.batches.acquire().await {
            Ok(_permit) => self.source.inputs.directories(batch).await,
            Err(_) => Vec::new(),
        }
    }

    fn is_walked(&self, directory: &Digest) -> bool {
        self.walked.get(directory).is_some_and(|at| at.elapsed() < WALKED_KEPT)
    }
}

/// Parts of a level that are read together.
fn batches(level: &[Digest]) -> Vec<&[Digest]> {
    let (mut batches, mut start, mut bytes) = (Vec::new(), 0, 0_u64);
    for (place, digest) in level.iter().enumerate() {
        bytes = bytes.saturating_add(digest.size());
        if place > start && (bytes > BATCH_BYTES_MAX || place - start >= BATCH_DIRECTORIES_MAX) {
            batches.push(&level[start..place]);
            (start, bytes) = (place, digest.size());
        }
    }
    batches.push(&level[start..]);
    batches
}
