//! A server in a process of its own: one that can be killed, and whose memory and disk can be measured.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::{Channel, Endpoint};
use wardian_proto::InstanceName;
use wardian_proto::reapi::execution_client::ExecutionClient;
use wardian_store::backend::{GrpcStore, GrpcStoreLimits};
use wardian_store::{BlobStore as _, Upload};

use crate::{Built, Ended, Following};

/// How many clock ticks a second has in /proc: the same on every Linux.
const TICKS_PER_SECOND: u32 = 100;

/// Whatever port is free.
const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A process that is killed when this is dropped.
pub struct Process(Child);

/// What a process holds in memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Everything, the pages of its files included.
    pub resident: u64,
    /// Of these, what belongs to no file.
    pub anonymous: u64,
}

impl Process {
    /// Starts a command.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let name = command.get_program().to_owned();
        Ok(Self(command.spawn().with_context(|| format!("cannot start {}", name.display()))?))
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Kills the process at once, as `kill -9` does, and waits until it is gone.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Fails when the process has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.0.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("the process has ended: {status}"),
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = kill_process(Pid::from_child(&self.0), signal);
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.0.try_wait().expect("a child can be waited for")
    }

    /// Does something while all threads of the process stand still.
    pub fn while_stopped<T>(&self, work: impl FnOnce() -> T) -> T {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, Signal::STOP).expect("a child can be stopped");
        while !self.stands_still() {
            std::thread::yield_now();
        }
        let done = work();
        kill_process(pid, Signal::CONT).expect("a child can go on");
        done
    }

    /// Whether each thread is stopped, or gone with its process.
    fn stands_still(&self) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.0.id())) else { return true };
        threads.flatten().all(|thread| {
            let Ok(stat) = fs::read_to_string(thread.path().join("stat")) else { return true };
            stat.rsplit_once(')').is_some_and(|(_, fields)| fields.trim_start().starts_with(['T', 'Z', 'X']))
        })
    }

    /// What it holds in memory now.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        let status = self.proc("status")?;
        let bytes = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
            Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
        };
        Ok(Memory { resident: bytes("VmRSS:")?, anonymous: bytes("RssAnon:")? })
    }

    /// The processor time it has used so far.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        let stat = self.proc("stat")?;
        // The name in parentheses may hold anything; user and system time are fields 14 and 15.
        let (_, fields) = stat.rsplit_once(')').context("no process name")?;
        let mut ticks = 0;
        for field in fields.split_ascii_whitespace().skip(11).take(2) {
            ticks += field.parse::<u32>()?;
        }
        Ok(Duration::from_secs(1) * ticks / TICKS_PER_SECOND)
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.0.id());
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Settings under which actions can tell a test how far they are, through files of the machine.
fn without_sandbox(settings: &str) -> String {
    let open =
        if settings.contains("[worker.sandbox]") { "" } else { "\n[worker.sandbox]\nmode = \"none\"\n" };
    format!("{settings}{open}")
}

/// A Wardian server in a process of its own.
pub struct ServerProcess {
    /// The process.
    pub process: Process,
    /// The address of its port.
    pub address: SocketAddr,
    // Closing it would make the server's next line on it an error.
    _stdout: BufReader<ChildStdout>,
}

impl ServerProcess {
    /// The same on a port of the caller's choice: that of an earlier process, say.
    pub fn start_at(
        program: &Path,
        folder: &Path,
        settings: &str,
        listen: SocketAddr,
    ) -> anyhow::Result<Self> {
        Self::start_with(program, folder, settings, listen, |_| ())
    }

    /// Starts the server in `program` on a free port and on the data in `folder`, and returns once it serves.
    ///
    /// `settings` is TOML, as in the server's configuration file.
    pub fn start(program: &Path, folder: &Path, settings: &str) -> anyhow::Result<Self> {
        Self::start_among(program, folder, settings, &[])
    }

    /// The same with variables in the server's own environment.
    pub fn start_among(
        program: &Path,
        folder: &Path,
        settings: &str,
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        Self::start_with(program, folder, settings, ANY_PORT, |command| {
            command.envs(environment.iter().copied());
        })
    }

    /// The same run by another user, who has a folder of their own; `None` is whoever calls.
    pub fn start_by(
        program: &Path,
        folder: &Path,
        settings: &str,
        user: Option<u32>,
    ) -> anyhow::Result<Self> {
        Self::start_with(program, folder, settings, ANY_PORT, |command| {
            if let Some(user) = user {
                command.uid(user).gid(user);
            }
        })
    }

    /// The same with what `filter` lets through written to `log`, where it stays when the server is killed.
    pub fn start_traced(
        program: &Path,
        folder: &Path,
        settings: &str,
        filter: &str,
        log: fs::File,
    ) -> anyhow::Result<Self> {
        Self::start_with(program, folder, settings, ANY_PORT, |command| {
            command.env("WARDIAN_LOG", filter).stderr(log);
        })
    }

