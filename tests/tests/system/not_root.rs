//! A worker that is not root: what it confines, it confines by what the kernel lets anybody do.
//!
//! The tests run as whoever started them, and a server of theirs as nobody when that is root.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use wardian_proto::reapi::execution_stage::Value as Stage;
use wardian_proto::{Digest, DigestFunction};
use wardian_store::BlobStore as _;
use wardian_tests::{Built, ServerProcess, TestAction, component_of, until, wardian};

use super::components::components_of;

/// Who has no rights on any system.
const NOBODY: u32 = 65534;

/// Who the server runs as when it is not whoever runs the tests.
fn somebody_else() -> Option<u32> {
    rustix::process::geteuid().is_root().then_some(NOBODY)
}

fn may_make_user_namespaces() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "true"]);
    if let Some(user) = somebody_else() {
        command.uid(user).gid(user);
    }
    command.current_dir("/").output().is_ok_and(|output| output.status.success())
}

/// A server that must have sandboxes, and the folder that holds all that is its; `None` where nobody but root can make
/// any.
fn server(backend: &str) -> Option<(ServerProcess, tempfile::TempDir)> {
    if !may_make_user_namespaces() {
        let required = std::env::var("WARDIAN_SANDBOX").is_ok_and(|word| word == "require");
        assert!(!required, "sandboxes are required, and only root can make any here");
        eprintln!("NOT TESTED: only root can make user namespaces here");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    // Where the tests were built, nobody else may be allowed to look.
    let program = folder.path().join("wardian");
    fs::copy(wardian(), &program).unwrap();
    let user = somebody_else();
    if user.is_some() {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chown(folder.path(), user, user).unwrap();
    }
    let settings = format!("[worker.sandbox]\nmode = \"require\"\nbackend = \"{backend}\"\n");
    let server = ServerProcess::start_by(&program, folder.path(), &settings, user).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", server.process.id())).unwrap();
    let user = user.unwrap_or_else(|| rustix::process::geteuid().as_raw());
    assert!(status.contains(&format!("Uid:\t{user}\t{user}\t{user}\t{user}\n")), "{status}");
    assert_ne!(user, 0);
    Some((server, folder))
}

/// What an action that must succeed writes to its standard output.
async fn says(server: &ServerProcess, built: &Built) -> String {
    let ended = server.execute(built).await;
    assert_eq!(ended.refusal().map(|refusal| refusal.message), None);
    let result = ended.result();
    assert_eq!(result.exit_code, 0, "{:?}", ended.response);
    let digest = Digest::from_wire(DigestFunction::Sha256, result.stdout_digest.as_ref());
    let bytes = server.store(u64::MAX).await.get(&digest.unwrap(), u64::MAX).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_native_actions_run_in_sandboxes() {
    for backend in ["own", "bubblewrap"] {
        if backend == "bubblewrap" && Command::new("bwrap").arg("--version").output().is_err() {
            eprintln!("NOT TESTED: there is no bwrap here");
            continue;
        }
        let Some((server, folder)) = server(backend) else { return };
        runs_native_actions(&server, folder.path()).await;
    }
}

async fn runs_native_actions(server: &ServerProcess, folder: &std::path::Path) {
    let script = "id -u; pwd; cat in; echo made > made; grep CapEff /proc/self/status; \
                  tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; set -- /proc/[0-9]*; echo $#; \
                  test -e \"$SECRET\" && echo seen; test -e /root && echo seen; \
                  echo 1 2> /dev/null > /usr/x && echo wrote; unshare --user true 2> /dev/null && echo more; true";
    let secret = folder.join("data");
    let action = TestAction::sh(script, &[]).file("in", "input\n").env("SECRET", secret.to_str().unwrap());
    let user = somebody_else().unwrap_or_else(|| rustix::process::geteuid().as_raw());
    let expected = format!("{user}\n/action\ninput\nCapEff:\t0000000000000000\nlo\n2\n");
    let action =
        action.env("PATH", "/usr/bin:/bin").platform(&[("sandbox", "namespaces"), ("network", "off")]);
    assert_eq!(says(server, &action.build()).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_gives_up_its_rights_with_all_of_its_threads() {
    let Some((server, _folder)) = server("auto") else { return };
    let works = TestAction::wasm_tool(component_of("copy"), &["in", "out"]).file("in", "x").outputs(&["out"]);
    says(&server, &works.build()).await;
    let mut running =
        server.begin(&TestAction::wasm_tool(component_of("loop"), &[]).do_not_cache().build()).await;
    running.until_stage(Stage::Executing).await;
    let parent = server.process.id();
    until("the component runs", || !components_of(parent).is_empty()).await;
    let threads = format!("/proc/{}/task", components_of(parent)[0]);
    // Landlock begins with this in each thread, and a thread that was there before has not begun.
    let confined = || {
        let threads = fs::read_dir(&threads).unwrap().flatten();
        let statuses: Vec<_> =
            threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok()).collect();
        // The one that runs it, and the one that waits for the worker's end.
        (statuses.len() > 1).then(|| statuses.iter().all(|status| status.contains("NoNewPrivs:\t1")))
    };
    until("it is confined and runs", || confined().is_some()).await;
    assert_eq!(confined(), Some(true));
}
