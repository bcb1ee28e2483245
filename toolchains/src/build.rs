//! Builds a package: it is laid out in a folder of its own, the steps of its recipe are done there, and what the
//! manifest takes of that folder becomes an archive whose hash the manifest pins.
//!
//! Steps that are programs of the package run here, on this machine. They are not confined: what keeps them in order
//! is that they are pinned, and a clean environment. Steps that are actions of another toolchain are done by whoever
//! has a server to run them on.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::process::Command;
use wardian_proto::RelPath;

use crate::archive::{Kind, Member, MemberError, Totals};
use crate::manifest::{Build, Builder, Step};
use crate::other_packages::walk_folder;
use crate::program::{self, Ended};
use crate::toolchain::MOUNT;
use crate::unpack::{below_path, walk_package};
use crate::{Clients, EntryProblem, ImportError, ImportLimits, Manifest, Package, PackageError};

/// How often it is looked whether a build takes too much of the disk.
const SIZE_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// What building a package may take.
#[derive(Clone, Copy, Debug)]
pub struct BuildLimits {
    /// How long all steps together may take.
    pub time_max: Duration,
    /// Bytes of all files of a build, its temporary ones included.
    pub disk_bytes_max: u64,
    /// What the package and the archive of what is built may hold.
    pub files: ImportLimits,
}

impl Default for BuildLimits {
    fn default() -> Self {
        Self {
            time_max: Duration::from_secs(60 * 60),
            disk_bytes_max: 4 << 30,
            files: ImportLimits::default(),
        }
    }
}

