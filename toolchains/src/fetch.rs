//! Gets a pinned package with the source's own client, into a folder where it is found again without it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use tokio::process::Command;

use crate::program::{self, Ended};
use crate::{BuildLimits, Manifest, Package, PackageError, Source};

/// How old a folder that a killed process left behind is when it is removed.
const LEFT_BEHIND_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// How the names of folders begin that are there for a while only.
const SCRATCH_PREFIX: &str = ".incoming-";

/// The package clients and where their packages are kept.
#[derive(Clone, Debug)]
pub struct Clients {
    /// npm: a name to look for on PATH, or an absolute path.
    pub npm: PathBuf,
    /// Python, for its pip.
    pub python: PathBuf,
    /// cargo.
    pub cargo: PathBuf,
    /// The folder that packages stay in; made when it is not there.
    pub folder: PathBuf,
    /// How long a client may take for one package.
    pub time_max: Duration,
    /// What building a package may take.
    pub build: BuildLimits,
}

impl Clients {
    /// The clients on PATH, keeping packages in `folder`.
    pub fn on_path(folder: impl Into<PathBuf>) -> Self {
        Self {
            npm: "npm".into(),
            python: "python3".into(),
            cargo: "cargo".into(),
            folder: folder.into(),
            time_max: Duration::from_secs(600),
            build: BuildLimits::default(),
        }
    }

    /// Where the package of a manifest is kept. A folder beside the manifest is not copied there.
    pub fn package_path(&self, manifest: &Manifest) -> PathBuf {
        let extension = manifest.source.extension();
        self.folder.join(format!("{}-{}.{extension}", manifest.name, manifest.version))
    }

    /// Where the archive is kept of what is built of the package.
    pub fn built_path(&self, manifest: &Manifest) -> PathBuf {
        self.folder.join(format!("{}-{}.built.tar", manifest.name, manifest.version))
    }

    /// A new folder in the folder of packages, so that moving a file there is one rename; it goes when it is dropped.
    /// What an earlier process left there without a chance to remove it goes as well.
    pub(crate) fn scratch(&self) -> io::Result<tempfile::TempDir> {
        std::fs::create_dir_all(&self.folder)?;
        for entry in std::fs::read_dir(&self.folder)?.filter_map(Result::ok) {
            let old = entry.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|modified| {
                SystemTime::now().duration_since(modified).is_ok_and(|age| age > LEFT_BEHIND_AGE)
            });
            if old && entry.file_name().to_string_lossy().starts_with(SCRATCH_PREFIX) {
                // Another process may do the same; the folder is only in the way.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        tempfile::Builder::new().prefix(SCRATCH_PREFIX).tempdir_in(&self.folder)
    }
}

/// Why a package could not be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum FetchError {
    #[error(
        "there is no program {}. Install {brings}; or run `{by_hand}` on another machine and put the file it \
         writes at {}",
        program.display(), path.display()
    )]
    ClientAbsent { program: PathBuf, brings: &'static str, by_hand: String, path: PathBuf },
    #[error("could not run {}: {source}", program.display())]
    ClientStart { program: PathBuf, source: io::Error },
    #[error(
        "{} could not fetch {spec} ({status}). It said:\n{message}\nIf this machine is offline, run \
         `{by_hand}` on another one and put the file it writes at {}",
        program.display(), path.display()
    )]
    ClientFailed {
        program: PathBuf,
        spec: String,
        status: ExitStatus,
        message: String,
        by_hand: String,
        path: PathBuf,
    },
    #[error("{} took more than {} s to fetch {spec} and was stopped", program.display(), limit.as_secs())]
    ClientTimeout { program: PathBuf, spec: String, limit: Duration },
    #[error("{found} package files came for {spec}; expected one")]
    NotOnePackage { spec: String, found: usize },
    #[error(
        "something else was delivered for {spec} than was pinned: its SHA-256 is {actual}, expected \
         {expected}. It was not kept"
    )]
    WrongDownload { spec: String, expected: String, actual: String },
    #[error("package folder {}: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("{0} is a folder beside a manifest, and this manifest is none of a file")]
    NoFolder(String),
    #[error(transparent)]
    Package(#[from] PackageError),
}

