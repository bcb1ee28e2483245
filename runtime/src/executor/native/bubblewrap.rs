//! The same sandbox where namespaces are made by bubblewrap (`bwrap`): for machines that let that program make them and
//! nobody else.
//!
//! Bubblewrap builds the file system and the namespaces. Inside of it our own program (`wardian run-native-inside`) is the
//! first process, gives up the rest of its rights, sets limits and the filter of system calls, and runs the command under it
//! as in a sandbox of our own: so the end of a command is told exactly, which bubblewrap's exit code does not do.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;

use super::child::{self, HOST_NAME, NOBODY};
use super::file_system::{self, DEVICE_LINKS, DEVICES, INPUT_ROOT, SHARED_MEMORY_BYTES};
use super::system::{self, c_string, check};
use super::wire::{How, Request};
use crate::executor::framing;

/// What bubblewrap says of its failure is kept up to this size.
const WORDS_BYTES_MAX: u64 = 4096;

/// Mode bit of a program that runs as its owner.
const SET_USER_ID: u32 = 0o4000;

/// Starts bubblewrap, and returns its number once the first process inside is ready to run the command.
pub(super) fn start(request: &Request, socket: &UnixStream) -> io::Result<libc::pid_t> {
    if request.chroot {
        return Err(io::Error::other("with bubblewrap the input root cannot be the whole system"));
    }
    // What is inside becomes this process's child when bubblewrap ends first, and can be waited for.
    // SAFETY: takes numbers.
    check("prctl", unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }.into())?;
    if !request.group.is_empty() {
        child::join(Path::new(OsStr::from_bytes(&request.group)))?;
    }
    if rustix::process::geteuid().is_root() {
        child::give_away(request)?;
    }
    let words = File::from(rustix::fs::memfd_create("words", MemfdFlags::CLOEXEC)?);
    let mut question = File::from(rustix::fs::memfd_create("request", MemfdFlags::CLOEXEC)?);
    question.write_all(&framing::encode(request)?)?;
    question.rewind()?;
    let program = File::open("/proc/self/exe")?;
    let (mut ready, told) = io::pipe()?;
    // Its other end is bubblewrap's standard output, which nobody else keeps open.
    let (alive, bubblewrap) = io::pipe()?;
    let (stdout, stderr) =
        (io::stdout().as_fd().try_clone_to_owned()?, io::stderr().as_fd().try_clone_to_owned()?);
    let inherited =
        [program.as_fd(), question.as_fd(), told.as_fd(), alive.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let arguments = arguments(request, &inherited.map(|descriptor| descriptor.as_raw_fd()))?;
    let arguments = arguments.iter().map(|word| c_string(OsStr::from_bytes(word)));
    let arguments = arguments.collect::<io::Result<Vec<_>>>()?;
    let pointers: Vec<_> = arguments.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
    let own = std::process::id();
    // SAFETY: this process has one thread.
    let pid = check("fork", unsafe { libc::fork() }.into())?;
    if pid == 0 {
        let replace = |descriptor: RawFd, with: RawFd| {
            // SAFETY: takes numbers; the standard streams are nobody's property.
            check("dup2", unsafe { libc::dup2(with, descriptor) }.into())
        };
        let become_bubblewrap = || -> io::Result<()> {
            system::end_with_parent()?;
            if rustix::process::getppid().is_none_or(|parent| parent.as_raw_pid().unsigned_abs() != own) {
                return Ok(());
            }
            replace(0, socket.as_raw_fd())?;
            replace(1, bubblewrap.as_raw_fd())?;
            replace(2, words.as_raw_fd())?;
            for descriptor in inherited {
                rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?;
            }
            // SAFETY: the texts and the list live until the call returns, which it does only when it fails. Rust programs
            // ignore SIGPIPE, which would be handed on.
            unsafe {
                libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                libc::execve(pointers[0], pointers.as_ptr(), [std::ptr::null()].as_ptr());
            }
            Err(io::Error::last_os_error())
        };
        if let Err(error) = become_bubblewrap() {
            let _ = write!(&words, "{error}");
        }
        // SAFETY: ends this process; nothing of it is to be cleaned up.
        unsafe { libc::_exit(1) };
    }
    drop((told, bubblewrap, alive, question, program, stdout, stderr));
    let bubblewrap = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    if ready.read_exact(&mut [0]).is_ok() {
        return Ok(bubblewrap);
    }
    child::wait_for(bubblewrap)?;
    let mut text = Vec::new();
    (&words).rewind()?;
    words.take(WORDS_BYTES_MAX).read_to_end(&mut text)?;
    Err(io::Error::other(format!("bubblewrap made no sandbox: {}", String::from_utf8_lossy(&text).trim())))
}

