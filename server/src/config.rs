//! The configuration: one TOML file, all of it optional, every problem reported at once.

mod section;
mod worker;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Table;
use wardian_proto::{DigestFunctions, InstanceName};
use wardian_runtime::{CompileSettings, Limits, PrefetchSettings, SandboxSettings};
use wardian_scheduler::{SchedulerLimits, Tenants};
use wardian_store::backend::{CAPACITY_BYTES_MIN, SledOptions};
use wardian_store::tree_pins::TreePinLimits;

use crate::assets::AssetLimits;
use crate::auth::{Token, parse_tokens};
use crate::cli::read_token;
use crate::client::{Access, ServerUrl, ServerUrlError};
use crate::fleet::FleetLimits;
use crate::instance::{Instance, parse_functions, parse_instances};
use crate::logs::LogLimits;
use crate::tls::TlsSettings;

use section::Section;

/// The file that `config print` writes: every key with its default.
pub const EXAMPLE: &str = include_str!("../wardian.example.toml");

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address of the one port.
    pub listen: SocketAddr,
    /// Whether the port may be open to a network without TLS and tokens.
    pub insecure: bool,
    /// Certificates of the port; `None` is a port without TLS.
    pub tls: Option<TlsSettings>,
    /// What callers are known by; without any, everybody who reaches the port may everything.
    pub tokens: Vec<Token>,
    /// The folder that holds everything the server keeps.
    pub data: PathBuf,
    /// The instances that are served.
    pub instances: Vec<Instance>,
    /// Whether clients may write action results.
    pub action_cache_update: bool,
    /// Limits on requests.
    pub requests: RequestLimits,
    /// Size and promises of the store.
    pub store: SledOptions,
    /// Another server's CAS behind the store.
    pub remote: RemoteStore,
    /// Limits on the inputs of actions that wait or run.
    pub pins: TreePinLimits,
    /// What may be fetched and pushed by URI.
    pub assets: AssetLimits,
    /// Limits on log streams.
    pub logs: LogLimits,
    /// Limits of the queue.
    pub scheduler: SchedulerLimits,
    /// Whether operations survive a restart.
    pub journal: bool,
    /// Limits on workers in processes of their own.
    pub fleet: FleetLimits,
    /// The worker inside the server.
    pub worker: WorkerSettings,
}

/// Limits on single requests.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Sum of blob sizes in one batch call. Below gRPC's usual message limit of 4 MiB.
    pub batch_bytes_max: u64,
    /// Size of one blob.
    pub blob_bytes_max: u64,
    /// Uploads by ByteStream at once.
    pub uploads_max: usize,
    /// How long an upload may send nothing.
    pub upload_idle_max: Duration,
}

/// A CAS that the store keeps copies of, and that alone says what there is.
#[derive(Clone, Debug)]
pub struct RemoteStore {
    /// How it is reached; `None` when the store stands alone.
    pub access: Option<Access>,
    /// The instance to use there.
    pub instance: InstanceName,
    /// How long it keeps what it reported present; zero when that is not known.
    pub lease: Duration,
}

