//! The functions of WASI preview 1, in the order of the interface.
//!
//! Errnos are those of POSIX, and of the interface's own description where that says more. A pointer outside
//! of the guest's memory ends the guest, as the interface says.

use std::sync::Arc;

use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p1::types::{
    self, Errno, Fdflags, Filetype, Fstflags, Lookupflags, Oflags, Rights, Whence,
};
use wasmtime_wasi::p1::wasi_snapshot_preview1::WasiSnapshotPreview1;
use wiggle::{GuestMemory, GuestPtr};

use super::fds::{Descriptor, Object};
use super::io::{At, slice_mut};
use super::listing::filetype;
use super::texts::{put, put_texts, sizes, text};
use super::{Host, trap};
use crate::workspace::{Kind, Last, NodeId, OpenFile, Stat};

/// The device that all files are on.
const DEVICE: types::Device = 1;

/// Random bytes that are made before the deadline is looked at again.
const RANDOM_CHUNK_BYTES: usize = 1 << 20;

type Memory<'a, 'b> = &'a mut GuestMemory<'b>;
type Result<T, E = types::Error> = std::result::Result<T, E>;

fn filestat(stat: Stat) -> types::Filestat {
    types::Filestat {
        dev: DEVICE,
        ino: stat.inode,
        filetype: filetype(stat.kind),
        nlink: stat.links,
        size: stat.size,
        atim: stat.times.accessed,
        mtim: stat.times.modified,
        ctim: stat.times.changed,
    }
}

fn last(flags: Lookupflags) -> Last {
    if flags.contains(Lookupflags::SYMLINK_FOLLOW) { Last::Follow } else { Last::NoFollow }
}

impl Host {
    fn dir(&mut self, fd: types::Fd, needed: Rights) -> Result<NodeId> {
        Ok(self.fds.directory(fd, needed)?.node)
    }

    /// The time that one of the two flags asks for, if any.
    fn time(&self, given: bool, now: bool, time: types::Timestamp) -> Result<Option<types::Timestamp>> {
        match (given, now) {
            (true, true) => Err(Errno::Inval.into()),
            (true, false) => Ok(Some(time)),
            (false, true) => Ok(Some(self.clocks.wall())),
            (false, false) => Ok(None),
        }
    }

    fn set_times(
        &mut self,
        node: NodeId,
        (atim, mtim): (types::Timestamp, types::Timestamp),
        flags: Fstflags,
    ) -> Result<()> {
        let has = |flag| flags.contains(flag);
        let accessed = self.time(has(Fstflags::ATIM), has(Fstflags::ATIM_NOW), atim)?;
        let modified = self.time(has(Fstflags::MTIM), has(Fstflags::MTIM_NOW), mtim)?;
        self.keep_time();
        Ok(self.workspace.set_times(node, accessed, modified)?)
    }
}

impl WasiSnapshotPreview1 for Host {
    fn args_get(
        &mut self,
        memory: Memory<'_, '_>,
        argv: GuestPtr<GuestPtr<u8>>,
        argv_buf: GuestPtr<u8>,
    ) -> Result<()> {
        put_texts(memory, &self.arguments, argv, argv_buf)
    }

    fn args_sizes_get(&mut self, _: Memory<'_, '_>) -> Result<(types::Size, types::Size)> {
        sizes(&self.arguments)
    }

    fn environ_get(
        &mut self,
        memory: Memory<'_, '_>,
        environ: GuestPtr<GuestPtr<u8>>,
        environ_buf: GuestPtr<u8>,
    ) -> Result<()> {
        put_texts(memory, &self.environment, environ, environ_buf)
    }

    fn environ_sizes_get(&mut self, _: Memory<'_, '_>) -> Result<(types::Size, types::Size)> {
        sizes(&self.environment)
    }

    fn clock_res_get(&mut self, _: Memory<'_, '_>, _: types::Clockid) -> Result<types::Timestamp> {
        Ok(self.clocks.resolution())
    }

    fn clock_time_get(
        &mut self,
        _: Memory<'_, '_>,
        id: types::Clockid,
        _precision: types::Timestamp,
    ) -> Result<types::Timestamp> {
        Ok(self.clocks.now(id))
    }

