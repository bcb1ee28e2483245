//! The descriptors of a guest, and their rights as far as anybody looks at them.

use std::sync::Arc;

use wasmtime_wasi::p1::types::{Errno, Fd, Fdflags, Rights};

use crate::workspace::{Listing, NodeId};

/// What may be asked of a file that is open for reading and writing.
const FILE_RIGHTS: Rights = Rights::FD_DATASYNC
    .union(Rights::FD_READ)
    .union(Rights::FD_SEEK)
    .union(Rights::FD_FDSTAT_SET_FLAGS)
    .union(Rights::FD_SYNC)
    .union(Rights::FD_TELL)
    .union(Rights::FD_WRITE)
    .union(Rights::FD_ADVISE)
    .union(Rights::FD_ALLOCATE)
    .union(Rights::FD_FILESTAT_GET)
    .union(Rights::FD_FILESTAT_SET_SIZE)
    .union(Rights::FD_FILESTAT_SET_TIMES)
    .union(Rights::POLL_FD_READWRITE);

/// Those that need it to be open for writing.
const WRITE_RIGHTS: Rights = Rights::FD_WRITE
    .union(Rights::FD_ALLOCATE)
    .union(Rights::FD_FILESTAT_SET_SIZE)
    .union(Rights::FD_DATASYNC);

/// What may be asked of a directory.
const DIRECTORY_RIGHTS: Rights = Rights::FD_FDSTAT_SET_FLAGS
    .union(Rights::FD_SYNC)
    .union(Rights::FD_DATASYNC)
    .union(Rights::PATH_CREATE_DIRECTORY)
    .union(Rights::PATH_CREATE_FILE)
    .union(Rights::PATH_LINK_SOURCE)
    .union(Rights::PATH_LINK_TARGET)
    .union(Rights::PATH_OPEN)
    .union(Rights::FD_READDIR)
    .union(Rights::PATH_READLINK)
    .union(Rights::PATH_RENAME_SOURCE)
    .union(Rights::PATH_RENAME_TARGET)
    .union(Rights::PATH_FILESTAT_GET)
    .union(Rights::PATH_FILESTAT_SET_SIZE)
    .union(Rights::PATH_FILESTAT_SET_TIMES)
    .union(Rights::FD_FILESTAT_GET)
    .union(Rights::FD_FILESTAT_SET_TIMES)
    .union(Rights::PATH_SYMLINK)
    .union(Rights::PATH_REMOVE_DIRECTORY)
    .union(Rights::PATH_UNLINK_FILE);

/// What a descriptor stands for.
pub(super) enum Object {
    Stdin,
    Stdout,
    Stderr,
    File(File),
    Directory(Directory),
}

/// An open file.
pub(super) struct File {
    pub(super) node: NodeId,
    pub(super) offset: u64,
    pub(super) flags: Fdflags,
}

/// An open directory.
pub(super) struct Directory {
    pub(super) node: NodeId,
    /// The name of one that the guest was started with.
    pub(super) preopen: Option<Arc<str>>,
    /// Its names when it was last read from the start.
    pub(super) listing: Option<Listing>,
}

/// One descriptor.
pub(super) struct Descriptor {
    pub(super) object: Object,
    pub(super) rights: Rights,
    pub(super) inheriting: Rights,
}

impl Descriptor {
    pub(super) fn file(node: NodeId, asked: Rights, flags: Fdflags) -> Self {
        let mut rights = FILE_RIGHTS;
        if !asked.contains(Rights::FD_READ) {
            rights.remove(Rights::FD_READ);
        }
        if !asked.contains(Rights::FD_WRITE) {
            rights.remove(WRITE_RIGHTS);
        }
        let object = Object::File(File { node, offset: 0, flags });
        Self { object, rights, inheriting: Rights::empty() }
    }

    pub(super) fn directory(node: NodeId, preopen: Option<Arc<str>>) -> Self {
        let object = Object::Directory(Directory { node, preopen, listing: None });
        Self { object, rights: DIRECTORY_RIGHTS, inheriting: DIRECTORY_RIGHTS | FILE_RIGHTS }
    }

    fn stream(object: Object, rights: Rights) -> Self {
        Self { object, rights, inheriting: rights }
    }

    /// The file or directory that is open.
    pub(super) fn node(&self) -> Option<NodeId> {
        match &self.object {
            Object::File(file) => Some(file.node),
            Object::Directory(directory) => Some(directory.node),
            Object::Stdin | Object::Stdout | Object::Stderr => None,
        }
    }