/// The worker inside the server.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// The name that results carry.
    pub name: String,
    /// Actions run at once; with 0 there is no worker in the server.
    pub slots: usize,
    /// Actions that a worker in a process of its own takes for each slot beside those it runs.
    pub ahead_per_slot: usize,
    /// Memory for actions that say how much they need, in bytes; `None` when only slots count.
    pub memory_bytes: Option<u64>,
    /// Whether actions that are not Wasm run as processes of this machine.
    pub native: bool,
    /// How these are confined.
    pub sandbox: SandboxSettings,
    /// Further platform properties it satisfies.
    pub properties: Vec<(String, String)>,
    /// Limits of each action.
    pub limits: Limits,
    /// How modules are compiled.
    pub compile: CompileSettings,
    /// What a worker in a process of its own fetches ahead.
    pub prefetch: PrefetchSettings,
    /// How long a worker in a process of its own lets actions run to their end when it is told to end itself.
    pub drain_time_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8980)),
            insecure: false,
            tls: None,
            tokens: Vec::new(),
            data: PathBuf::from("wardian-data"),
            instances: default_instances(&DigestFunctions::collision_resistant()),
            action_cache_update: true,
            requests: RequestLimits {
                batch_bytes_max: 4_000_000,
                blob_bytes_max: 16 << 30,
                uploads_max: 4096,
                upload_idle_max: Duration::from_secs(120),
            },
            store: SledOptions::default(),
            remote: RemoteStore {
                access: None,
                instance: InstanceName::default(),
                lease: SledOptions::default().lease,
            },
            pins: TreePinLimits::default(),
            assets: AssetLimits::default(),
            logs: LogLimits::default(),
            scheduler: SchedulerLimits::default(),
            journal: true,
            fleet: FleetLimits::default(),
            worker: WorkerSettings {
                name: "local".into(),
                slots: std::thread::available_parallelism().map_or(2, usize::from),
                ahead_per_slot: 1,
                memory_bytes: None,
                native: true,
                sandbox: SandboxSettings::default(),
                properties: Vec::new(),
                limits: Limits::default(),
                compile: CompileSettings::default(),
                prefetch: PrefetchSettings::default(),
                drain_time_max: Duration::from_secs(300),
            },
        }
    }
}

impl Config {
    /// Refuses a port that is open to a network while anybody there could read along or run code.
    pub fn check_exposure(&self) -> anyhow::Result<()> {
        if self.listen.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        let missing = match (&self.tls, &self.tokens[..]) {
            (None, []) => "neither TLS nor tokens",
            (None, _) => "no TLS",
            (_, []) => "no tokens",
            _ => return Ok(()),
        };
        if self.insecure {
            tracing::warn!(
                listen = %self.listen,
                "the port is open to a network with {missing}: whoever can reach it may be able to run code here"
            );
            return Ok(());
        }
        anyhow::bail!(
            "{} is no loopback address, and there are {missing}: anybody who can reach it could run code on this \
             machine.\nSet `certificate` and `key` in the section [tls] of the configuration and make a token with \
             `wardian token new`; or listen on 127.0.0.1; or, on a network where everybody is trusted, start with \
             --insecure. docs/security.md has more.",
            self.listen
        )
    }

    /// What each instance may have of the queue.
    pub fn tenants(&self) -> Tenants {
        let named = self.instances.iter().map(|instance| (instance.name.clone(), instance.share)).collect();
        Tenants { named, ..Tenants::default() }
    }
}

fn default_instances(digest_functions: &DigestFunctions) -> Vec<Instance> {
    let instance =
        |name| Instance::new(InstanceName::parse(name).expect("valid names"), digest_functions.clone());
    ["", "main"].map(instance).to_vec()
}

