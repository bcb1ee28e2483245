//! The layout of a guest's memory: results at one place, what calls read at another.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;

/// Size of the memory, which never grows; pointers beyond are out of bounds.
pub const MEMORY_BYTES: u32 = PAGES << 16;
pub const PAGES: u32 = 16;

/// Where results begin. One stretch, so that it can be reported as a whole.
pub const OUTS: u32 = 64 << 10;
const DATA: u32 = 512 << 10;

/// What room for results holds before a call: a host that writes too much is seen.
pub const UNTOUCHED: u8 = 0xaa;

const ALIGNMENT: u32 = 8;

/// What has been given away so far.
#[derive(Default)]
pub struct Memory {
    outs_len: u32,
    data: Vec<u8>,
    /// Where bytes are that were placed before: the same twice need room once.
    placed: HashMap<Vec<u8>, u32>,
}

impl Memory {
    /// Places bytes that calls read; aligned for everything.
    pub fn data(&mut self, bytes: &[u8]) -> u32 {
        if let Some(address) = self.placed.get(bytes) {
            return *address;
        }
        self.data.resize(self.data.len().next_multiple_of(ALIGNMENT as usize), 0);
        let address = DATA + u32::try_from(self.data.len()).expect("small");
        self.data.extend_from_slice(bytes);
        assert!(DATA as usize + self.data.len() < MEMORY_BYTES as usize, "a case has too much data");
        self.placed.insert(bytes.to_vec(), address);
        address
    }

    /// Places room for a result, with a gap behind it.
    pub fn out(&mut self, len: u32) -> Range<u32> {
        let start = OUTS + self.outs_len;
        self.outs_len += (len + 1).next_multiple_of(ALIGNMENT);
        assert!(OUTS + self.outs_len <= DATA, "a case has too many results");
        start..start + len
    }

    /// Everything that calls may have written.
    pub fn outs(&self) -> Range<u32> {
        OUTS..OUTS + self.outs_len
    }

    /// The data segments.
    pub fn segments(&self) -> String {
        let mut text = format!("(data (i32.const {DATA}) \"");
        for byte in &self.data {
            write!(text, "\\{byte:02x}").expect("writing to a string succeeds");
        }
        text + "\")\n"
    }
}