    async fn fd_advise(
        &mut self,
        _: Memory<'_, '_>,
        fd: types::Fd,
        offset: types::Filesize,
        len: types::Filesize,
        _: types::Advice,
    ) -> Result<()> {
        self.fds.seekable(fd, Rights::FD_ADVISE)?;
        offset.checked_add(len).map(|_| ()).ok_or_else(|| Errno::Inval.into())
    }

    fn fd_allocate(
        &mut self,
        _: Memory<'_, '_>,
        fd: types::Fd,
        offset: types::Filesize,
        len: types::Filesize,
    ) -> Result<()> {
        let node = self.fds.seekable(fd, Rights::FD_ALLOCATE)?.node;
        if len == 0 {
            return Err(Errno::Inval.into());
        }
        let end = offset.checked_add(len).ok_or(Errno::Fbig)?;
        if end > self.workspace.size(node)? {
            self.keep_time();
            self.workspace.set_size(node, end)?;
        }
        Ok(())
    }

    async fn fd_close(&mut self, _: Memory<'_, '_>, fd: types::Fd) -> Result<()> {
        let descriptor = self.fds.remove(fd)?;
        self.close(descriptor);
        Ok(())
    }

    async fn fd_datasync(&mut self, _: Memory<'_, '_>, fd: types::Fd) -> Result<()> {
        self.fds.node(fd, Rights::empty())?;
        Ok(())
    }

    async fn fd_fdstat_get(&mut self, _: Memory<'_, '_>, fd: types::Fd) -> Result<types::Fdstat> {
        let descriptor = self.fds.get(fd)?;
        let (fs_filetype, fs_flags) = match &descriptor.object {
            Object::File(file) => (Filetype::RegularFile, file.flags),
            Object::Directory(_) => (Filetype::Directory, Fdflags::empty()),
            // A character device would be taken for a terminal.
            Object::Stdin | Object::Stdout | Object::Stderr => (Filetype::Unknown, Fdflags::empty()),
        };
        Ok(types::Fdstat {
            fs_filetype,
            fs_flags,
            fs_rights_base: descriptor.rights,
            fs_rights_inheriting: descriptor.inheriting,
        })
    }

    fn fd_fdstat_set_flags(&mut self, _: Memory<'_, '_>, fd: types::Fd, flags: Fdflags) -> Result<()> {
        let file = self.fds.file(fd, Rights::FD_FDSTAT_SET_FLAGS)?;
        // As on Linux, how writes are synchronised is said when a file is opened.
        if flags.intersects(Fdflags::DSYNC | Fdflags::SYNC | Fdflags::RSYNC) {
            return Err(Errno::Inval.into());
        }
        file.flags = flags;
        Ok(())
    }

    fn fd_fdstat_set_rights(
        &mut self,
        _: Memory<'_, '_>,
        fd: types::Fd,
        base: Rights,
        inheriting: Rights,
    ) -> Result<()> {
        let descriptor = self.fds.get_mut(fd)?;
        // Rights can be given up only.
        if !descriptor.rights.contains(base) || !descriptor.inheriting.contains(inheriting) {
            return Err(Errno::Notcapable.into());
        }
        (descriptor.rights, descriptor.inheriting) = (base, inheriting);
        Ok(())
    }

    async fn fd_filestat_get(&mut self, _: Memory<'_, '_>, fd: types::Fd) -> Result<types::Filestat> {
        if self.fds.get(fd)?.node().is_none() {
            return Ok(types::Filestat {
                dev: 0,
                ino: 0,
                filetype: Filetype::Unknown,
                nlink: 0,
                size: 0,
                atim: 0,
                mtim: 0,
                ctim: 0,
            });
        }
        let node = self.fds.node(fd, Rights::FD_FILESTAT_GET)?;
        Ok(filestat(self.workspace.stat(node)?))
    }

    async fn fd_filestat_set_size(
        &mut self,
        _: Memory<'_, '_>,
        fd: types::Fd,
        size: types::Filesize,
    ) -> Result<()> {
        let file = self.fds.file(fd, Rights::empty())?.node;
        // POSIX knows no rights: this is a file that is not open for writing.
        self.fds.get(fd)?.check(Rights::FD_FILESTAT_SET_SIZE).map_err(|_| Errno::Inval)?;
        self.keep_time();
        Ok(self.workspace.set_size(file, size)?)
    }