/// Why a package was not built.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum BuildError {
    #[error(
        "{label} is built by programs for {machine}, and this is {here}. Build it on such a machine, and put \
         {} here, at the same place",
        path.display()
    )]
    Machine { label: String, machine: String, here: String, path: PathBuf },
    #[error("step {step:?}: {program} of the package could not be run: {source}")]
    Start { step: String, program: String, source: io::Error },
    #[error("step {step:?} failed ({status}). It said:\n{message}")]
    Failed { step: String, status: std::process::ExitStatus, message: String },
    #[error("the build took more than {} s and was stopped in step {step:?}", limit.as_secs())]
    Time { step: String, limit: Duration },
    #[error("the build took {bytes} bytes of the disk and was stopped in step {step:?}; limit is {limit}")]
    Disk { step: String, bytes: u64, limit: u64 },
    #[error(
        "something else was built of {label} than was pinned: the SHA-256 of the archive is {actual}, expected \
         {expected}. It was not kept"
    )]
    OtherResult { label: String, expected: String, actual: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Files(#[from] ImportError),
    #[error(transparent)]
    Package(#[from] PackageError),
}

/// What was built of a package before, if it is still there. A file with another hash is an error and stays.
pub async fn built(manifest: &Manifest, clients: &Clients) -> Result<Option<Package>, PackageError> {
    match Package::open_built(manifest, &clients.built_path(manifest)).await {
        Err(PackageError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        kept => kept.map(Some),
    }
}

/// A package that is being built, in a folder that is gone afterwards.
#[derive(Debug)]
pub struct Workshop {
    manifest: Manifest,
    build: Build,
    limits: BuildLimits,
    scratch: TempDir,
    archive: PathBuf,
    started: Instant,
}

impl Workshop {
    /// Lays a package out.
    pub async fn open(package: &Package, clients: &Clients) -> Result<Self, BuildError> {
        let manifest = package.manifest().clone();
        let build = manifest.build.clone().ok_or_else(|| PackageError::NotBuilt(manifest.label()))?;
        let archive = clients.built_path(&manifest);
        if let Builder::Native { machine } = &build.builder {
            let here = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
            if *machine != here {
                let (label, machine) = (manifest.label(), machine.clone());
                return Err(BuildError::Machine { label, machine, here, path: archive });
            }
        }
        let scratch = clients.scratch().map_err(io_error(&clients.folder))?;
        let shop = Self { manifest, build, limits: clients.build, scratch, archive, started: Instant::now() };
        let package = package.clone();
        blocking(move || shop.lay_out(&package).map(|()| shop)).await
    }

    /// The recipe.
    pub fn build(&self) -> &Build {
        &self.build
    }

    /// The folder of a step.
    pub fn folder(&self, step: &Step) -> PathBuf {
        self.package().join(step.folder.as_str())
    }

    /// How much of the time for the build is left.
    pub fn time_left(&self, step: &Step) -> Result<Duration, BuildError> {
        let limit = self.limits.time_max;
        let left = limit.checked_sub(self.started.elapsed()).filter(|left| !left.is_zero());
        left.ok_or_else(|| BuildError::Time { step: step.name.clone(), limit })
    }

    fn package(&self) -> PathBuf {
        self.scratch.path().join("package")
    }

    fn lay_out(&self, package: &Package) -> Result<(), BuildError> {
        let root = self.package();
        for folder in ["package", "home", "tmp"] {
            let folder = self.scratch.path().join(folder);
            fs::create_dir(&folder).map_err(io_error(&folder))?;
        }
        let limits = (&self.limits.files, &Totals::default());
        walk_package(package, Rc::new(Cell::new(0)), limits, &mut |member| lay_out_member(&root, member))?;
        for (path, text) in &self.build.files {
            let path = root.join(path.as_str());
            make_parent(&path).and_then(|()| fs::write(&path, text)).map_err(io_error(&path))?;
        }
        Ok(())
    }

    /// Runs a step that is a program of the package.
    pub async fn run(&self, step: &Step) -> Result<(), BuildError> {
        let (folder, program) = (self.folder(step), &step.arguments[0]);
        let mut command = Command::new(self.package().join(program));
        command.args(step.arguments[1..].iter().map(|argument| self.placed(argument)));
        command.current_dir(&folder).env_clear();
        // The user's own home, settings and programs play no part.
        command.env("HOME", self.scratch.path().join("home")).env("TMPDIR", self.scratch.path().join("tmp"));
        command.env("LC_ALL", "C").env("TZ", "UTC");
        for (name, value) in self.build.environment.iter().chain(&step.environment) {
            command.env(name, self.placed(value));
        }
        command.stdout(match &step.stdout {
            None => Stdio::null(),
            Some(path) => {
                let path = self.package().join(path.as_str());
                let file = make_parent(&path).and_then(|()| File::create(&path));
                file.map_err(io_error(&path))?.into()
            }
        });
        let ended = program::run(command, self.time_left(step)?, async { Some(self.too_large().await) });
        let ended = ended.await.map_err(|source| BuildError::Start {
            step: step.name.clone(),
            program: program.clone(),
            source,
        })?;
        let step = step.name.clone();
        match ended {
            Ended::Good => Ok(()),
            Ended::Bad { status, message } => Err(BuildError::Failed { step, status, message }),
            Ended::Stopped(None) => Err(BuildError::Time { step, limit: self.limits.time_max }),
            Ended::Stopped(Some(bytes)) => {
                Err(BuildError::Disk { step, bytes, limit: self.limits.disk_bytes_max })
            }
        }
    }

    /// Waits until the build takes more of the disk than it may; returns how much.
    async fn too_large(&self) -> u64 {
        loop {
            tokio::time::sleep(SIZE_CHECK_INTERVAL).await;
            let folder = self.scratch.path().to_owned();
            let bytes = blocking(move || bytes_below(&folder)).await;
            if bytes > self.limits.disk_bytes_max {
                return bytes;
            }
        }
    }

    fn placed(&self, text: &str) -> String {
        let package = self.package();
        let text = text.replace(PACKAGE, &package.to_string_lossy());
        text.replace(MOUNT, &format!("/{}", self.manifest.mount))
    }

    /// Makes the archive of what the manifest takes, and keeps it if it is what was pinned.
    pub async fn finish(self) -> Result<Package, BuildError> {
        let bytes = blocking({
            let folder = self.scratch.path().to_owned();
            move || bytes_below(&folder)
        });
        let (bytes, limit) = (bytes.await, self.limits.disk_bytes_max);
        if bytes > limit {
            return Err(BuildError::Disk { step: "the last".to_owned(), bytes, limit });
        }
        let packed = self.scratch.path().join("built.tar");
        let shop = blocking(move || self.pack().map(|()| self)).await?;
        let package = Package::open_built(&shop.manifest, &packed).await.map_err(|error| match error {
            PackageError::HashMismatch { expected, actual, .. } => {
                BuildError::OtherResult { label: shop.manifest.label(), expected, actual }
            }
            other => other.into(),
        })?;
        fs::rename(&packed, &shop.archive).map_err(io_error(&shop.archive))?;
        Ok(package.moved_to(shop.archive.clone()))
    }

    /// Writes the archive: files in the order of their names, without times and owners.
    fn pack(&self) -> Result<(), BuildError> {
        let path = self.scratch.path().join("built.tar");
        let file = File::create(&path).map_err(io_error(&path))?;
        let mut tar = tar::Builder::new(BufWriter::new(file));
        let wanted = self.wanted();
        let totals = Totals::default();
        walk_folder(&self.package(), (&self.limits.files, &totals), &mut |member| {
            let Kind::File { size, is_executable } = member.kind else { return Ok(()) };
            if !wanted.iter().any(|above| below_path(&member.path, above).is_some()) {
                return Ok(());
            }
            let mut header = tar::Header::new_gnu();
            header.set_size(size);
            header.set_mode(if is_executable { 0o755 } else { 0o644 });
            header.set_mtime(0);
            tar.append_data(&mut header, member.path.as_str(), member.data).map_err(MemberError::Io)
        })?;
        let written = tar.into_inner().and_then(|mut file| file.flush());
        written.map_err(io_error(&path))
    }

    /// Everything that the manifest takes of the folder.
    fn wanted(&self) -> Vec<&RelPath> {
        let Manifest { modules, unpack, take, .. } = &self.manifest;
        let modules = modules.iter().map(|module| &module.file);
        modules
            .chain(unpack.iter().map(|item| &item.archive))
            .chain(take.iter().map(|item| &item.from))
            .collect()
    }
}

/// Stands for the absolute path of the package in the arguments and variables of its own programs.
const PACKAGE: &str = "{package}";

fn lay_out_member(root: &Path, member: Member<'_>) -> Result<(), MemberError> {
    let path = root.join(member.path.as_str());
    let mut member = member;
    match member.kind {
        Kind::Directory => fs::create_dir_all(&path).map_err(MemberError::Io),
        Kind::Symlink(_) => Err(EntryProblem::Kind("a symlink").into()),
        Kind::File { size, is_executable } => {
            make_parent(&path).map_err(MemberError::Io)?;
            let mut options = File::options();
            options.write(true).create_new(true);
            set_mode(&mut options, is_executable);
            let mut file = options.open(&path).map_err(MemberError::Io)?;
            member.read(size, &mut |piece| file.write_all(piece).map_err(MemberError::Io))
        }
    }
}

#[cfg(unix)]
fn set_mode(options: &mut fs::OpenOptions, is_executable: bool) {
    use std::os::unix::fs::OpenOptionsExt as _;
    options.mode(if is_executable { 0o755 } else { 0o644 });
}

#[cfg(not(unix))]
fn set_mode(_: &mut fs::OpenOptions, _: bool) {}

fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Bytes of all files below a folder. What goes away meanwhile is not counted.
fn bytes_below(folder: &Path) -> u64 {
    let (mut open, mut bytes) = (vec![folder.to_owned()], 0_u64);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => open.push(entry.path()),
                Ok(metadata) => bytes = bytes.saturating_add(metadata.len()),
                Err(_) => {}
            }
        }
    }
    bytes
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    let path = path.to_owned();
    move |source| BuildError::Io { path, source }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|join| std::panic::resume_unwind(join.into_panic()))
}
