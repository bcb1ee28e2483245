//! Which system calls native actions are refused in a sandbox. A C program asks for them: it is compiled by an action too.

use tonic::Code;
use wardian_runtime::SystemCalls;
use wardian_tests::TestAction;

use super::sandbox::{server, server_with};

/// Makes one call after another and says what came of each: 0, or the number of the error.
const PROBE: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int number(long returned) { return returned < 0 ? errno : 0; }
static void tell(const char *name, int number) { printf("%s %d\n", name, number); fflush(stdout); }

/* A child of its own each time, as a call that succeeds changes who calls. */
#define TRY(name, call) do { \
    errno = 0; \
    int child = fork(), status = 0; \
    if (child == 0) _exit(number(call)); \
    waitpid(child, &status, 0); \
    tell(name, WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status)); \
} while (0)

static void *thread(void *said) { *(int *)said = 0; return 0; }

int main(void) {
    TRY("unshare-user", unshare(CLONE_NEWUSER));
    TRY("unshare-files", unshare(CLONE_FILES));
    TRY("clone-user", syscall(SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0));
    TRY("clone3", syscall(435, 0, 0));
    TRY("setns", setns(-1, 0));
    TRY("mount", syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, 0));
    TRY("fsopen", syscall(430, "tmpfs", 0));
    TRY("open_tree", syscall(428, -100, "/", 1));
    TRY("pivot_root", syscall(SYS_pivot_root, ".", "."));
    TRY("io_uring_setup", syscall(425, 1, 0));
    TRY("bpf", syscall(SYS_bpf, 0, 0, 0));
    TRY("perf_event_open", syscall(SYS_perf_event_open, 0, 0, -1, -1, 0));
    TRY("keyctl", syscall(SYS_keyctl, 0, -3, 0));
    TRY("add_key", syscall(SYS_add_key, "user", "a", "b", 1, -3));
    TRY("userfaultfd", syscall(SYS_userfaultfd, 1));
    TRY("open_by_handle_at", syscall(SYS_open_by_handle_at, -1, 0, 0));
    TRY("tiocsti", ioctl(0, TIOCSTI, "x"));
    TRY("socket-vsock", socket(40, SOCK_STREAM, 0));
    TRY("socket-alg", socket(38, SOCK_SEQPACKET, 0));
    TRY("socket-unix", socket(AF_UNIX, SOCK_STREAM, 0));
    TRY("socket-inet", socket(AF_INET, SOCK_STREAM, 0));
#ifdef __x86_64__
    TRY("another-architecture", ({ long r; __asm__ volatile("int $0x80" : "=a"(r) : "a"(20)); r; }));
    TRY("other-numbers", syscall(0x40000000 | SYS_getpid));
#endif
    int said = 1;
    pthread_t one;
    if (!pthread_create(&one, 0, thread, &said)) pthread_join(one, 0);
    tell("thread", said);
    return 0;
}
"#;

const COMPILE_AND_RUN: &str = "gcc -pthread -o probe probe.c && ./probe";

fn probe() -> TestAction {
    TestAction::sh(COMPILE_AND_RUN, &[]).file("probe.c", PROBE).env("PATH", "/usr/bin:/bin").do_not_cache()
}

/// What the probe says of one call.
fn of<'a>(said: &'a str, call: &str) -> &'a str {
    let line = said.lines().find_map(|line| line.strip_prefix(call)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("nothing of {call} in {said}"))
}

const EPERM: &str = "1";
const ENOSYS: &str = "38";
const EAFNOSUPPORT: &str = "97";
const ENDED_BY_SIGSYS: &str = "1031";
const DONE: &str = "0";

#[tokio::test(flavor = "multi_thread")]
async fn what_no_build_needs_is_refused_and_what_builds_need_is_not() {
    let Some(server) = server().await else { return };
    let ended = server.succeed(probe()).await;
    let said = server.streams(&ended).await.0;
    let refused = [
        "unshare-user",
        "clone-user",
        "setns",
        "mount",
        "fsopen",
        "open_tree",
        "pivot_root",
        "io_uring_setup",
        "bpf",
        "perf_event_open",
        "keyctl",
        "add_key",
        "userfaultfd",
        "open_by_handle_at",
        "tiocsti",
    ];
    for call in refused {
        assert_eq!(of(&said, call), EPERM, "{call}");
    }
    assert_eq!(of(&said, "clone3"), ENOSYS);
    for call in ["socket-vsock", "socket-alg"] {
        assert_eq!(of(&said, call), EAFNOSUPPORT, "{call}");
    }
    for call in ["unshare-files", "socket-unix", "socket-inet", "thread"] {
        assert_eq!(of(&said, call), DONE, "{call}");
    }
    if cfg!(target_arch = "x86_64") {
        for call in ["another-architecture", "other-numbers"] {
            assert_eq!(of(&said, call), ENDED_BY_SIGSYS, "{call}");
        }
    }
    let ended = server.run(TestAction::new(&["unshare", "--user", "true"])).await;
    assert_ne!(ended.result().exit_code, 0);
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_of_the_filter_says_where_it_may_come_from() {
    let Some(server) = server().await else { return };
    let ended = server.run(TestAction::sh("kill -SYS $$", &[])).await;
    assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 128 + 31));
    assert!(ended.response.message.contains("worker.sandbox.system_calls"), "{}", ended.response.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_can_be_told_to_refuse_nothing() {
    let all = |config: &mut wardian_server::config::Config| {
        config.worker.sandbox.system_calls = SystemCalls::All;
    };
    let Some(server) = server_with(all).await else { return };
    let ended = server.succeed(probe()).await;
    let said = server.streams(&ended).await.0;
    for call in ["unshare-user", "clone-user", "socket-inet", "thread"] {
        assert_eq!(of(&said, call), DONE, "{call}");
    }
    // A null pointer and not the filter is what is wrong here.
    assert_ne!(of(&said, "clone3"), ENOSYS);
}
