//! Building packages with programs of their own: here a shell script, and there is nothing on its PATH.
#![cfg(target_os = "linux")]

use std::io::Write as _;
use std::time::Duration;

use archives::Tar;
use wardian_proto::DigestFunction;
use wardian_store::backend::MemoryStore;
use wardian_toolchains::{
    BuildError, Clients, ImportLimits, Manifest, Package, PackageError, Workshop, built, import,
};

#[allow(dead_code)]
mod archives;

const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Makes the module of a file of the manifest's, as the variables say.
const SCRIPT: &str = "read -r text < \"$FROM\" || :\n\
                      echo \"$HOW $text\" > \"$1/built/m.wasm\"\n\
                      echo said at $2\n\
                      : > \"$TMPDIR/x\"; : > \"$HOME/y\"\n";

/// A package with a script, and where it is built.
struct Made {
    clients: Clients,
    package: Package,
    _folder: tempfile::TempDir,
}

impl Made {
    async fn new(script: &str, pinned: &str, change: impl FnOnce(&mut Clients, &mut String)) -> Self {
        let tar = Tar::default()
            .file("built/make.sh", format!("#!/bin/sh\nset -eu\n{script}").as_bytes())
            .file("built/share/note", b"a note");
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&tar.end()).unwrap();
        let bytes = gz.finish().unwrap();
        let sha256 = DigestFunction::Sha256.digest(&bytes).hash_hex();
        let mut manifest = format!(
            "name = 'built'\nversion = '1.0.0'\nlicense = 'MIT'\nsource = 'crate:built@1.0.0'\nsha256 = '{sha256}'\n\
             [[module]]\nfile = 'built/m.wasm'\npaths = ['bin/m']\n\
             [[take]]\nfrom = 'built/share'\ninto = 'share'\n\
             [build]\nsha256 = '{pinned}'\nnative = '{}-{}'\nfiles.'built/m.in' = 'one'\n\
             environment.FROM = 'm.in'\n\
             [[build.step]]\nname = 'make it'\nfolder = 'built'\n\
             arguments = ['built/make.sh', '{{package}}', '{{mount}}']\n\
             stdout = 'built/share/said'\nenvironment.HOW = 'made of'\n",
            std::env::consts::OS,
            std::env::consts::ARCH
        );
        let folder = tempfile::tempdir().unwrap();
        let mut clients = Clients::on_path(folder.path().join("cache"));
        change(&mut clients, &mut manifest);
        let path = folder.path().join("built.crate");
        std::fs::write(&path, &bytes).unwrap();
        let package = Package::open(&Manifest::parse(&manifest).unwrap(), &path).await.unwrap();
        Self { clients, package, _folder: folder }
    }

    async fn build(&self) -> Result<Package, BuildError> {
        let shop = Workshop::open(&self.package, &self.clients).await?;
        for step in shop.build().steps.clone() {
            shop.run(&step).await?;
        }
        shop.finish().await
    }

    /// What is in the folder of packages.
    fn kept(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.clients.folder).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// The hash that comes of the script, as a person would learn it.
