//! Importing good packages, and refusing bad ones.

mod archives;

use std::sync::Mutex;

use archives::{Tar, accepted, module, package};
use tar::EntryType;
use wardian_proto::{Digest, DigestFunction, Directory};
use wardian_store::backend::MemoryStore;
use wardian_store::tree::{TreeLimits, closure};
use wardian_store::{BlobStore, StoreError, Upload};
use wardian_toolchains::{EntryProblem, ImportError, ImportLimits, Imported, Package, PackageError, import};

fn store() -> MemoryStore {
    MemoryStore::new(64 << 20)
}

async fn imported(store: &MemoryStore, tar: Vec<u8>, limits: ImportLimits) -> Result<Imported, ImportError> {
    let folder = tempfile::tempdir().unwrap();
    let package = accepted(folder.path(), &tar).await;
    import(store, &package, limits, &|_| {}).await
}

fn sysroot() -> Tar {
    Tar::default()
        .member(EntryType::Directory, "./", "", b"")
        .member(EntryType::Directory, "include/", "", b"")
        .file("./include/a.h", b"#define A")
        .file("include/copy-of-a.h", b"#define A")
        .file("include/empty.h", b"")
        .member(EntryType::Directory, "var/empty/", "", b"")
        .file("libexec/run.sh", b"#!/bin/sh")
        .link(EntryType::Symlink, "lib/wasm/libc.a", "../../include/a.h")
}

async fn directory(store: &MemoryStore, digest: Digest) -> Directory {
    Directory::decode(DigestFunction::Sha256, &store.get(&digest, 1 << 20).await.unwrap()).unwrap()
}

