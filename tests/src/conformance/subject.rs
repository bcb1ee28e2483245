//! The server that is tried: a connection, what it announces, and bytes that it cannot have seen before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use bytes::Bytes;
use rand::{Rng as _, SeedableRng as _};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use wardian_proto::asset::fetch_client::FetchClient;
use wardian_proto::asset::push_client::PushClient;
use wardian_proto::bytestream::byte_stream_client::ByteStreamClient;
use wardian_proto::logstream::log_stream_service_client::LogStreamServiceClient;
use wardian_proto::longrunning::operations_client::OperationsClient;
use wardian_proto::reapi::action_cache_client::ActionCacheClient;
use wardian_proto::reapi::capabilities_client::CapabilitiesClient;
use wardian_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use wardian_proto::reapi::execution_client::ExecutionClient;
use wardian_proto::{Compressor, DigestFunction, reapi};

use super::Stop;
use super::outcome::{refused, refused_as, told};
use crate::Random;

/// How long one call may go without an answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A service that only this server has.
const OWN_SERVICE: &str = "wardian.v1.Toolchains";

/// Whether the server is Wardian, and bound by choices that the API leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// It is.
    Own,
    /// It is not.
    Foreign,
    /// To be found out from the services it has.
    Ask,
}

/// A server under trial. Clones share the connection, and the count that makes their blobs differ.
#[derive(Clone)]
pub struct Subject {
    channel: Channel,
    instance: String,
    is_own: bool,
    capabilities: Result<Arc<reapi::ServerCapabilities>, Status>,
    /// Properties that every action must ask for.
    platform: Vec<(String, String)>,
    /// Different for each run, so that runs against a live server never meet.
    salt: [u8; 32],
    count: Arc<AtomicU64>,
}

impl Subject {
    /// Connects to a server at `host:port`, `grpc://host:port` or `http://host:port`.
    pub async fn connect(address: &str, instance: &str, ownership: Ownership) -> anyhow::Result<Self> {
        let authority = ["grpc://", "http://"].iter().find_map(|scheme| address.strip_prefix(scheme));
        let endpoint = Endpoint::from_shared(format!("http://{}", authority.unwrap_or(address)))
            .with_context(|| format!("{address:?} is no HOST:PORT"))?
            .timeout(CALL_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true);
        let channel = endpoint.connect().await.with_context(|| format!("nobody answers at {address}"))?;
        let request = reapi::GetCapabilitiesRequest { instance_name: instance.into() };
        let announced = CapabilitiesClient::new(channel.clone()).get_capabilities(request).await;
        let is_own = match ownership {
            Ownership::Own => true,
            Ownership::Foreign => false,
            Ownership::Ask => {
                let request = HealthCheckRequest { service: OWN_SERVICE.into() };
                HealthClient::new(channel.clone()).check(request).await.is_ok()
            }
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let unique = format!("{} {} {address}", now.as_nanos(), std::process::id());
        let salt = DigestFunction::Sha256.digest(unique.as_bytes()).hash().try_into();
        Ok(Self {
            channel,
            instance: instance.to_owned(),
            is_own,
            capabilities: announced.map(|response| Arc::new(response.into_inner())),
            platform: Vec::new(),
            salt: salt.expect("SHA-256 has 32 bytes"),
            count: Arc::default(),
        })
    }

    /// Makes every action ask for these properties: some servers run none without.
    #[must_use]
    pub fn with_platform(mut self, mut properties: Vec<(String, String)>) -> Self {
        properties.sort();
        self.platform = properties;
        self
    }

    /// The properties that every action asks for.
    pub fn platform(&self) -> &[(String, String)] {
        &self.platform
    }

    /// The properties that every action asks for, and more, in order.
    pub fn platform_and<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let own = self.platform.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut all: Vec<_> = own.chain(more.iter().copied()).collect();
        all.sort_unstable();
        all
    }

    /// Whether the choices that we made where the API leaves a gap hold here.
    pub fn is_own(&self) -> bool {
        self.is_own
    }

    /// The instance name that every request carries.
    pub fn instance(&self) -> String {
        self.instance.clone()
    }

    /// What a resource name begins with.
    pub fn prefix(&self) -> String {
        if self.instance.is_empty() { String::new() } else { format!("{}/", self.instance) }
    }