    /// Fails when a right was not asked for or was given up.
    ///
    /// Reading what is not open for reading is EBADF everywhere but in WASI's own words.
    pub(super) fn check(&self, needed: Rights) -> Result<(), Errno> {
        if self.rights.contains(needed) {
            Ok(())
        } else if (Rights::FD_READ | Rights::FD_WRITE).contains(needed) {
            Err(Errno::Badf)
        } else {
            Err(Errno::Notcapable)
        }
    }
}

/// All descriptors of a guest by number.
pub(super) struct Fds {
    slots: Vec<Option<Descriptor>>,
    open: usize,
}

impl Fds {
    /// The three streams, then the preopened directories.
    pub(super) fn new(preopens: impl IntoIterator<Item = (NodeId, Arc<str>)>) -> Self {
        let mut fds = Self { slots: Vec::with_capacity(8), open: 0 };
        for (object, rights) in [
            (Object::Stdin, Rights::FD_READ),
            (Object::Stdout, Rights::FD_WRITE),
            (Object::Stderr, Rights::FD_WRITE),
        ] {
            fds.insert(Descriptor::stream(object, rights | Rights::POLL_FD_READWRITE));
        }
        for (node, name) in preopens {
            fds.insert(Descriptor::directory(node, Some(name)));
        }
        fds
    }

    /// Descriptors that are open.
    pub(super) fn len(&self) -> usize {
        self.open
    }

    /// Gives a descriptor the lowest free number.
    pub(super) fn insert(&mut self, descriptor: Descriptor) -> Fd {
        let free = if self.open == self.slots.len() {
            self.slots.push(None);
            self.open
        } else {
            self.slots.iter().position(Option::is_none).expect("fewer are open than there are slots")
        };
        self.slots[free] = Some(descriptor);
        self.open += 1;
        Fd::from(u32::try_from(free).expect("the limit on descriptors is far below 2^32"))
    }

    pub(super) fn get(&self, fd: Fd) -> Result<&Descriptor, Errno> {
        self.slots.get(index(fd)).and_then(Option::as_ref).ok_or(Errno::Badf)
    }

    pub(super) fn get_mut(&mut self, fd: Fd) -> Result<&mut Descriptor, Errno> {
        self.slots.get_mut(index(fd)).and_then(Option::as_mut).ok_or(Errno::Badf)
    }

    pub(super) fn remove(&mut self, fd: Fd) -> Result<Descriptor, Errno> {
        let removed = self.slots.get_mut(index(fd)).and_then(Option::take).ok_or(Errno::Badf)?;
        self.open -= 1;
        Ok(removed)
    }

    /// Puts a descriptor at the number of another and returns that other.
    pub(super) fn renumber(&mut self, from: Fd, to: Fd) -> Result<Option<Descriptor>, Errno> {
        self.get(from)?;
        self.get(to)?;
        if index(from) == index(to) {
            return Ok(None);
        }
        let moved = self.remove(from)?;
        Ok(self.slots[index(to)].replace(moved))
    }

    /// A file, with a right that the caller needs.
    pub(super) fn file(&mut self, fd: Fd, needed: Rights) -> Result<&mut File, Errno> {
        let descriptor = self.get_mut(fd)?;
        let allowed = descriptor.check(needed);
        match &mut descriptor.object {
            Object::File(file) => allowed.map(|()| file),
            _ => Err(Errno::Badf),
        }
    }

    /// The same for what only a file has a position for.
    pub(super) fn seekable(&mut self, fd: Fd, needed: Rights) -> Result<&mut File, Errno> {
        match self.get(fd)?.object {
            Object::Stdin | Object::Stdout | Object::Stderr => Err(Errno::Spipe),
            Object::File(_) | Object::Directory(_) => self.file(fd, needed),
        }
    }

    /// A directory, with a right that the caller needs.
    pub(super) fn directory(&mut self, fd: Fd, needed: Rights) -> Result<&mut Directory, Errno> {
        let descriptor = self.get_mut(fd)?;
        let allowed = descriptor.check(needed);
        match &mut descriptor.object {
            Object::Directory(directory) => allowed.map(|()| directory),
            Object::File(_) => Err(Errno::Notdir),
            Object::Stdin | Object::Stdout | Object::Stderr => Err(Errno::Badf),
        }
    }

    /// A file or directory, with a right that the caller needs.
    pub(super) fn node(&self, fd: Fd, needed: Rights) -> Result<NodeId, Errno> {
        let descriptor = self.get(fd)?;
        let node = descriptor.node().ok_or(Errno::Badf)?;
        descriptor.check(needed)?;
        Ok(node)
    }
}

fn index(fd: Fd) -> usize {
    usize::try_from(u32::from(fd)).unwrap_or(usize::MAX)
}
