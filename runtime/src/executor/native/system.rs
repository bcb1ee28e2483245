//! The calls to Linux that making a sandbox takes, each with the error that it gives.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use libc::{c_int, c_uint, c_ulong};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a system call returned, as a result that says which call it was.
pub(super) fn check(what: &str, returned: i64) -> io::Result<i64> {
    if returned >= 0 {
        return Ok(returned);
    }
    let error = io::Error::last_os_error();
    Err(io::Error::new(error.kind(), format!("{what}: {error}")))
}

pub(super) fn c_string(text: impl AsRef<OsStr>) -> io::Result<CString> {
    CString::new(text.as_ref().as_bytes()).map_err(|_| io::Error::other("a text holds a NUL byte"))
}

pub(super) fn mount(
    source: &Path,
    target: &Path,
    kind: &str,
    flags: c_ulong,
    options: &str,
) -> io::Result<()> {
    let (from, to) = (c_string(source)?, c_string(target)?);
    let (kind, options) = (c_string(kind)?, c_string(options)?);
    // SAFETY: the texts live until the call returns.
    let mounted =
        unsafe { libc::mount(from.as_ptr(), to.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) };
    check(&format!("mount {}", target.display()), mounted.into()).map(drop)
}

/// Takes rights away from a mount and from all below it.
pub(super) fn restrict(target: &Path, rights: u64) -> io::Result<()> {
    let path = c_string(target)?;
    let attributes = libc::mount_attr { attr_set: rights, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path and the attributes live until the call returns.
    let changed = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    check(&format!("mount_setattr {}", target.display()), changed).map(drop)
}

/// Makes a mount that is nowhere out of one that is somewhere, and returns its uppermost folder.
pub(super) fn clone_mount(target: &Path) -> io::Result<OwnedFd> {
    let path = c_string(target)?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path lives until the call returns.
    let opened = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let opened = check(&format!("open_tree {}", target.display()), opened)?;
    let opened = c_int::try_from(opened).map_err(io::Error::other)?;
    // SAFETY: the call has just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

/// Makes `new` the root, and puts the old one at `old`.
pub(super) fn pivot_root(new: &str, old: &str) -> io::Result<()> {
    let (new, old) = (c_string(new)?, c_string(old)?);
    // SAFETY: the texts live until the call returns.
    let pivoted = unsafe { libc::syscall(libc::SYS_pivot_root, new.as_ptr(), old.as_ptr()) };
    check("pivot_root", pivoted).map(drop)
}

pub(super) fn unmount(target: &str) -> io::Result<()> {
    let path = c_string(target)?;
    // SAFETY: the text lives until the call returns.
    check("umount", unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) }.into()).map(drop)
}

pub(super) fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check("unshare", unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Becomes somebody else for good.
pub(super) fn become_user(id: u32) -> io::Result<()> {
    // SAFETY: an empty list needs no memory; the others take numbers.
    unsafe {
        check("setgroups", libc::setgroups(0, std::ptr::null()).into())?;
        check("setresgid", libc::setresgid(id, id, id).into())?;
        check("setresuid", libc::setresuid(id, id, id).into())?;
        // A process that changed its user may not write its own maps otherwise.
        check("prctl", libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0).into())?;
    }
    Ok(())
}

/// Gives up every capability, and the way to get any by executing a program.
pub(super) fn drop_capabilities() -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    const VERSION_3: u32 = 0x2008_0522;
    // SAFETY: prctl takes numbers; capset reads a header and two sets of three words, which live until it returns.
    unsafe {
        // What the kernel does not know it refuses; that is the end of the list.
        let mut capability: c_ulong = 0;
        while libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) == 0 {
            capability += 1;
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        let header = Header { version: VERSION_3, pid: 0 };
        let sets = [[0_u32; 3]; 2];
        check("capset", libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()))?;
        check("prctl", libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
    }
    Ok(())
}

/// Switches on the network that goes nowhere but back.
pub(super) fn loopback_up() -> io::Result<()> {
    // SAFETY: the request is zeroed, which is valid for it, and lives until the calls return.
    unsafe {
        let socket =
            check("socket", libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0).into())?;
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let up = libc::ioctl(socket as c_int, libc::SIOCSIFFLAGS, &raw const request);
        let up = check("loopback", up.into());
        libc::close(socket as c_int);
        up.map(drop)
    }
}

/// Closes all descriptors but the standard streams when this process executes a program.
pub(super) fn close_when_executing() -> io::Result<()> {
    let flag = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: takes numbers.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, 3, c_uint::MAX, flag) };
    check("close_range", marked).map(drop)
}

/// Ends this process when the one that started it ends.
pub(super) fn end_with_parent() -> io::Result<()> {
    // SAFETY: takes numbers.
    check("prctl", unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }.into()).map(drop)
}

/// Whether nobody has the other end of a pipe any more.
pub(super) fn is_hung_up(descriptor: c_int) -> io::Result<bool> {
    let mut wanted = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    // SAFETY: the one entry lives until the call returns, which is at once.
    check("poll", unsafe { libc::poll(&raw mut wanted, 1, 0) }.into())?;
    Ok(wanted.revents & libc::POLLHUP != 0)
}

/// What happened first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// The descriptor has something to read, or its other end is closed.
    Descriptor,
    /// The process ended.
    Process,
}

/// Waits for a descriptor and for a child, without a thread: a process that made a namespace of processes may have none.
pub(super) fn which_first(descriptor: c_int, child: libc::pid_t) -> io::Result<First> {
    // SAFETY: takes numbers. The descriptor of the child is closed with this process.
    let child = check("pidfd_open", unsafe { libc::syscall(libc::SYS_pidfd_open, child, 0) })?;
    let child = c_int::try_from(child).map_err(io::Error::other)?;
    let wanted = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut both = [wanted(descriptor), wanted(child)];
    // SAFETY: the array has two entries and lives until the call returns.
    while unsafe { libc::poll(both.as_mut_ptr(), 2, -1) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(if both[1].revents != 0 { First::Process } else { First::Descriptor })
}

/// Bounds what this process and those it becomes may use. What whoever started it left it may be less.
pub(super) fn limit(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let hard = getrlimit(resource).maximum.map_or(hard, |allowed| allowed.min(hard));
    let limit = Rlimit { current: Some(soft.min(hard)), maximum: Some(hard) };
    setrlimit(resource, limit).map_err(io::Error::from)
}