    /// A number that no other caller gets.
    pub fn next(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    fn random(&self) -> Random {
        let mut seed = self.salt.to_vec();
        seed.extend_from_slice(&self.next().to_le_bytes());
        let digest = DigestFunction::Sha256.digest(&seed);
        Random::from_seed(digest.hash().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Bytes that this server cannot have, unless they are only a few. No compressor makes them smaller.
    pub fn fresh(&self, size: usize) -> Bytes {
        let mut data = vec![0; size];
        self.random().fill_bytes(&mut data);
        data.into()
    }

    /// Bytes that this server cannot have, and that compressors make much smaller.
    pub fn fresh_text(&self, size: usize) -> Bytes {
        let line = format!("{}: line after line, all the same\n", self.fresh_name());
        line.bytes().cycle().take(size).collect::<Vec<u8>>().into()
    }

    /// A word that nobody has used before.
    pub fn fresh_name(&self) -> String {
        self.fresh(12).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// An upload id, of the form that clients use.
    pub fn upload_id(&self) -> String {
        let mut bytes = [0; 16];
        self.random().fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// A connection.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Client of the CAS.
    pub fn cas(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel())
    }

    /// Client of ByteStream.
    pub fn byte_stream(&self) -> ByteStreamClient<Channel> {
        ByteStreamClient::new(self.channel())
    }

    /// Client of the action cache.
    pub fn action_cache(&self) -> ActionCacheClient<Channel> {
        ActionCacheClient::new(self.channel())
    }

    /// Client of Execution.
    pub fn execution(&self) -> ExecutionClient<Channel> {
        ExecutionClient::new(self.channel())
    }

    /// Client of Operations.
    pub fn operations(&self) -> OperationsClient<Channel> {
        OperationsClient::new(self.channel())
    }

    /// Client of Capabilities.
    pub fn capabilities(&self) -> CapabilitiesClient<Channel> {
        CapabilitiesClient::new(self.channel())
    }

    /// Client of the half of Remote Asset that fetches.
    pub fn fetch(&self) -> FetchClient<Channel> {
        FetchClient::new(self.channel())
    }

    /// Client of the half of Remote Asset that is pushed to.
    pub fn push(&self) -> PushClient<Channel> {
        PushClient::new(self.channel())
    }

    /// Client of LogStream.
    pub fn log_stream(&self) -> LogStreamServiceClient<Channel> {
        LogStreamServiceClient::new(self.channel())
    }

    /// What the server announces, or the check is skipped.
    pub fn announced(&self) -> Result<&reapi::ServerCapabilities, Stop> {
        match &self.capabilities {
            Ok(capabilities) => Ok(capabilities),
            Err(status) => Err(Stop::skipped(format!("GetCapabilities answers {}", told(status)))),
        }
    }

    /// What it announces of its CAS and action cache, or the check is skipped.
    pub fn cache(&self) -> Result<&reapi::CacheCapabilities, Stop> {
        let cache = self.announced()?.cache_capabilities.as_ref();
        cache.ok_or_else(|| Stop::skipped("no cache is announced"))
    }

    /// What it announces of Execution, or the check is skipped when it executes nothing.
    pub fn executes(&self) -> Result<&reapi::ExecutionCapabilities, Stop> {
        let execution = self.announced()?.execution_capabilities.as_ref();
        let enabled = execution.filter(|execution| execution.exec_enabled);
        enabled.ok_or_else(|| Stop::skipped("no execution is announced"))
    }

    /// The digest functions that it announces and we know; SHA-256 when it announces none.
    pub fn functions(&self) -> Vec<DigestFunction> {
        let announced = self.cache().map(|cache| cache.digest_functions.clone()).unwrap_or_default();
        let known = |number: &i32| DigestFunction::ALL.iter().copied().find(|f| f.wire() as i32 == *number);
        let mut functions: Vec<DigestFunction> = announced.iter().filter_map(known).collect();
        if functions.is_empty() {
            functions.push(DigestFunction::Sha256);
        }
        functions
    }

    /// The function that checks use when any will do.
    pub fn function(&self) -> DigestFunction {
        let functions = self.functions();
        if functions.contains(&DigestFunction::Sha256) { DigestFunction::Sha256 } else { functions[0] }
    }

    /// A function for a check that is about this very one; skipped unless it is announced.
    pub fn needs_function(&self, function: DigestFunction) -> Result<DigestFunction, Stop> {
        let name = function.wire().as_str_name();
        let found = self.functions().contains(&function).then_some(function);
        found.ok_or_else(|| Stop::skipped(format!("{name} is not announced")))
    }

    /// The compressors that it announces for ByteStream; the check is skipped when there is none.
    pub fn compressors(&self) -> Result<Vec<Compressor>, Stop> {
        known_compressors(&self.cache()?.supported_compressors, "supported_compressors")
    }

    /// The compressors that it announces for batch updates; the check is skipped when there is none.
    pub fn batch_compressors(&self) -> Result<Vec<Compressor>, Stop> {
        let announced = &self.cache()?.supported_batch_update_compressors;
        known_compressors(announced, "supported_batch_update_compressors")
    }

    /// The largest sum of sizes that a batch may have: what is announced, or what fits a message.
    pub fn batch_bytes_max(&self) -> usize {
        const MESSAGE_ROOM_BYTES: usize = 3_500_000;
        let announced = self.cache().map_or(0, |cache| cache.max_batch_total_size_bytes);
        usize::try_from(announced).ok().filter(|max| *max > 0).unwrap_or(MESSAGE_ROOM_BYTES)
    }

    /// A call must fail, and when the server is ours with the code that we chose where the API names none.
    #[track_caller]
    pub fn chose<T>(&self, outcome: Result<T, Status>, code: Code, what: &str) -> Result<Status, Stop> {
        if self.is_own { refused_as(outcome, code, what) } else { refused(outcome, what) }
    }
}

fn known_compressors(announced: &[i32], field: &str) -> Result<Vec<Compressor>, Stop> {
    let known = [(1, Compressor::Zstd), (2, Compressor::Deflate), (3, Compressor::Brotli)];
    let found: Vec<_> = known.iter().filter(|(number, _)| announced.contains(number)).map(|k| k.1).collect();
    if found.is_empty() {
        return Err(Stop::skipped(format!("{field} announces none")));
    }
    Ok(found)
}