    async fn fd_filestat_set_times(
        &mut self,
        _: Memory<'_, '_>,
        fd: types::Fd,
        atim: types::Timestamp,
        mtim: types::Timestamp,
        fst_flags: Fstflags,
    ) -> Result<()> {
        let node = self.fds.node(fd, Rights::FD_FILESTAT_SET_TIMES)?;
        self.set_times(node, (atim, mtim), fst_flags)
    }

    async fn fd_read(
        &mut self,
        memory: Memory<'_, '_>,
        fd: types::Fd,
        iovs: types::IovecArray,
    ) -> Result<types::Size> {
        self.read(memory, fd, iovs, At::Cursor)
    }

    async fn fd_pread(
        &mut self,
        memory: Memory<'_, '_>,
        fd: types::Fd,
        iovs: types::IovecArray,
        offset: types::Filesize,
    ) -> Result<types::Size> {
        self.read(memory, fd, iovs, At::Offset(offset))
    }

    async fn fd_write(
        &mut self,
        memory: Memory<'_, '_>,
        fd: types::Fd,
        ciovs: types::CiovecArray,
    ) -> Result<types::Size> {
        self.write(memory, fd, ciovs, At::Cursor)
    }

    async fn fd_pwrite(
        &mut self,
        memory: Memory<'_, '_>,
        fd: types::Fd,
        ciovs: types::CiovecArray,
        offset: types::Filesize,
    ) -> Result<types::Size> {
        self.write(memory, fd, ciovs, At::Offset(offset))
    }

    fn fd_prestat_get(&mut self, _: Memory<'_, '_>, fd: types::Fd) -> Result<types::Prestat> {
        let name = self.preopen(fd)?.ok_or(Errno::Badf)?;
        let pr_name_len = types::Size::try_from(name.len()).expect("names of preopens are short");
        Ok(types::Prestat::Dir(types::PrestatDir { pr_name_len }))
    }

    fn fd_prestat_dir_name(
        &mut self,
        memory: Memory<'_, '_>,
        fd: types::Fd,
        path: GuestPtr<u8>,
        path_max_len: types::Size,
    ) -> Result<()> {
        let name = self.preopen(fd)?.ok_or(Errno::Notdir)?;
        if path_max_len as usize >= name.len() {
            put(memory, path.as_array(path_max_len), name.as_bytes())?;
            return Ok(());
        }
        Err(Errno::Nametoolong.into())
    }

    async fn fd_renumber(&mut self, _: Memory<'_, '_>, from: types::Fd, to: types::Fd) -> Result<()> {
        if let Some(replaced) = self.fds.renumber(from, to)? {
            self.close(replaced);
        }
        Ok(())
    }

    async fn fd_seek(
        &mut self,
        _: Memory<'_, '_>,
        fd: types::Fd,
        offset: types::Filedelta,
        whence: Whence,
    ) -> Result<types::Filesize> {
        let file = self.fds.seekable(fd, Rights::FD_SEEK)?;
        let from = match whence {
            Whence::Set => 0,
            Whence::Cur => file.offset,
            Whence::End => {
                let node = file.node;
                self.workspace.size(node)?
            }
        };
        let offset = from.checked_add_signed(offset).filter(|offset| i64::try_from(*offset).is_ok());
        let offset = offset.ok_or(Errno::Inval)?;
        self.fds.seekable(fd, Rights::FD_SEEK)?.offset = offset;
        Ok(offset)
    }

    async fn fd_sync(&mut self, _: Memory<'_, '_>, fd: types::Fd) -> Result<()> {
        self.fds.node(fd, Rights::FD_SYNC)?;
        Ok(())
    }

    fn fd_tell(&mut self, _: Memory<'_, '_>, fd: types::Fd) -> Result<types::Filesize> {
        Ok(self.fds.seekable(fd, Rights::FD_TELL)?.offset)
    }

    async fn fd_readdir(
        &mut self,
        memory: Memory<'_, '_>,
        fd: types::Fd,
        buf: GuestPtr<u8>,
        buf_len: types::Size,
        cookie: types::Dircookie,
    ) -> Result<types::Size> {
        self.check_deadline()?;
        self.list(memory, fd, buf.as_array(buf_len), cookie)
    }

    async fn path_create_directory(
        &mut self,
        memory: Memory<'_, '_>,
        dirfd: types::Fd,
        path: GuestPtr<str>,
    ) -> Result<()> {
        let directory = self.dir(dirfd, Rights::PATH_CREATE_DIRECTORY)?;
        let path = text(memory, path)?;
        self.keep_time();
        self.workspace.create_directory(directory, &path)?;
        Ok(())
    }