/// What is wrong with a configuration, all of it.
#[derive(Debug)]
pub struct ConfigError {
    /// The file, when there is one.
    pub path: Option<PathBuf>,
    /// One line for each problem, with the key's path.
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.as_ref().map_or("configuration".into(), |p| p.display().to_string());
        let count = self.problems.len();
        write!(f, "{path}: {count} problem{}", if count == 1 { "" } else { "s" })?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads a file, or takes the defaults when there is none.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let fail = |problem: String| ConfigError { path: Some(path.to_owned()), problems: vec![problem] };
        let text = std::fs::read_to_string(path).map_err(|error| fail(format!("cannot be read: {error}")))?;
        Self::parse(&text).map_err(|problems| ConfigError { path: Some(path.to_owned()), problems })
    }

    /// Parses the text of a file.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| vec![error.to_string()])?;
        let mut problems = Vec::new();
        let mut config = Self::default();
        let mut root = Section::new(String::new(), table, &mut problems);
        root.text("listen", |text| {
            text.parse()
                .map(|a| config.listen = a)
                .map_err(|_| "is no ADDRESS:PORT, such as 127.0.0.1:8980".into())
        });
        root.text("data", |text| {
            config.data = text.into();
            Ok(())
        });
        root.section("tls", |section| config.tls = tls(section));
        root.section("auth", |section| {
            section.array("tokens", |items| parse_tokens(items).map(|tokens| config.tokens = tokens));
        });
        let mut functions = DigestFunctions::collision_resistant();
        root.list("digest_functions", |names| {
            functions = parse_functions(names)?;
            config.instances = default_instances(&functions);
            Ok(())
        });
        root.array("instances", |items| {
            config.instances = parse_instances(items, &functions)?;
            Ok(())
        });
        root.boolean("action_cache_update", &mut config.action_cache_update);
        root.section("requests", |section| {
            let requests = &mut config.requests;
            // Above this a reply would not fit the 4 MiB message that clients accept by default.
            section.number("batch_bytes_max", 1, 4_000_000, &mut requests.batch_bytes_max);
            section.number("blob_bytes_max", 1, i64::MAX as u64, &mut requests.blob_bytes_max);
            section.count("uploads_max", &mut requests.uploads_max);
            section.seconds("upload_idle_seconds_max", &mut requests.upload_idle_max);
        });
        root.section("store", |section| {
            let mut capacity = 0;
            section.number("capacity_bytes", CAPACITY_BYTES_MIN, u64::MAX, &mut capacity);
            config.store.capacity_bytes = (capacity > 0).then_some(capacity);
            section.seconds("lease_seconds", &mut config.store.lease);
            section.boolean("sync", &mut config.store.sync);
            let remote = &mut config.remote;
            section.text("remote", |text| {
                let parsed = text.parse().map(|url: ServerUrl| remote.access = Some(url.into()));
                parsed.map_err(|error: ServerUrlError| format!("cannot be used: {error}"))
            });
            section.text("remote_tls_ca", |text| {
                remote.access.as_mut().ok_or("needs `remote`")?.tls_ca = Some(text.into());
                Ok(())
            });
            section.text("remote_token_file", |text| {
                let token = read_token(Path::new(text)).map_err(|error| error.to_string())?;
                remote.access.as_mut().ok_or("needs `remote`")?.token = Some(token);
                Ok(())
            });
            section.text("remote_instance", |text| {
                InstanceName::parse(text).map(|name| remote.instance = name).map_err(|e| e.to_string())
            });
            section.seconds_or_none("remote_lease_seconds", &mut remote.lease);
        });
        root.section("assets", |section| {
            let assets = &mut config.assets;
            section.boolean("fetch", &mut assets.fetch);
            section.boolean("push", &mut assets.push);
            section.list("origins", |hosts| {
                assets.origins = Some(hosts.iter().map(|host| host.to_ascii_lowercase()).collect());
                Ok(())
            });
            section.boolean("private_addresses", &mut assets.private_addresses);
            section.seconds("fetch_seconds_max", &mut assets.fetch_time_max);
            section.count("fetches_max", &mut assets.fetches_max);
            section.number("content_bytes_max", 1, i64::MAX as u64, &mut assets.content_bytes_max);
        });
        root.section("logs", |section| {
            let logs = &mut config.logs;
            section.number("stream_bytes_max", 1, u64::MAX, &mut logs.stream_bytes_max);
            section.number("total_bytes_max", 1, u64::MAX, &mut logs.total_bytes_max);
            section.count("streams_max", &mut logs.streams_max);
            section.number("client_bytes_max", 1, u64::MAX, &mut logs.client_bytes_max);
            section.count("client_streams_max", &mut logs.client_streams_max);
            section.seconds("kept_seconds", &mut logs.kept_for);
            section.seconds("idle_seconds_max", &mut logs.idle_max);
        });
        root.section("scheduler", |section| {
            let scheduler = &mut config.scheduler;
            section.count("queued_runs_max", &mut scheduler.queued_runs_max);
            section.count("pinned_blobs_max", &mut config.pins.pinned_blobs_max);
            section.number("tree_cache_bytes_max", 1, u64::MAX, &mut config.pins.cache_bytes_max);
            section.count("live_operations_max", &mut scheduler.live_operations_max);
            section.count("completed_kept_max", &mut scheduler.completed_kept_max);
            section.count("completed_bytes_max", &mut scheduler.completed_bytes_max);
            section.seconds("completed_kept_seconds", &mut scheduler.completed_kept_for);
            section.count("attempts_max", &mut scheduler.attempts_max);
            section.seconds_or_none("worker_grace_seconds", &mut scheduler.worker_grace);
            section.seconds("unserved_seconds_max", &mut scheduler.unserved_max);
            section.seconds_or_none("memory_patience_seconds", &mut scheduler.memory_patience);
            section.boolean("journal", &mut config.journal);
            let fleet = &mut config.fleet;
            section.seconds("worker_lease_seconds", &mut fleet.lease);
            section.seconds_or_none("takeover_seconds", &mut fleet.takeover);
            section.count("workers_max", &mut fleet.workers_max);
        });
        root.section("worker", |section| worker::read(section, &mut config.worker));
        root.finish();
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }
}

