//! Whether there can be sandboxes on this machine, and the worker's side of one.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::Command;

use super::groups::{Group, GroupLimits, Groups};
use super::wire::{End, How, Request};
use super::{Ended, Prepared, tool};
use crate::Failure;
use crate::executor::{Task, framing};
use crate::staged::Staged;

/// How long making a sandbox may take when the worker starts.
const PROBE_TIME_MAX: Duration = Duration::from_secs(10);

/// Whether native commands run in sandboxes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SandboxMode {
    /// Where the machine allows it.
    #[default]
    Auto,
    /// A worker that cannot make them does not start.
    Require,
    /// Never.
    None,
}

impl SandboxMode {
    /// The words for them in the configuration.
    pub const WORDS: [(&str, Self); 3] =
        [("auto", Self::Auto), ("require", Self::Require), ("none", Self::None)];
}

/// What makes the namespaces of a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SandboxBackend {
    /// This program, and bubblewrap where this one may not.
    #[default]
    Auto,
    /// This program only.
    Own,
    /// Bubblewrap only.
    Bubblewrap,
}

impl SandboxBackend {
    /// The words for them in the configuration.
    pub const WORDS: [(&str, Self); 3] =
        [("auto", Self::Auto), ("own", Self::Own), ("bubblewrap", Self::Bubblewrap)];
}

/// Whether native commands are bounded as a whole, by control groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ActionGroups {
    /// Where the worker can make them, and makes sandboxes.
    #[default]
    Auto,
    /// A worker that cannot does not start.
    Require,
    /// Never.
    None,
}

impl ActionGroups {
    /// The words for them in the configuration.
    pub const WORDS: [(&str, Self); 3] =
        [("auto", Self::Auto), ("require", Self::Require), ("none", Self::None)];
}

/// Which system calls native commands may make in a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SystemCalls {
    /// Not those that no build needs and that have let others out of their sandboxes.
    #[default]
    Filtered,
    /// All that a process without rights may make.
    All,
}

impl SystemCalls {
    /// The words for them in the configuration.
    pub const WORDS: [(&str, Self); 2] = [("filtered", Self::Filtered), ("all", Self::All)];
}

/// How native commands are confined.
#[derive(Clone, Debug)]
pub struct SandboxSettings {
    /// Whether they are at all.
    pub mode: SandboxMode,
    /// What makes their sandboxes.
    pub backend: SandboxBackend,
    /// Which system calls they may make.
    pub system_calls: SystemCalls,
    /// Whether an action may have the machine's network, with `network=on`.
    pub network: bool,
    /// Paths of the machine that commands can read, beside its programs and libraries.
    pub read_only_paths: Vec<PathBuf>,
    /// Whether they are bounded as a whole.
    pub groups: ActionGroups,
    /// Memory of an action where there are groups, else what each process may take for its data; `None` is no limit.
    pub memory_bytes_max: Option<u64>,
    /// Processes and threads of a command.
    pub processes_max: u64,
    /// Processor time of a process; `None` is no limit.
    pub cpu_max: Option<Duration>,
    /// Processors that an action may keep busy, where there are groups; `None` is no limit.
    pub cpus_max: Option<u64>,
}

impl Default for SandboxSettings {
    fn default() -> Self {
        Self {
            mode: SandboxMode::Auto,
            backend: SandboxBackend::Auto,
            system_calls: SystemCalls::Filtered,
            network: false,
            read_only_paths: Vec::new(),
            groups: ActionGroups::Auto,
            memory_bytes_max: None,
            processes_max: 8192,
            cpu_max: None,
            cpus_max: None,
        }
    }
}

/// Processes of a sandbox that are not the command's.
const OWN_PROCESSES: u64 = 2;

/// Those that bubblewrap is of them.
const BUBBLEWRAP_PROCESSES: u64 = 1;

