//! Files: opening, reading, writing, cutting.
//!
//! A file is pages over a base. The base is a blob of the store, or the leading part of one; pages are what
//! was written since and hide it. An input file that is changed keeps the rest of its blob by reference.

use std::collections::BTreeMap;

use bytes::Bytes;
use wardian_proto::Digest;

use super::inputs::WINDOW_BYTES;
use super::pages::{PAGE_BYTES, Page, Pages};
use super::tree::{Body, Node};
use super::walk::{Last, Spot};
use super::{Errno, FsError, Kind, NodeId, Result, Workspace};

/// Largest size of a file, holes included: what ext4 has.
const FILE_BYTES_MAX: u64 = 16 << 40;

/// How a path is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenFile {
    /// Make it when it is not there.
    pub create: bool,
    /// Fail when it is there, with `create` only.
    pub exclusive: bool,
    /// Cut it to nothing.
    pub truncate: bool,
    /// Fail when it is not a directory.
    pub directory: bool,
    /// Go where a symlink at the end leads.
    pub follow: bool,
    /// It will be written.
    pub write: bool,
}

/// What a file holds.
pub(super) struct FileBody {
    size: u64,
    base: Option<Base>,
    pages: BTreeMap<u64, Page>,
    window: Option<(u64, Bytes)>,
    changed: bool,
    pub(super) is_executable: bool,
}

/// The first `len` bytes of a blob.
#[derive(Clone, Copy)]
struct Base {
    digest: Digest,
    len: u64,
}

impl FileBody {
    pub(super) fn input(digest: Digest, is_executable: bool) -> Self {
        let size = digest.size();
        let base = Some(Base { digest, len: size });
        Self { size, base, pages: BTreeMap::new(), window: None, changed: false, is_executable }
    }

