//! What the results of a call must be.

use std::ops::Range;

use super::memory::{OUTS, UNTOUCHED};
use super::poll::{EVENT_BYTES, Event};

/// The results that one call left in memory.
#[derive(Clone, Copy)]
pub struct Outs<'a> {
    /// Everything from [`OUTS`] on.
    pub report: &'a [u8],
    pub ranges: &'a [Range<u32>],
    /// Whether the last result is the number of bytes in those before.
    pub counted: bool,
}

impl<'a> Outs<'a> {
    fn get(self, index: usize) -> &'a [u8] {
        let range = &self.ranges[index];
        &self.report[(range.start - OUTS) as usize..(range.end - OUTS) as usize]
    }

    /// The number in a result of 2, 4 or 8 bytes.
    pub fn number(self, index: usize) -> u64 {
        number(self.get(index))
    }

    /// The only number of a call, or how many bytes it put into its buffers.
    pub fn last(self) -> u64 {
        self.number(self.ranges.len() - 1)
    }

    /// A field of a result that is a record.
    pub fn field(self, (_, offset, len): Field) -> u64 {
        number(&self.get(0)[offset..offset + len])
    }

    /// What a call put into its buffers, checked to be all that it put there.
    pub fn filled(self) -> Result<Vec<u8>, String> {
        let buffers = if self.counted { self.ranges.len() - 1 } else { self.ranges.len() };
        let mut bytes: Vec<u8> = (0..buffers).flat_map(|index| self.get(index)).copied().collect();
        let len = if self.counted { self.last() as usize } else { bytes.len() };
        if len > bytes.len() {
            return Err(format!("claims {len} bytes in buffers of {}", bytes.len()));
        }
        let beyond = bytes.split_off(len);
        if beyond.iter().any(|byte| *byte != UNTOUCHED) {
            return Err(format!("wrote more than the {len} bytes that it claims: {}", beyond.escape_ascii()));
        }
        Ok(bytes)
    }

    /// The entries that a directory listing holds whole.
    pub fn entries(self) -> Result<Vec<Entry>, String> {
        let bytes = self.filled()?;
        let mut rest = &bytes[..];
        let mut entries = Vec::new();
        while let Some((head, tail)) = rest.split_at_checked(Entry::HEAD_BYTES) {
            let Some((name, tail)) = tail.split_at_checked(number(&head[16..20]) as usize) else { break };
            let name = String::from_utf8_lossy(name).into();
            entries.push(Entry {
                next: number(&head[..8]),
                inode: number(&head[8..16]),
                name,
                filetype: head[20],
            });
            rest = tail;
        }
        if !rest.is_empty() && bytes.len() < self.get(0).len() {
            return Err("an entry is cut off although there was room".into());
        }
        Ok(entries)
    }

    /// The strings that an array of pointers leads to.
    fn strings(self) -> Result<Vec<String>, String> {
        let base = self.ranges[1].start;
        let string = |pointer: &[u8]| {
            let start = number(pointer).checked_sub(base.into()).ok_or("a pointer before the buffer")?;
            let bytes = self.get(1).get(start as usize..).ok_or("a pointer behind the buffer")?;
            let end = bytes.iter().position(|b| *b == 0).ok_or("a string without an end")?;
            Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
        };
        self.get(0).chunks(4).map(string).collect()
    }
}

fn number(bytes: &[u8]) -> u64 {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(wide)
}

/// An entry of a directory listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub next: u64,
    pub inode: u64,
    pub name: String,
    pub filetype: u8,
}

impl Entry {
    /// Size of what comes before the name.
    pub const HEAD_BYTES: usize = 24;
}