async fn hash_of(script: &str) -> String {
    match Made::new(script, ZEROS, |_, _| {}).await.build().await {
        Err(BuildError::OtherResult { actual, expected, .. }) if expected == ZEROS => actual,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_built_is_the_same_everywhere_and_kept() {
    // Each time in another folder.
    let hash = hash_of(SCRIPT).await;
    assert_eq!(hash_of(SCRIPT).await, hash);
    let made = Made::new(SCRIPT, &hash, |_, _| {}).await;
    assert!(built(made.package.manifest(), &made.clients).await.unwrap().is_none());
    let package = made.build().await.unwrap();
    assert_eq!(package.path(), made.clients.built_path(package.manifest()));
    assert_eq!(made.kept(), ["built-1.0.0.built.tar"]);
    let again = built(package.manifest(), &made.clients).await.unwrap().unwrap();
    let store = MemoryStore::new(1 << 20);
    let imported = import(&store, &again, ImportLimits::default(), &|_| {}).await.unwrap();
    assert_eq!(imported.modules, [DigestFunction::Sha256.digest(b"made of one\n")]);
    // The module, the note, and what was said.
    assert_eq!(imported.files, 3);

    std::fs::write(again.path(), "something else").unwrap();
    let error = built(package.manifest(), &made.clients).await.unwrap_err();
    assert!(matches!(error, PackageError::HashMismatch { .. }), "{error}");
}

#[tokio::test]
async fn what_came_out_differently_is_not_kept() {
    let made = Made::new(SCRIPT, ZEROS, |_, _| {}).await;
    let error = made.build().await.unwrap_err();
    assert!(error.to_string().contains(ZEROS), "{error}");
    assert!(made.kept().is_empty());
    let nothing = Made::new("exit 0", ZEROS, |_, _| {}).await.build().await.unwrap_err();
    assert!(matches!(nothing, BuildError::OtherResult { .. }), "{nothing}");
}

#[tokio::test]
async fn the_environment_is_clean() {
    // Whatever else is in the environment of this test is not there.
    let names = "for name in USER CARGO_MANIFEST_DIR SHELL; do eval \"[ -z \\${$name:-} ]\"; done\n\
                 [ \"$PATH\" = \"${PATH#*home}\" ]\n[ \"$TZ\" = UTC ]\n[ \"${HOME%/home}\" != \"$HOME\" ]\n\
                 if read -r line; then exit 9; fi\n";
    let hash = hash_of(SCRIPT).await;
    let with = format!("{names}{SCRIPT}");
    let made = Made::new(&with, &hash, |_, _| {}).await;
    made.build().await.unwrap();
}

#[tokio::test]
async fn a_step_that_fails_is_explained() {
    let made = Made::new("echo it is broken >&2\nexit 3", ZEROS, |_, _| {}).await;
    let text = made.build().await.unwrap_err().to_string();
    assert!(text.contains("make it") && text.contains("it is broken") && text.contains('3'), "{text}");
    assert!(made.kept().is_empty());
    let absent = |_: &mut Clients, manifest: &mut String| {
        *manifest = manifest.replace("['built/make.sh", "['built/none")
    };
    let error = Made::new("", ZEROS, absent).await.build().await.unwrap_err();
    assert!(matches!(&error, BuildError::Start { program, .. } if program == "built/none"), "{error}");
    let elsewhere = |_: &mut Clients, manifest: &mut String| {
        *manifest = manifest.replace("native = 'linux-", "native = 'plan9-");
    };
    let made = Made::new(SCRIPT, ZEROS, elsewhere).await;
    let error = made.build().await.unwrap_err();
    assert!(matches!(error, BuildError::Machine { .. }), "{error}");
    assert!(error.to_string().contains("built-1.0.0.built.tar"), "{error}");
}

#[tokio::test]
async fn a_build_over_a_limit_is_stopped_with_all_of_its_processes() {
    // A process of its own goes on and holds standard error open.
    let wait = "( while :; do :; done ) & echo $! > \"$1/../../pid\"\nwait\n";
    let short = |clients: &mut Clients, _: &mut String| clients.build.time_max = Duration::from_millis(500);
    let made = Made::new(wait, ZEROS, short).await;
    let error = made.build().await.unwrap_err();
    assert!(matches!(error, BuildError::Time { .. }), "{error}");
    let pid = std::fs::read_to_string(made.clients.folder.join("pid"));
    // On a slow machine it was stopped before it began.
    if let Ok(pid) = pid {
        let process = format!("/proc/{}/cmdline", pid.trim());
        // A process that was killed has no command line, also before somebody reaps it.
        while std::fs::read(&process).is_ok_and(|line| !line.is_empty()) {
            tokio::task::yield_now().await;
        }
    }
    let small = |clients: &mut Clients, _: &mut String| clients.build.disk_bytes_max = 1000;
    let fill = format!("echo {} > \"$1/large\"\n{wait}", "x".repeat(2000));
    let made = Made::new(&fill, ZEROS, small).await;
    let error = made.build().await.unwrap_err();
    assert!(matches!(error, BuildError::Disk { limit: 1000, .. }), "{error}");
    assert!(error.to_string().contains("make it"), "{error}");
}
