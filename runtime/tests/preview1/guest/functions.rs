//! The functions of preview 1: their parameters, and a constructor of a call for each.
//!
//! A constructor takes what a C programmer would pass. Where the results go is the guest's affair.

use super::call::{Arg, Call, Fd};
use super::poll::Subscription;
use super::types::{SYMLINK_FOLLOW, rights};

/// Name and parameters of a function. Parameters in capitals are 64 bits wide.
#[derive(Debug)]
pub struct Function {
    pub name: &'static str,
    pub parameters: &'static str,
}

impl Function {
    /// Whether the last result is the number of bytes in the buffers before it.
    pub fn counts_bytes(&self) -> bool {
        self.parameters.ends_with("nread") || self.parameters.ends_with("bufused")
    }
}

macro_rules! functions {
    ($($name:ident $parameters:literal)*) => {
        /// Every function of preview 1.
        pub const FUNCTIONS: &[Function] =
            &[$(Function { name: stringify!($name), parameters: $parameters }),*];
    };
}

functions! {
    args_get "argv argv_buf"
    args_sizes_get "count size"
    environ_get "environ environ_buf"
    environ_sizes_get "count size"
    clock_res_get "id resolution"
    clock_time_get "id PRECISION time"
    fd_advise "fd OFFSET LEN advice"
    fd_allocate "fd OFFSET LEN"
    fd_close "fd"
    fd_datasync "fd"
    fd_fdstat_get "fd stat"
    fd_fdstat_set_flags "fd fdflags"
    fd_fdstat_set_rights "fd BASE INHERITING"
    fd_filestat_get "fd buf"
    fd_filestat_set_size "fd SIZE"
    fd_filestat_set_times "fd ATIM MTIM fstflags"
    fd_pread "fd iovs iovs_len OFFSET nread"
    fd_prestat_get "fd buf"
    fd_prestat_dir_name "fd path path_len"
    fd_pwrite "fd iovs iovs_len OFFSET nwritten"
    fd_read "fd iovs iovs_len nread"
    fd_readdir "fd buf buf_len COOKIE bufused"
    fd_renumber "fd to"
    fd_seek "fd OFFSET whence newoffset"
    fd_sync "fd"
    fd_tell "fd offset"
    fd_write "fd iovs iovs_len nwritten"
    path_create_directory "fd path path_len"
    path_filestat_get "fd lookupflags path path_len buf"
    path_filestat_set_times "fd lookupflags path path_len ATIM MTIM fstflags"
    path_link "old_fd lookupflags old_path old_path_len new_fd new_path new_path_len"
    path_open "fd lookupflags path path_len oflags BASE INHERITING fdflags opened"
    path_readlink "fd path path_len buf buf_len bufused"
    path_remove_directory "fd path path_len"
    path_rename "fd old_path old_path_len new_fd new_path new_path_len"
    path_symlink "old_path old_path_len fd new_path new_path_len"
    path_unlink_file "fd path path_len"
    poll_oneoff "in out nsubscriptions nevents"
    proc_exit "rval"
    proc_raise "sig"
    random_get "buf buf_len"
    sched_yield ""
    sock_accept "fd fdflags accepted"
    sock_recv "fd ri_data ri_data_len ri_flags ro_datalen ro_flags"
    sock_send "fd si_data si_data_len si_flags so_datalen"
    sock_shutdown "fd how"
}

const U16: Arg = Arg::Out(2);
const U32: Arg = Arg::Out(4);
const U64: Arg = Arg::Out(8);
const FDSTAT: Arg = Arg::Out(24);
const FILESTAT: Arg = Arg::Out(64);

fn i32(value: u32) -> Arg {
    Arg::I32(value)
}

fn i64(value: u64) -> Arg {
    Arg::I64(value)
}

fn path(path: impl AsRef<[u8]>) -> Arg {
    Arg::Path(path.as_ref().to_vec())
}

fn written(buffers: &[&str]) -> Arg {
    Arg::Ciovecs(buffers.iter().map(|b| b.as_bytes().to_vec()).collect())
}

/// `count` and `size` as `args_sizes_get` gives them.
pub fn args_get(count: u32, size: u32) -> Call {
    Call::new("args_get", [Arg::Out(4 * count), Arg::Out(size)])
}

pub fn args_sizes_get() -> Call {
    Call::new("args_sizes_get", [U32, U32])
}

