//! Remote Asset (AST-11, AST-18): trees of commits, from repositories that a real git serves.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;
use wardian_proto::asset::fetch_client::FetchClient;
use wardian_proto::asset::{FetchDirectoryRequest, FetchDirectoryResponse, Qualifier};
use wardian_proto::reapi;
use wardian_tests::{TestServer, code, soon};

/// Runs git on a repository, with nothing of the machine's or the user's settings.
fn git(repository: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(repository)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", repository)
        .envs([("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@example.com")])
        .envs([("GIT_COMMITTER_NAME", "a"), ("GIT_COMMITTER_EMAIL", "a@example.com")])
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A repository with two commits, of which the second is on a branch, and the first has a tag.
struct Repository {
    folder: tempfile::TempDir,
    first: String,
    second: String,
}

impl Repository {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        git(at, &["init", "-q", "-b", "main"]);
        std::fs::create_dir_all(at.join("src/deep")).unwrap();
        std::fs::write(at.join("src/a.c"), "int a;").unwrap();
        std::fs::write(at.join("src/deep/large"), "x".repeat(3 << 20)).unwrap();
        std::fs::write(at.join("run.sh"), "true").unwrap();
        std::os::unix::fs::symlink("src/a.c", at.join("link")).unwrap();
        git(at, &["add", "."]);
        git(at, &["update-index", "--chmod=+x", "run.sh"]);
        git(at, &["commit", "-q", "-m", "one"]);
        git(at, &["tag", "-a", "-m", "one", "v1"]);
        let first = git(at, &["rev-parse", "HEAD"]);
        git(at, &["checkout", "-q", "-b", "next"]);
        std::fs::write(at.join("src/a.c"), "int b;").unwrap();
        git(at, &["commit", "-q", "-a", "-m", "two"]);
        let second = git(at, &["rev-parse", "HEAD"]);
        git(at, &["checkout", "-q", "main"]);
        Self { folder, first, second }
    }

    /// Serves it over HTTP. What was asked for is kept.
    async fn serve(&self) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/r.git", listener.local_addr().unwrap());
        let (folder, asked) = (self.folder.path().to_owned(), Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (folder, seen) = (folder.clone(), Arc::clone(&seen));
                tokio::spawn(async move { answer(stream, &folder, &seen).await });
            }
        });
        (uri, asked)
    }
}

async fn answer(mut stream: TcpStream, repository: &Path, asked: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await.unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let mut body = vec![0; field("content-length:").map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.unwrap();
    let is_listing = head.starts_with("get /r.git/info/refs?service=git-upload-pack ");
    let is_talk = head.starts_with("post /r.git/git-upload-pack ");
    let mut reply = Vec::new();
    let kind = if is_listing { "advertisement" } else { "result" };
    if is_listing || is_talk {
        let mut command = Command::new("git");
        command.args(["upload-pack", "--stateless-rpc"]);
        if is_listing {
            reply.extend_from_slice(b"001e# service=git-upload-pack\n0000");
            command.arg("--http-backend-info-refs");
        }
        command.arg(repository).env("GIT_PROTOCOL", field("git-protocol:").unwrap_or_default());
        command.env("HOME", repository).env("GIT_CONFIG_NOSYSTEM", "1");
        command
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = tokio::task::spawn_blocking(move || {
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), &body).unwrap();
            child.wait_with_output().unwrap()
        });
        reply.extend_from_slice(&output.await.unwrap().stdout);
    }
    asked.lock().unwrap().push(head);
    let status = if is_listing || is_talk { "200 OK" } else { "404 Not Found" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/x-git-upload-pack-{kind}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        reply.len()
    );
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&reply).await;
}

async fn fetch(
    server: &TestServer,
    uri: &str,
    pairs: &[(&str, &str)],
) -> Result<FetchDirectoryResponse, tonic::Status> {
    let qualifier = |(name, value): &(&str, &str)| Qualifier { name: (*name).into(), value: (*value).into() };
    let request = FetchDirectoryRequest {
        uris: vec![uri.into()],
        qualifiers: pairs.iter().map(qualifier).collect(),
        ..Default::default()
    };
    let mut client = FetchClient::new(server.channel());
    soon("an answer", client.fetch_directory(request)).await.map(tonic::Response::into_inner)
}

/// The root of what was fetched.
async fn root(server: &TestServer, found: &FetchDirectoryResponse) -> reapi::Directory {
    let status = found.status.clone().unwrap();
    assert_eq!(status.code, 0, "{}", status.message);
    let request =
        reapi::GetTreeRequest { root_digest: found.root_directory_digest.clone(), ..Default::default() };
    let mut pages = server.cas().get_tree(request).await.unwrap().into_inner();
    pages.message().await.unwrap().unwrap().directories.remove(0)
}

