//! Remote Asset (AST): what is pushed, and what is fetched from an origin of the test's own.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::{Code, Status};
use wardian_proto::asset::fetch_client::FetchClient;
use wardian_proto::asset::push_client::PushClient;
use wardian_proto::asset::{
    FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, FetchDirectoryResponse, PushBlobRequest,
    PushDirectoryRequest, Qualifier,
};
use wardian_proto::{DigestFunction, reapi};
use wardian_tests::{TestServer, code, digest, soon};

/// An origin: pages by path, and what was asked for.
struct Origin {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    go: watch::Sender<bool>,
}

type Pages = HashMap<&'static str, (&'static str, Vec<u8>)>;

impl Origin {
    /// Serves pages: a status line with further headers, and a body. `/slow` waits until the test lets it go.
    async fn start(pages: &[(&'static str, &'static str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pages: Pages = pages.iter().map(|(path, head, body)| (*path, (*head, body.to_vec()))).collect();
        let (pages, asked) = (Arc::new(pages), Arc::new(Mutex::new(Vec::new())));
        let (go, gone) = watch::channel(false);
        let seen = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&pages), Arc::clone(&seen), gone.clone()));
            }
        });
        Self { address, asked, go }
    }

    fn uri(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn answer(
    mut stream: TcpStream,
    pages: Arc<Pages>,
    asked: Arc<Mutex<Vec<String>>>,
    mut go: watch::Receiver<bool>,
) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await.unwrap_or(0) == 0 {
            return;
        }
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap();
    let path = request.split(' ').nth(1).unwrap().to_owned();
    asked.lock().unwrap().push(request);
    if path == "/slow" {
        go.wait_for(|go| *go).await.unwrap();
    }
    let (head, body) = pages.get(&*path).cloned().unwrap_or(("404 Not Found", Vec::new()));
    let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&body).await;
}

/// A server that may fetch from loopback addresses.
async fn server() -> TestServer {
    TestServer::with(|config| config.assets.private_addresses = true).await
}

fn qualifiers(pairs: &[(&str, &str)]) -> Vec<Qualifier> {
    pairs.iter().map(|(name, value)| Qualifier { name: (*name).into(), value: (*value).into() }).collect()
}

fn wanted(uris: &[String], pairs: &[(&str, &str)]) -> FetchBlobRequest {
    FetchBlobRequest { uris: uris.to_vec(), qualifiers: qualifiers(pairs), ..Default::default() }
}

async fn fetch(server: &TestServer, request: FetchBlobRequest) -> Result<FetchBlobResponse, Status> {
    let mut client = FetchClient::new(server.channel());
    Ok(soon("an answer", client.fetch_blob(request)).await?.into_inner())
}

async fn fetch_code(server: &TestServer, uris: &[String], pairs: &[(&str, &str)]) -> Code {
    let response = fetch(server, wanted(uris, pairs)).await.unwrap();
    Code::from(response.status.unwrap().code)
}

async fn fetch_directory(server: &TestServer, uri: &str, pairs: &[(&str, &str)]) -> FetchDirectoryResponse {
    let request =
        FetchDirectoryRequest { uris: vec![uri.into()], qualifiers: qualifiers(pairs), ..Default::default() };
    FetchClient::new(server.channel()).fetch_directory(request).await.unwrap().into_inner()
}

fn sri(data: &[u8]) -> String {
    use base64::Engine as _;
    format!("sha256-{}", base64::prelude::BASE64_STANDARD.encode(digest(data).hash()))
}