/// The program that bubblewrap is, on the worker's PATH.
const BUBBLEWRAP: &str = "bwrap";

/// Makes sandboxes out of namespaces.
#[derive(Debug)]
pub(super) struct Sandbox {
    program: PathBuf,
    /// Bubblewrap, where that makes the namespaces and not `program` itself.
    bubblewrap: Option<PathBuf>,
    settings: SandboxSettings,
    /// What makes control groups; `None` where limits are those of each process.
    groups: Option<Arc<Groups>>,
}

impl Sandbox {
    /// Makes one to see whether there can be any.
    pub(super) fn find(
        settings: &SandboxSettings,
        program: &Path,
        folder: &Path,
    ) -> anyhow::Result<Option<Self>> {
        let without = || {
            anyhow::ensure!(
                settings.groups != ActionGroups::Require,
                "worker.sandbox.groups is \"require\", and only actions in sandboxes have control groups: \
                 there are none here"
            );
            Ok(None)
        };
        if settings.mode == SandboxMode::None {
            return without();
        }
        for shown in &settings.read_only_paths {
            anyhow::ensure!(
                !folder.starts_with(shown),
                "worker.sandbox.read_only_paths: {} holds the worker's own folder",
                shown.display()
            );
        }
        match Self::first_of(settings, program, folder) {
            Ok(sandbox) => {
                tracing::info!(backend = sandbox.backend(), "native actions run in sandboxes");
                sandbox.with_groups(folder).map(Some)
            }
            Err(why) if settings.mode == SandboxMode::Require => {
                Err(why.context("worker.sandbox.mode is \"require\", and no sandbox can be made here"))
            }
            Err(why) => {
                let why = format!("{why:#}");
                tracing::warn!(
                    why,
                    "no sandbox can be made here: native actions can see this machine's files"
                );
                without()
            }
        }
    }

    /// The best that can be made here.
    fn first_of(settings: &SandboxSettings, program: &Path, folder: &Path) -> anyhow::Result<Self> {
        let own = (settings.backend != SandboxBackend::Bubblewrap).then_some(None);
        let bubblewrap = || tool::find(BUBBLEWRAP, std::env::var("PATH").ok().as_deref(), Path::new("/"));
        let bubblewrap = match settings.backend {
            SandboxBackend::Own => None,
            SandboxBackend::Auto => bubblewrap().ok().map(Some),
            SandboxBackend::Bubblewrap => Some(Some(bubblewrap().map_err(|why| {
                anyhow::anyhow!("worker.sandbox.backend is \"bubblewrap\": {BUBBLEWRAP}: {why}")
            })?)),
        };
        let makers = || own.iter().cloned().chain(bubblewrap.clone());
        let attempt = |bubblewrap, system_calls| {
            let settings = SandboxSettings { system_calls, ..settings.clone() };
            let sandbox = Self { program: program.to_owned(), bubblewrap, settings, groups: None };
            sandbox.probe(folder, None).map_err(|why| why.context(sandbox.backend())).map(|()| sandbox)
        };
        let mut refusals = Vec::new();
        for maker in makers() {
            match attempt(maker, settings.system_calls) {
                Ok(sandbox) => return Ok(sandbox),
                Err(why) => refusals.push(format!("{why:#}")),
            }
        }
        let why = refusals.join("; ");
        if settings.mode == SandboxMode::Auto && settings.system_calls == SystemCalls::Filtered {
            // Without the filter is better than without a sandbox.
            for maker in makers() {
                if let Ok(sandbox) = attempt(maker, SystemCalls::All) {
                    tracing::warn!(why, "system calls of native actions cannot be filtered here");
                    return Ok(sandbox);
                }
            }
        }
        Err(anyhow::anyhow!(why))
    }