/// `count` and `size` as `environ_sizes_get` gives them.
pub fn environ_get(count: u32, size: u32) -> Call {
    Call::new("environ_get", [Arg::Out(4 * count), Arg::Out(size)])
}

pub fn environ_sizes_get() -> Call {
    Call::new("environ_sizes_get", [U32, U32])
}

pub fn clock_res_get(id: u32) -> Call {
    Call::new("clock_res_get", [i32(id), U64])
}

pub fn clock_time_get(id: u32) -> Call {
    Call::new("clock_time_get", [i32(id), i64(1), U64])
}

pub fn fd_advise(fd: Fd, offset: u64, len: u64, advice: u32) -> Call {
    Call::new("fd_advise", [Arg::Fd(fd), i64(offset), i64(len), i32(advice)])
}

pub fn fd_allocate(fd: Fd, offset: u64, len: u64) -> Call {
    Call::new("fd_allocate", [Arg::Fd(fd), i64(offset), i64(len)])
}

pub fn fd_close(fd: Fd) -> Call {
    Call::new("fd_close", [Arg::Fd(fd)])
}

pub fn fd_datasync(fd: Fd) -> Call {
    Call::new("fd_datasync", [Arg::Fd(fd)])
}

pub fn fd_fdstat_get(fd: Fd) -> Call {
    Call::new("fd_fdstat_get", [Arg::Fd(fd), FDSTAT])
}

pub fn fd_fdstat_set_flags(fd: Fd, flags: u64) -> Call {
    Call::new("fd_fdstat_set_flags", [Arg::Fd(fd), i32(flags as u32)])
}

pub fn fd_fdstat_set_rights(fd: Fd, base: u64, inheriting: u64) -> Call {
    Call::new("fd_fdstat_set_rights", [Arg::Fd(fd), i64(base), i64(inheriting)])
}

pub fn fd_filestat_get(fd: Fd) -> Call {
    Call::new("fd_filestat_get", [Arg::Fd(fd), FILESTAT])
}

pub fn fd_filestat_set_size(fd: Fd, size: u64) -> Call {
    Call::new("fd_filestat_set_size", [Arg::Fd(fd), i64(size)])
}

pub fn fd_filestat_set_times(fd: Fd, atim: u64, mtim: u64, flags: u64) -> Call {
    Call::new("fd_filestat_set_times", [Arg::Fd(fd), i64(atim), i64(mtim), i32(flags as u32)])
}

/// Reads into buffers of these sizes.
pub fn fd_pread(fd: Fd, buffers: &[u32], offset: u64) -> Call {
    Call::new("fd_pread", [Arg::Fd(fd), Arg::Iovecs(buffers.to_vec()), i64(offset), U32])
}

pub fn fd_prestat_get(fd: Fd) -> Call {
    Call::new("fd_prestat_get", [Arg::Fd(fd), U64])
}

pub fn fd_prestat_dir_name(fd: Fd, len: u32) -> Call {
    Call::new("fd_prestat_dir_name", [Arg::Fd(fd), Arg::Buffer(len)])
}

pub fn fd_pwrite(fd: Fd, buffers: &[&str], offset: u64) -> Call {
    Call::new("fd_pwrite", [Arg::Fd(fd), written(buffers), i64(offset), U32])
}

/// Reads into buffers of these sizes.
pub fn fd_read(fd: Fd, buffers: &[u32]) -> Call {
    Call::new("fd_read", [Arg::Fd(fd), Arg::Iovecs(buffers.to_vec()), U32])
}

pub fn fd_readdir(fd: Fd, len: u32, cookie: impl Into<Arg>) -> Call {
    Call::new("fd_readdir", [Arg::Fd(fd), Arg::Buffer(len), cookie.into(), U32])
}

pub fn fd_renumber(fd: Fd, to: Fd) -> Call {
    Call::new("fd_renumber", [Arg::Fd(fd), Arg::Fd(to)])
}

pub fn fd_seek(fd: Fd, offset: i64, whence: u32) -> Call {
    Call::new("fd_seek", [Arg::Fd(fd), i64(offset as u64), i32(whence), U64])
}

pub fn fd_sync(fd: Fd) -> Call {
    Call::new("fd_sync", [Arg::Fd(fd)])
}

pub fn fd_tell(fd: Fd) -> Call {
    Call::new("fd_tell", [Arg::Fd(fd), U64])
}

pub fn fd_write(fd: Fd, buffers: &[&str]) -> Call {
    Call::new("fd_write", [Arg::Fd(fd), written(buffers), U32])
}

