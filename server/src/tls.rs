//! TLS on the server's port.
//!
//! Certificates are read when the server starts, and again when it is told to: connections that are there go on, new
//! ones see the new certificate. A certificate that cannot be read then changes nothing.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// How long a client may take to agree on TLS.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Connections that may agree on TLS at a time; further ones wait to be accepted.
const HANDSHAKES_MAX: usize = 1024;

/// Connections that are ready and not served yet.
const READY_MAX: usize = 16;

/// How long to wait when a connection could not be accepted, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// PEM file with the server's certificate and those that lead to an authority.
    pub certificate: PathBuf,
    /// PEM file with its key.
    pub key: PathBuf,
    /// PEM file with the authorities that sign certificates of clients. With it, clients without one are refused.
    pub client_ca: Option<PathBuf>,
}

/// The certificates of a server. Clones share them.
#[derive(Clone)]
pub(crate) struct Tls {
    settings: TlsSettings,
    current: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    pub(crate) fn new(settings: TlsSettings) -> anyhow::Result<Self> {
        let current = Arc::new(RwLock::new(read(&settings)?));
        Ok(Self { settings, current })
    }

    /// Reads the certificates again.
    pub(crate) fn reload(&self) -> anyhow::Result<()> {
        let read = read(&self.settings)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    fn acceptor(&self) -> TlsAcceptor {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone().into()
    }
}

fn read(settings: &TlsSettings) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match &settings.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path, "tls.client_ca")? {
                roots.add(certificate).with_context(|| format!("tls.client_ca {}", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.context("tls.client_ca")?)
        }
    };
    let chain = certificates(&settings.certificate, "tls.certificate")?;
    let key = PrivateKeyDer::from_pem_file(&settings.key)
        .with_context(|| format!("tls.key {} cannot be read", settings.key.display()))?;
    let mut config =
        builder.with_single_cert(chain, key).context("tls.certificate and tls.key do not fit together")?;
    // Browsers and curl may well come with HTTP/1.1, for the page and the numbers.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &PathBuf, setting: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let failed = || format!("{setting} {} cannot be read", path.display());
    let found = CertificateDer::pem_file_iter(path).with_context(failed)?;
    let found: Vec<_> = found.collect::<Result<_, _>>().with_context(failed)?;
    if found.is_empty() {
        bail!("{setting} {} holds no certificate", path.display());
    }
    Ok(found)
}

/// A connection of a client, encrypted or not.
pub(crate) struct Io {
    stream: Box<dyn Both>,
    info: TcpConnectInfo,
}

trait Both: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Both for S {}

impl Connected for Io {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.info.clone()
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Connections that agreed on TLS. One that takes its time holds up nobody else.
pub(crate) fn incoming(listener: TcpListener, tls: Tls) -> impl Stream<Item = io::Result<Io>> {
    let (ready, connections) = mpsc::channel(READY_MAX);
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    tokio::spawn(async move {
        let mut handshakes = JoinSet::new();
        loop {
            let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // The server is gone, and the port with it.
                () = ready.closed() => return,
            };
            while handshakes.try_join_next().is_some() {}
            match accepted {
                Ok((stream, _)) => {
                    let (acceptor, ready) = (tls.acceptor(), ready.clone());
                    handshakes.spawn(async move {
                        match tokio::time::timeout(HANDSHAKE_TIME_MAX, agree(acceptor, stream)).await {
                            // Nobody takes it any more when the server stops.
                            Ok(Ok(io)) => drop(ready.send(Ok(io)).await),
                            Ok(Err(error)) => tracing::debug!(%error, "a client did not agree on TLS"),
                            Err(_) => tracing::debug!("a client took too long to agree on TLS"),
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    ReceiverStream::new(connections)
}

async fn agree(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<Io> {
    let info = stream.connect_info();
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    Ok(Io { stream: Box::new(stream), info })
}