    /// Finds out, by making one, whether there can be control groups.
    fn with_groups(mut self, folder: &Path) -> anyhow::Result<Self> {
        let mode = self.settings.groups;
        if mode == ActionGroups::None {
            return Ok(self);
        }
        let found = Groups::find_for(folder).and_then(|groups| {
            let group = groups.make(&GroupLimits { cpus_max: None, ..self.group_limits() })?;
            self.probe(folder, Some(&group))?;
            Ok(groups)
        });
        match found {
            Ok(groups) => {
                tracing::info!(below = %groups.folder().display(), "native actions have control groups");
                if self.settings.cpus_max.is_some() && !groups.has_cpu() {
                    anyhow::ensure!(
                        mode != ActionGroups::Require,
                        "worker.sandbox.groups is \"require\", and control groups here cannot hold to worker.sandbox.cpus_max"
                    );
                    tracing::warn!(
                        "worker.sandbox.cpus_max does not hold: control groups here have no controller cpu"
                    );
                    self.settings.cpus_max = None;
                }
                self.groups = Some(groups);
            }
            Err(why) if mode == ActionGroups::Require => {
                return Err(why.context(
                    "worker.sandbox.groups is \"require\", and no control groups can be made here",
                ));
            }
            Err(why) => {
                let why = format!("{why:#}");
                if self.settings.memory_bytes_max.is_some() || self.settings.cpus_max.is_some() {
                    tracing::warn!(
                        why,
                        "native actions have no control groups: limits are those of each process"
                    );
                } else {
                    tracing::info!(why, "native actions have no control groups");
                }
            }
        }
        Ok(self)
    }

    fn group_limits(&self) -> GroupLimits {
        let SandboxSettings { memory_bytes_max, processes_max, cpus_max, .. } = self.settings;
        let own = OWN_PROCESSES + if self.bubblewrap.is_some() { BUBBLEWRAP_PROCESSES } else { 0 };
        let processes_max = processes_max.saturating_add(own);
        GroupLimits { memory_bytes_max, processes_max, cpus_max }
    }

    /// Whether actions are refused system calls.
    pub(super) fn is_filtered(&self) -> bool {
        self.settings.system_calls == SystemCalls::Filtered
    }

