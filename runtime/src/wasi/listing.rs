//! fd_readdir: the entries of a directory, cut to the room that the guest has for them.

use wasmtime_wasi::p1::types::{self, Filetype, Rights};
use wiggle::{GuestMemory, GuestPtr, GuestType as _};

use super::Host;
use super::texts::put;
use crate::workspace::{Kind, Listed};

type Memory<'a, 'b> = &'a mut GuestMemory<'b>;
type Result<T, E = types::Error> = std::result::Result<T, E>;

pub(super) fn filetype(kind: Kind) -> Filetype {
    match kind {
        Kind::File => Filetype::RegularFile,
        Kind::Directory => Filetype::Directory,
        Kind::Symlink => Filetype::SymbolicLink,
    }
}

impl Host {
    /// Fills `room` with the entries of a directory that follow `cookie`; the last may be cut off.
    ///
    /// A cookie is the place of the entry that follows. The list is made anew whenever it is read from the
    /// start, so what is added or removed in between moves no cookie; what was removed is left out.
    pub(super) fn list(
        &mut self,
        memory: Memory<'_, '_>,
        fd: types::Fd,
        mut room: GuestPtr<[u8]>,
        cookie: types::Dircookie,
    ) -> Result<types::Size> {
        let directory = self.fds.directory(fd, Rights::FD_READDIR)?;
        let node = directory.node;
        let listing = match directory.listing.take() {
            Some(listing) if cookie > 0 => listing,
            old => {
                old.into_iter().for_each(|old| self.workspace.release(old));
                self.workspace.list(node)?
            }
        };
        let (own, parent) = self.workspace.inodes_of(node);
        let dots = [(".", own), ("..", parent)];
        let size = room.len();
        let mut written = Ok(());
        for place in cookie..u64::MAX {
            let (name, inode, kind) = match usize::try_from(place) {
                Ok(place @ 0..=1) => (dots[place].0, dots[place].1, Kind::Directory),
                Ok(place) => match listing.get(place - dots.len()) {
                    None => break,
                    Some(Listed { name, .. }) => match self.workspace.entry(node, name) {
                        None => continue,
                        Some((inode, kind)) => (name, inode, kind),
                    },
                },
                Err(_) => break,
            };
            let entry = dirent(place + 1, inode, name, kind);
            written = append(memory, &mut room, &[&entry[..], name.as_bytes()].concat());
            if written.is_err() || room.len() == 0 {
                break;
            }
        }
        self.fds.directory(fd, Rights::FD_READDIR)?.listing = Some(listing);
        written?;
        Ok(size - room.len())
    }
}

/// Writes as much as there is room for, and takes that room away.
fn append(memory: Memory<'_, '_>, room: &mut GuestPtr<[u8]>, bytes: &[u8]) -> Result<()> {
    let length = put(memory, *room, bytes)?;
    *room = room.get_range(length..room.len()).expect("it was no longer than the room");
    Ok(())
}

fn dirent(next: types::Dircookie, inode: u64, name: &str, kind: Kind) -> [u8; 24] {
    let mut bytes = [0; 24];
    debug_assert_eq!(bytes.len(), types::Dirent::guest_size() as usize);
    bytes[0..8].copy_from_slice(&next.to_le_bytes());
    bytes[8..16].copy_from_slice(&inode.to_le_bytes());
    let length = u32::try_from(name.len()).expect("names are short");
    bytes[16..20].copy_from_slice(&length.to_le_bytes());
    bytes[20] = filetype(kind) as u8;
    bytes
}
