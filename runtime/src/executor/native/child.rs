//! The process that runs one command in namespaces of its own: `wardian run-native`, started by a worker and by
//! nobody else.
//!
//! It is three processes. The first is the worker's child; it makes the namespaces, and ends everything when the
//! worker says so or is gone. The second is the first inside: it builds the file system, gives up every right, and
//! when it ends, the kernel ends all that is inside. The third is the command. `bubblewrap.rs` puts another program in
//! the place of the first two steps.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use rustix::process::Resource;

use super::bubblewrap;
use super::file_system::{self, INPUT_ROOT};
use super::system::{self, First, c_string, check};
use super::system_calls;
use super::tool;
use super::wire::{End, How, Request};
use crate::executor::{framing, processes};

/// Who commands are run as by a worker that is root. Root's own number would be root's rights on the machine's files.
pub(super) const NOBODY: u32 = 65534;

/// Processor time after the signal that says it is up, for those that do not listen.
const CPU_SECONDS_MORE: u64 = 5;

/// The name of the machine as a command sees it.
pub(super) const HOST_NAME: &str = "wardian";

/// Runs the process. Standard input is the socket to the worker; the other two are the command's.
pub fn run() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody may be left to hear it.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> io::Result<()> {
    processes::goes_first("self");
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let request: Request = framing::receive(&mut socket)?;
    let null = std::fs::File::open("/dev/null")?;
    // SAFETY: both descriptors are open.
    check("dup2", unsafe { libc::dup2(null.as_raw_fd(), 0) }.into())?;
    processes::ensure_one_thread()?;
    let begin = if request.bubblewrap.is_empty() { start } else { bubblewrap::start };
    match begin(&request, &socket) {
        Ok(inside) => {
            // The worker sends nothing more: the end of the socket is the worker's word, or its own end.
            if system::which_first(socket.as_raw_fd(), inside)? == First::Descriptor {
                // SAFETY: numbers only; the child was not waited for, so the number is still its own.
                unsafe { libc::kill(inside, libc::SIGKILL) };
            }
            wait_for(inside)?;
            wait_for_all();
            socket.shutdown(Shutdown::Both)
        }
        Err(error) => tell(&socket, How::Failed(error.to_string())),
    }
}

/// Waits for whoever became this process's child since.
fn wait_for_all() {
    // SAFETY: nothing is written.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } >= 0
        || io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

pub(super) fn wait_for(child: libc::pid_t) -> io::Result<()> {
    let mut status = 0;
    // SAFETY: the status lives until the call returns.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}

pub(super) fn tell(socket: &UnixStream, how: How) -> io::Result<()> {
    (&*socket).write_all(&framing::encode(&End { how: Some(how) })?)
}

/// Makes the namespaces and the first process inside.
fn start(request: &Request, socket: &UnixStream) -> io::Result<libc::pid_t> {
    // SAFETY: takes nothing.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let mut namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if !request.network {
        namespaces |= libc::CLONE_NEWNET;
    }
    if !request.group.is_empty() {
        join(Path::new(std::ffi::OsStr::from_bytes(&request.group)))?;
        namespaces |= libc::CLONE_NEWCGROUP;
    }
    let inside = if request.chroot { 0 } else { NOBODY };
    let is_root = user == 0;
    if is_root {
        give_away(request)?;
        system::unshare(namespaces)?;
    } else {
        system::unshare(libc::CLONE_NEWUSER | namespaces)?;
        let inside = if request.chroot { (0, 0) } else { (user, group) };
        map_ids(Path::new("/proc"), inside, (user, group))?;
    }
    let (mut ready, told) = io::pipe()?;
    let (wait, mut go) = io::pipe()?;
    // SAFETY: this process has one thread.
    let pid = check("fork", unsafe { libc::fork() }.into())?;
    if pid == 0 {
        drop((ready, go));
        let end = first_inside(request, is_root.then_some(inside), socket, (told, wait));
        if let Err(error) = end {
            let _ = tell(socket, How::Failed(error.to_string()));
        }
        // SAFETY: ends this process; nothing of it is to be cleaned up.
        unsafe { libc::_exit(0) };
    }
    drop((told, wait));
    // From here on the first process inside goes when this one does.
    let begun = ready.read_exact(&mut [0]).and_then(|()| go.write_all(&[0]));
    let inside = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    if begun.is_err() {
        // It says itself why it could not begin, and this process says nothing before it has.
        wait_for(inside)?;
    }
    begun.map(|()| inside)
}

/// Joins a control group, with all that this process will start.
pub(super) fn join(door: &Path) -> io::Result<()> {
    std::fs::write(door, "0")
        .map_err(|error| io::Error::new(error.kind(), format!("join {}: {error}", door.display())))
}

/// Makes nobody the owner of the command's folders.
pub(super) fn give_away(request: &Request) -> io::Result<()> {
    for folder in [&request.root, &request.tmp] {
        give_folder_away(Path::new(std::ffi::OsStr::from_bytes(folder)), NOBODY)?;
    }
    Ok(())
}

/// Makes somebody the owner of a folder and of all below it.
fn give_folder_away(folder: &Path, owner: u32) -> io::Result<()> {
    let mut pending = vec![folder.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            } else {
                std::os::unix::fs::lchown(entry.path(), Some(owner), Some(owner))?;
            }
        }
        std::os::unix::fs::lchown(&directory, Some(owner), Some(owner))?;
    }
    Ok(())
}