/// Every path of a tree with a mark for what it is.
async fn listing(store: &MemoryStore, root: Digest) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), vec![(String::new(), root)]);
    while let Some((prefix, digest)) = open.pop() {
        let level = directory(store, digest).await;
        for file in &level.files {
            let mark = if file.is_executable { "*" } else { "" };
            found.push(format!("{prefix}{}{mark} {}", file.name, file.digest.size()));
        }
        found.extend(level.symlinks.iter().map(|link| format!("{prefix}{} -> {}", link.name, link.target)));
        if level.files.is_empty() && level.symlinks.is_empty() && level.directories.is_empty() {
            found.push(prefix.clone());
        }
        open.extend(level.directories.iter().map(|d| (format!("{prefix}{}/", d.name), d.digest)));
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_good_package_becomes_a_tree() {
    let store = store();
    let imported = imported(&store, package(&sysroot().end()).end(), ImportLimits::default()).await.unwrap();
    let expected = [
        "bin/cc* 3000000",
        "bin/ld -> cc",
        "usr/include/a.h 9",
        "usr/include/copy-of-a.h 9",
        "usr/include/empty.h 0",
        "usr/lib/wasm/libc.a -> ../../include/a.h",
        "usr/libexec/run.sh* 9",
        "usr/var/empty/",
    ];
    assert_eq!(listing(&store, imported.root).await, expected);
    assert_eq!(imported.modules, [DigestFunction::Sha256.digest(&module())]);
    assert_eq!((imported.files, imported.bytes), (5, 3_000_018));

    let tree = closure(&store, imported.root, TreeLimits::default()).await.unwrap();
    assert!(tree.missing.is_empty());
    assert!(store.find_missing(&tree.files()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_second_import_uploads_nothing_and_an_interrupted_one_the_rest() {
    let store = store();
    let tar = package(&sysroot().end()).end();
    // As if an earlier import had come as far as one small and one large blob.
    for data in [b"#define A".to_vec(), module()] {
        store.put(Upload::bytes(DigestFunction::Sha256.digest(&data), data)).await.unwrap();
    }
    let first = imported(&store, tar.clone(), ImportLimits::default()).await.unwrap();
    // One file is left, and nine directories; the empty one is the empty blob.
    assert_eq!(first.blobs_uploaded, 1 + 9 - 1);
    let second = imported(&store, tar, ImportLimits::default()).await.unwrap();
    assert_eq!(second, Imported { blobs_uploaded: 0, ..first });
}

#[tokio::test]
async fn progress_rises_to_the_whole_package() {
    let folder = tempfile::tempdir().unwrap();
    let package = accepted(folder.path(), &package(&sysroot().end()).end()).await;
    let seen = Mutex::new(Vec::new());
    let note = |at| seen.lock().unwrap().push(at);
    let imported = import(&store(), &package, ImportLimits::default(), &note).await.unwrap();
    let seen = seen.into_inner().unwrap();
    let last = seen.last().unwrap();
    assert!(seen.is_sorted_by_key(|at| (at.package_bytes_done, at.files, at.blobs_uploaded)), "{seen:?}");
    assert_eq!(last.package_bytes, std::fs::metadata(package.path()).unwrap().len());
    assert_eq!((last.package_bytes_done, last.files), (last.package_bytes, imported.files));
    assert_eq!(last.blobs_uploaded, imported.blobs_uploaded);
}

/// Imports a package with this sysroot into an empty store; it must be refused, and no tree be there.
async fn refusal(sysroot: Vec<u8>, limits: ImportLimits) -> ImportError {
    imported(&store(), package(&sysroot).end(), limits).await.unwrap_err()
}

async fn problem(sysroot: Tar) -> EntryProblem {
    match refusal(sysroot.end(), ImportLimits::default()).await {
        ImportError::Entry { archive, why, .. } if archive == "package/usr.tar" => why,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn paths_that_lead_out_are_refused() {
    for name in ["../evil", "a/../../evil", "/etc/passwd", "a/./b", "a//b", "..", "", ".", "a/"] {
        let why = problem(Tar::default().file(name, b"x")).await;
        let refused = matches!(why, EntryProblem::Path(_));
        // An empty name and a dot are the root, which is no file.
        assert!(refused || matches!(why, EntryProblem::Place(_)), "{name:?}: {why}");
    }
    for name in ["../evil/", "/evil/", "a/../b/"] {
        let why = problem(Tar::default().member(EntryType::Directory, name, "", b"")).await;
        assert!(matches!(why, EntryProblem::Path(_)), "{name:?}: {why}");
    }
}

#[tokio::test]
async fn links_that_lead_out_are_refused() {
    for target in ["/etc/passwd", "..", "../../etc", "a/../../b", ""] {
        let why = problem(Tar::default().link(EntryType::Symlink, "l", target)).await;
        assert!(matches!(why, EntryProblem::Link { .. }), "{target:?}: {why}");
    }
    // Inside of the imported tree, and yet outside of the archive.
    let why = problem(Tar::default().link(EntryType::Symlink, "d/l", "../../bin/cc")).await;
    assert!(matches!(why, EntryProblem::Link { .. }), "{why}");
}

#[tokio::test]
async fn hard_links_devices_and_other_kinds_are_refused() {
    let kinds = [
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::GNUSparse,
        EntryType::new(b'V'),
    ];
    for kind in kinds {
        let why = problem(Tar::default().file("a", b"x").link(kind, "b", "a")).await;
        assert!(matches!(why, EntryProblem::Kind(_)), "{kind:?}: {why}");
    }
}

#[tokio::test]
async fn nothing_is_placed_twice_or_below_a_file_or_link() {
    let twice = [
        Tar::default().file("a", b"1").file("a", b"2"),
        Tar::default().file("a", b"1").file("./a", b"1"),
        Tar::default().file("a", b"1").file("a/b", b"2"),
        Tar::default().file("a/b", b"1").file("a", b"2"),
        Tar::default().file("d/x", b"1").link(EntryType::Symlink, "l", "d").file("l/x", b"2"),
        Tar::default().link(EntryType::Symlink, "l", "d").member(EntryType::Directory, "l/", "", b""),
    ];
    for tar in twice {
        let why = problem(tar).await;
        assert!(matches!(why, EntryProblem::Place(_)), "{why}");
    }
}

#[tokio::test]
async fn the_package_itself_is_held_to_the_same_rules() {
    let good = || package(&sysroot().end());
    let bad = [
        good().file("../evil", b"x"),
        good().link(EntryType::Link, "b", "package/m.wasm"),
        good().link(EntryType::Symlink, "b", "package"),
        good().file("package/m.wasm", b"another"),
        Tar::default().member(EntryType::Directory, "package/usr.tar/", "", b""),
        Tar::default().member(EntryType::Directory, "package/m.wasm/", "", b""),
    ];
    for tar in bad {
        let error = imported(&store(), tar.end(), ImportLimits::default()).await.unwrap_err();
        assert!(matches!(&error, ImportError::Entry { archive, .. } if archive == "package"), "{error}");
    }
}

#[tokio::test]
async fn what_the_manifest_names_must_be_there() {
    let without = [
        (Tar::default().file("package/m.wasm", b"m"), "package/usr.tar"),
        (Tar::default().file("package/usr.tar", &sysroot().end()), "package/m.wasm"),
    ];
    for (tar, missing) in without {
        let error = imported(&store(), tar.end(), ImportLimits::default()).await.unwrap_err();
        assert!(matches!(&error, ImportError::Missing(path) if path.as_str() == missing), "{error}");
    }
}

/// What a limit said, and the limit.
async fn limit_hit(sysroot: Tar, limits: ImportLimits) -> (&'static str, u64) {
    match refusal(sysroot.end(), limits).await {
        ImportError::Entry { why: EntryProblem::Limit { what, limit }, .. } => (what, limit),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn bombs_hit_limits() {
    let limits =
        ImportLimits { entries_max: 50, bytes_max: 8 << 20, file_bytes_max: 4 << 20, path_depth_max: 5 };
    let zeros = vec![0; 1 << 20];
    let many = (0..60).fold(Tar::default(), |tar, i| tar.file(&format!("f{i}"), b""));
    assert_eq!(limit_hit(many, limits).await, ("members of archives", 50));
    let wide = (0..8).fold(Tar::default(), |tar, i| tar.file(&format!("f{i}"), &zeros[..400_000]));
    assert_eq!(limit_hit(wide, limits).await, ("bytes in all files", 8 << 20));
    let narrow = ImportLimits { file_bytes_max: 3 << 20, bytes_max: 64 << 20, ..limits };
    let large = package(b"").file("package/zeros", &zeros.repeat(4)).end();
    let error = imported(&store(), large, narrow).await.unwrap_err();
    assert!(error.to_string().contains("more bytes in one file than the limit of 3145728"), "{error}");
    // `usr` counts as well.
    assert_eq!(limit_hit(Tar::default().file("1/2/3/4/5", b""), limits).await, ("names in a path", 5));
    assert!(
        imported(&store(), package(&Tar::default().file("1/2/3/4", b"").end()).end(), limits).await.is_ok()
    );
}

#[tokio::test]
async fn a_long_name_cannot_fill_the_memory() {
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let tar = Tar::default().member(kind, "././@LongLink", "", &vec![b'a'; 1 << 20]).file("a", b"");
        let error = refusal(tar.end(), ImportLimits::default()).await;
        assert!(error.to_string().contains("the headers of its members take more bytes"), "{error}");
    }
    // One of sensible length is read.
    let name = format!("{}/b", "a".repeat(150));
    let tar =
        Tar::default().member(EntryType::GNULongName, "././@LongLink", "", name.as_bytes()).file("x", b"");
    let store = store();
    let root = imported(&store, package(&tar.end()).end(), ImportLimits::default()).await.unwrap().root;
    assert!(listing(&store, root).await.contains(&format!("usr/{name} 0")));
}

#[tokio::test]
async fn torn_archives_are_refused() {
    let torn = Tar::default().file("a", &[1; 5000]).cut();
    let why = refusal(torn[..2000].to_vec(), ImportLimits::default()).await.to_string();
    assert!(why.contains("ends in the middle"), "{why}");
    let error = refusal(vec![b'x'; 5000], ImportLimits::default()).await;
    assert!(matches!(error, ImportError::Archive { .. }), "{error}");
}

#[tokio::test]
async fn a_full_store_ends_the_import() {
    let error =
        imported(&MemoryStore::new(1000), package(&sysroot().end()).end(), ImportLimits::default()).await;
    assert!(matches!(error, Err(ImportError::Store(StoreError::NoSpace(_)))), "{error:?}");
}

#[tokio::test]
async fn a_changed_package_is_no_package() {
    let folder = tempfile::tempdir().unwrap();
    let package = accepted(folder.path(), &package(&sysroot().end()).end()).await;
    std::fs::write(package.path(), "changed").unwrap();
    let error = Package::open(package.manifest(), package.path()).await.unwrap_err();
    assert!(matches!(error, PackageError::HashMismatch { .. }), "{error}");
}