#[tokio::test(flavor = "multi_thread")]
async fn ast_13_to_16_what_was_pushed_is_found_under_each_uri_until_it_expires() {
    let server = server().await;
    let blob = server.put("pushed").await;
    let push = |uris: &[&str], expire_at: Option<SystemTime>| PushBlobRequest {
        uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
        qualifiers: qualifiers(&[("vcs.commit", "abc")]),
        expire_at: expire_at.map(Into::into),
        blob_digest: Some(blob.to_wire()),
        references_blobs: vec![blob.to_wire()],
        ..Default::default()
    };
    let mut client = PushClient::new(server.channel());
    client.push_blob(push(&["urn:a", "urn:b"], None)).await.unwrap();
    for uri in ["urn:a", "urn:b"] {
        let found =
            fetch(&server, wanted(&["urn:none".into(), uri.into()], &[("vcs.commit", "abc")])).await.unwrap();
        assert_eq!((found.blob_digest, found.uri.as_str()), (Some(blob.to_wire()), uri));
        assert_eq!(found.digest_function, i32::from(DigestFunction::Sha256.wire()));
        assert_eq!(found.qualifiers, qualifiers(&[("vcs.commit", "abc")]));
    }
    // Other qualifiers are something else, and these no origin could be asked for.
    let other = fetch(&server, wanted(&["urn:a".into()], &[("vcs.commit", "def")])).await;
    assert_eq!(code(&other), Code::InvalidArgument);
    // ast_07: too old for who wants something newer.
    let newer = FetchBlobRequest {
        oldest_content_accepted: Some((SystemTime::now() + Duration::from_secs(60)).into()),
        ..wanted(&["urn:a".into()], &[("vcs.commit", "abc")])
    };
    assert_eq!(code(&fetch(&server, newer).await), Code::InvalidArgument);
    client.push_blob(push(&["urn:a"], Some(SystemTime::now() - Duration::from_secs(1)))).await.unwrap();
    let expired = fetch(&server, wanted(&["urn:a".into()], &[("vcs.commit", "abc")])).await;
    assert_eq!(code(&expired), Code::InvalidArgument);
    let absent = PushBlobRequest { blob_digest: Some(digest(b"absent").to_wire()), ..push(&["urn:c"], None) };
    assert_eq!(code(&client.push_blob(absent).await), Code::FailedPrecondition);
    assert_eq!(code(&client.push_blob(push(&[], None)).await), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn ast_17_a_server_may_know_only_what_is_pushed_or_take_no_pushes() {
    let server = TestServer::with(|config| {
        config.assets.fetch = false;
        config.assets.push = false;
    })
    .await;
    assert_eq!(
        fetch_code(&server, &["http://127.0.0.1:1/".into()], &[("colour", "any")]).await,
        Code::NotFound
    );
    let mut client = PushClient::new(server.channel());
    assert_eq!(code(&client.push_blob(PushBlobRequest::default()).await), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_are_pushed_whole() {
    let server = server().await;
    let file = server.put("content").await;
    let node = reapi::FileNode { name: "f".into(), digest: Some(file.to_wire()), ..Default::default() };
    let root = reapi::Directory { files: vec![node], ..Default::default() }.encode_to_vec();
    let push = PushDirectoryRequest {
        uris: vec!["urn:tree".into()],
        root_directory_digest: Some(digest(&root).to_wire()),
        ..Default::default()
    };
    let mut client = PushClient::new(server.channel());
    assert_eq!(code(&client.push_directory(push.clone()).await), Code::FailedPrecondition);
    server.put(root.clone()).await;
    client.push_directory(push).await.unwrap();
    let found = fetch_directory(&server, "urn:tree", &[]).await;
    assert_eq!(found.root_directory_digest, Some(digest(&root).to_wire()));
}

#[tokio::test(flavor = "multi_thread")]
async fn ast_08_a_blob_comes_from_the_first_mirror_that_has_it_and_is_remembered() {
    let origin = Origin::start(&[("/good", "200 OK", b"content"), ("/bad", "200 OK", b"other")]).await;
    let server = server().await;
    let uris = [origin.uri("/none"), origin.uri("/bad"), origin.uri("/good")];
    let sum = sri(b"content");
    for _ in 0..2 {
        let found = fetch(&server, wanted(&uris, &[("checksum.sri", &sum)])).await.unwrap();
        assert_eq!(found.status.unwrap().code, 0);
        assert_eq!((found.blob_digest, found.uri), (Some(digest(b"content").to_wire()), uris[2].clone()));
    }
    assert_eq!(origin.asked().len(), 3, "the second time nobody was asked");
    let blake3 = i32::from(DigestFunction::Blake3.wire());
    let request = FetchBlobRequest { digest_function: blake3, ..wanted(&uris[2..], &[]) };
    let found = fetch(&server, request).await.unwrap();
    assert_eq!(found.blob_digest, Some(DigestFunction::Blake3.digest(b"content").to_wire()));
    // The last one's error is the answer, with the URI it came from.
    assert_eq!(fetch_code(&server, &uris[..1], &[]).await, Code::NotFound);
    let wrong = fetch(&server, wanted(&uris[1..2], &[("checksum.sri", &sum)])).await.unwrap();
    assert_eq!((Code::from(wrong.status.unwrap().code), wrong.uri), (Code::Aborted, uris[1].clone()));
    assert!(!server.has(digest(b"other")).await, "what does not match is not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn ast_19_headers_go_to_the_origin_and_to_nobody_else() {
    let other = Origin::start(&[("/there", "200 OK", b"content")]).await;
    let to = |uri: String| -> &'static str { format!("302 Found\r\nLocation: {uri}").leak() };
    let origin = Origin::start(&[
        ("/away", to(other.uri("/there")), b""),
        ("/user", "302 Found\r\nLocation: http://user:password@127.0.0.1/", b""),
        ("/near", "302 Found\r\nLocation: /here", b""),
        ("/here", "200 OK", b"content"),
    ])
    .await;
    let server = server().await;
    let secret = [("http_header:Authorization", "Bearer secret"), ("http_header_url:0:X-Own", "own")];
    for path in ["/near", "/away"] {
        assert_eq!(fetch_code(&server, &[origin.uri(path)], &secret).await, Code::Ok, "{path}");
    }
    let asked: Vec<String> = origin.asked().into_iter().map(|text| text.to_lowercase()).collect();
    assert_eq!(asked.len(), 3);
    assert!(
        asked.iter().all(|text| text.contains("authorization: bearer secret") && text.contains("x-own: own"))
    );
    assert!(!other.asked()[0].to_lowercase().contains("secret"), "{:?}", other.asked());
    // An origin that was left gets them no second time.
    let back = Origin::start(&[("/back", to(origin.uri("/here")), b"")]).await;
    let away = Origin::start(&[("/away", to(back.uri("/back")), b"")]).await;
    assert_eq!(fetch_code(&server, &[away.uri("/away")], &secret).await, Code::Ok);
    assert!(origin.asked().iter().filter(|text| !text.to_lowercase().contains("secret")).count() == 1);
    assert_eq!(fetch_code(&server, &[origin.uri("/user")], &[]).await, Code::PermissionDenied);
    let before = origin.asked().len();
    // What was given for a secret is not given to who has none, unless they know what it is.
    assert_eq!(fetch_code(&server, &[origin.uri("/here")], &secret).await, Code::Ok);
    assert_eq!(fetch_code(&server, &[origin.uri("/here")], &[]).await, Code::Ok);
    assert_eq!(origin.asked().len(), before + 2);
    let bad = fetch(&server, wanted(&[origin.uri("/near")], &[("http_header:Host", "x")])).await;
    assert_eq!(code(&bad), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn ast_20_addresses_inside_and_origins_that_are_not_allowed_are_refused() {
    let origin = Origin::start(&[("/x", "200 OK", b"inside")]).await;
    let guarded = TestServer::start().await;
    let port = origin.address.port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433", "[::1]"] {
        let uri = format!("http://{host}:{port}/x");
        assert_eq!(
            fetch_code(&guarded, std::slice::from_ref(&uri), &[]).await,
            Code::PermissionDenied,
            "{uri}"
        );
    }
    // Nothing could be fetched from these whatever is allowed; BuildStream asks for its URNs before it pushes.
    for uri in ["ftp://example.com/x", "file:///etc/passwd", "urn:fdc:example:2020:artifact:x"] {
        assert_eq!(fetch_code(&guarded, &[uri.into()], &[]).await, Code::NotFound, "{uri}");
    }
    for uri in ["no uri", "http://user:password@127.0.0.1/"] {
        assert_eq!(code(&fetch(&guarded, wanted(&[uri.into()], &[])).await), Code::InvalidArgument, "{uri}");
    }
    assert!(origin.asked().is_empty());
    let listed = TestServer::with(|config| {
        config.assets.private_addresses = true;
        config.assets.origins = Some(vec!["example.com".into()]);
    })
    .await;
    assert_eq!(fetch_code(&listed, &[origin.uri("/x")], &[]).await, Code::PermissionDenied);
    assert!(origin.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn ast_06_who_does_not_wait_does_not_stop_the_fetch() {
    let origin = Origin::start(&[("/slow", "200 OK", b"late")]).await;
    let server = server().await;
    let impatient = FetchBlobRequest {
        timeout: Some(prost_types::Duration { seconds: 0, nanos: 50_000_000 }),
        ..wanted(&[origin.uri("/slow")], &[])
    };
    let response = fetch(&server, impatient).await.unwrap();
    assert_eq!(Code::from(response.status.unwrap().code), Code::DeadlineExceeded);
    // Who comes now waits for the same fetch.
    origin.go.send_replace(true);
    assert_eq!(fetch_code(&server, &[origin.uri("/slow")], &[]).await, Code::Ok);
    assert_eq!(origin.asked().len(), 1);
    let negative = FetchBlobRequest {
        timeout: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        ..wanted(&[origin.uri("/x")], &[])
    };
    assert_eq!(code(&fetch(&server, negative).await), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_points_in_a_circle_or_sends_too_much_is_left() {
    let pages: &[(&str, &str, &[u8])] = &[
        ("/loop", "301 Moved\r\nLocation: /loop", b""),
        ("/large", "200 OK", &[7; 2000]),
        ("/403", "403 No", b""),
    ];
    let origin = Origin::start(pages).await;
    let server = TestServer::with(|config| {
        config.assets.private_addresses = true;
        config.assets.content_bytes_max = 1000;
    })
    .await;
    assert_eq!(fetch_code(&server, &[origin.uri("/loop")], &[]).await, Code::Aborted);
    assert_eq!(fetch_code(&server, &[origin.uri("/large")], &[]).await, Code::ResourceExhausted);
    assert_eq!(fetch_code(&server, &[origin.uri("/403")], &[]).await, Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn ast_11_an_archive_becomes_a_tree() {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in [("top/src/a.c", "int a;"), ("top/README", "read me")] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&tar.into_inner().unwrap()).unwrap();
    let archive = gz.finish().unwrap();
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let executable = zip::write::SimpleFileOptions::default().unix_permissions(0o755);
    for (path, content) in [("top/src/a.c", "int a;"), ("top/README", "read me")] {
        zip.start_file(path, executable).unwrap();
        zip.write_all(content.as_bytes()).unwrap();
    }
    let zip = zip.finish().unwrap().into_inner();
    let origin = Origin::start(&[
        ("/a.tar.gz", "200 OK", &archive),
        ("/a.zip", "200 OK", &zip),
        ("/empty", "200 OK", b""),
        ("/text", "200 OK", &[b'x'; 2000]),
    ])
    .await;
    let server = server().await;
    let (uri, sum) = (origin.uri("/a.tar.gz"), sri(&archive));
    let pairs = [("checksum.sri", sum.as_str()), ("directory", "top/src")];
    for _ in 0..2 {
        let found = fetch_directory(&server, &uri, &pairs).await;
        assert_eq!(found.status.unwrap().code, 0);
        let request =
            reapi::GetTreeRequest { root_digest: found.root_directory_digest, ..Default::default() };
        let page =
            server.cas().get_tree(request).await.unwrap().into_inner().message().await.unwrap().unwrap();
        let file = &page.directories[0].files[0];
        assert_eq!((file.name.as_str(), file.is_executable), ("a.c", true));
        assert_eq!(server.get(file.digest.as_ref()).await, "int a;");
    }
    assert_eq!(origin.asked().len(), 1);
    let trees = [
        fetch_directory(&server, &uri, &[]).await,
        fetch_directory(&server, &origin.uri("/a.zip"), &[]).await,
    ];
    assert!(trees[0].root_directory_digest.is_some());
    assert_eq!(trees[0].root_directory_digest, trees[1].root_directory_digest);
    let code_of = async |uri: &str, pairs: &[(&str, &str)]| {
        Code::from(fetch_directory(&server, uri, pairs).await.status.unwrap().code)
    };
    assert_eq!(code_of(&uri, &[("directory", "none")]).await, Code::NotFound);
    assert_eq!(code_of(&origin.uri("/text"), &[]).await, Code::Aborted);
    assert_eq!(code_of(&origin.uri("/empty"), &[]).await, Code::Aborted);
    server.assert_unharmed().await;
}
