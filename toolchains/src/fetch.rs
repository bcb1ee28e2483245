//! Gets a pinned package with npm, into a folder where it is found again without npm.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::{Manifest, Package, PackageError};

/// How much of the end of npm's messages is kept.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

/// How many of its last lines an error repeats.
const MESSAGE_LINES_MAX: usize = 10;

/// The npm client and where its packages are kept.
#[derive(Clone, Debug)]
pub struct Npm {
    /// The program: a name to look for on PATH, or an absolute path.
    pub program: PathBuf,
    /// The folder that packages stay in; made when it is not there.
    pub folder: PathBuf,
    /// How long npm may take for one package.
    pub time_max: Duration,
}

impl Npm {
    /// The npm on PATH, keeping packages in `folder`.
    pub fn on_path(folder: impl Into<PathBuf>) -> Self {
        Self { program: "npm".into(), folder: folder.into(), time_max: Duration::from_secs(600) }
    }

    /// Where the package of a manifest is kept.
    pub fn package_path(&self, manifest: &Manifest) -> PathBuf {
        self.folder.join(format!("{}-{}.tgz", manifest.name, manifest.version))
    }
}

/// Why a package could not be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum FetchError {
    #[error(
        "there is no program {}. Install Node.js, which brings npm (for instance `apt-get install npm`); \
         or run `npm pack {spec}` on another machine and put the file it writes at {}",
        program.display(), path.display()
    )]
    NpmAbsent { program: PathBuf, spec: String, path: PathBuf },
    #[error("could not run {}: {source}", program.display())]
    NpmStart { program: PathBuf, source: io::Error },
    #[error(
        "npm could not fetch {spec} ({status}). It said:\n{message}\nIf this machine is offline, run \
         `npm pack {spec}` on another one and put the file it writes at {}",
        path.display()
    )]
    NpmFailed { spec: String, status: ExitStatus, message: String, path: PathBuf },
    #[error("npm took more than {} s to fetch {spec} and was stopped", limit.as_secs())]
    NpmTimeout { spec: String, limit: Duration },
    #[error("npm wrote {found} package files for {spec}; expected one")]
    NotOnePackage { spec: String, found: usize },
    #[error(
        "npm delivered something else for {spec} than was pinned: its SHA-256 is {actual}, expected \
         {expected}. It was not kept"
    )]
    WrongDownload { spec: String, expected: String, actual: String },
    #[error("package folder {}: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Package(#[from] PackageError),
}

/// Returns the package of a manifest. When the folder holds it already, nothing is run.
///
/// A file with the package's name and another hash is an error and stays where it is.
pub async fn fetch(manifest: &Manifest, npm: &Npm) -> Result<Package, FetchError> {
    let path = npm.package_path(manifest);
    match Package::open(manifest, &path).await {
        Err(PackageError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        kept => return Ok(kept?),
    }
    let at_folder = |source| FetchError::Folder { path: npm.folder.clone(), source };
    std::fs::create_dir_all(&npm.folder).map_err(at_folder)?;
    // In the same folder, so that the last step is one rename; it is removed on every way out of here.
    let incoming =
        tempfile::Builder::new().prefix(".incoming-").tempdir_in(&npm.folder).map_err(at_folder)?;
    let spec = manifest.source.spec();
    pack(npm, &spec, incoming.path(), &path).await?;

    let download = only_package(incoming.path(), &spec).map_err(at_folder)??;
    let package = Package::open(manifest, &download).await.map_err(|error| match error {
        PackageError::HashMismatch { expected, actual, .. } => {
            FetchError::WrongDownload { spec, expected, actual }
        }
        other => other.into(),
    })?;
    std::fs::rename(&download, &path).map_err(at_folder)?;
    Ok(package.moved_to(path))
}

/// Has npm write a package into a folder.
async fn pack(npm: &Npm, spec: &str, into: &Path, path: &Path) -> Result<(), FetchError> {
    // `--silent` would leave out the reason when it fails.
    let child = Command::new(&npm.program)
        .args(["pack", spec, "--loglevel=error", "--ignore-scripts", "--pack-destination"])
        .arg(into)
        // Away from whatever project we are run in, and from its settings.
        .current_dir(into)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => {
            let (program, spec, path) = (npm.program.clone(), spec.to_owned(), path.to_owned());
            FetchError::NpmAbsent { program, spec, path }
        }
        _ => FetchError::NpmStart { program: npm.program.clone(), source },
    })?;
    let stderr = child.stderr.take().expect("stderr is piped");
    let run = async {
        let message = tail(stderr).await?;
        Ok((child.wait().await?, message))
    };
    let outcome = match tokio::time::timeout(npm.time_max, run).await {
        Ok(outcome) => outcome,
        Err(_) => return Err(FetchError::NpmTimeout { spec: spec.to_owned(), limit: npm.time_max }),
    };
    let (status, message) =
        outcome.map_err(|source| FetchError::NpmStart { program: npm.program.clone(), source })?;
    if status.success() {
        return Ok(());
    }
    let (spec, path) = (spec.to_owned(), path.to_owned());
    Err(FetchError::NpmFailed { spec, status, message: last_lines(&message), path })
}

/// Reads to the end and returns the last bytes.
async fn tail(mut from: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut chunk = vec![0; MESSAGE_BYTES_MAX];
    loop {
        match from.read(&mut chunk).await? {
            0 => return Ok(kept),
            read => kept.extend_from_slice(&chunk[..read]),
        }
        kept.drain(..kept.len().saturating_sub(MESSAGE_BYTES_MAX));
    }
}

/// The last lines as plain text: what a terminal would take for commands is left out.
fn last_lines(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(MESSAGE_LINES_MAX)..];
    let plain = |line: &&str| format!("  {}", line.chars().filter(|c| !c.is_control()).collect::<String>());
    if last.is_empty() {
        "  (nothing)".to_owned()
    } else {
        last.iter().map(plain).collect::<Vec<_>>().join("\n")
    }
}

/// The one package file in a folder.
fn only_package(folder: &Path, spec: &str) -> io::Result<Result<PathBuf, FetchError>> {
    let mut packages = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|e| e == "tgz") && entry.file_type()?.is_file() {
            packages.push(entry.path());
        }
    }
    let found = packages.len();
    let one = packages.pop().filter(|_| found == 1);
    Ok(one.ok_or_else(|| FetchError::NotOnePackage { spec: spec.to_owned(), found }))
}
