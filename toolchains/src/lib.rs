//! Pinned WASI toolchains: what they are, how to get them, and how to put them into a blob store.
//!
//! A [`Manifest`] names a published package and its hash; [`fetch`] gets the package with the package
//! manager's own client; [`import`] unpacks it into a Directory tree in any `BlobStore`. A [`Registry`] holds the
//! trees that a server knows by name, and [`effective`] says what an action that names one really runs. Packages are
//! data here: nothing out of them is executed, and nothing of them is written to the disk by name, but for those
//! whose manifest says that they are built first: that happens in a [`Workshop`].

mod archive;
mod build;
mod directory;
mod effective;
mod fetch;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod import;
mod manifest;
mod other_packages;
mod package;
mod program;
mod registry;
mod toolchain;
mod unpack;

pub use archive::{EntryProblem, ImportLimits};
pub use build::{BuildError, BuildLimits, Workshop, built};
pub use directory::{ArchivedFile, DirectoryImport};
pub use effective::{Effective, EffectiveError, PROPERTY, TOOLCHAINS_PER_ACTION_MAX, asked, effective};
pub use fetch::{Clients, FetchError, fetch};
pub use import::{ImportError, Imported, Progress, import};
pub use manifest::{
    Build, Builder, FILE, MADE, Manifest, ManifestProblems, Module, Problem, STEM, Smoke, Source,
    SourceError, Step, Take, Unpack,
};
pub use package::{PACKAGE_BYTES_MAX, Package, PackageError};
pub use registry::{Registry, RegistryError, ResolveError, TOOLCHAINS_MAX};
pub use toolchain::{BadToolchain, MOUNT, RECORD_BYTES_MAX, TOOLS_MAX, Tool, Toolchain};

/// The manifests inside of this program, by name.
const BUILTIN: &[(&str, &str)] = &[
    ("avr-gcc", include_str!("../manifests/avr-gcc.toml")),
    ("clang", include_str!("../manifests/clang.toml")),
    ("esbuild", include_str!("../manifests/esbuild.toml")),
    ("go", include_str!("../manifests/go.toml")),
    ("lua", include_str!("../manifests/lua.toml")),
    ("nextpnr-ice40", include_str!("../manifests/nextpnr-ice40.toml")),
    ("python", include_str!("../manifests/python.toml")),
    ("resvg", include_str!("../manifests/resvg.toml")),
    ("yosys", include_str!("../manifests/yosys.toml")),
];

/// The names of the toolchains that this program knows.
pub fn builtin_names() -> impl Iterator<Item = &'static str> {
    BUILTIN.iter().map(|(name, _)| *name)
}

/// Whether a manifest is what a version, or the beginning of one, asks for.
pub fn is_version_of(manifest: &Manifest, asked: &str) -> bool {
    registry::begins_with(&manifest.version, asked)
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
