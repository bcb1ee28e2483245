//! The program as a person runs it, against a server in this process.

use std::path::Path;
use std::process::{Command, Output};

use wardian_server::app::Server;
use wardian_server::config::Config;

/// Writes the postcard of the small demo.
const POSTCARD: &str = include_str!("../demo/postcard.wat");

/// Exits with the code 42.
const EXIT_42: &str = r#"(module
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func (export "_start") (call $exit (i32.const 42))))"#;

/// A server, and a local folder with two tools.
struct Setup {
    server: Server,
    data: tempfile::TempDir,
    local: tempfile::TempDir,
}

impl Setup {
    async fn new() -> Self {
        let (data, local) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (name, text) in [("postcard.wasm", POSTCARD), ("exit.wasm", EXIT_42)] {
            std::fs::write(local.path().join(name), wat::parse_str(text).unwrap()).unwrap();
        }
        let listen = ([127, 0, 0, 1], 0).into();
        let mut config = Config { listen, data: data.path().to_owned(), ..Config::default() };
        config.worker.compile.program = env!("CARGO_BIN_EXE_wardian").into();
        Self { server: Server::start(config).await.unwrap(), data, local }
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = wardian(self.local.path());
        command.args(["--server", &self.server.address().to_string()]).args(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    async fn end(self) {
        self.server.shutdown().await.unwrap();
        self.data.close().unwrap();
    }
}

fn wardian(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wardian"));
    command.current_dir(directory).env_remove("WARDIAN_SERVER").env_remove("WARDIAN_LOG");
    command
}

#[track_caller]
fn text(output: &Output, code: i32) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{stdout}\n{stderr}");
    (stdout, stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_and_exit_codes_come_back() {
    let setup = Setup::new().await;
    let run = ["run", "--input", ".", "--output", "postcard.txt", "--output-root", "back"];
    let output = setup.run(&[&run[..], &["--", "./postcard.wasm"]].concat()).await;
    let (stdout, stderr) = text(&output, 0);
    assert_eq!(std::fs::read_to_string(setup.local.path().join("back/postcard.txt")).unwrap(), stdout);
    assert_eq!(stderr, "");

    let output = setup.run(&["run", "-i", ".", "-o", "x", "--", "./exit.wasm"]).await;
    assert_eq!(text(&output, 42).1, "note: the tool made no output x\n");

    let output = setup.run(&["run", "-p", "OSFamily=plan9", "--", "./exit.wasm"]).await;
    let (_, stderr) = text(&output, 1);
    assert!(stderr.contains("FAILED_PRECONDITION") && stderr.contains("OSFamily=plan9"), "{stderr}");
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_action_twice_is_sent_once() {
    let setup = Setup::new().await;
    let json = async || {
        let output = setup.run(&["run", "-i", ".", "--json", "--", "./exit.wasm"]).await;
        serde_json::from_str::<serde_json::Value>(&text(&output, 42).0).unwrap()
    };
    let (first, second) = (json().await, json().await);
    assert_eq!((first["exit_code"].clone(), first["error"].clone()), (42.into(), serde_json::Value::Null));
    assert_eq!(first["action_digest"], second["action_digest"]);
    assert_eq!((&second["sent"]["blobs"], &second["sent"]["bytes"]), (&0.into(), &0.into()));
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_goes_in_and_can_be_looked_at_and_used() {
    let setup = Setup::new().await;
    let root = text(&setup.run(&["cas", "put", "."]).await, 0).0.trim().to_owned();
    let (listing, _) = text(&setup.run(&["cas", "ls", &root]).await, 0);
    let file = listing.lines().find(|line| line.ends_with("  postcard.wasm")).unwrap();
    let digest = file.split("  ").nth(1).unwrap();
    let bytes = setup.run(&["cas", "get", digest]).await.stdout;
    assert_eq!(bytes, std::fs::read(setup.local.path().join("postcard.wasm")).unwrap());
    text(&setup.run(&["cas", "get", digest, "--output", "copy"]).await, 0);
    assert_eq!(bytes, std::fs::read(setup.local.path().join("copy")).unwrap());
    let (tree, _) = text(&setup.run(&["cas", "tree", &root]).await, 0);
    assert!(tree.starts_with(&root) && tree.contains("└── postcard.wasm"), "{tree}");

    let graft = format!("tools={root}");
    let output = setup.run(&["run", "--json", "--graft", &graft, "--", "tools/exit.wasm"]).await;
    let value: serde_json::Value = serde_json::from_str(&text(&output, 42).0).unwrap();
    let action = value["action_digest"].as_str().unwrap().to_owned();
    let (shown, _) = text(&setup.run(&["action", "show", &action]).await, 0);
    assert!(shown.contains("  tools/exit.wasm\n") && shown.contains("└── tools/"), "{shown}");
    setup.end().await;
}

#[test]
fn a_server_that_is_not_there_is_said_plainly() {
    // Nothing can listen on port 1 without rights that tests do not have.
    let output =
        wardian(Path::new(".")).args(["cas", "put", ".", "--server", "127.0.0.1:1"]).output().unwrap();
    assert!(text(&output, 1).1.starts_with("error: no server answers at http://127.0.0.1:1"));
}

#[test]
fn the_small_demo_needs_nothing() {
    let output = wardian(Path::new(".")).args(["demo", "--small"]).output().unwrap();
    let (stdout, stderr) = text(&output, 0);
    assert!(stdout.contains("greetings from inside"), "{stdout}");
    assert!(stdout.contains("the digests are equal. Actions executed: 2, from the cache: 1."), "{stdout}");
    assert!(!stdout.contains('\u{1b}') && !stderr.contains('\u{1b}'), "{stdout}{stderr}");
}