fn tls(section: &mut Section<'_>) -> Option<TlsSettings> {
    let mut path = |key| {
        let mut path = None;
        section.text(key, |text| {
            path = Some(PathBuf::from(text));
            Ok(())
        });
        path
    };
    let (certificate, key, client_ca) = (path("certificate"), path("key"), path("client_ca"));
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some(TlsSettings { certificate, key, client_ca }),
        (None, None) if client_ca.is_none() => None,
        _ => {
            section.problem("certificate", "`certificate` and `key` go together, and `client_ca` needs both");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.listen, Config::default().listen);
        assert!(config.listen.ip().is_loopback());
    }

    #[test]
    fn the_example_is_valid_and_says_the_defaults() {
        let config = Config::parse(EXAMPLE).unwrap();
        let mut default = Config::default();
        // The example cannot know how many cores a machine has.
        default.worker.slots = config.worker.slots;
        assert_eq!(format!("{config:?}"), format!("{default:?}"));
    }

    #[test]
    fn every_problem_is_reported_with_its_path() {
        let text = r#"
            listen = "nowhere"
            instances = ["a/blobs"]
            colour = "green"
            [requests]
            batch_bytes_max = 0
            [store]
            remote = "ftp://example:1"
            remote_lease_seconds = -1
            [worker]
            slots = "many"
            [worker.limits]
            stdout_byte_max = 5
            input_bytes_max = -1
            [tls]
            key = "key.pem"
            [auth]
            tokens = [{ name = "x" }]
            [worker.compile]
            baseline = "sometimes"
            trusted = ["clang"]
        "#;
        let problems = Config::parse(text).unwrap_err();
        for path in [
            "listen:",
            "instances:",
            "colour:",
            "requests.batch_bytes_max:",
            "store.remote:",
            "store.remote_lease_seconds:",
            "worker.slots:",
            "worker.limits.stdout_byte_max:",
            "worker.limits.input_bytes_max:",
            "worker.compile.baseline:",
            "worker.compile.trusted:",
            "tls.certificate:",
            "auth.tokens:",
        ] {
            assert!(problems.iter().any(|p| p.starts_with(path)), "{path} in {problems:?}");
        }
        assert_eq!(problems.len(), 13, "{problems:?}");
    }

    #[test]
    fn a_network_needs_tls_and_tokens_or_the_word() {
        let config =
            |listen: &str, more: &str| Config::parse(&format!("listen = {listen:?}\n{more}")).unwrap();
        let tls = "[tls]\ncertificate = \"c\"\nkey = \"k\"\n";
        let hash = crate::auth::sha256_hex("x");
        let token = format!("[[auth.tokens]]\nname = \"x\"\nsha256 = \"{hash}\"\nrole = \"client\"\n");
        let both = format!("{tls}{token}");
        for (listen, more) in [("127.0.0.1:1", ""), ("[::1]:1", ""), ("0.0.0.0:1", &*both)] {
            config(listen, more).check_exposure().unwrap();
        }
        for (more, word) in [("", "neither"), (tls, "no tokens"), (&*token, "no TLS")] {
            let mut config = config("0.0.0.0:1", more);
            let refusal = config.check_exposure().unwrap_err().to_string();
            assert!(refusal.contains(word) && refusal.contains("wardian token new"), "{refusal}");
            config.insecure = true;
            config.check_exposure().unwrap();
        }
    }

    #[test]
    fn broken_toml_says_where() {
        assert!(Config::parse("listen = ").unwrap_err()[0].contains("line 1"));
    }
}