    async fn path_filestat_get(
        &mut self,
        memory: Memory<'_, '_>,
        dirfd: types::Fd,
        flags: Lookupflags,
        path: GuestPtr<str>,
    ) -> Result<types::Filestat> {
        let directory = self.dir(dirfd, Rights::PATH_FILESTAT_GET)?;
        let path = text(memory, path)?;
        let node = self.workspace.find(directory, &path, last(flags))?;
        Ok(filestat(self.workspace.stat(node)?))
    }

    async fn path_filestat_set_times(
        &mut self,
        memory: Memory<'_, '_>,
        dirfd: types::Fd,
        flags: Lookupflags,
        path: GuestPtr<str>,
        atim: types::Timestamp,
        mtim: types::Timestamp,
        fst_flags: Fstflags,
    ) -> Result<()> {
        let directory = self.dir(dirfd, Rights::PATH_FILESTAT_SET_TIMES)?;
        let path = text(memory, path)?;
        let node = self.workspace.find(directory, &path, last(flags))?;
        self.set_times(node, (atim, mtim), fst_flags)
    }

    async fn path_link(
        &mut self,
        memory: Memory<'_, '_>,
        src_fd: types::Fd,
        src_flags: Lookupflags,
        src_path: GuestPtr<str>,
        target_fd: types::Fd,
        target_path: GuestPtr<str>,
    ) -> Result<()> {
        let from = self.dir(src_fd, Rights::PATH_LINK_SOURCE)?;
        let to = self.dir(target_fd, Rights::PATH_LINK_TARGET)?;
        let (old, new) = (text(memory, src_path)?, text(memory, target_path)?);
        self.keep_time();
        Ok(self.workspace.link((from, &old), last(src_flags), (to, &new))?)
    }

    async fn path_open(
        &mut self,
        memory: Memory<'_, '_>,
        dirfd: types::Fd,
        dirflags: Lookupflags,
        path: GuestPtr<str>,
        oflags: Oflags,
        rights: Rights,
        inheriting: Rights,
        fdflags: Fdflags,
    ) -> Result<types::Fd> {
        let mut needed = Rights::PATH_OPEN;
        if oflags.contains(Oflags::CREAT) {
            needed |= Rights::PATH_CREATE_FILE;
        }
        if oflags.contains(Oflags::TRUNC) {
            needed |= Rights::PATH_FILESTAT_SET_SIZE;
        }
        let directory = self.dir(dirfd, needed)?;
        let allowed = self.fds.get(dirfd)?.inheriting;
        let path = text(memory, path)?;
        self.check_room()?;
        self.keep_time();
        let how = OpenFile {
            create: oflags.contains(Oflags::CREAT),
            exclusive: oflags.contains(Oflags::EXCL),
            truncate: oflags.contains(Oflags::TRUNC),
            directory: oflags.contains(Oflags::DIRECTORY),
            follow: dirflags.contains(Lookupflags::SYMLINK_FOLLOW),
            write: rights.contains(Rights::FD_WRITE),
        };
        let node = self.workspace.open(directory, &path, how)?;
        let mut descriptor = match self.workspace.kind(node) {
            Kind::Directory => Descriptor::directory(node, None),
            Kind::File | Kind::Symlink => Descriptor::file(node, rights, fdflags),
        };
        // A right that the directory does not pass on is not there, whoever asks for it.
        descriptor.rights &= allowed;
        descriptor.inheriting &= allowed & (inheriting | descriptor.inheriting);
        Ok(self.fds.insert(descriptor))
    }

    async fn path_readlink(
        &mut self,
        memory: Memory<'_, '_>,
        dirfd: types::Fd,
        path: GuestPtr<str>,
        buf: GuestPtr<u8>,
        buf_len: types::Size,
    ) -> Result<types::Size> {
        let directory = self.dir(dirfd, Rights::PATH_READLINK)?;
        let path = text(memory, path)?;
        let target = self.workspace.read_link(directory, &path)?;
        put(memory, buf.as_array(buf_len), target.as_bytes())
    }

    async fn path_remove_directory(
        &mut self,
        memory: Memory<'_, '_>,
        dirfd: types::Fd,
        path: GuestPtr<str>,
    ) -> Result<()> {
        let directory = self.dir(dirfd, Rights::PATH_REMOVE_DIRECTORY)?;
        let path = text(memory, path)?;
        self.keep_time();
        Ok(self.workspace.remove_directory(directory, &path)?)
    }

