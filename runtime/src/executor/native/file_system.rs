//! The file system that a command sees: the input root, the machine's programs to read, and little else.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::system::{mount, pivot_root, restrict, unmount};
use super::wire::Request;

/// Where the input root is, unless it is the whole system: the same on every machine.
pub(super) const INPUT_ROOT: &str = "/action";

/// Where the machine's own process file system is until [`leave_old`].
pub(super) const OLD_PROC: &str = "/oldroot/proc";

/// What of the machine is there to be read.
const PROGRAMS: &[&str] = &["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Of the machine's settings, what programs need to find libraries, names and certificates. No secrets.
const SETTINGS: &[&str] = &[
    "alternatives",
    "ca-certificates.conf",
    "group",
    "host.conf",
    "hosts",
    "java-11-openjdk",
    "java-17-openjdk",
    "java-21-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "nsswitch.conf",
    "passwd",
    "ssl/certs",
    "ssl/openssl.cnf",
];

pub(super) const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom"];

pub(super) const DEVICE_LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Memory that files in /dev/shm may take.
pub(super) const SHARED_MEMORY_BYTES: u64 = 256 << 20;

/// A folder that every machine has; what is made here is seen by this process and its children only.
const BASE: &str = "/tmp";

/// The files and folders of the machine that a command can read, where they are there.
pub(super) fn shown(request: &Request) -> Vec<PathBuf> {
    let programs = PROGRAMS.iter().map(|name| Path::new("/").join(name));
    let settings = SETTINGS.iter().chain(request.network.then_some(&"resolv.conf"));
    let settings = settings.map(|name| Path::new("/etc").join(name));
    let further = request.read_only_paths.iter().map(|path| PathBuf::from(OsStr::from_bytes(path)));
    programs.chain(settings).chain(further).collect()
}

/// Builds the file system and makes it the root, with the machine's at `/oldroot`.
pub(super) fn build(request: &Request) -> io::Result<()> {
    let none = Path::new("none");
    mount(none, Path::new("/"), "", libc::MS_REC | libc::MS_SLAVE, "")?;
    mount(none, Path::new(BASE), "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, "mode=0755,size=1m")?;
    std::env::set_current_dir(BASE)?;
    for folder in ["newroot", "oldroot"] {
        fs::create_dir(folder)?;
    }
    pivot_root(BASE, "oldroot")?;
    std::env::set_current_dir("/")?;
    let (old, new) = (Path::new("/oldroot"), Path::new("/newroot"));
    let below_old = |path: &[u8]| {
        let path = Path::new(OsStr::from_bytes(path));
        old.join(path.strip_prefix("/").unwrap_or(path))
    };
    if request.chroot {
        bind(&below_old(&request.root), new, false)?;
        for folder in ["dev", "proc", "tmp"] {
            real_directory(&new.join(folder))?;
        }
    } else {
        mount(new, new, "", libc::MS_BIND, "")?;
        for path in shown(request) {
            let name = path.strip_prefix("/").unwrap_or(&path);
            show(&old.join(name), &new.join(name))?;
        }
        for folder in ["dev", "proc", "tmp", "var", "action"] {
            fs::create_dir(new.join(folder))?;
        }
        symlink("../tmp", new.join("var/tmp"))?;
        bind(&below_old(&request.root), &new.join("action"), false)?;
    }
    bind(&below_old(&request.tmp), &new.join("tmp"), false)?;
    devices(&old.join("dev"), &new.join("dev"))?;
    let proc = new.join("proc");
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount(none, &proc, "proc", flags, "")?;
    // Nothing of the machine can be set by it.
    restrict(&proc, libc::MOUNT_ATTR_RDONLY)?;
    if !request.chroot {
        let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
        mount(none, new, "", flags, "")?;
    }
    Ok(())
}

/// Leaves the machine's file system for good.
pub(super) fn leave_old() -> io::Result<()> {
    unmount("/oldroot")?;
    std::env::set_current_dir("/newroot")?;
    pivot_root(".", ".")?;
    unmount(".")?;
    std::env::set_current_dir("/")
}

/// Shows a file or folder of the machine read-only, where it is there. A link stays a link.
fn show(from: &Path, to: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(from) else { return Ok(()) };
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    if metadata.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if metadata.is_dir() {
        fs::create_dir_all(to)?;
    } else {
        File::create(to)?;
    }
    bind(from, to, true)
}

fn bind(from: &Path, to: &Path, read_only: bool) -> io::Result<()> {
    mount(from, to, "", libc::MS_BIND | libc::MS_REC, "")?;
    let rights = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    restrict(to, if read_only { rights | libc::MOUNT_ATTR_RDONLY } else { rights })
}

/// Makes sure that something can be put over a directory of an input root that is the whole system.
fn real_directory(path: &PathBuf) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(io::Error::other(format!(
            "/{} of the input root is no directory, and the sandbox puts its own there",
            path.file_name().unwrap_or_default().display()
        ))),
        Err(_) => fs::create_dir(path),
    }
}

fn devices(from: &Path, to: &Path) -> io::Result<()> {
    mount(Path::new("none"), to, "tmpfs", libc::MS_NOSUID, "mode=0755,size=64k")?;
    for name in DEVICES {
        File::create(to.join(name))?;
        mount(&from.join(name), &to.join(name), "", libc::MS_BIND, "")?;
    }
    for (name, target) in DEVICE_LINKS {
        symlink(target, to.join(name))?;
    }
    let shared = to.join("shm");
    fs::create_dir(&shared)?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    let options = format!("mode=1777,size={SHARED_MEMORY_BYTES}");
    mount(Path::new("none"), &shared, "tmpfs", flags, &options)?;
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777))
}
