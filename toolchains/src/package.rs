//! A package file whose hash was checked, or a folder that stands for one.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::Manifest;

/// Largest package file that is looked at.
pub const PACKAGE_BYTES_MAX: u64 = 512 << 20;

/// Bytes hashed at a time.
const HASH_CHUNK_BYTES: usize = 1 << 20;

/// The package that a manifest asks for. A file exists only with the right hash; a folder has none.
#[derive(Clone, Debug)]
pub struct Package {
    manifest: Manifest,
    path: PathBuf,
    is_built: bool,
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
    #[error("{} is no folder", .0.display())]
    NoFolder(PathBuf),
    #[error("toolchain {0} comes from a folder, not from a package file")]
    NoFile(String),
    #[error("toolchain {0} is not built of its package")]
    NotBuilt(String),
}

impl Package {
    /// Accepts a file when it is what the manifest asks for.
    pub async fn open(manifest: &Manifest, path: &Path) -> Result<Self, PackageError> {
        let expected = manifest.sha256.clone().ok_or_else(|| PackageError::NoFile(manifest.label()))?;
        Self::checked(manifest, path, expected, false).await
    }

    /// Accepts an archive when it is what building the manifest's package gives.
    pub async fn open_built(manifest: &Manifest, path: &Path) -> Result<Self, PackageError> {
        let build = manifest.build.as_ref().ok_or_else(|| PackageError::NotBuilt(manifest.label()))?;
        Self::checked(manifest, path, build.sha256.clone(), true).await
    }

    async fn checked(
        manifest: &Manifest,
        path: &Path,
        expected: String,
        is_built: bool,
    ) -> Result<Self, PackageError> {
        let file = path.to_owned();
        let hashed = tokio::task::spawn_blocking(move || hash(&file)).await;
        let actual = hashed.unwrap_or_else(|join| std::panic::resume_unwind(join.into_panic()))?;
        let (manifest, path) = (manifest.clone(), path.to_owned());
        if actual == expected {
            Ok(Self { manifest, path, is_built })
        } else {
            Err(PackageError::HashMismatch { path, expected, actual })
        }
    }

    /// Accepts a folder of the user's as it is.
    pub(crate) fn folder(manifest: &Manifest, path: &Path) -> Result<Self, PackageError> {
        if !path.is_dir() {
            return Err(PackageError::NoFolder(path.to_owned()));
        }
        Ok(Self { manifest: manifest.clone(), path: path.to_owned(), is_built: false })
    }

    /// What the package is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where the package is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is the archive of what was built, and no longer what was fetched.
    pub(crate) fn is_built(&self) -> bool {
        self.is_built
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
