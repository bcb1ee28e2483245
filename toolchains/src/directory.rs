//! Turns an archive that nobody vouches for into blobs and a Directory tree. Blocking; knows nothing of stores.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write as _};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use wardian_proto::{Digest, DigestFunction, RelPath};
use wardian_store::tree_builder::{BuiltTree, TreeBuilder};

use crate::archive::{Kind, Member, MemberError, Totals, below, walk};
use crate::other_packages::walk_zip;
use crate::{EntryProblem, ImportError, ImportLimits};

/// Files up to this size are handed on in memory.
const SMALL_FILE_BYTES_MAX: u64 = 1 << 20;

/// Memory that a decoder may take, and the zstd window that fits into it.
const DECODER_BYTES_MAX: u64 = 128 << 20;
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// A file of an archive, to be stored.
pub enum ArchivedFile {
    /// Its bytes.
    Small(Digest, Bytes),
    /// A nameless file that holds its bytes.
    Large(Digest, File),
}

/// What of an archive to unpack, and into what.
pub struct DirectoryImport<'a> {
    /// Names the archive in errors.
    pub name: &'a str,
    /// The part of it that is asked for; the root for all of it.
    pub directory: &'a RelPath,
    /// The digest function of the tree.
    pub function: DigestFunction,
    /// What it may hold.
    pub limits: ImportLimits,
    /// A folder for large files.
    pub spool: &'a std::path::Path,
}

impl DirectoryImport<'_> {
    /// Unpacks a zip archive, or a tar archive, which may be compressed with gzip, zstd or xz, handing each file on
    /// once. `None` when the archive has no such directory. Ends soon after `is_wanted` says no.
    pub fn unpack(
        &self,
        mut archive: File,
        is_wanted: impl Fn() -> bool,
        deliver: impl FnMut(ArchivedFile) -> Result<(), ImportError>,
    ) -> Result<Option<BuiltTree>, ImportError> {
        let broken = |source| ImportError::Archive { archive: self.name.to_owned(), source };
        let head = head(&mut archive).map_err(broken)?;
        let reader = BufReader::new(Wanted { archive, is_wanted });
        let files = RefCell::new(Files { import: self, seen: HashSet::new(), deliver });
        let (mut tree, mut found) = (TreeBuilder::new(), self.directory.is_root());
        let mut visit = |member: Member<'_>| {
            let Some(path) = below_directory(&member.path, self.directory) else { return Ok(()) };
            found = true;
            below("names in a path", path.segments().count() as u64, self.limits.path_depth_max)?;
            place(&mut tree, &mut files.borrow_mut(), &path, member)
        };
        let bounds = (&self.limits, &Totals::default());
        match head {
            [b'P', b'K', 3, 4, ..] => walk_zip(self.name, reader, bounds, &mut visit)?,
            _ => walk(self.name, decoded(&head, reader).map_err(broken)?, bounds, &mut visit)?,
        }
        Ok(found.then(|| tree.build(self.function)))
    }
}

fn place<D: FnMut(ArchivedFile) -> Result<(), ImportError>>(
    tree: &mut TreeBuilder,
    files: &mut Files<'_, D>,
    path: &RelPath,
    mut member: Member<'_>,
) -> Result<(), MemberError> {
    match &member.kind {
        Kind::Directory => tree.directory(path)?,
        Kind::Symlink(target) => {
            // It stays inside of the archive, which may be more than what is asked for.
            let leads_out = path.parent().unwrap_or_default().resolve(target).is_err();
            if leads_out {
                let (target, why) = (target.clone(), "leads out of the directory that is asked for");
                return Err(EntryProblem::Link { target, why }.into());
            }
            tree.symlink(path, target)?;
        }
        Kind::File { size, is_executable } => {
            let (size, is_executable) = (*size, *is_executable);
            let digest = files.take(&mut member, size)?;
            tree.file(path, digest, is_executable)?;
        }
    }
    Ok(())
}

/// What is left of a path below a directory; `None` when it is elsewhere.
fn below_directory(path: &RelPath, directory: &RelPath) -> Option<RelPath> {
    if directory.is_root() {
        return Some(path.clone());
    }
    let rest = path.as_str().strip_prefix(directory.as_str())?;
    let rest = if rest.is_empty() { rest } else { rest.strip_prefix('/')? };
    RelPath::parse(rest).ok()
}

/// The first bytes, which tell what kind of archive it is. They are read again.
fn head(archive: &mut File) -> io::Result<[u8; 6]> {
    let mut head = [0; 6];
    let mut filled = 0;
    while filled < head.len() {
        match archive.read(&mut head[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    if filled == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is empty"));
    }
    archive.rewind()?;
    Ok(head)
}

/// Reads through whatever compression the first bytes tell.
fn decoded<'a>(head: &[u8], file: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match head {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(file)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            let stream = Stream::new_stream_decoder(DECODER_BYTES_MAX, CONCATENATED)?;
            Box::new(XzDecoder::new_stream(file, stream))
        }
        _ => Box::new(file),
    })
}

/// An archive for as long as somebody wants what is in it.
struct Wanted<W> {
    archive: File,
    is_wanted: W,
}

impl<W: Fn() -> bool> Read for Wanted<W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.is_wanted)() {
            self.archive.read(buffer)
        } else {
            Err(io::Error::other("nobody wants it any more"))
        }
    }
}

impl<W> Seek for Wanted<W> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.archive.seek(to)
    }
}

