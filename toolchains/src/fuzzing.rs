//! What fuzzers run of this crate: archives that nobody vouches for.
//!
//! The target in `fuzz/` calls this under libFuzzer; the test below calls it for a bounded number of inputs as part of every
//! `cargo test`.

#[path = "../../fuzz/harness.rs"]
mod harness;

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{Cursor, Seek as _, Write as _};

use bytes::Bytes;
use wardian_proto::{Digest, DigestFunction, Directory, RelPath};

use crate::ImportLimits;
use crate::directory::{ArchivedFile, DirectoryImport};

pub use harness::Target;

/// Everything that is fuzzed.
pub const TARGETS: &[Target] = &[Target { name: "archive", run: archive, seeds: archives, inputs: 30_000 }];

/// Runs the target of this name. Panics when there is none.
pub fn run(name: &str, input: &[u8]) {
    harness::run_of(TARGETS, name, input);
}

const FUNCTION: DigestFunction = DigestFunction::Sha256;

const LIMITS: ImportLimits =
    ImportLimits { entries_max: 100, bytes_max: 64 << 10, file_bytes_max: 32 << 10, path_depth_max: 8 };

/// What comes out of an archive is within its limits and stays inside of its root; every file was handed on.
fn archive(input: &[u8]) {
    let mut file = tempfile::tempfile().expect("there is a folder for temporary files");
    file.write_all(input).and_then(|()| file.rewind()).expect("it can be written");
    let bytes = Cell::new(0);
    let mut files = HashMap::new();
    let import = DirectoryImport {
        name: "fuzzed",
        directory: &RelPath::root(),
        function: FUNCTION,
        limits: LIMITS,
        spool: &std::env::temp_dir(),
    };
    let unpacked = import.unpack(
        file,
        || true,
        |file| {
            let (digest, length) = match file {
                ArchivedFile::Small(digest, data) => {
                    assert_eq!(FUNCTION.digest(&data), digest);
                    (digest, data.len() as u64)
                }
                ArchivedFile::Large(digest, file) => (digest, file.metadata().expect("it is open").len()),
            };
            assert!(length == digest.size() && length <= LIMITS.file_bytes_max);
            bytes.set(bytes.get() + length);
            files.insert(digest, length);
            Ok(())
        },
    );
    assert!(bytes.get() <= LIMITS.bytes_max);
    let Ok(Some(tree)) = unpacked else { return };
    let directories: HashMap<Digest, Bytes> = tree.directories.into_iter().collect();
    let mut pending = vec![(RelPath::root(), tree.root)];
    while let Some((path, digest)) = pending.pop() {
        let directory = Directory::decode(FUNCTION, &directories[&digest]).expect("it was just made");
        assert!(directory.files.iter().all(|file| files.contains_key(&file.digest)));
        for link in directory.symlinks {
            assert!(path.resolve(&link.target).is_ok(), "{path}/{} leads to {:?}", link.name, link.target);
        }
        for entry in directory.directories {
            let below = RelPath::parse(path.join(&entry.name).as_str()).expect("names are segments");
            assert!(below.segments().count() as u64 <= LIMITS.path_depth_max, "{below}");
            pending.push((below, entry.digest));
        }
    }
}

/// The same members in every kind of archive.
fn archives() -> Vec<Vec<u8>> {
    let tar = tar_archive().expect("it is written to memory");
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    gz.write_all(&tar).and_then(|()| xz.write_all(&tar)).expect("it is written to memory");
    let zst = zstd::encode_all(&tar[..], 1).expect("it is written to memory");
    let zip = zip_archive().expect("it is written to memory");
    [gz.finish(), xz.finish()]
        .into_iter()
        .map(|made| made.expect("in memory"))
        .chain([tar, zst, zip])
        .collect()
}

fn tar_archive() -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let header = |kind, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(size);
        header
    };
    builder.append_data(&mut header(tar::EntryType::Directory, 0), "a/", &[][..])?;
    builder.append_data(&mut header(tar::EntryType::Regular, 5), "a/file", &b"bytes"[..])?;
    builder.append_data(&mut header(tar::EntryType::Regular, 0), "n".repeat(120), &[][..])?;
    builder.append_link(&mut header(tar::EntryType::Symlink, 0), "a/link", "../b/./c")?;
    builder.into_inner()
}

fn zip_archive() -> zip::result::ZipResult<Vec<u8>> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    writer.add_directory("a", options)?;
    writer.start_file("a/file", options.unix_permissions(0o755))?;
    writer.write_all(b"bytes")?;
    writer.start_file("stored", options.compression_method(zip::CompressionMethod::Stored))?;
    writer.write_all(b"bytes")?;
    writer.add_symlink("a/link", "../b/./c", options)?;
    Ok(writer.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_one_of_libfuzzer_too() {
        harness::assert_listed("wardian-toolchains", TARGETS);
    }

    #[test]
    fn inputs_made_from_good_ones_are_treated_as_they_should_be() {
        harness::try_all(TARGETS);
    }
}