/// Says who somebody of this new user namespace is outside.
pub(super) fn map_ids(proc: &Path, inside: (u32, u32), outside: (u32, u32)) -> io::Result<()> {
    let write = |file: &str, text: String| {
        let path = proc.join("self").join(file);
        std::fs::write(path, text).map_err(|error| io::Error::new(error.kind(), format!("{file}: {error}")))
    };
    write("setgroups", "deny".into())?;
    write("uid_map", format!("{} {} 1", inside.0, outside.0))?;
    write("gid_map", format!("{} {} 1", inside.1, outside.1))
}

/// Lives as long as the command, and a moment longer, as process 1 of the sandbox. `nobody` says as which number
/// the command sees itself when the worker is root.
fn first_inside(
    request: &Request,
    nobody: Option<u32>,
    socket: &UnixStream,
    (mut told, mut wait): (io::PipeWriter, io::PipeReader),
) -> io::Result<()> {
    file_system::build(request)?;
    // The process file system inside cannot be written; this is the machine's.
    let old_proc = nobody.map(|_| std::fs::File::open(file_system::OLD_PROC)).transpose()?;
    file_system::leave_old()?;
    if !request.network {
        system::loopback_up()?;
    }
    // SAFETY: the text lives until the call returns.
    check("sethostname", unsafe { libc::sethostname(HOST_NAME.as_ptr().cast(), HOST_NAME.len()) }.into())?;
    if let (Some(inside), Some(proc)) = (nobody, &old_proc) {
        system::become_user(NOBODY)?;
        system::unshare(libc::CLONE_NEWUSER)?;
        let proc = format!("/proc/self/fd/{}", proc.as_raw_fd());
        map_ids(Path::new(&proc), (inside, inside), (NOBODY, NOBODY))?;
    }
    drop(old_proc);
    system::drop_capabilities()?;
    system::end_with_parent()?;
    told.write_all(&[0])?;
    wait.read_exact(&mut [0])?;
    drop((told, wait));
    run_command(request, socket)
}

/// Runs the command, from the first process of a sandbox, and tells how it ended.
pub(super) fn run_command(request: &Request, socket: &UnixStream) -> io::Result<()> {
    if request.probe {
        confine(request)?;
        // Every command needs it, and a kernel may lack it that has all the rest.
        system::close_when_executing()?;
        return tell(socket, How::Exited(0));
    }
    // The command runs as the same user and might look into this process; what it executes it may look into again.
    // SAFETY: takes numbers.
    check("prctl", unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }.into())?;
    // SAFETY: this process has one thread.
    let command = check("fork", unsafe { libc::fork() }.into())?;
    if command == 0 {
        let why = confine(request).map_or_else(|error| How::Failed(error.to_string()), |()| execute(request));
        let _ = tell(socket, why);
        // SAFETY: ends this process.
        unsafe { libc::_exit(127) };
    }
    close_streams();
    loop {
        let mut status = 0;
        // SAFETY: the status lives until the call returns.
        let ended = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if ended < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return Err(io::Error::last_os_error());
        }
        if i64::from(ended) == command {
            let how = if libc::WIFSIGNALED(status) {
                How::Signalled(libc::WTERMSIG(status))
            } else {
                How::Exited(libc::WEXITSTATUS(status))
            };
            return tell(socket, how);
        }
    }
}

/// The command alone holds its streams: they end when it and what it started end.
fn close_streams() {
    for descriptor in [1, 2] {
        // SAFETY: nothing here writes to them any more.
        unsafe { libc::close(descriptor) };
    }
}

/// The last before the command: what it may use, and which calls it may make.
fn confine(request: &Request) -> io::Result<()> {
    limits(request)?;
    if request.all_system_calls { Ok(()) } else { system_calls::refuse() }
}

fn limits(request: &Request) -> io::Result<()> {
    let bound = |max: u64| (max > 0).then_some(max);
    system::limit(Resource::Core, 0, 0)?;
    if let Some(bytes) = bound(request.memory_bytes_max) {
        system::limit(Resource::Data, bytes, bytes)?;
    }
    if let Some(processes) = bound(request.processes_max) {
        system::limit(Resource::Nproc, processes, processes)?;
    }
    if let Some(seconds) = bound(request.cpu_seconds_max) {
        system::limit(Resource::Cpu, seconds, seconds.saturating_add(CPU_SECONDS_MORE))?;
    }
    Ok(())
}

/// Becomes the command. Returns only when it cannot.
fn execute(request: &Request) -> How {
    let become_command = || -> io::Result<How> {
        let root = if request.chroot { "/" } else { INPUT_ROOT };
        let folder = Path::new(root).join(&request.working_directory);
        std::env::set_current_dir(&folder)?;
        let variables: Vec<_> = request.environment.chunks_exact(2).collect();
        let path = variables.iter().find(|pair| pair[0] == "PATH").map(|pair| &*pair[1]);
        let program = match tool::find(&request.arguments[0], path, Path::new("")) {
            Ok(program) => c_string(program)?,
            Err(why) => return Ok(How::NoTool(why)),
        };
        let arguments = request.arguments.iter().map(c_string).collect::<io::Result<Vec<_>>>()?;
        let environment = variables.iter().map(|pair| c_string(format!("{}={}", pair[0], pair[1])));
        let environment = environment.collect::<io::Result<Vec<_>>>()?;
        let pointers = |texts: &[std::ffi::CString]| {
            texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
        };
        // What whoever started the worker left open to it is no business of the command's.
        system::close_when_executing()?;
        // SAFETY: texts and lists live until the call returns, which it does only when it fails. Rust programs
        // ignore SIGPIPE, which would be handed on.
        unsafe {
            libc::setsid();
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            libc::execve(program.as_ptr(), pointers(&arguments).as_ptr(), pointers(&environment).as_ptr());
        }
        Ok(How::NoTool(io::Error::last_os_error().to_string()))
    };
    become_command().unwrap_or_else(|error| How::Failed(format!("begin the command: {error}")))
}
