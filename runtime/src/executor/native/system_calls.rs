//! The system calls that a command in a sandbox is refused: what no build needs, and what leads into parts of the kernel
//! that have let others out of their sandboxes before.
//!
//! It is a list of what is refused, not of what is allowed: a tool that nobody here has heard of must run. Refusals are
//! errors that programs know how to live with. `ptrace` and its kin stay: debuggers and leak checkers use them, and the
//! command sees no process but its own.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

/// Calls that are refused with EPERM, whatever their arguments.
const REFUSED: &[c_long] = &[
    // Other file systems, other roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    OPEN_TREE_ATTR,
    // Files by their numbers, past all directories.
    libc::SYS_open_by_handle_at,
    // Other namespaces; see also `NAMESPACES`.
    libc::SYS_setns,
    // The kernel itself.
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    QUOTACTL_FD,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_nfsservctl,
    libc::SYS_vhangup,
    LOOKUP_DCOOKIE,
    // Programs inside the kernel, and looking at it.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_fanotify_init,
    // Keys are no part of any namespace.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // What exploits of the last years were made of.
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// The same, where they are only on this processor.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] = &[
    libc::SYS_kexec_file_load,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[c_long] = &[KEXEC_FILE_LOAD];

// Not every version of every C library names them.
const OPEN_TREE_ATTR: c_long = 467;
const QUOTACTL_FD: c_long = 443;
#[cfg(target_arch = "x86_64")]
const LOOKUP_DCOOKIE: c_long = 212;
#[cfg(not(target_arch = "x86_64"))]
const LOOKUP_DCOOKIE: c_long = 18;
#[cfg(not(target_arch = "x86_64"))]
const KEXEC_FILE_LOAD: c_long = 294;

/// Namespaces that `unshare` and `clone` would make. In one of users a command would have all rights, over all that
/// the kernel lets these do.
const NAMESPACES: &[i32] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// A namespace that only `unshare` knows: to `clone` the same bit is part of a signal's number.
const NEW_TIME: u64 = 0x80;

/// Kinds of sockets that programs use. Others have kernel code of their own, and some reach past the network namespace
/// to what the machine itself runs on.
const SOCKETS: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Requests that put words into the mouth of whoever sits at a terminal: TIOCSTI and TIOCLINUX, whose type is another in
/// each C library.
const TERMINAL_REQUESTS: [u64; 2] = [0x5412, 0x541c];

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Takes the calls away from this process and all that it becomes. It must have given up the way to new rights.
pub(super) fn refuse() -> io::Result<()> {
    for program in programs()? {
        seccompiler::apply_filter(&program).map_err(|error| io::Error::other(format!("seccomp: {error}")))?;
    }
    Ok(())
}

/// One program for each error that is given, as one program gives one error.
pub(super) fn programs() -> io::Result<Vec<BpfProgram>> {
    let compiled = || -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
        // The C library then uses `clone`, whose flags are in a register and not in memory.
        let no_such_call = Rules::from([(libc::SYS_clone3, Vec::new())]);
        [
            (libc::EPERM, not_permitted()?),
            (libc::ENOSYS, no_such_call),
            (libc::EAFNOSUPPORT, other_sockets()?),
        ]
        .into_iter()
        .map(|(errno, rules)| compile(errno, rules))
        .collect()
    };
    compiled().map_err(|error| io::Error::other(format!("filter of system calls: {error}")))
}

fn compile(errno: i32, rules: Rules) -> Result<BpfProgram, seccompiler::BackendError> {
    let processor = TargetArch::try_from(std::env::consts::ARCH)?;
    // A call of another architecture, whose numbers mean other calls, ends the process.
    let refusal = SeccompAction::Errno(errno.unsigned_abs());
    let program: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, refusal, processor)?.try_into()?;
    Ok([other_numbers(), program].concat())
}

/// The processor of x86-64 has a second set of numbers (x32), which the kernel tells by one bit of the number and not by
/// the name of the architecture.
fn other_numbers() -> BpfProgram {
    const X32_BIT: u32 = 0x4000_0000;
    const LOAD_NUMBER: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    if !cfg!(target_arch = "x86_64") {
        return Vec::new();
    }
    vec![
        sock_filter { code: LOAD_NUMBER, jt: 0, jf: 0, k: 0 },
        sock_filter { code: JUMP_IF_AT_LEAST, jt: 0, jf: 1, k: X32_BIT },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_KILL_PROCESS },
    ]
}

fn not_permitted() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = REFUSED.iter().chain(REFUSED_HERE).map(|call| (*call, Vec::new())).collect();
    let has_flag = |flag: u64| all_of(vec![argument(0, SeccompCmpOp::MaskedEq(flag), flag)?]);
    let namespaces = || NAMESPACES.iter().map(|flag| has_flag(u64::from(flag.cast_unsigned())));
    rules.insert(libc::SYS_clone, namespaces().collect::<Result<_, _>>()?);
    rules.insert(libc::SYS_unshare, namespaces().chain([has_flag(NEW_TIME)]).collect::<Result<_, _>>()?);
    let requests = TERMINAL_REQUESTS.map(|request| all_of(vec![argument(1, SeccompCmpOp::Eq, request)?]));
    rules.insert(libc::SYS_ioctl, requests.into_iter().collect::<Result<_, _>>()?);
    Ok(rules)
}

fn other_sockets() -> Result<Rules, seccompiler::BackendError> {
    let none_of_them = || {
        let differs = |kind: i32| argument(0, SeccompCmpOp::Ne, u64::from(kind.unsigned_abs()));
        Ok::<_, seccompiler::BackendError>(vec![all_of(
            SOCKETS.into_iter().map(differs).collect::<Result<_, _>>()?,
        )?])
    };
    Ok(Rules::from([(libc::SYS_socket, none_of_them()?), (libc::SYS_socketpair, none_of_them()?)]))
}

/// What the kernel looks at of these arguments is their lower half.
fn argument(
    index: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
}

fn all_of(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_in_one_program_that_the_kernel_takes() {
        const INSTRUCTIONS_MAX: usize = 4096;
        let mut all = REFUSED.iter().chain(REFUSED_HERE).collect::<Vec<_>>();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "a call is named twice");
        let programs = programs().unwrap();
        assert_eq!(programs.len(), 3);
        assert!(programs.iter().all(|program| program.len() < INSTRUCTIONS_MAX));
    }
}
