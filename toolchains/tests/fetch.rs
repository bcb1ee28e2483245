//! Fetching with a stand-in for npm: a script beside this file.

use std::path::Path;
use std::time::Duration;

use wardian_proto::DigestFunction;
use wardian_toolchains::{Clients, FetchError, Manifest, PackageError, fetch};

/// A manifest whose package holds these bytes.
fn manifest(package: &str, bytes: &str) -> Manifest {
    let sha256 = DigestFunction::Sha256.digest(bytes.as_bytes()).hash_hex();
    Manifest::parse(&format!(
        "name = 'fake'\nversion = '1.0.0'\nlicense = 'MIT'\nsource = 'npm:@fake/{package}@1.0.0'\n\
         sha256 = '{sha256}'\n[[module]]\nfile = 'package/m.wasm'\npaths = ['bin/m']\n"
    ))
    .unwrap()
}

fn npm(folder: &Path) -> Clients {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake-npm").into();
    Clients { npm: program, ..Clients::on_path(folder.join("cache")) }
}

/// Fetches a package that the script will not deliver; nothing may be left behind.
async fn failure(package: &str, change: impl FnOnce(&mut Clients)) -> FetchError {
    let folder = tempfile::tempdir().unwrap();
    let mut npm = npm(folder.path());
    change(&mut npm);
    let error = fetch(&manifest(package, "the package"), &npm, None).await.unwrap_err();
    assert_eq!(std::fs::read_dir(folder.path().join("cache")).unwrap().count(), 0, "{error}");
    error
}

#[tokio::test]
async fn a_package_is_fetched_once() {
    let folder = tempfile::tempdir().unwrap();
    let npm = npm(folder.path());
    let manifest = manifest("good", "the package");
    let package = fetch(&manifest, &npm, None).await.unwrap();
    assert_eq!(package.path(), npm.folder.join("fake-1.0.0.tgz"));
    assert_eq!(std::fs::read(package.path()).unwrap(), b"the package");
    assert_eq!(std::fs::read_dir(&npm.folder).unwrap().count(), 1);

    let nobody = Clients { npm: "/there/is/no/npm".into(), ..npm };
    assert_eq!(fetch(&manifest, &nobody, None).await.unwrap().path(), package.path());
}

#[tokio::test]
async fn a_download_with_another_hash_is_not_kept() {
    let error = failure("wrong", |_| {}).await;
    let text = error.to_string();
    assert!(matches!(error, FetchError::WrongDownload { .. }), "{text}");
    for bytes in ["the package", "another package"] {
        assert!(text.contains(&DigestFunction::Sha256.digest(bytes.as_bytes()).hash_hex()), "{text}");
    }
}

#[tokio::test]
async fn a_kept_file_with_another_hash_is_an_error_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let npm = npm(folder.path());
    let manifest = manifest("good", "the package");
    let path = npm.package_path(&manifest);
    std::fs::create_dir_all(&npm.folder).unwrap();
    std::fs::write(&path, "the user's own").unwrap();
    let error = fetch(&manifest, &npm, None).await.unwrap_err();
    assert!(error.to_string().contains(manifest.sha256.as_ref().unwrap()), "{error}");
    assert!(error.to_string().contains(&DigestFunction::Sha256.digest(b"the user's own").hash_hex()));
    assert!(matches!(error, FetchError::Package(PackageError::HashMismatch { .. })));
    assert_eq!(std::fs::read_to_string(path).unwrap(), "the user's own");
}

#[tokio::test]
async fn an_absent_npm_is_explained() {
    let error = failure("good", |npm| npm.npm = "/there/is/no/npm".into()).await;
    let text = error.to_string();
    assert!(matches!(error, FetchError::ClientAbsent { .. }), "{text}");
    for part in ["/there/is/no/npm", "Node.js", "npm pack @fake/good@1.0.0", "fake-1.0.0.tgz"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn the_end_of_what_npm_said_is_repeated_without_its_colours() {
    let error = failure("talkative", |_| {}).await;
    let text = error.to_string();
    assert!(matches!(&error, FetchError::ClientFailed { status, .. } if status.code() == Some(7)), "{text}");
    assert!(
        text.contains("line 2999") && !text.contains("line 2000") && text.contains("the [31mlast"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}') && text.contains("offline"));
}

#[tokio::test]
async fn an_npm_that_writes_nothing_or_too_much_has_failed() {
    for (package, expected) in [("nothing", 0), ("two", 2)] {
        let error = failure(package, |_| {}).await;
        assert!(matches!(error, FetchError::NotOnePackage { found, .. } if found == expected), "{error}");
    }
}

#[tokio::test]
async fn a_slow_npm_is_stopped() {
    let error = failure("slow", |npm| npm.time_max = Duration::from_millis(300)).await;
    assert!(matches!(error, FetchError::ClientTimeout { .. }), "{error}");
}
