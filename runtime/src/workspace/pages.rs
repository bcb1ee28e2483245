//! The bytes that a guest wrote, in pages: in memory until that is full, then in an unlinked file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::{Errno, FsError, Workspace, WorkspaceLimits};
use crate::Failure;

/// Size of a page. It divides [`WINDOW_BYTES`](super::inputs::WINDOW_BYTES), so a page is read from one window.
pub(super) const PAGE_BYTES: u64 = 64 << 10;

/// Part of a file. What it does not hold, up to [`PAGE_BYTES`], is zero.
pub(super) enum Page {
    Memory(Vec<u8>),
    Spilled { slot: u32, len: u64 },
}

impl Page {
    fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Spilled { len, .. } => *len,
        }
    }
}

/// Why a page could not be written.
pub(super) enum PageError {
    /// The workspace holds so many bytes as it may.
    Full { used: u64, allowed: u64 },
    /// The private file could not be written or read.
    Io(io::Error),
}

impl From<io::Error> for PageError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What the pages of a workspace take, and the file for those that memory does not hold.
pub(super) struct Pages {
    folder: PathBuf,
    bytes: u64,
    bytes_max: u64,
    bytes_peak: u64,
    memory_bytes: u64,
    memory_bytes_max: u64,
    spill: Option<Spill>,
}

/// A file without a name, divided into slots of one page.
struct Spill {
    file: File,
    slots: u32,
    vacant: Vec<u32>,
}

impl Spill {
    fn take(&mut self) -> u32 {
        self.vacant.pop().unwrap_or_else(|| {
            self.slots += 1;
            self.slots - 1
        })
    }
}

fn position(slot: u32, at: u64) -> u64 {
    u64::from(slot) * PAGE_BYTES + at
}

impl Pages {
    pub(super) fn new(folder: PathBuf, limits: &WorkspaceLimits) -> Self {
        Self {
            folder,
            bytes: 0,
            bytes_max: limits.wasm_workspace_bytes_max,
            bytes_peak: 0,
            memory_bytes: 0,
            memory_bytes_max: limits.wasm_workspace_memory_bytes_max,
            spill: None,
        }
    }

    pub(super) fn bytes_peak(&self) -> u64 {
        self.bytes_peak
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts bytes before they are taken.
    pub(super) fn charge(&mut self, bytes: u64) -> Result<(), PageError> {
        if bytes > self.bytes_max - self.bytes {
            return Err(PageError::Full { used: self.bytes, allowed: self.bytes_max });
        }
        self.bytes += bytes;
        self.bytes_peak = self.bytes_peak.max(self.bytes);
        Ok(())
    }

    pub(super) fn give_back(&mut self, bytes: u64) {
        self.bytes -= bytes;
    }

    /// Writes into a page, which grows as needed. Nothing is changed when there is no room.
    pub(super) fn write(&mut self, page: &mut Page, at: u64, data: &[u8]) -> Result<(), PageError> {
        let end = at + data.len() as u64;
        let growth = end.saturating_sub(page.len());
        self.charge(growth)?;
        let written = self.put(page, at, data, growth);
        if written.is_err() {
            self.give_back(growth);
        }
        written
    }

    fn put(&mut self, page: &mut Page, at: u64, data: &[u8], growth: u64) -> Result<(), PageError> {
        if let Page::Memory(bytes) = page {
            if self.memory_bytes + growth <= self.memory_bytes_max {
                self.memory_bytes += growth;
                let (at, end) = (index(at), index(at) + data.len());
                if bytes.len() < at {
                    bytes.resize(at, 0);
                }
                let overlap = bytes.len().min(end) - at;
                bytes[at..at + overlap].copy_from_slice(&data[..overlap]);
                bytes.extend_from_slice(&data[overlap..]);
                return Ok(());
            }
            self.spill(page)?;
        }
        let Page::Spilled { slot, len } = page else { unreachable!("it was spilled just now") };
        let file = &self.spill.as_ref().expect("a page is in it").file;
        if at > *len {
            file.write_all_at(&vec![0; index(at - *len)], position(*slot, *len))?;
        }
        file.write_all_at(data, position(*slot, at))?;
        *len = (*len).max(at + data.len() as u64);
        Ok(())
    }

    /// Moves a page from memory to the file.
    fn spill(&mut self, page: &mut Page) -> Result<(), PageError> {
        let Page::Memory(bytes) = page else { return Ok(()) };
        let spill = match &mut self.spill {
            Some(spill) => spill,
            none => {
                let file = tempfile::tempfile_in(&self.folder)?;
                none.insert(Spill { file, slots: 0, vacant: Vec::new() })
            }
        };
        let slot = spill.take();
        if let Err(error) = spill.file.write_all_at(bytes, position(slot, 0)) {
            spill.vacant.push(slot);
            return Err(error.into());
        }
        let len = bytes.len() as u64;
        self.memory_bytes -= len;
        *page = Page::Spilled { slot, len };
        Ok(())
    }

    /// Fills `buf` from a page, with zeros where the page holds nothing.
    pub(super) fn read(&self, page: &Page, at: u64, buf: &mut [u8]) -> Result<(), PageError> {
        let held = index(page.len().saturating_sub(at)).min(buf.len());
        let (from_page, zeros) = buf.split_at_mut(held);
        zeros.fill(0);
        match page {
            _ if held == 0 => {}
            Page::Memory(bytes) => from_page.copy_from_slice(&bytes[index(at)..index(at) + held]),
            Page::Spilled { slot, .. } => {
                let file = &self.spill.as_ref().expect("a page is in it").file;
                file.read_exact_at(from_page, position(*slot, at))?;
            }
        }
        Ok(())
    }

    /// Forgets what a page holds from `len` on.
    pub(super) fn truncate(&mut self, page: &mut Page, len: u64) {
        let cut = page.len().saturating_sub(len);
        self.bytes -= cut;
        match page {
            Page::Memory(bytes) => {
                self.memory_bytes -= cut;
                bytes.truncate(index(len));
            }
            Page::Spilled { len: held, .. } => *held -= cut,
        }
    }

    /// Takes back what pages hold.
    pub(super) fn release(&mut self, pages: BTreeMap<u64, Page>) {
        for mut page in pages.into_values() {
            self.truncate(&mut page, 0);
            if let (Page::Spilled { slot, .. }, Some(spill)) = (page, &mut self.spill) {
                spill.vacant.push(slot);
            }
        }
    }
}

/// An offset inside a page as an index.
fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("offsets inside a page are small")
}

impl Workspace {
    /// What the guest or the client is told when a page could not be written or read.
    pub(super) fn full(&mut self, error: PageError) -> FsError {
        match error {
            PageError::Full { used, allowed } => {
                self.refuse("wasm_workspace_bytes_max", used, allowed, Errno::Nospc)
            }
            PageError::Io(error) => Failure::io("keep what the guest wrote")(error).into(),
        }
    }
}