type Test = dyn Fn(Outs<'_>) -> Result<(), String> + Send + Sync;

/// A condition on the results of a call.
pub struct Check(Box<Test>);

impl Check {
    fn new(test: impl Fn(Outs<'_>) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Box::new(test))
    }

    /// Says what is wrong, if anything.
    pub fn run(&self, outs: Outs<'_>) -> Result<(), String> {
        (self.0)(outs)
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(actual: &T, expected: &T) -> Result<(), String> {
    if actual == expected { Ok(()) } else { Err(format!("gave {actual:?}, not {expected:?}")) }
}

/// A number: the only result, or the number of bytes.
impl From<u64> for Check {
    fn from(expected: u64) -> Self {
        Self::new(move |outs| equal(&outs.last(), &expected))
    }
}

/// Bytes in the buffers, and no byte more.
impl From<&str> for Check {
    fn from(expected: &str) -> Self {
        let expected = expected.to_owned();
        Self::new(move |outs| equal(&String::from_utf8_lossy(&outs.filled()?).into_owned(), &expected))
    }
}

/// Several numbers, in the order in which the function takes pointers to them.
pub fn numbers<const N: usize>(expected: [u64; N]) -> Check {
    Check::new(move |outs| equal(&std::array::from_fn(|index| outs.number(index)), &expected))
}

/// A number for which this is true.
pub fn number_where(what: &'static str, holds: fn(u64) -> bool) -> Check {
    Check::new(
        move |outs| {
            if holds(outs.last()) { Ok(()) } else { Err(format!("gave {}, not {what}", outs.last())) }
        },
    )
}

/// Arguments or environment.
pub fn strings(expected: &[&str]) -> Check {
    let expected: Vec<_> = expected.iter().map(|s| (*s).to_owned()).collect();
    Check::new(move |outs| equal(&outs.strings()?, &expected))
}

/// The names in a directory listing, in any order.
pub fn names(expected: &[&str]) -> Check {
    let mut expected: Vec<_> = expected.iter().map(|s| (*s).to_owned()).collect();
    expected.sort();
    Check::new(move |outs| {
        let mut names: Vec<_> = outs.entries()?.into_iter().map(|entry| entry.name).collect();
        names.sort();
        equal(&names, &expected)
    })
}

/// The names in a directory listing, in this order.
pub fn names_in_order(expected: &[&str]) -> Check {
    let expected: Vec<_> = expected.iter().map(|s| (*s).to_owned()).collect();
    Check::new(move |outs| {
        let names: Vec<_> = outs.entries()?.into_iter().map(|entry| entry.name).collect();
        equal(&names, &expected)
    })
}

/// A directory listing for which this is true.
pub fn entries_where(what: &'static str, holds: impl Fn(&[Entry]) -> bool + Send + Sync + 'static) -> Check {
    Check::new(move |outs| {
        let entries = outs.entries()?;
        if holds(&entries) { Ok(()) } else { Err(format!("gave {entries:?}, not {what}")) }
    })
}

/// What happened, in the order of the subscriptions.
pub fn events(expected: &[Event]) -> Check {
    let expected = expected.to_vec();
    Check::new(move |outs| {
        let count = outs.last() as usize;
        let bytes = outs.get(0).get(..count * EVENT_BYTES).ok_or_else(|| format!("claims {count} events"))?;
        equal(&bytes.chunks(EVENT_BYTES).map(Event::decode).collect(), &expected)
    })
}

/// Name, offset and length of a field in a record.
pub type Field = (&'static str, usize, usize);

pub const DEV: Field = ("dev", 0, 8);
pub const INO: Field = ("ino", 8, 8);
pub const FILETYPE: Field = ("filetype", 16, 1);
pub const NLINK: Field = ("nlink", 24, 8);
pub const SIZE: Field = ("size", 32, 8);
pub const ATIME: Field = ("atim", 40, 8);
pub const MTIME: Field = ("mtim", 48, 8);

const FD_FILETYPE: Field = ("fs_filetype", 0, 1);
const FD_FLAGS: Field = ("fs_flags", 2, 2);
const FD_RIGHTS: Field = ("fs_rights_base", 8, 8);

const PRESTAT_TAG: Field = ("tag", 0, 1);
const PRESTAT_LEN: Field = ("pr_name_len", 4, 4);

/// Conditions on the fields of a record.
#[derive(Default)]
pub struct Fields {
    /// Field, mask, and the value under the mask.
    expected: Vec<(Field, u64, u64)>,
}

/// A file's attributes, as far as they are told.
pub fn filestat(filetype: u8) -> Fields {
    Fields::default().field(FILETYPE, filetype.into())
}

/// A descriptor's attributes, as far as they are told.
pub fn fdstat(filetype: u8) -> Fields {
    Fields::default().field(FD_FILETYPE, filetype.into())
}

/// A preopened directory with a name of this length.
pub fn prestat(name_len: u64) -> Fields {
    Fields::default().field(PRESTAT_TAG, 0).field(PRESTAT_LEN, name_len)
}

impl Fields {
    /// The field has this value.
    pub fn field(mut self, field: Field, value: u64) -> Self {
        self.expected.push((field, u64::MAX, value));
        self
    }

    pub fn size(self, size: u64) -> Self {
        self.field(SIZE, size)
    }

    pub fn nlink(self, count: u64) -> Self {
        self.field(NLINK, count)
    }

    pub fn flags(self, flags: u64) -> Self {
        self.field(FD_FLAGS, flags)
    }

    pub fn has_rights(mut self, rights: u64) -> Self {
        self.expected.push((FD_RIGHTS, rights, rights));
        self
    }

    pub fn lacks_rights(mut self, rights: u64) -> Self {
        self.expected.push((FD_RIGHTS, rights, 0));
        self
    }
}

impl From<Fields> for Check {
    fn from(Fields { expected }: Fields) -> Self {
        Self::new(move |outs| {
            for (field, mask, value) in &expected {
                let actual = outs.field(*field);
                if actual & mask != *value {
                    return Err(format!("{} is {actual:#x}, not {value:#x} (mask {mask:#x})", field.0));
                }
            }
            Ok(())
        })
    }
}
