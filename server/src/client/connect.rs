//! From what a person types after `--server` to an open channel.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use wardian_store::StoreError;
use wardian_store::backend::Connection;

use super::Failure;

/// Port when the URL names none.
const DEFAULT_PORT: u16 = 8980;

/// How long to wait for the TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle time after which the connection is probed, so that a vanished server is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// The same for a worker, which runs for long and waits for nobody to notice.
const WORKER_KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const WORKER_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes in flight for one stream and for the connection: enough for one large blob on a fast network.
const WINDOW_BYTES: u32 = 4 << 20;

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl(Uri);

/// Why an address was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ServerUrlError {
    #[error(
        "{0}:// is no known scheme; write HOST:PORT, grpc://HOST:PORT, or with TLS grpcs://HOST:PORT; http and https \
         mean the same"
    )]
    Scheme(String),
    #[error("an address has no path; {0:?} may be meant as --instance")]
    Path(String),
    #[error("{0:?} is no address; write HOST:PORT, grpc://HOST:PORT, or with TLS grpcs://HOST:PORT")]
    Syntax(String),
}

impl ServerUrl {
    /// Whether the connection is to be encrypted, and the server to show who it is.
    pub fn has_tls(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// Whether nothing that is sent there leaves this machine.
    fn is_here(&self) -> bool {
        let host = self.0.host().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        address.map_or(host == "localhost", |address| address.to_canonical().is_loopback())
    }
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, ServerUrlError> {
        let (scheme, rest) = match text.split_once("://") {
            None => ("http", text),
            Some(("http" | "grpc", rest)) => ("http", rest),
            Some(("https" | "grpcs", rest)) => ("https", rest),
            Some((scheme, _)) => return Err(ServerUrlError::Scheme(scheme.to_owned())),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !path.is_empty() {
            return Err(ServerUrlError::Path(path.to_owned()));
        }
        let syntax = || ServerUrlError::Syntax(text.to_owned());
        let uri: Uri = format!("http://{authority}").parse().map_err(|_| syntax())?;
        let host = uri.host().filter(|h| !h.is_empty() && !authority.contains('@')).ok_or_else(syntax)?;
        let port = match uri.port() {
            Some(port) => port.as_str().parse().ok().filter(|p| *p != 0).ok_or_else(syntax)?,
            None if authority == host => DEFAULT_PORT,
            None => return Err(syntax()),
        };
        format!("{scheme}://{host}:{port}").parse().map(Self).map_err(|_| syntax())
    }
}

/// A server on this machine, at the usual port.
impl Default for ServerUrl {
    fn default() -> Self {
        Self(format!("http://127.0.0.1:{DEFAULT_PORT}").parse().expect("a valid address"))
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}",
            self.0.scheme_str().unwrap_or("http"),
            self.0.authority().map_or("", |a| a.as_str())
        )
    }
}

