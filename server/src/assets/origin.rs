//! Getting bytes from an origin over HTTP.
//!
//! Every connection is made here, to an address that was looked at: a name that leads to a private address is
//! refused whatever it led to before, and so is each further place that an origin points to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use url::{Host, Url};

use super::address::{is_allowed, is_public};
use super::{AssetLimits, FetchError};

/// Places that an origin may point on to, one after the other.
const REDIRECTS_MAX: usize = 10;

/// How long a connection to one address may take to be there, and TLS over it.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(20);

/// Addresses of one host that are tried.
const ADDRESSES_MAX: usize = 4;

/// How long an origin may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A client of origins.
pub(super) struct Origins {
    tls: TlsConnector,
    limits: AssetLimits,
}

/// What an origin sends, piece by piece.
pub(super) struct Content {
    body: Incoming,
    host: String,
}

impl Origins {
    pub(super) fn new(limits: AssetLimits) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        // Certificates that cannot be read are none; what is left decides which origins can be believed.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be used: {error}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), limits })
    }

    /// Asks for a URI, and goes where the origin points to. Headers go to the first origin only.
    pub(super) async fn get(&self, uri: &str, headers: &[(&str, &str)]) -> Result<Content, FetchError> {
        let first = parse(uri)?;
        let headers = checked(headers)?;
        let mut url = first.clone();
        // An origin that was left has no way to get them back to itself.
        let mut has_left = false;
        for _ in 0..=REDIRECTS_MAX {
            has_left |= url.origin() != first.origin();
            let response = self.ask(&url, if has_left { &[] } else { &headers }).await?;
            let host = url.host_str().unwrap_or_default().to_owned();
            match response.status() {
                StatusCode::OK => return Ok(Content { body: response.into_body(), host }),
                status if status.is_redirection() => url = next(&url, &response)?,
                status => return Err(refused(&host, status)),
            }
        }
        let host = first.host_str().unwrap_or_default();
        Err(FetchError::Aborted(format!("{host} points on more than {REDIRECTS_MAX} times")))
    }

    async fn ask(
        &self,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Response<Incoming>, FetchError> {
        let host = url.host().ok_or_else(|| FetchError::Invalid("a URI without a host".into()))?;
        if let Some(list) = &self.limits.origins
            && !is_allowed(&host.to_string(), list)
        {
            return Err(FetchError::Denied(format!(
                "{host} is not among the origins of this server (setting assets.origins)"
            )));
        }
        let stream = self.connect(url, &host).await?;
        let send = async {
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&host, &error))?;
            // Ends with the response, or when nobody wants it any more.
            tokio::spawn(connection);
            let mut request = Request::get(&url[url::Position::BeforePath..url::Position::AfterQuery])
                .body(Empty::<Bytes>::new())
                .map_err(|error| FetchError::Invalid(error.to_string()))?;
            let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
            let value =
                HeaderValue::from_str(authority).map_err(|_| FetchError::Invalid("a URI's host".into()))?;
            request.headers_mut().insert(HOST, value);
            request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("wardian"));
            for (name, value) in headers {
                request.headers_mut().insert(name, value.clone());
            }
            sender.send_request(request).await.map_err(|error| broken(&host, &error))
        };
        timed("answer", &host, SILENCE_MAX, send).await
    }

    async fn connect(&self, url: &Url, host: &Host<&str>) -> Result<Box<dyn Stream>, FetchError> {
        let port = url.port_or_known_default().unwrap_or(80);
        let tcp = self.dial(host, port).await?;
        if url.scheme() == "http" {
            return Ok(Box::new(tcp));
        }
        let name = match host {
            Host::Domain(name) => ServerName::try_from((*name).to_owned())
                .map_err(|_| FetchError::Invalid("a URI's host".into()))?,
            Host::Ipv4(address) => ServerName::from(std::net::IpAddr::from(*address)),
            Host::Ipv6(address) => ServerName::from(std::net::IpAddr::from(*address)),
        };
        let tls = async { self.tls.connect(name, tcp).await.map_err(|error| broken(host, &error)) };
        Ok(Box::new(timed("TLS", host, CONNECT_TIME_MAX, tls).await?))
    }

    /// Connects to the first address that may be used and answers.
    async fn dial(&self, host: &Host<&str>, port: u16) -> Result<TcpStream, FetchError> {
        let addresses: Vec<SocketAddr> = match host {
            Host::Ipv4(address) => vec![(*address, port).into()],
            Host::Ipv6(address) => vec![(*address, port).into()],
            Host::Domain(name) => {
                let found = async {
                    let found = tokio::net::lookup_host((*name, port)).await;
                    Ok(found.map_err(|error| broken(host, &error))?.collect())
                };
                timed("address", host, CONNECT_TIME_MAX, found).await?
            }
        };
        let allowed = |address: &&SocketAddr| self.limits.private_addresses || is_public(address.ip());
        let mut last = FetchError::Denied(format!(
            "{host} leads to an address that is not of the public internet (setting assets.private_addresses)"
        ));
        for address in addresses.iter().filter(allowed).take(ADDRESSES_MAX) {
            let connect = async { TcpStream::connect(address).await.map_err(|error| broken(host, &error)) };
            match timed("connection", host, CONNECT_TIME_MAX, connect).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Content {
    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let frame = tokio::time::timeout(SILENCE_MAX, self.body.frame()).await;
            let frame = frame.map_err(|_| silent("more", &self.host, SILENCE_MAX))?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(&self.host, &error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// A URI that can be fetched. What it may hold beside the place, such as a password, no message repeats.
fn parse(uri: &str) -> Result<Url, FetchError> {
    let url =
        Url::parse(uri).map_err(|error| FetchError::Invalid(format!("a URI cannot be read: {error}")))?;
    if !is_http(&url) {
        // Some clients push under URNs of their own and ask for these first: to them it must be a plain miss.
        return Err(FetchError::NotFound(format!(
            "nothing was pushed for this URI, and scheme {:?} is not fetched; http and https are",
            url.scheme()
        )));
    }
    check(&url)?;
    Ok(url)
}

fn is_http(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
}

fn check(url: &Url) -> Result<(), FetchError> {
    if !is_http(url) {
        return Err(FetchError::Denied(format!(
            "scheme {:?} is not fetched; http and https are",
            url.scheme()
        )));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(FetchError::Invalid("a URI with a user; send a header instead".into()));
    }
    Ok(())
}

fn next(url: &Url, response: &Response<Incoming>) -> Result<Url, FetchError> {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location =
        location.ok_or_else(|| FetchError::Aborted("an origin points on, but not where".into()))?;
    let next = url.join(location).map_err(|_| FetchError::Aborted("an origin points on to no URI".into()))?;
    if url.scheme() == "https" && next.scheme() == "http" {
        return Err(FetchError::Denied("an origin points from https to http".into()));
    }
    check(&next).map_err(|error| FetchError::Denied(format!("an origin points on to {error}")))?;
    Ok(next)
}

fn checked(headers: &[(&str, &str)]) -> Result<Vec<(HeaderName, HeaderValue)>, FetchError> {
    let check = |(name, value): &(&str, &str)| {
        let refused = || FetchError::Invalid(format!("{name:?} or its value is no HTTP header"));
        let mut value = HeaderValue::from_str(value).map_err(|_| refused())?;
        value.set_sensitive(true);
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?;
        // These say what the connection is, not who asks.
        if ["host", "content-length", "transfer-encoding", "connection", "upgrade", "te"]
            .contains(&name.as_str())
        {
            return Err(FetchError::Invalid(format!("header {name} cannot be set by a request")));
        }
        Ok((name, value))
    };
    headers.iter().map(check).collect()
}

fn refused(host: &str, status: StatusCode) -> FetchError {
    let text = format!("{host} answered {status}");
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => FetchError::NotFound(text),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FetchError::Denied(text),
        StatusCode::TOO_MANY_REQUESTS => FetchError::Exhausted(text),
        _ => FetchError::Aborted(text),
    }
}

fn broken(host: &(dyn std::fmt::Display + Sync), error: &(dyn std::fmt::Display + Sync)) -> FetchError {
    FetchError::Aborted(format!("{host}: {error}"))
}

fn silent(what: &str, host: &(dyn std::fmt::Display + Sync), time: Duration) -> FetchError {
    FetchError::TimedOut(format!("{host}: no {what} within {} s", time.as_secs()))
}

async fn timed<T>(
    what: &str,
    host: &(dyn std::fmt::Display + Sync),
    time: Duration,
    work: impl Future<Output = Result<T, FetchError>>,
) -> Result<T, FetchError> {
    tokio::time::timeout(time, work).await.unwrap_or_else(|_| Err(silent(what, host, time)))
}