    fn new() -> Self {
        Self {
            size: 0,
            base: None,
            pages: BTreeMap::new(),
            window: None,
            changed: true,
            is_executable: false,
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn take_pages(&mut self) -> BTreeMap<u64, Page> {
        std::mem::take(&mut self.pages)
    }

    /// The blob that the file still is.
    pub(super) fn unchanged(&self) -> Option<Digest> {
        self.base.filter(|_| !self.changed).map(|base| base.digest)
    }

    /// The blob that the input had here.
    pub(super) fn input_digest(&self) -> Option<Digest> {
        self.base.map(|base| base.digest)
    }

    /// Forgets what lies behind `size`, or adds a hole.
    fn set_size(&mut self, size: u64, pages: &mut Pages) {
        if size < self.size {
            let (index, at) = (size / PAGE_BYTES, size % PAGE_BYTES);
            let mut cut = self.pages.split_off(&index);
            if at > 0
                && let Some(mut page) = cut.remove(&index)
            {
                pages.truncate(&mut page, at);
                self.pages.insert(index, page);
            }
            pages.release(cut);
            if let Some(base) = &mut self.base {
                base.len = base.len.min(size);
            }
        }
        self.size = size;
    }
}

impl Workspace {
    fn file(&self, id: NodeId) -> Result<&FileBody> {
        match &self.node(id).body {
            Body::File(file) => Ok(file),
            Body::Directory(_) => Err(Errno::Isdir.into()),
            Body::Symlink(_) => Err(Errno::Loop.into()),
        }
    }

    fn file_mut(&mut self, id: NodeId) -> &mut FileBody {
        match &mut self.node_mut(id).body {
            Body::File(file) => file,
            _ => unreachable!("the caller found a file here"),
        }
    }

    /// Opens a file or directory. It stays until it is closed, also without a name.
    pub fn open(&mut self, start: NodeId, path: &str, how: OpenFile) -> Result<NodeId> {
        if how.directory && (how.create || how.exclusive || how.truncate) {
            return Err(Errno::Inval.into());
        }
        let follow = how.follow && !(how.create && how.exclusive);
        let spot = self.walk(start, path, if follow { Last::Follow } else { Last::NoFollow })?;
        let node = match spot.node {
            Some(_) if how.create && how.exclusive => return Err(Errno::Exist.into()),
            Some(node) => self.open_existing(node, &spot, how)?,
            None if !how.create => return Err(Errno::Noent.into()),
            None if spot.slash => return Err(Errno::Isdir.into()),
            None => {
                let name = self.new_name(&spot)?;
                let node = Node::new(self.new_inodes(1), Body::File(FileBody::new()), self.now);
                let node = self.plant(spot.parent, name, node)?;
                self.usage.files_written += 1;
                node
            }
        };
        self.hold(node);
        Ok(node)
    }

    fn open_existing(&mut self, node: NodeId, spot: &Spot, how: OpenFile) -> Result<NodeId> {
        match self.kind(node) {
            Kind::Symlink if how.directory => Err(Errno::Notdir.into()),
            Kind::Symlink => Err(Errno::Loop.into()),
            Kind::Directory if how.write || how.truncate || how.create => Err(Errno::Isdir.into()),
            Kind::File if how.directory || spot.slash => Err(Errno::Notdir.into()),
            Kind::File if how.write || how.truncate => {
                self.check_writable(node)?;
                if how.truncate {
                    self.set_size(node, 0)?;
                }
                Ok(node)
            }
            Kind::Directory | Kind::File => Ok(node),
        }
    }

    /// Counts a descriptor that holds a node.
    pub fn hold(&mut self, id: NodeId) {
        self.node_mut(id).handles += 1;
    }

    /// Counts it out again.
    pub fn close(&mut self, id: NodeId) {
        self.node_mut(id).handles -= 1;
        self.release_if_unused(id);
    }

    /// Bytes of a file.
    pub fn size(&mut self, id: NodeId) -> Result<u64> {
        let size = self.file(id)?.size;
        self.node_mut(id).seen.stat = true;
        Ok(size)
    }

    /// Whether a file may be run.
    pub fn is_executable(&self, id: NodeId) -> Result<bool> {
        Ok(self.file(id)?.is_executable)
    }

    /// The digest of a file that is still what the input has.
    pub fn unchanged(&mut self, id: NodeId) -> Result<Option<Digest>> {
        let digest = self.file(id)?.unchanged();
        if let Some(digest) = &digest {
            self.note_content(id, 0, digest.size());
        }
        Ok(digest)
    }

    /// Reads what is at `offset` and returns how many bytes that was; fewer than asked at the end only.
    pub fn read(&mut self, id: NodeId, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let size = self.file(id)?.size;
        let rest = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = rest.min(buf.len());
        if length < buf.len() {
            // It learnt where the file ends.
            self.node_mut(id).seen.stat = true;
        }
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            let in_page = usize::try_from(PAGE_BYTES - at % PAGE_BYTES).expect("pages are small");
            let part = in_page.min(length - done);
            self.read_part(id, at, &mut buf[done..done + part])?;
            done += part;
        }
        self.usage.bytes_read += length as u64;
        Ok(length)
    }

    /// Reads a part that lies in one page.
    fn read_part(&mut self, id: NodeId, at: u64, buf: &mut [u8]) -> Result<()> {
        if let Some(page) = self.file(id)?.pages.get(&(at / PAGE_BYTES)) {
            let read = self.pages.read(page, at % PAGE_BYTES, buf);
            return read.map_err(|error| self.full(error));
        }
        self.read_base(id, at, buf)
    }

    /// Reads a part that lies in one page from the base, with zeros behind its end.
    fn read_base(&mut self, id: NodeId, at: u64, buf: &mut [u8]) -> Result<()> {
        let base = self.file(id)?.base.filter(|base| at < base.len);
        let Some(base) = base else {
            buf.fill(0);
            return Ok(());
        };
        let held = usize::try_from(base.len - at).unwrap_or(usize::MAX).min(buf.len());
        let (from_base, zeros) = buf.split_at_mut(held);
        zeros.fill(0);
        let index = at / WINDOW_BYTES;
        let known = self.file(id)?.window.as_ref().is_some_and(|(known, _)| *known == index);
        if !known {
            let window = self.inputs.window_now(&base.digest, index)?;
            self.file_mut(id).window = Some((index, window));
        }
        let (_, window) = self.file(id)?.window.as_ref().expect("it was read just now");
        let start = usize::try_from(at % WINDOW_BYTES).expect("windows are small");
        from_base.copy_from_slice(&window[start..start + held]);
        self.note_content(id, at, at + held as u64);
        Ok(())
    }

    /// Writes at `offset` and returns how many bytes were taken: all, or those before the workspace was full.
    pub fn write(&mut self, id: NodeId, offset: u64, data: &[u8]) -> Result<usize> {
        self.file(id)?;
        if data.is_empty() {
            return Ok(0);
        }
        let end = offset.checked_add(data.len() as u64);
        if end.is_none_or(|end| end > FILE_BYTES_MAX) {
            return Err(Errno::Fbig.into());
        }
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let in_page = usize::try_from(PAGE_BYTES - at % PAGE_BYTES).expect("pages are small");
            let part = in_page.min(data.len() - done);
            match self.write_part(id, at, &data[done..done + part]) {
                Ok(()) => done += part,
                Err(FsError::Errno(_)) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        self.usage.bytes_written += done as u64;
        self.note_change(id);
        Ok(done)
    }

    /// Writes a part that lies in one page.
    fn write_part(&mut self, id: NodeId, at: u64, data: &[u8]) -> Result<()> {
        let (index, in_page) = (at / PAGE_BYTES, at % PAGE_BYTES);
        let known = self.file_mut(id).pages.remove(&index);
        let is_new = known.is_none();
        let mut page = match known {
            Some(page) => page,
            None => self.page_of_base(id, index, at, data.len())?,
        };
        let written = self.pages.write(&mut page, in_page, data);
        if is_new && written.is_err() {
            // It would hide what the base has here.
            self.pages.release(BTreeMap::from([(index, page)]));
        } else {
            self.file_mut(id).pages.insert(index, page);
        }
        written.map_err(|error| self.full(error))?;
        let file = self.file_mut(id);
        file.size = file.size.max(at + data.len() as u64);
        Ok(())
    }

    /// A page that holds what the base has there, unless a write of `length` bytes at `at` hides all of it.
    fn page_of_base(&mut self, id: NodeId, index: u64, at: u64, length: usize) -> Result<Page> {
        let start = index * PAGE_BYTES;
        let base_len = self.file(id)?.base.map_or(0, |base| base.len);
        let held = base_len.saturating_sub(start).min(PAGE_BYTES);
        let mut page = Page::Memory(Vec::new());
        if held == 0 || (at == start && length as u64 >= held) {
            return Ok(page);
        }
        let mut bytes = vec![0; usize::try_from(held).expect("pages are small")];
        self.read_base(id, start, &mut bytes)?;
        self.pages.write(&mut page, 0, &bytes).map_err(|error| self.full(error))?;
        Ok(page)
    }

    /// Cuts a file, or makes it longer by a hole.
    pub fn set_size(&mut self, id: NodeId, size: u64) -> Result<()> {
        if size == self.file(id)?.size {
            return Ok(());
        }
        if size > FILE_BYTES_MAX {
            return Err(Errno::Fbig.into());
        }
        let (node, pages) = self.node_and_pages(id);
        if let Body::File(file) = &mut node.body {
            file.set_size(size, pages);
        }
        self.note_change(id);
        Ok(())
    }

    fn note_change(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.node_mut(id);
        (node.times.modified, node.times.changed) = (now, now);
        let file = self.file_mut(id);
        if !file.changed {
            file.changed = true;
            self.usage.files_written += 1;
        }
    }
}