/// A failure of a call.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ClientError {
    #[error(
        "no server answers at {url} ({reason})\n\
         start one with `wardian serve`, or name another with --server URL or WARDIAN_SERVER"
    )]
    Connect { url: ServerUrl, reason: String },
    #[error("{0}")]
    Access(String),
    #[error("{call} failed: {failure}")]
    Call { call: &'static str, failure: Box<Failure> },
    #[error("{call}: the connection broke {tries} times in a row; last: {failure}")]
    Broken { call: &'static str, tries: u32, failure: Box<Failure> },
    #[error("the server's answer is not as the API says: {0}")]
    Answer(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ClientError {
    /// The failure of a call that the server answered.
    pub(super) fn call(call: &'static str, status: tonic::Status) -> Self {
        Self::Call { call, failure: Box::new(status.into()) }
    }
}

/// What it takes to reach a server: where it is, by what it is believed, and what it is shown of who calls.
#[derive(Clone, Default)]
pub struct Access {
    /// Where the server is.
    pub url: ServerUrl,
    /// PEM file of the authorities that sign the server's certificate; `None` for those that this machine trusts.
    pub tls_ca: Option<PathBuf>,
    /// PEM files of the certificate and the key by which this client is known.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
    /// The token that every call carries.
    pub token: Option<String>,
}

/// Without the token.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_token = self.token.is_some();
        f.debug_struct("Access")
            .field("url", &self.url)
            .field("tls_ca", &self.tls_ca)
            .field("tls_identity", &self.tls_identity)
            .field("has_token", &has_token)
            .finish()
    }
}

impl From<ServerUrl> for Access {
    fn from(url: ServerUrl) -> Self {
        Self { url, ..Self::default() }
    }
}

impl From<&ServerUrl> for Access {
    fn from(url: &ServerUrl) -> Self {
        url.clone().into()
    }
}

impl Access {
    /// Opens a connection; it connects anew by itself when it is lost later.
    pub async fn connect(&self) -> Result<Connection, ClientError> {
        let connecting = self.endpoint()?.connect().await;
        let channel = connecting
            .map_err(|error| ClientError::Connect { url: self.url.clone(), reason: root_cause(&error) })?;
        self.shown(channel)
    }

    /// A connection that is made when it is first used.
    pub fn connect_lazily(&self) -> Result<Connection, ClientError> {
        let endpoint = self.endpoint()?;
        self.shown(endpoint.connect_lazy())
    }

    /// The same for a worker, which notices soon when nobody is at the other end any more.
    pub async fn connect_as_worker(&self) -> Result<Connection, ClientError> {
        let connecting = kept_alive(self.endpoint()?).connect().await;
        let channel = connecting
            .map_err(|error| ClientError::Connect { url: self.url.clone(), reason: root_cause(&error) })?;
        self.shown(channel)
    }

    /// A worker's connection that is made when it is first used.
    pub fn connect_lazily_as_worker(&self) -> Result<Connection, ClientError> {
        let endpoint = kept_alive(self.endpoint()?);
        self.shown(endpoint.connect_lazy())
    }

    fn shown(&self, channel: Channel) -> Result<Connection, ClientError> {
        let Some(token) = &self.token else { return Ok(channel.into()) };
        if !self.url.has_tls() && !self.url.is_here() {
            return Err(ClientError::Access(format!(
                "a token would travel to {} unencrypted: use grpcs://, or send none",
                self.url
            )));
        }
        let no_header = || ClientError::Access("the token holds what no header can carry".into());
        Connection::with_token(channel, token).ok_or_else(no_header)
    }

    fn endpoint(&self) -> Result<Endpoint, ClientError> {
        let endpoint = Endpoint::from(self.url.0.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        if !self.url.has_tls() {
            if self.tls_ca.is_some() || self.tls_identity.is_some() {
                return Err(ClientError::Access(format!(
                    "{} is reached without TLS, but certificates are given: write grpcs://",
                    self.url
                )));
            }
            return Ok(endpoint);
        }
        let read = |path: &Path| {
            let failed = |error| ClientError::Access(format!("{} cannot be read: {error}", path.display()));
            std::fs::read(path).map_err(failed)
        };
        let mut tls = ClientTlsConfig::new().timeout(CONNECT_TIMEOUT);
        tls = match &self.tls_ca {
            Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
            None => tls.with_native_roots(),
        };
        if let Some((certificate, key)) = &self.tls_identity {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        endpoint
            .tls_config(tls)
            .map_err(|error| ClientError::Access(format!("TLS cannot be used: {}", root_cause(&error))))
    }
}

fn kept_alive(endpoint: Endpoint) -> Endpoint {
    endpoint
        .http2_keep_alive_interval(WORKER_KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(WORKER_KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

/// The innermost message: "Connection refused" says more than "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn parses(text: &str, expected: &str) {
        assert_eq!(text.parse::<ServerUrl>().unwrap().to_string(), expected, "{text}");
    }

    #[test]
    fn common_spellings_name_the_same_server() {
        parses("http://127.0.0.1:8980", "http://127.0.0.1:8980");
        parses("grpc://127.0.0.1:8980/", "http://127.0.0.1:8980");
        parses("127.0.0.1:8980", "http://127.0.0.1:8980");
        parses("127.0.0.1", "http://127.0.0.1:8980");
        parses("build.example:443", "http://build.example:443");
        parses("[::1]:50051", "http://[::1]:50051");
        parses("http://[::1]", "http://[::1]:8980");
        parses("grpcs://build.example", "https://build.example:8980");
        parses("https://build.example:443/", "https://build.example:443");
    }

    #[test]
    fn what_cannot_be_reached_says_why() {
        let refuses = |text: &str| text.parse::<ServerUrl>().unwrap_err();
        assert_eq!(refuses("unix:///run/x"), ServerUrlError::Scheme("unix".to_owned()));
        assert_eq!(refuses("http://x:1/main"), ServerUrlError::Path("main".to_owned()));
        for text in ["", "http://", ":8980", "a b", "user@host:1", "host:", "host:0", "host:99999", "host:x"]
        {
            assert_eq!(refuses(text), ServerUrlError::Syntax(text.to_owned()), "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_token_leaves_this_machine_encrypted_only() {
        let access = |url: &str| Access {
            token: Some("secret".into()),
            ..Access::from(url.parse::<ServerUrl>().unwrap())
        };
        for url in ["127.0.0.1:1", "[::1]:1", "localhost:1"] {
            access(url).connect_lazily().unwrap();
        }
        for url in ["192.0.2.1:1", "build.example:1", "localhost.example:1"] {
            let refusal = access(url).connect_lazily().unwrap_err().to_string();
            assert!(refusal.contains("unencrypted") && !refusal.contains("secret"), "{refusal}");
        }
        assert!(!format!("{:?}", access("h:1")).contains("secret"));
    }
}