/// Returns the package of a manifest. When the folder holds it already, nothing is run. `beside` is the folder
/// that the manifest is in, if it is a file of the user's.
///
/// A file with the package's name and another hash is an error and stays where it is.
pub async fn fetch(
    manifest: &Manifest,
    clients: &Clients,
    beside: Option<&Path>,
) -> Result<Package, FetchError> {
    if let Source::Dir { path } = &manifest.source {
        let beside = beside.ok_or_else(|| FetchError::NoFolder(manifest.source.to_string()))?;
        return Ok(Package::folder(manifest, &beside.join(path))?);
    }
    let path = clients.package_path(manifest);
    match Package::open(manifest, &path).await {
        Err(PackageError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        kept => return Ok(kept?),
    }
    let at_folder = |source| FetchError::Folder { path: clients.folder.clone(), source };
    let incoming = clients.scratch().map_err(at_folder)?;
    let call = Call::new(&manifest.source, clients, incoming.path()).map_err(at_folder)?;
    call.run(clients.time_max, &path).await?;

    let spec = call.spec;
    let folders = if call.delivers_to.is_empty() { cargo_caches() } else { call.delivers_to };
    let download = only_package(&folders, &manifest.source, &spec).map_err(at_folder)??;
    // What cargo keeps is cargo's; everything else is in our own folder already.
    let arrived = incoming.path().join(format!("arrived.{}", manifest.source.extension()));
    match manifest.source {
        Source::Crate { .. } => drop(std::fs::copy(&download, &arrived).map_err(at_folder)?),
        _ => std::fs::rename(&download, &arrived).map_err(at_folder)?,
    }
    let package = Package::open(manifest, &arrived).await.map_err(|error| match error {
        PackageError::HashMismatch { expected, actual, .. } => {
            FetchError::WrongDownload { spec, expected, actual }
        }
        other => other.into(),
    })?;
    std::fs::rename(&arrived, &path).map_err(at_folder)?;
    Ok(package.moved_to(path))
}

/// One call of a client.
struct Call {
    program: PathBuf,
    arguments: Vec<String>,
    folder: PathBuf,
    /// Where the package is afterwards; empty for cargo's own folders.
    delivers_to: Vec<PathBuf>,
    spec: String,
    brings: &'static str,
    by_hand: String,
}

impl Call {
    fn new(source: &Source, clients: &Clients, folder: &Path) -> io::Result<Self> {
        let spec = source.spec();
        let text = |arguments: &[&str]| arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
        let here = folder.to_str().ok_or_else(|| io::Error::other("its name is not UTF-8"))?;
        let delivers_to = vec![folder.to_owned()];
        Ok(match source {
            Source::Npm { .. } => Self {
                program: clients.npm.clone(),
                // `--silent` would leave out the reason when it fails.
                arguments: text(&[
                    "pack",
                    &spec,
                    "--loglevel=error",
                    "--ignore-scripts",
                    "--pack-destination",
                    here,
                ]),
                folder: folder.to_owned(),
                delivers_to,
                brings: "Node.js, which brings npm (for instance `apt-get install npm`)",
                by_hand: format!("npm pack {spec}"),
                spec,
            },
            Source::Pypi { .. } => Self {
                program: clients.python.clone(),
                arguments: text(&[
                    "-m",
                    "pip",
                    "download",
                    "--quiet",
                    "--disable-pip-version-check",
                    "--no-deps",
                    // A source package would be built, which runs what is in it.
                    "--only-binary=:all:",
                    "--dest",
                    here,
                    &spec,
                ]),
                folder: folder.to_owned(),
                delivers_to,
                brings: "Python with pip (for instance `apt-get install python3-pip`)",
                by_hand: format!("pip download --no-deps --only-binary=:all: {spec}"),
                spec,
            },
            Source::Crate { package, version } => {
                // A project that needs nothing but this crate: cargo fetches it and keeps what it got.
                std::fs::create_dir(folder.join("src"))?;
                std::fs::write(folder.join("src/lib.rs"), "")?;
                std::fs::write(
                    folder.join("Cargo.toml"),
                    format!(
                        "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n\
                         [dependencies]\n\"{package}\" = \"={version}\"\n"
                    ),
                )?;
                Self {
                    program: clients.cargo.clone(),
                    arguments: text(&["fetch", "--quiet"]),
                    folder: folder.to_owned(),
                    delivers_to: Vec::new(),
                    brings: "Rust, which brings cargo",
                    by_hand: format!("cargo fetch (of a project that needs {package} ={version})"),
                    spec,
                }
            }
            Source::Dir { .. } => return Err(io::Error::other("a folder is not fetched")),
        })
    }

    /// Has the client deliver the package. `path` is where it will be kept.
    async fn run(&self, time_max: Duration, path: &Path) -> Result<(), FetchError> {
        let (program, spec) = (self.program.clone(), self.spec.clone());
        let mut command = Command::new(&self.program);
        // Away from whatever project we are run in, and from its settings.
        command.args(&self.arguments).current_dir(&self.folder).stdout(Stdio::null());
        let ended = program::run(command, time_max, std::future::pending()).await;
        let ended = ended.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => FetchError::ClientAbsent {
                program: program.clone(),
                brings: self.brings,
                by_hand: self.by_hand.clone(),
                path: path.to_owned(),
            },
            _ => FetchError::ClientStart { program: program.clone(), source },
        })?;
        match ended {
            Ended::Good => Ok(()),
            Ended::Stopped(()) => Err(FetchError::ClientTimeout { program, spec, limit: time_max }),
            Ended::Bad { status, message } => {
                let by_hand = self.by_hand.clone();
                Err(FetchError::ClientFailed {
                    program,
                    spec,
                    status,
                    message,
                    by_hand,
                    path: path.to_owned(),
                })
            }
        }
    }
}

/// The folders in which cargo keeps crates, one for each registry.
fn cargo_caches() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let Some(home) = home.or_else(|| Some(std::env::home_dir()?.join(".cargo"))) else { return Vec::new() };
    let folders = std::fs::read_dir(home.join("registry/cache")).into_iter().flatten();
    folders.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// The one package file in some folders.
fn only_package(folders: &[PathBuf], source: &Source, spec: &str) -> io::Result<Result<PathBuf, FetchError>> {
    let mut packages = Vec::new();
    for folder in folders {
        if let Source::Crate { package, version } = source {
            packages
                .extend(Some(folder.join(format!("{package}-{version}.crate"))).filter(|path| path.exists()));
            continue;
        }
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let fits = entry.path().extension().is_some_and(|e| e == source.extension());
            if fits && entry.file_type()?.is_file() {
                packages.push(entry.path());
            }
        }
    }
    let found = packages.len();
    // Several registries of cargo may have the same crate; its hash is checked all the same.
    let enough = if matches!(source, Source::Crate { .. }) { found > 0 } else { found == 1 };
    let one = packages.pop().filter(|_| enough);
    Ok(one.ok_or_else(|| FetchError::NotOnePackage { spec: spec.to_owned(), found }))
}