    fn start_with(
        program: &Path,
        folder: &Path,
        settings: &str,
        listen: SocketAddr,
        change: impl FnOnce(&mut Command),
    ) -> anyhow::Result<Self> {
        let config = folder.join("wardian.toml");
        fs::write(&config, without_sandbox(settings))?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", &listen.to_string(), "--data"]).arg(folder.join("data"));
        command.arg("--config").arg(config);
        if std::env::var_os("WARDIAN_LOG").is_none() {
            command.env("WARDIAN_LOG", "error");
        }
        change(&mut command);
        let mut process = Process::start(command.stdout(Stdio::piped()))?;
        let mut stdout = BufReader::new(process.0.stdout.take().context("the output is piped")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let url = line.strip_prefix("wardian serves ").and_then(|rest| rest.split(' ').next());
        let address = url.and_then(|url| Some(url.split_once("://")?.1));
        let Some(address) = address else {
            anyhow::bail!("the server did not start: it said {line:?}");
        };
        Ok(Self { address: address.parse()?, process, _stdout: stdout })
    }

    /// A new connection.
    pub async fn channel(&self) -> Channel {
        let endpoint =
            Endpoint::from_shared(format!("http://{}", self.address)).expect("an address is a URI");
        endpoint.connect().await.expect("the server accepts connections")
    }

    /// Uploads an action over a new connection and executes it, whatever comes of it.
    pub async fn execute(&self, built: &Built) -> Ended {
        self.begin(built).await.ended().await.expect("the stream comes to its end")
    }

    /// Uploads an action over a new connection and sends it off.
    pub async fn begin(&self, built: &Built) -> Following {
        let store = self.store(u64::MAX).await;
        let uploads = built.blobs.iter().map(|(digest, data)| Upload::bytes(*digest, data.clone())).collect();
        for outcome in store.put_batch(uploads).await {
            outcome.expect("an upload succeeds");
        }
        let mut client = ExecutionClient::new(self.channel().await);
        let stream = client.execute(built.request()).await.expect("the action is taken in").into_inner();
        Following::new(stream)
    }

    /// The CAS of an instance as a store, over a new connection, without retries.
    pub async fn store_of(&self, instance: &str) -> GrpcStore {
        let instance = InstanceName::parse(instance).expect("a name");
        let limits = GrpcStoreLimits { attempts_max: 1, ..GrpcStoreLimits::default() };
        GrpcStore::new(self.channel().await, instance, limits)
    }

    /// The CAS as a store, over a new connection, without retries. Batches carry up to `batch_bytes_max`;
    /// with 0 every blob goes through ByteStream.
    pub async fn store(&self, batch_bytes_max: u64) -> GrpcStore {
        let limits = GrpcStoreLimits::default();
        let batch_bytes_max = batch_bytes_max.min(limits.batch_bytes_max);
        let limits = GrpcStoreLimits { batch_bytes_max, attempts_max: 1, ..limits };
        GrpcStore::new(self.channel().await, InstanceName::default(), limits)
    }
}

/// A Wardian worker in a process of its own.
pub struct WorkerProcess {
    /// The process.
    pub process: Process,
    // Closing it would make the worker's next line on it an error.
    _stdout: BufReader<ChildStdout>,
}

impl WorkerProcess {
    /// Starts the worker in `program` for a server, with its data in a folder of its own.
    ///
    /// `settings` is TOML, as in the configuration file.
    pub fn start(
        program: &Path,
        folder: &Path,
        server: SocketAddr,
        name: &str,
        settings: &str,
    ) -> anyhow::Result<Self> {
        Self::start_with(program, folder, name, settings, &["--server", &server.to_string()])
    }

    /// The same with arguments that say which server, and whatever else.
    pub fn start_with(
        program: &Path,
        folder: &Path,
        name: &str,
        settings: &str,
        args: &[&str],
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let config = folder.join("wardian.toml");
        fs::write(&config, without_sandbox(settings))?;
        let mut command = Command::new(program);
        command.args(["worker", "--name", name]).args(args);
        command.arg("--data").arg(folder.join("data")).arg("--config").arg(config);
        if std::env::var_os("WARDIAN_LOG").is_none() {
            command.env("WARDIAN_LOG", "error");
        }
        let mut process = Process::start(command.stdout(Stdio::piped()))?;
        let mut stdout = BufReader::new(process.0.stdout.take().context("the output is piped")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        anyhow::ensure!(line.starts_with("wardian worker "), "the worker did not start: it said {line:?}");
        Ok(Self { process, _stdout: stdout })
    }
}

/// Bytes that the disk has allocated for everything below a folder. What vanishes meanwhile counts as nothing.
pub fn allocated_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, metadata)| {
            metadata.blocks() * 512 + if metadata.is_dir() { allocated_below(&path) } else { 0 }
        })
        .sum()
}

/// The library of `faketime`, which gives a process another clock, if this machine has it.
pub fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    let library = |folder: fs::DirEntry| folder.path().join("faketime/libfaketime.so.1");
    folders.map(library).find(|path| path.exists())
}