pub fn path_create_directory(fd: Fd, name: impl AsRef<[u8]>) -> Call {
    Call::new("path_create_directory", [Arg::Fd(fd), path(name)])
}

/// Follows a symlink at the end of the path unless `.nofollow()`.
pub fn path_filestat_get(fd: Fd, name: impl AsRef<[u8]>) -> Call {
    Call::new("path_filestat_get", [Arg::Fd(fd), i32(SYMLINK_FOLLOW as u32), path(name), FILESTAT])
}

/// Follows a symlink at the end of the path unless `.nofollow()`.
pub fn path_filestat_set_times(fd: Fd, name: impl AsRef<[u8]>, atim: u64, mtim: u64, flags: u64) -> Call {
    let times = [i64(atim), i64(mtim), i32(flags as u32)];
    let target = [Arg::Fd(fd), i32(SYMLINK_FOLLOW as u32), path(name)];
    Call::new("path_filestat_set_times", target.into_iter().chain(times))
}

/// Does not follow a symlink at the end of the old path unless `.follow()`, as `link` of the C library.
pub fn path_link(fd: Fd, old: impl AsRef<[u8]>, new_fd: Fd, new: impl AsRef<[u8]>) -> Call {
    Call::new("path_link", [Arg::Fd(fd), i32(0), path(old), Arg::Fd(new_fd), path(new)])
}

/// Opens for reading and follows a symlink at the end of the path, unless told otherwise.
pub fn path_open(fd: Fd, name: impl AsRef<[u8]>) -> Call {
    let target = [Arg::Fd(fd), i32(SYMLINK_FOLLOW as u32), path(name)];
    let how = [i32(0), i64(rights::READ_ONLY), i64(rights::READ_WRITE), i32(0), U32];
    Call::new("path_open", target.into_iter().chain(how))
}

pub fn path_readlink(fd: Fd, name: impl AsRef<[u8]>, len: u32) -> Call {
    Call::new("path_readlink", [Arg::Fd(fd), path(name), Arg::Buffer(len), U32])
}

pub fn path_remove_directory(fd: Fd, name: impl AsRef<[u8]>) -> Call {
    Call::new("path_remove_directory", [Arg::Fd(fd), path(name)])
}

pub fn path_rename(fd: Fd, old: impl AsRef<[u8]>, new_fd: Fd, new: impl AsRef<[u8]>) -> Call {
    Call::new("path_rename", [Arg::Fd(fd), path(old), Arg::Fd(new_fd), path(new)])
}

pub fn path_symlink(target: impl AsRef<[u8]>, fd: Fd, name: impl AsRef<[u8]>) -> Call {
    Call::new("path_symlink", [path(target), Arg::Fd(fd), path(name)])
}

pub fn path_unlink_file(fd: Fd, name: impl AsRef<[u8]>) -> Call {
    Call::new("path_unlink_file", [Arg::Fd(fd), path(name)])
}

pub fn poll_oneoff(subscriptions: &[Subscription]) -> Call {
    let count = u32::try_from(subscriptions.len()).expect("a few");
    let subscriptions = subscriptions.to_vec();
    Call::new("poll_oneoff", [Arg::Subscriptions(subscriptions), Arg::Out(32 * count), i32(count), U32])
}

pub fn proc_exit(code: u32) -> Call {
    Call::new("proc_exit", [i32(code)])
}

pub fn proc_raise(signal: u32) -> Call {
    Call::new("proc_raise", [i32(signal)])
}

pub fn random_get(len: u32) -> Call {
    Call::new("random_get", [Arg::Buffer(len)])
}

pub fn sched_yield() -> Call {
    Call::new("sched_yield", [])
}

pub fn sock_accept(fd: Fd) -> Call {
    Call::new("sock_accept", [Arg::Fd(fd), i32(0), U32])
}

pub fn sock_recv(fd: Fd) -> Call {
    Call::new("sock_recv", [Arg::Fd(fd), Arg::Iovecs(vec![8]), i32(0), U32, U16])
}

pub fn sock_send(fd: Fd) -> Call {
    Call::new("sock_send", [Arg::Fd(fd), written(&["bytes"]), i32(0), U32])
}

pub fn sock_shutdown(fd: Fd, how: u32) -> Call {
    Call::new("sock_shutdown", [Arg::Fd(fd), i32(how)])
}
