//! A package file whose hash was checked.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::Manifest;

/// Largest package file that is looked at.
pub const PACKAGE_BYTES_MAX: u64 = 512 << 20;

/// Bytes hashed at a time.
const HASH_CHUNK_BYTES: usize = 1 << 20;

/// The package that a manifest asks for, in a file. It exists only with the right hash.
#[derive(Clone, Debug)]
pub struct Package {
    manifest: Manifest,
    path: PathBuf,
}

/// Why a file was not accepted as a package.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PackageError {
    #[error("could not read package {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("package {} has {bytes} bytes; limit is {PACKAGE_BYTES_MAX}", path.display())]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error(
        "package {} is not the one that was pinned: its SHA-256 is {actual}, expected {expected}. \
         The file was left as it is; move it away to have the package fetched again",
        path.display()
    )]
    HashMismatch { path: PathBuf, expected: String, actual: String },
}

impl Package {
    /// Accepts a file when it is what the manifest asks for.
    pub async fn open(manifest: &Manifest, path: &Path) -> Result<Self, PackageError> {
        let file = path.to_owned();
        let hashed = tokio::task::spawn_blocking(move || hash(&file)).await;
        let actual = hashed.unwrap_or_else(|join| std::panic::resume_unwind(join.into_panic()))?;
        let (manifest, path) = (manifest.clone(), path.to_owned());
        if actual == manifest.sha256 {
            Ok(Self { manifest, path })
        } else {
            Err(PackageError::HashMismatch { path, expected: manifest.sha256, actual })
        }
    }

    /// What the package is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where the package is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same package after its file was moved.
    pub(crate) fn moved_to(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }
}

fn hash(path: &Path) -> Result<String, PackageError> {
    let failed = |source| PackageError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > PACKAGE_BYTES_MAX {
        return Err(PackageError::TooLarge { path: path.to_owned(), bytes });
    }
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; HASH_CHUNK_BYTES];
    loop {
        match file.read(&mut chunk).map_err(failed)? {
            0 => return Ok(hex::encode(hasher.finalize())),
            read => hasher.update(&chunk[..read]),
        }
    }
}