    /// The name of what makes the namespaces.
    pub(super) fn backend(&self) -> &'static str {
        if self.bubblewrap.is_some() { "bubblewrap" } else { "own" }
    }

    /// Whether the input root may be the whole system. Bubblewrap runs a program of the machine inside first.
    pub(super) fn can_change_root(&self) -> bool {
        self.bubblewrap.is_none()
    }

    /// Whether actions are bounded as a whole.
    pub(super) fn has_groups(&self) -> bool {
        self.groups.is_some()
    }

    fn probe(&self, folder: &Path, group: Option<&Group>) -> anyhow::Result<()> {
        anyhow::ensure!(cfg!(target_os = "linux"), "sandboxes need Linux");
        let (root, tmp) = (Staged::new(folder)?, Staged::new(folder)?);
        let request = Request { probe: true, ..self.request(root.path(), tmp.path(), group) };
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_read_timeout(Some(PROBE_TIME_MAX))?;
        let mut process = std::process::Command::new(&self.program);
        process.arg("run-native").env_clear().current_dir("/").stdin(OwnedFd::from(theirs));
        let mut process = process
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        let end = ours
            .write_all(&framing::encode(&request)?)
            .and_then(|()| framing::receive::<End>(&mut ours))
            .context("the process that makes sandboxes does not answer");
        // Ends the process, whatever it does.
        drop(ours);
        let _ = process.wait();
        match end?.how {
            Some(How::Exited(0)) => Ok(()),
            Some(How::Failed(why)) => Err(anyhow::anyhow!("{why}")),
            other => Err(anyhow::anyhow!("the process that makes sandboxes says {other:?}")),
        }
    }

    fn request(&self, root: &Path, tmp: &Path, group: Option<&Group>) -> Request {
        let settings = &self.settings;
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        Request {
            root: bytes(root),
            tmp: bytes(tmp),
            read_only_paths: settings.read_only_paths.iter().map(|path| bytes(path)).collect(),
            group: group.map(|group| bytes(&group.door())).unwrap_or_default(),
            // A group counts what is used; this counts what is reserved, and some reserve much.
            memory_bytes_max: settings.memory_bytes_max.filter(|_| group.is_none()).unwrap_or(0),
            // A group also says how often it refused one.
            processes_max: if group.is_some() { 0 } else { settings.processes_max },
            all_system_calls: settings.system_calls == SystemCalls::All,
            bubblewrap: self.bubblewrap.as_deref().map(bytes).unwrap_or_default(),
            cpu_seconds_max: settings.cpu_max.map_or(0, |max| max.as_secs()),
            ..Request::default()
        }
    }

    /// The process that makes a sandbox for a command, and what it says.
    pub(super) fn command(&self, task: &Task<'_>, staged: &Staged) -> Result<Prepared, Failure> {
        let spec = task.spec;
        let folder = staged.path().parent().unwrap_or(Path::new("/"));
        let tmp = Staged::new(folder)?;
        let group = self.groups.as_ref().map(|groups| groups.make(&self.group_limits()));
        let group = group.transpose().map_err(Failure::io("make a control group"))?;
        let asks = |name: &str, value: &str| spec.platform.get(name) == Some(value);
        let environment = spec.environment.iter();
        let request = Request {
            working_directory: spec.working_directory.as_str().to_owned(),
            arguments: spec.arguments.clone(),
            environment: environment.flat_map(|(name, value)| [name.clone(), value.clone()]).collect(),
            chroot: asks("chroot-input-root", "true"),
            network: self.settings.network && asks("network", "on"),
            ..self.request(staged.path(), tmp.path(), group.as_ref())
        };
        let request = framing::encode(&request).map_err(Failure::io("write request to a sandbox"))?;
        let (socket, theirs) = UnixStream::pair().map_err(Failure::io("make a socket"))?;
        let theirs = theirs.into_std().and_then(|socket| socket.set_nonblocking(false).map(|()| socket));
        let theirs = OwnedFd::from(theirs.map_err(Failure::io("make a socket"))?);
        let mut command = Command::new(&self.program);
        command.arg("run-native").env_clear().current_dir("/").stdin(Stdio::from(theirs));
        Ok(Prepared { command, ears: Some(Ears { socket, request, _tmp: tmp }), group })
    }
}

/// What a sandbox is told, and what it says. Dropping it ends the sandbox.
pub(super) struct Ears {
    socket: UnixStream,
    request: Vec<u8>,
    /// Its /tmp, gone when the sandbox is.
    _tmp: Staged,
}

impl Ears {
    /// Sends the request, and waits for how the command ended.
    pub(super) async fn exchange(&mut self) -> Result<Ended, Failure> {
        // A process that does not listen is noticed below.
        let _ = self.socket.write_all(&self.request).await;
        let end = self.listen().await.map_err(|error| {
            Failure::Internal(format!("the sandbox ended and did not say how the command did: {error}"))
        })?;
        match end.how {
            Some(How::Exited(code)) => Ok(Ended::Code(code & 0xff)),
            Some(How::Signalled(signal)) => Ok(Ended::Signal(signal & 0x7f)),
            Some(How::NoTool(why)) => Ok(Ended::NoTool(why)),
            Some(How::Failed(why)) => Err(Failure::Internal(format!("the sandbox could not be made: {why}"))),
            None => Err(Failure::Internal("the sandbox says nothing of the command's end".into())),
        }
    }

    async fn listen(&mut self) -> std::io::Result<End> {
        let length = framing::checked(self.socket.read_u32_le().await?)?;
        let mut bytes = vec![0; length];
        self.socket.read_exact(&mut bytes).await?;
        End::decode(&*bytes).map_err(std::io::Error::other)
    }
}