fn commit(found: &FetchDirectoryResponse) -> Option<&str> {
    found.qualifiers.iter().find(|one| one.name == "vcs.commit").map(|one| one.value.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn ast_18_a_commit_becomes_a_tree() {
    let repository = Repository::new();
    let (uri, asked) = repository.serve().await;
    let server = TestServer::with(|config| config.assets.private_addresses = true).await;
    let by_hash = [("vcs.commit", repository.first.as_str())];
    let whole = fetch(&server, &uri, &by_hash).await.unwrap();
    let top = root(&server, &whole).await;
    assert_eq!((top.files[0].name.as_str(), top.files[0].is_executable), ("run.sh", true));
    assert_eq!((top.symlinks[0].name.as_str(), top.symlinks[0].target.as_str()), ("link", "src/a.c"));
    assert_eq!(commit(&whole), Some(repository.first.as_str()));

    // The same commit by other names.
    for pairs in [[("vcs.commit", "v1")], [("vcs.branch", "main")], [("resource_type", "application/x-git")]]
    {
        let found = fetch(&server, &uri, &pairs).await.unwrap();
        assert_eq!(found.root_directory_digest, whole.root_directory_digest, "{pairs:?}");
        assert_eq!(commit(&found), Some(repository.first.as_str()), "{pairs:?}");
    }
    let part = [("vcs.branch", "next"), ("directory", "src")];
    let found = fetch(&server, &uri, &part).await.unwrap();
    assert_eq!(commit(&found), Some(repository.second.as_str()));
    assert_eq!(server.get(root(&server, &found).await.files[0].digest.as_ref()).await, "int b;");

    // It is remembered with the commit that it was.
    let before = asked.lock().unwrap().len();
    assert_eq!(commit(&fetch(&server, &uri, &part).await.unwrap()), Some(repository.second.as_str()));
    assert_eq!(asked.lock().unwrap().len(), before);
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ast_18_links_that_no_tree_may_have_are_told() {
    let repository = Repository::new();
    let (uri, _) = repository.serve().await;
    let server = TestServer::with(|config| config.assets.private_addresses = true).await;
    let at = repository.folder.path();
    for (branch, target, told) in [("long", "a/".repeat(3000), "too long")] {
        // Without the file system, which has its own mind about long links.
        std::fs::write(at.join("target"), target).unwrap();
        let blob = git(at, &["hash-object", "-w", "target"]);
        git(at, &["update-index", "--add", "--cacheinfo", &format!("120000,{blob},odd")]);
        let tree = git(at, &["write-tree"]);
        let commit = git(at, &["commit-tree", "-m", branch, &tree]);
        git(at, &["branch", branch, &commit]);
        let status = fetch(&server, &uri, &[("vcs.branch", branch)]).await.unwrap().status.unwrap();
        assert_eq!(Code::from(status.code), Code::Aborted, "{}", status.message);
        assert!(
            status.message.contains("symlink odd") && status.message.contains(told),
            "{}",
            status.message
        );
    }
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ast_18_what_a_repository_does_not_have_is_not_found() {
    let repository = Repository::new();
    let (uri, asked) = repository.serve().await;
    let server = TestServer::with(|config| config.assets.private_addresses = true).await;
    let code_of = async |uri: &str, pairs: &[(&str, &str)]| {
        Code::from(fetch(&server, uri, pairs).await.unwrap().status.unwrap().code)
    };
    let zeros = "0".repeat(40);
    for pairs in [[("vcs.branch", "none")], [("vcs.commit", "v2")], [("vcs.commit", zeros.as_str())]] {
        assert_eq!(code_of(&uri, &pairs).await, Code::NotFound, "{pairs:?}");
    }
    assert_eq!(code_of(&uri, &[("vcs.branch", "main"), ("directory", "none")]).await, Code::NotFound);
    assert_eq!(code_of(&uri.replace("r.git", "s.git"), &[("vcs.branch", "main")]).await, Code::NotFound);
    let odd = fetch(&server, &uri, &[("vcs.branch", "a b")]).await;
    assert_eq!(code(&odd), Code::InvalidArgument);
    // Secrets go to git's origin as to any other, and addresses inside are refused here as well.
    let secret = [("vcs.branch", "main"), ("http_header:Authorization", "Bearer secret")];
    asked.lock().unwrap().clear();
    assert_eq!(code_of(&uri, &secret).await, Code::Ok);
    assert!(asked.lock().unwrap().iter().all(|head| head.contains("authorization: bearer secret")));
    let guarded = TestServer::start().await;
    let refused = fetch(&guarded, &uri, &[("vcs.branch", "main")]).await.unwrap();
    assert_eq!(Code::from(refused.status.unwrap().code), Code::PermissionDenied);
}
