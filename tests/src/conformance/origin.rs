//! An origin on this machine, for servers that fetch what a URI names.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Stop;

/// Longest request that is read.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// What is served at a path: a status line without the version, and a body.
pub(super) struct Page {
    pub(super) path: String,
    pub(super) status: &'static str,
    pub(super) body: Bytes,
}

/// A server of HTTP that knows a few pages. It ends with this.
pub(super) struct Origin {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    go: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

/// Pages below this path are held back until [`Origin::let_go`].
pub(super) const HELD: &str = "/held/";

impl Origin {
    pub(super) async fn start(pages: Vec<Page>) -> Result<Self, Stop> {
        let failed = |error| Stop::skipped(format!("no origin can be started here: {error}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let pages: HashMap<String, Page> = pages.into_iter().map(|page| (page.path.clone(), page)).collect();
        let (pages, asked) = (Arc::new(pages), Arc::new(Mutex::new(Vec::new())));
        let (go, gone) = watch::channel(false);
        let seen = Arc::clone(&asked);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&pages), Arc::clone(&seen), gone.clone()));
            }
        });
        Ok(Self { address, asked, go, serving })
    }

    pub(super) fn uri(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The heads of all requests so far.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no code that holds this lock panics").clone()
    }

    /// Answers what was held back.
    pub(super) fn let_go(&self) {
        self.go.send_replace(true);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(
    mut stream: TcpStream,
    pages: Arc<HashMap<String, Page>>,
    asked: Arc<Mutex<Vec<String>>>,
    mut go: watch::Receiver<bool>,
) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) if request.len() < REQUEST_BYTES_MAX => request.push(byte),
            _ => return,
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    asked.lock().expect("no code that holds this lock panics").push(request);
    if path.starts_with(HELD) && go.wait_for(|go| *go).await.is_err() {
        return;
    }
    let (status, body) =
        pages.get(&path).map_or(("404 Not Found", Bytes::new()), |page| (page.status, page.body.clone()));
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // Whoever asked may be gone.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&body).await;
}
