//! Which system calls native actions are refused in a sandbox. A C program asks for them: it is compiled by an action too.

use tonic::Code;
use wardian_runtime::{SandboxBackend, SystemCalls};
use wardian_tests::{TestAction, TestServer};

use super::sandbox::{for_each_backend, server, server_with};

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

/* As who has all rights over namespaces of their own, where the filter lets anybody become that: what such a one may
   not do, nobody may. */
#define TRY_WITH_RIGHTS(name, call) \
    TRY(name, (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET), errno = 0, (call)))

int main(void) {
    TRY("unshare-user", unshare(CLONE_NEWUSER));
    TRY("unshare-files", unshare(CLONE_FILES));
    TRY("clone-user", syscall(SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0));
    TRY("clone3", syscall(435, 0, 0));
    TRY("setns", setns(-1, 0));
    TRY_WITH_RIGHTS("mount", syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, 0));
    TRY_WITH_RIGHTS("umount", syscall(SYS_umount2, "/no/such", 0));
    TRY_WITH_RIGHTS("fsopen", syscall(430, "tmpfs", 0));
    TRY_WITH_RIGHTS("open_tree", syscall(428, -100, "/", 1));
    TRY_WITH_RIGHTS("move_mount", syscall(429, -1, "", -1, "", 0));
    TRY_WITH_RIGHTS("pivot_root", syscall(SYS_pivot_root, "/no/such", "/no/such"));
    TRY_WITH_RIGHTS("chroot", syscall(SYS_chroot, "/no/such"));
    TRY("io_uring_setup", syscall(425, 1, 0));
    TRY("io_uring_enter", syscall(426, -1, 0, 0, 0, 0, 0));
    TRY("bpf", syscall(SYS_bpf, 7, 0, 0));
    TRY("perf_event_open", syscall(SYS_perf_event_open, 0, 0, -1, -1, 0));
    TRY("keyctl", syscall(SYS_keyctl, 0, -3, 0));
    TRY("add_key", syscall(SYS_add_key, "user", "a", "b", 1, -3));
    TRY("userfaultfd", syscall(SYS_userfaultfd, 1));
    TRY("open_by_handle_at", syscall(SYS_open_by_handle_at, -1, 0, 0));
    TRY("tiocsti", ioctl(0, TIOCSTI, "x"));
    TRY("socket-packet", socket(17, SOCK_RAW, 0));
    TRY_WITH_RIGHTS("pair-of-packet", ({ int two[2]; socketpair(17, SOCK_RAW, 0, two); }));
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

for_each_backend! {
    what_no_build_needs_is_refused_and_what_builds_need_is_not,
    a_signal_of_the_filter_says_where_it_may_come_from,
}

/// A sandbox in which nothing is refused, to tell what the filter refuses from what nobody could do anyway.
async fn without_the_filter(backend: SandboxBackend) -> Option<TestServer> {
    server_with(backend, |config| config.worker.sandbox.system_calls = SystemCalls::All).await
}

async fn told_by(server: &TestServer) -> String {
    let ended = server.succeed(probe()).await;
    server.streams(&ended).await.0
}

async fn what_no_build_needs_is_refused_and_what_builds_need_is_not(backend: SandboxBackend) {
    let Some(server) = server(backend).await else { return };
    let said = told_by(&server).await;
    let open = without_the_filter(backend).await.unwrap();
    let told = told_by(&open).await;
    let refused = |calls: &[&str], how| {
        for call in calls {
            assert_eq!(of(&said, call), how, "{call}");
            // Some kernels refuse it to anybody without rights.
            if how == EPERM && of(&told, call) == EPERM {
                eprintln!("NOT TESTED: {call} is refused without the filter too");
                continue;
            }
            assert_ne!(of(&told, call), how, "{call} is refused without the filter too");
        }
    };
    let not_permitted = [
        "unshare-user",
        "clone-user",
        "setns",
        "mount",
        "umount",
        "fsopen",
        "open_tree",
        "move_mount",
        "pivot_root",
        "chroot",
        "io_uring_setup",
        "io_uring_enter",
        "bpf",
        "perf_event_open",
        "keyctl",
        "add_key",
        "userfaultfd",
        "open_by_handle_at",
        "tiocsti",
    ];
    refused(&not_permitted, EPERM);
    refused(&["clone3"], ENOSYS);
    refused(&["socket-packet", "pair-of-packet"], EAFNOSUPPORT);
    if cfg!(target_arch = "x86_64") {
        refused(&["another-architecture", "other-numbers"], ENDED_BY_SIGSYS);
    }
    // And not refused in either.
    for call in ["unshare-files", "socket-unix", "socket-inet", "thread"] {
        assert_eq!((of(&said, call), of(&told, call)), (DONE, DONE), "{call}");
    }
    let ask = || TestAction::new(&["unshare", "--user", "true"]).do_not_cache();
    assert_ne!(server.run(ask()).await.result().exit_code, 0);
    open.succeed(ask()).await;
    server.assert_unharmed().await;
}

async fn a_signal_of_the_filter_says_where_it_may_come_from(backend: SandboxBackend) {
    let Some(server) = server(backend).await else { return };
    let open = without_the_filter(backend).await.unwrap();
    for (server, is_filtered) in [(server, true), (open, false)] {
        let ended = server.run(TestAction::sh("kill -SYS $$", &[])).await;
        assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 128 + 31));
        let message = &ended.response.message;
        assert_eq!(message.contains("worker.sandbox.system_calls"), is_filtered, "{message}");
    }
}
