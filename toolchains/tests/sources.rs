//! Packages from other sources than npm: wheels and folders, and what may be picked out of them.

use std::io::{Cursor, Write as _};
use std::path::Path;

use wardian_proto::{DigestFunction, RelPath};
use wardian_store::BlobStore as _;
use wardian_store::backend::MemoryStore;
use wardian_store::tree::{TreeLimits, closure};
use wardian_toolchains::{
    Clients, EntryProblem, ImportError, ImportLimits, Imported, Manifest, Package, fetch, import,
};
use zip::write::SimpleFileOptions;

const MODULE: &str = "a module";

/// A zip archive of these members; a name that ends with a slash is a directory.
fn zip(members: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, text) in members {
        if name.ends_with('/') {
            zip.add_directory(*name, options).unwrap();
        } else {
            zip.start_file(*name, options).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
    }
    zip.finish().unwrap().into_inner()
}

fn manifest(sha256: &str, take: &str) -> Manifest {
    Manifest::parse(&format!(
        "name = 'w'\nversion = '1.0'\nlicense = 'MIT'\nsource = 'pypi:W_x==1.0'\nsha256 = '{sha256}'\n\
         [[module]]\nfile = 'w/a.wasm'\npaths = ['bin/a']\n\
         [[module]]\nfile = 'w/b.wasm'\npaths = ['bin/b']\n{take}"
    ))
    .unwrap()
}

async fn wheel(bytes: Vec<u8>, take: &str) -> Result<(MemoryStore, Imported), ImportError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.whl");
    std::fs::write(&path, &bytes).unwrap();
    let manifest = manifest(&DigestFunction::Sha256.digest(&bytes).hash_hex(), take);
    let package = Package::open(&manifest, &path).await.unwrap();
    let store = MemoryStore::new(1 << 20);
    let imported = import(&store, &package, ImportLimits::default(), &|_| {}).await?;
    Ok((store, imported))
}

fn members() -> Vec<(&'static str, &'static str)> {
    vec![
        ("w/a.wasm", MODULE),
        ("w/b.wasm", "another"),
        ("w/share/", ""),
        ("w/share/x/one", "1"),
        ("w/share/two", "2"),
        ("w/sharealike", "not taken"),
        ("w/LICENSE", "MIT"),
    ]
}

const TAKE: &str =
    "[[take]]\nfrom = 'w/share'\ninto = 'lib'\n[[take]]\nfrom = 'w/LICENSE'\ninto = 'doc/LICENSE'\n";

#[tokio::test]
async fn a_wheel_gives_modules_files_and_folders() {
    let (store, imported) = wheel(zip(&members()), TAKE).await.unwrap();
    let digest = |text: &str| DigestFunction::Sha256.digest(text.as_bytes());
    assert_eq!(imported.modules, [digest(MODULE), digest("another")]);
    let tree = closure(&store, imported.root, TreeLimits::default()).await.unwrap();
    let mut files = tree.files();
    let mut expected = [MODULE, "another", "1", "2", "MIT"].map(digest).to_vec();
    files.sort();
    expected.sort();
    assert_eq!(files, expected);
    assert!(store.find_missing(&files).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    for missing in ["w/b.wasm", "w/LICENSE"] {
        let members: Vec<_> = members().into_iter().filter(|(name, _)| *name != missing).collect();
        let error = wheel(zip(&members), TAKE).await.unwrap_err();
        assert!(matches!(&error, ImportError::Missing(path) if path.as_str() == missing), "{error}");
    }
}

#[tokio::test]
async fn members_that_lead_elsewhere_are_refused() {
    for name in ["../x", "/x", "w/../../x", "w//x"] {
        let error = wheel(zip(&[&members()[..], &[(name, "x")]].concat()), TAKE).await.unwrap_err();
        assert!(matches!(&error, ImportError::Entry { why: EntryProblem::Path(_), .. }), "{name}: {error}");
    }
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.add_symlink("w/a.wasm", "/etc/passwd", SimpleFileOptions::default()).unwrap();
    let error = wheel(zip.finish().unwrap().into_inner(), "").await.unwrap_err();
    assert!(matches!(&error, ImportError::Entry { why: EntryProblem::Link { .. }, .. }), "{error}");
    let error = wheel(b"no archive".to_vec(), "").await.unwrap_err();
    assert!(matches!(error, ImportError::Archive { .. }), "{error}");
}

#[tokio::test]
async fn a_member_is_as_long_as_it_says_and_within_the_limits() {
    // The size of the first member stands at the same place in its own header and in the directory.
    let mut bytes = zip(&members());
    let central = bytes.windows(4).position(|at| at == b"PK\x01\x02").unwrap();
    bytes[central + 24] = 3;
    bytes[22] = 3;
    let error = wheel(bytes, "").await.unwrap_err();
    assert!(
        matches!(&error, ImportError::Entry { why: EntryProblem::Longer, .. } | ImportError::Archive { .. }),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    let bytes = zip(&members());
    std::fs::write(folder.path().join("w.whl"), &bytes).unwrap();
    let manifest = manifest(&DigestFunction::Sha256.digest(&bytes).hash_hex(), "");
    let package = Package::open(&manifest, &folder.path().join("w.whl")).await.unwrap();
    for limits in [
        ImportLimits { entries_max: 3, ..ImportLimits::default() },
        ImportLimits { bytes_max: 9, ..ImportLimits::default() },
        ImportLimits { file_bytes_max: 7, ..ImportLimits::default() },
    ] {
        let outcome = import(&MemoryStore::new(1 << 20), &package, limits, &|_| {}).await;
        let error = outcome.unwrap_err();
        assert!(matches!(&error, ImportError::Entry { why: EntryProblem::Limit { .. }, .. }), "{error}");
    }
}

fn folder_manifest() -> Manifest {
    Manifest::parse(
        "name = 'own'\nversion = '1'\nlicense = 'MIT'\nsource = 'dir:./files'\n\
         [[module]]\nfile = 'own.wasm'\npaths = ['bin/own']\n[[take]]\nfrom = 'share'\ninto = 'share'\n",
    )
    .unwrap()
}

async fn folder(folder: &Path) -> Result<Imported, Box<dyn std::error::Error>> {
    let clients = Clients::on_path("/there/is/no/cache");
    let package = fetch(&folder_manifest(), &clients, Some(folder)).await?;
    Ok(import(&MemoryStore::new(1 << 20), &package, ImportLimits::default(), &|_| {}).await?)
}

#[tokio::test]
async fn a_folder_beside_the_manifest_is_a_package() {
    let beside = tempfile::tempdir().unwrap();
    assert!(folder(beside.path()).await.is_err());
    std::fs::create_dir_all(beside.path().join("files/share/empty")).unwrap();
    std::fs::write(beside.path().join("files/own.wasm"), MODULE).unwrap();
    std::fs::write(beside.path().join("files/share/a"), "1").unwrap();
    let first = folder(beside.path()).await.unwrap();
    assert_eq!(folder(beside.path()).await.unwrap(), first);
    let manifest = folder_manifest();
    assert_eq!(manifest.tools[0].path, RelPath::parse("bin/own").unwrap());
    assert_eq!((manifest.tools[0].name.as_str(), manifest.mount.as_str()), ("own", "opt/wardian/own"));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/etc/passwd", beside.path().join("files/share/link")).unwrap();
        assert!(folder(beside.path()).await.unwrap_err().to_string().contains("no plain file"));
    }
}