/// The command line of bubblewrap. `inherited` are the descriptors that the first process inside is told; the first of
/// them is its program.
fn arguments(request: &Request, inherited: &[RawFd]) -> io::Result<Vec<Vec<u8>>> {
    let program = Path::new(OsStr::from_bytes(&request.bubblewrap));
    // Then it refuses to bound what files in memory take; the machine bounds it to half of all memory.
    let is_set_user_id = fs::metadata(program)?.permissions().mode() & SET_USER_ID != 0;
    let mut line: Vec<Vec<u8>> = vec![request.bubblewrap.clone()];
    let mut add = |words: &[&[u8]]| line.extend(words.iter().map(|word| word.to_vec()));
    let namespaces =
        "--unshare-pid --unshare-ipc --unshare-uts --die-with-parent --new-session --as-pid-1 --hostname";
    namespaces.split(' ').for_each(|word| add(&[word.as_bytes()]));
    add(&[HOST_NAME.as_bytes(), b"--chdir", b"/"]);
    if !request.network {
        add(&[b"--unshare-net"]);
    }
    if !request.group.is_empty() {
        add(&[b"--unshare-cgroup"]);
    }
    for path in file_system::shown(request) {
        let name = path.as_os_str().as_bytes();
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                add(&[b"--symlink", fs::read_link(&path)?.as_os_str().as_bytes(), name]);
            }
            Ok(_) => add(&[b"--ro-bind", name, name]),
            Err(_) => {}
        }
    }
    add(&[b"--bind", &request.root, INPUT_ROOT.as_bytes(), b"--bind", &request.tmp, b"/tmp"]);
    add(&[b"--dir", b"/var", b"--symlink", b"../tmp", b"/var/tmp", b"--tmpfs", b"/dev"]);
    for name in DEVICES {
        let path = format!("/dev/{name}");
        add(&[b"--dev-bind", path.as_bytes(), path.as_bytes()]);
    }
    for (name, target) in DEVICE_LINKS {
        add(&[b"--symlink", target.as_bytes(), format!("/dev/{name}").as_bytes()]);
    }
    add(&[b"--perms", b"1777"]);
    if !is_set_user_id {
        add(&[b"--size", SHARED_MEMORY_BYTES.to_string().as_bytes()]);
    }
    add(&[b"--tmpfs", b"/dev/shm", b"--remount-ro", b"/dev", b"--proc", b"/proc"]);
    if !rustix::process::geteuid().is_root() {
        // Root has something to write there yet; see `give_up_root`.
        add(&[b"--remount-ro", b"/proc"]);
    }
    add(&[b"--remount-ro", b"/", b"--"]);
    let (program, told) = inherited.split_first().expect("the program is one of them");
    add(&[
        format!("/proc/self/fd/{program}").as_bytes(),
        b"run-native-inside",
        program.to_string().as_bytes(),
    ]);
    told.iter().for_each(|descriptor| add(&[descriptor.to_string().as_bytes()]));
    Ok(line)
}

/// Runs the first process inside. Standard input is the socket to the worker; the numbers are of descriptors that
/// [`start`] left open, in its order.
pub fn run_inside(descriptors: &[RawFd]) -> ExitCode {
    let ended = io::stdin().as_fd().try_clone_to_owned().and_then(|socket| {
        let socket = UnixStream::from(socket);
        inside(descriptors, &socket).or_else(|error| child::tell(&socket, How::Failed(error.to_string())))
    });
    // When that fails too, nobody is left to hear it.
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn inside(descriptors: &[RawFd], socket: &UnixStream) -> io::Result<()> {
    let [_program, question, told, alive, stdout, stderr] = owned(descriptors)?;
    let request: Request = framing::receive(&mut File::from(question))?;
    for (descriptor, with) in [(0, File::open("/dev/null")?.into()), (1, stdout), (2, stderr)] {
        // SAFETY: both are open, and the standard streams are nobody's property.
        check("dup2", unsafe { libc::dup2(OwnedFd::as_raw_fd(&with), descriptor) }.into())?;
    }
    if rustix::process::geteuid().is_root() {
        give_up_root()?;
    }
    system::drop_capabilities()?;
    system::end_with_parent()?;
    if system::is_hung_up(alive.as_raw_fd())? {
        return Err(io::Error::other("bubblewrap is gone"));
    }
    drop(alive);
    File::from(told).write_all(&[0])?;
    child::run_command(&request, socket)
}

/// Takes over what was left open, and keeps it from the command.
fn owned<const COUNT: usize>(descriptors: &[RawFd]) -> io::Result<[OwnedFd; COUNT]> {
    let descriptors: &[RawFd; COUNT] =
        descriptors.try_into().map_err(|_| io::Error::other("descriptors are missing"))?;
    for descriptor in descriptors {
        // SAFETY: takes numbers. It fails for those that are not open.
        check("fcntl", unsafe { libc::fcntl(*descriptor, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    }
    // SAFETY: they are open, and whoever started this process left them to it alone.
    Ok(descriptors.map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

/// Becomes nobody, who can write nothing in /proc. Bubblewrap leaves root what root was.
fn give_up_root() -> io::Result<()> {
    let proc = system::clone_mount(Path::new("/proc"))?;
    system::restrict(Path::new("/proc"), libc::MOUNT_ATTR_RDONLY)?;
    system::become_user(NOBODY)?;
    // So that processes are counted for each action; where nobody may do this, they are for all of a machine's.
    if system::unshare(libc::CLONE_NEWUSER).is_ok() {
        let proc = format!("/proc/self/fd/{}", proc.as_raw_fd());
        child::map_ids(Path::new(&proc), (NOBODY, NOBODY), (NOBODY, NOBODY))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_network_is_there_only_when_the_request_says_so() {
        let line = |network| {
            let request = Request {
                root: b"/root-of-inputs".to_vec(),
                tmp: b"/own-tmp".to_vec(),
                bubblewrap: b"/proc/self/exe".to_vec(),
                network,
                ..Request::default()
            };
            let words = arguments(&request, &[9, 8]).unwrap();
            words.into_iter().map(|word| String::from_utf8(word).unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert!(line(false).contains(" --unshare-net ") && !line(true).contains("--unshare-net"));
        for part in ["--bind /root-of-inputs /action ", "--bind /own-tmp /tmp ", "--remount-ro / --"] {
            assert!(line(false).contains(part), "{part} in {}", line(false));
        }
        assert!(line(false).ends_with(" -- /proc/self/fd/9 run-native-inside 9 8"));
    }
}