struct Files<'a, D> {
    import: &'a DirectoryImport<'a>,
    seen: HashSet<Digest>,
    deliver: D,
}

impl<D: FnMut(ArchivedFile) -> Result<(), ImportError>> Files<'_, D> {
    fn take(&mut self, member: &mut Member<'_>, size: u64) -> Result<Digest, MemberError> {
        let function = self.import.function;
        let (digest, file) = if size <= SMALL_FILE_BYTES_MAX {
            let mut data = Vec::with_capacity(usize::try_from(size).expect("at most SMALL_FILE_BYTES_MAX"));
            member.read(size, &mut |piece| {
                data.extend_from_slice(piece);
                Ok(())
            })?;
            let digest = function.digest(&data);
            (digest, ArchivedFile::Small(digest, data.into()))
        } else {
            let failed = |source| MemberError::Told(ImportError::Spool(source));
            let mut file = tempfile::tempfile_in(self.import.spool).map_err(failed)?;
            let mut hasher = function.hasher(size);
            member.read(size, &mut |piece| {
                hasher.update(piece);
                file.write_all(piece).map_err(failed)
            })?;
            file.rewind().map_err(failed)?;
            let digest = hasher.finish();
            (digest, ArchivedFile::Large(digest, file))
        };
        if self.seen.insert(digest) {
            (self.deliver)(file).map_err(MemberError::Told)?;
        }
        Ok(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(members: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            if let Some(target) = content.strip_prefix("-> ") {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                builder.append_link(&mut header, path, target).unwrap();
            } else {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, path, content.as_bytes()).unwrap();
            }
        }
        builder.into_inner().unwrap()
    }

    fn zip(members: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default();
        for (path, content) in members {
            if let Some(target) = content.strip_prefix("-> ") {
                writer.add_symlink(*path, target, options).unwrap();
            } else {
                writer.start_file(*path, options.unix_permissions(0o644)).unwrap();
                writer.write_all(content.as_bytes()).unwrap();
            }
        }
        writer.finish().unwrap().into_inner()
    }

    fn unpack(archive: &[u8], directory: &str, limits: ImportLimits) -> Result<Option<Digest>, ImportError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(archive).unwrap();
        file.rewind().unwrap();
        let import = DirectoryImport {
            name: "test",
            directory: &RelPath::parse(directory).unwrap(),
            function: DigestFunction::Sha256,
            limits,
            spool: &std::env::temp_dir(),
        };
        Ok(import.unpack(file, || true, |_| Ok(()))?.map(|tree| tree.root))
    }

    fn root(members: &[(&str, &str)]) -> Option<Digest> {
        unpack(&tar(members), "", ImportLimits::default()).unwrap()
    }

    #[test]
    fn every_compression_gives_the_same_tree() {
        let members = [("a/x", "one"), ("a/y", "two"), ("b", "-> a/x")];
        let plain = tar(&members);
        let expected = root(&members);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&plain).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&plain).unwrap();
        let zst = zstd::encode_all(&plain[..], 1).unwrap();
        for packed in [gz.finish().unwrap(), xz.finish().unwrap(), zst, zip(&members)] {
            assert_eq!(unpack(&packed, "", ImportLimits::default()).unwrap(), expected);
            let cut = &packed[..packed.len() / 2];
            assert!(unpack(cut, "", ImportLimits::default()).is_err());
        }
        assert!(unpack(b"PK\x03\x04zip", "", ImportLimits::default()).is_err());
        assert!(unpack(b"", "", ImportLimits::default()).is_err());
    }

    #[test]
    fn a_directory_of_an_archive_is_a_tree_of_its_own() {
        let members = [("top/src/x", "one"), ("top/srcs/y", "two"), ("top/src/l", "-> x")];
        let part = unpack(&tar(&members), "top/src", ImportLimits::default()).unwrap();
        assert_eq!(part, root(&[("x", "one"), ("l", "-> x")]));
        assert_eq!(unpack(&tar(&members), "top/none", ImportLimits::default()).unwrap(), None);
        let out = tar(&[("top/src/l", "-> ../srcs/y"), ("top/srcs/y", "two")]);
        assert!(unpack(&out, "", ImportLimits::default()).is_ok());
        assert!(unpack(&out, "top/src", ImportLimits::default()).is_err());
    }

    #[test]
    fn what_is_hostile_is_refused() {
        let limits = ImportLimits { bytes_max: 10, ..ImportLimits::default() };
        for members in [&[("l", "-> /etc")][..], &[("l", "-> ..")], &[("a", "1"), ("a", "2")]] {
            assert!(unpack(&tar(members), "", ImportLimits::default()).is_err(), "{members:?}");
        }
        for members in [&[("l", "-> /etc")][..], &[("l", "-> ..")], &[("../a", "1")]] {
            assert!(unpack(&zip(members), "", ImportLimits::default()).is_err(), "{members:?}");
        }
        for archive in [tar(&[("a", "twelve bytes")]), zip(&[("a", "twelve bytes")])] {
            assert!(unpack(&archive, "", limits).is_err());
        }
        let few = ImportLimits { entries_max: 1, ..ImportLimits::default() };
        assert!(unpack(&zip(&[("a", "1"), ("b", "1")]), "", few).is_err());
        let mut escaping = tar(&[("aaaa", "x")]);
        escaping[..4].copy_from_slice(b"../a");
        assert!(unpack(&escaping, "", ImportLimits::default()).is_err());
    }
}
