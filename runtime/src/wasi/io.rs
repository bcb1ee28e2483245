//! Reading and writing between files, streams and the guest's memory.

use wasmtime_wasi::p1::types::{self, Errno, Fd, Fdflags, Rights};
use wiggle::{GuestMemory, GuestPtr};

use super::fds::Object;
use super::{Host, trap};

/// Buffers that one call may name, as on Linux.
const IOVECS_MAX: u32 = 1024;

/// Bytes that are moved before the deadline is looked at again.
const CHUNK_BYTES: u32 = 1 << 20;

type Result<T, E = types::Error> = std::result::Result<T, E>;

/// Where in a file to read or write.
#[derive(Clone, Copy)]
pub(super) enum At {
    /// Where the descriptor is, which then moves on.
    Cursor,
    /// Somewhere else; the descriptor stays where it is.
    Offset(u64),
}

/// Parts of the guest's memory, each at most [`CHUNK_BYTES`] long.
struct Buffers(Vec<GuestPtr<[u8]>>);

impl Buffers {
    /// Cuts what a list of buffers names into chunks. All of them together must be countable in 31 bits.
    fn new(buffers: impl ExactSizeIterator<Item = Result<GuestPtr<[u8]>>>) -> Result<Self> {
        if buffers.len() > IOVECS_MAX as usize {
            return Err(Errno::Inval.into());
        }
        let mut chunks = Vec::with_capacity(buffers.len());
        let mut total: u32 = 0;
        for buffer in buffers {
            let buffer = buffer?;
            let length = buffer.len();
            total = total.checked_add(length).filter(|t| *t <= i32::MAX as u32).ok_or(Errno::Inval)?;
            let mut start = 0;
            while start < length {
                let end = start.saturating_add(CHUNK_BYTES).min(length);
                chunks.push(buffer.get_range(start..end).expect("it lies inside the buffer"));
                start = end;
            }
        }
        Ok(Self(chunks))
    }

    fn to_fill(memory: &GuestMemory<'_>, list: types::IovecArray) -> Result<Self> {
        let buffer = |iov| -> Result<_> {
            let types::Iovec { buf, buf_len } = memory.read(iov?)?;
            Ok(buf.as_array(buf_len))
        };
        Self::new(list.iter().map(buffer))
    }

    fn to_take(memory: &GuestMemory<'_>, list: types::CiovecArray) -> Result<Self> {
        let buffer = |iov| -> Result<_> {
            let types::Ciovec { buf, buf_len } = memory.read(iov?)?;
            Ok(buf.as_array(buf_len))
        };
        Self::new(list.iter().map(buffer))
    }
}

/// A part of memory to fill. Modules with shared memory are refused before they run.
pub(super) fn slice_mut<'a>(memory: &'a mut GuestMemory<'_>, part: GuestPtr<[u8]>) -> Result<&'a mut [u8]> {
    memory.as_slice_mut(part)?.ok_or_else(|| Errno::Notsup.into())
}

fn slice<'a>(memory: &'a GuestMemory<'_>, part: GuestPtr<[u8]>) -> Result<&'a [u8]> {
    memory.as_slice(part)?.ok_or_else(|| Errno::Notsup.into())
}

fn size(bytes: u64) -> types::Size {
    types::Size::try_from(bytes).expect("buffers together were counted in 31 bits")
}

impl Host {
    pub(super) fn read(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        list: types::IovecArray,
        at: At,
    ) -> Result<types::Size> {
        match (&self.fds.get(fd)?.object, at) {
            (Object::Stdin, At::Cursor) => return Ok(0),
            (Object::Stdin, At::Offset(_)) => return Err(Errno::Spipe.into()),
            (Object::Directory(_), _) => return Err(Errno::Isdir.into()),
            (Object::Stdout | Object::Stderr, _) => return Err(Errno::Badf.into()),
            (Object::File(_), _) => {}
        }
        let file = self.fds.file(fd, Rights::FD_READ)?;
        let (node, start) = (file.node, offset(at, file.offset)?);
        let mut done = 0;
        for part in Buffers::to_fill(memory, list)?.0 {
            self.check_deadline()?;
            let read = self.workspace.read(node, start + done, slice_mut(memory, part)?)?;
            done += read as u64;
            if read < part.len() as usize {
                break;
            }
        }
        self.move_on(fd, Rights::FD_READ, at, start + done)?;
        Ok(size(done))
    }

    pub(super) fn write(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        list: types::CiovecArray,
        at: At,
    ) -> Result<types::Size> {
        let stream = match (&self.fds.get(fd)?.object, at) {
            (Object::Stdout | Object::Stderr, At::Offset(_)) => return Err(Errno::Spipe.into()),
            (Object::Stdout, At::Cursor) => Some(self.stdout.clone()),
            (Object::Stderr, At::Cursor) => Some(self.stderr.clone()),
            (Object::Stdin | Object::Directory(_), _) => return Err(Errno::Badf.into()),
            (Object::File(_), _) => None,
        };
        let Some(stream) = stream else { return self.write_file(memory, fd, list, at) };
        self.fds.get(fd)?.check(Rights::FD_WRITE)?;
        let mut done = 0;
        for part in Buffers::to_take(memory, list)?.0 {
            self.check_deadline()?;
            stream.append(slice(memory, part)?).map_err(trap)?;
            done += u64::from(part.len());
        }
        Ok(size(done))
    }

    /// Puts the descriptor's cursor where reading or writing at it ended.
    fn move_on(&mut self, fd: Fd, right: Rights, at: At, end: u64) -> Result<()> {
        if let At::Cursor = at {
            self.fds.file(fd, right)?.offset = end;
        }
        Ok(())
    }

    fn write_file(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        list: types::CiovecArray,
        at: At,
    ) -> Result<types::Size> {
        self.keep_time();
        let file = self.fds.file(fd, Rights::FD_WRITE)?;
        let (node, cursor, append) = (file.node, file.offset, file.flags.contains(Fdflags::APPEND));
        // As on Linux, appending goes before an offset.
        let start = if append { self.workspace.size(node)? } else { offset(at, cursor)? };
        let mut done = 0;
        for part in Buffers::to_take(memory, list)?.0 {
            self.check_deadline()?;
            let taken = match self.workspace.write(node, start + done, slice(memory, part)?) {
                Ok(taken) => taken,
                // What was taken before is taken.
                Err(crate::workspace::FsError::Errno(_)) if done > 0 => break,
                Err(error) => return Err(error.into()),
            };
            done += taken as u64;
            if taken < part.len() as usize {
                break;
            }
        }
        self.move_on(fd, Rights::FD_WRITE, at, start + done)?;
        Ok(size(done))
    }
}

/// Where to start. What no file can have is refused before anything is added to it.
fn offset(at: At, cursor: u64) -> Result<u64> {
    match at {
        At::Cursor => Ok(cursor),
        At::Offset(offset) if i64::try_from(offset).is_err() => Err(Errno::Inval.into()),
        At::Offset(offset) => Ok(offset),
    }
}