    async fn path_rename(
        &mut self,
        memory: Memory<'_, '_>,
        src_fd: types::Fd,
        src_path: GuestPtr<str>,
        dest_fd: types::Fd,
        dest_path: GuestPtr<str>,
    ) -> Result<()> {
        let from = self.dir(src_fd, Rights::PATH_RENAME_SOURCE)?;
        let to = self.dir(dest_fd, Rights::PATH_RENAME_TARGET)?;
        let (old, new) = (text(memory, src_path)?, text(memory, dest_path)?);
        self.keep_time();
        Ok(self.workspace.rename((from, &old), (to, &new))?)
    }

    async fn path_symlink(
        &mut self,
        memory: Memory<'_, '_>,
        target: GuestPtr<str>,
        dirfd: types::Fd,
        path: GuestPtr<str>,
    ) -> Result<()> {
        let directory = self.dir(dirfd, Rights::PATH_SYMLINK)?;
        let (target, path) = (text(memory, target)?, text(memory, path)?);
        self.keep_time();
        Ok(self.workspace.create_symlink(&target, directory, &path)?)
    }

    async fn path_unlink_file(
        &mut self,
        memory: Memory<'_, '_>,
        dirfd: types::Fd,
        path: GuestPtr<str>,
    ) -> Result<()> {
        let directory = self.dir(dirfd, Rights::PATH_UNLINK_FILE)?;
        let path = text(memory, path)?;
        self.keep_time();
        Ok(self.workspace.unlink(directory, &path)?)
    }

    async fn poll_oneoff(
        &mut self,
        memory: Memory<'_, '_>,
        subs: GuestPtr<types::Subscription>,
        events: GuestPtr<types::Event>,
        nsubscriptions: types::Size,
    ) -> Result<types::Size> {
        self.poll(memory, subs, events, nsubscriptions)
    }

    /// The exit code is a byte, as everywhere: `exit(-1)` is 255.
    fn proc_exit(&mut self, _: Memory<'_, '_>, status: types::Exitcode) -> wasmtime::Error {
        wasmtime::Error::new(I32Exit(i32::from(status.to_le_bytes()[0])))
    }

    fn proc_raise(&mut self, _: Memory<'_, '_>, _: types::Signal) -> Result<()> {
        Err(Errno::Notsup.into())
    }

    fn sched_yield(&mut self, _: Memory<'_, '_>) -> Result<()> {
        self.check_deadline()
    }

    fn random_get(&mut self, memory: Memory<'_, '_>, buf: GuestPtr<u8>, buf_len: types::Size) -> Result<()> {
        let buf = slice_mut(memory, buf.as_array(buf_len))?;
        for chunk in buf.chunks_mut(RANDOM_CHUNK_BYTES) {
            self.deadline.check().map_err(trap)?;
            self.random.fill(chunk).map_err(|_| Errno::Io)?;
        }
        Ok(())
    }

    fn sock_accept(&mut self, _: Memory<'_, '_>, fd: types::Fd, _: Fdflags) -> Result<types::Fd> {
        self.no_socket(fd)
    }

    fn sock_recv(
        &mut self,
        _: Memory<'_, '_>,
        fd: types::Fd,
        _: types::IovecArray,
        _: types::Riflags,
    ) -> Result<(types::Size, types::Roflags)> {
        self.no_socket(fd)
    }

    fn sock_send(
        &mut self,
        _: Memory<'_, '_>,
        fd: types::Fd,
        _: types::CiovecArray,
        _: types::Siflags,
    ) -> Result<types::Size> {
        self.no_socket(fd)
    }

    fn sock_shutdown(&mut self, _: Memory<'_, '_>, fd: types::Fd, _: types::Sdflags) -> Result<()> {
        self.no_socket(fd)
    }
}

impl Host {
    fn no_socket<T>(&self, fd: types::Fd) -> Result<T> {
        self.fds.get(fd)?;
        Err(Errno::Notsock.into())
    }

    /// The name of a directory that the guest was started with.
    fn preopen(&self, fd: types::Fd) -> Result<Option<Arc<str>>> {
        match &self.fds.get(fd)?.object {
            Object::Directory(directory) => Ok(directory.preopen.clone()),
            _ => Ok(None),
        }
    }
}
