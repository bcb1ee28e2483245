//! Pinned WASI toolchains: what they are, how to get them, and how to put them into a blob store.
//!
//! A [`Manifest`] names a published package and its hash; [`fetch`] gets the package with the package
//! manager's own client; [`import`] unpacks it into a Directory tree in any `BlobStore`. Packages are
//! data here: nothing out of them is executed, and nothing of them is written to the disk by name.

mod archive;
mod directory;
mod fetch;
mod import;
mod manifest;
mod package;
mod unpack;

pub use archive::{EntryProblem, ImportLimits};
pub use directory::{ArchivedFile, DirectoryImport};
pub use fetch::{FetchError, Npm, fetch};
pub use import::{ImportError, Imported, Progress, import};
pub use manifest::{Manifest, ManifestProblems, Module, Problem, Source, SourceError, Unpack};
pub use package::{PACKAGE_BYTES_MAX, Package, PackageError};

/// The manifests inside of this program, by name.
const BUILTIN: &[(&str, &str)] = &[("clang", include_str!("../manifests/clang.toml"))];

/// The names of the toolchains that this program knows.
pub fn builtin_names() -> impl Iterator<Item = &'static str> {
    BUILTIN.iter().map(|(name, _)| *name)
}

/// Returns the manifest of a toolchain that this program knows.
pub fn builtin(name: &str) -> Option<Manifest> {
    let (_, text) = BUILTIN.iter().find(|(known, _)| *known == name)?;
    Some(Manifest::parse(text).expect("a test parses every manifest inside of this program"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_manifest_is_valid_and_has_its_own_name() {
        for name in builtin_names() {
            assert_eq!(builtin(name).unwrap().name, name);
        }
        assert!(builtin("gcc").is_none());
    }
}
