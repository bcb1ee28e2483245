//! From what a person types after `--server` to an open channel.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint, Uri};
use wardian_store::StoreError;

use super::Failure;

/// Port when the URL names none.
const DEFAULT_PORT: u16 = 8980;

/// How long to wait for the TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle time after which the connection is probed, so that a vanished server is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Bytes in flight for one stream and for the connection: enough for one large blob on a fast network.
const WINDOW_BYTES: u32 = 4 << 20;

/// The address of a server, without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl(String);

/// Why an address was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ServerUrlError {
    #[error("{0}:// needs TLS, which this client does not speak yet; use http:// or a local proxy")]
    Tls(String),
    #[error("{0}:// is no known scheme; write HOST:PORT, http://HOST:PORT or grpc://HOST:PORT")]
    Scheme(String),
    #[error("an address has no path; {0:?} may be meant as --instance")]
    Path(String),
    #[error("{0:?} is no address; write HOST:PORT, http://HOST:PORT or grpc://HOST:PORT")]
    Syntax(String),
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, ServerUrlError> {
        let rest = match text.split_once("://") {
            None => text,
            Some(("http" | "grpc", rest)) => rest,
            Some((scheme @ ("https" | "grpcs"), _)) => return Err(ServerUrlError::Tls(scheme.to_owned())),
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
        Ok(Self(format!("http://{host}:{port}")))
    }
}

/// A server on this machine, at the usual port.
impl Default for ServerUrl {
    fn default() -> Self {
        Self(format!("http://127.0.0.1:{DEFAULT_PORT}"))
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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

/// Opens a channel; it connects anew by itself when the connection is lost later.
pub(super) async fn channel(url: &ServerUrl) -> Result<Channel, ClientError> {
    endpoint(url)
        .connect()
        .await
        .map_err(|error| ClientError::Connect { url: url.clone(), reason: root_cause(&error) })
}

/// A channel that connects when it is first used.
pub(crate) fn lazy_channel(url: &ServerUrl) -> Channel {
    endpoint(url).connect_lazy()
}

fn endpoint(url: &ServerUrl) -> Endpoint {
    Endpoint::from_shared(url.0.clone())
        .expect("ServerUrl holds a valid URI")
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
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
    }

    #[test]
    fn what_cannot_be_reached_says_why() {
        let refuses = |text: &str| text.parse::<ServerUrl>().unwrap_err();
        assert_eq!(refuses("https://x:1"), ServerUrlError::Tls("https".to_owned()));
        assert_eq!(refuses("unix:///run/x"), ServerUrlError::Scheme("unix".to_owned()));
        assert_eq!(refuses("http://x:1/main"), ServerUrlError::Path("main".to_owned()));
        for text in ["", "http://", ":8980", "a b", "user@host:1", "host:", "host:0", "host:99999", "host:x"]
        {
            assert_eq!(refuses(text), ServerUrlError::Syntax(text.to_owned()), "{text:?}");
        }
    }
}
