//! Makes archives member by member, also such as no honest program writes.

use std::path::Path;

use tar::{EntryType, Header};
use wardian_proto::DigestFunction;
use wardian_toolchains::{Manifest, Package};

/// A tar archive being written; names and links go in as they are, unchecked.
#[derive(Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.member(EntryType::Regular, name, "", data)
    }

    pub(crate) fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        self.member(kind, name, target, b"")
    }

    pub(crate) fn member(mut self, kind: EntryType, name: &str, target: &str, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if name.ends_with(".sh") { 0o755 } else { 0o644 });
        header.set_size(data.len() as u64);
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        if let (EntryType::GNUSparse, Some(gnu)) = (kind, header.as_gnu_mut()) {
            gnu.set_real_size(data.len() as u64);
        }
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// The archive without the zeros at its end.
    pub(crate) fn cut(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// The module of every package here; large enough to go through a file.
pub(crate) fn module() -> Vec<u8> {
    (0..3_000_000_u32).map(|i| (i % 239) as u8).collect()
}

/// A package as npm writes them, with a module and a sysroot.
pub(crate) fn package(sysroot: &[u8]) -> Tar {
    Tar::default()
        .file("package/package.json", b"{}")
        .file("package/m.wasm", &module())
        .file("package/usr.tar", sysroot)
}

/// Writes a package file and accepts it under a manifest that pins exactly it.
pub(crate) async fn accepted(folder: &Path, tar: &[u8]) -> Package {
    use std::io::Write as _;
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(tar).unwrap();
    let bytes = gz.finish().unwrap();
    let path = folder.join("p.tgz");
    std::fs::write(&path, &bytes).unwrap();
    let sha256 = DigestFunction::Sha256.digest(&bytes).hash_hex();
    let manifest = Manifest::parse(&format!(
        "name = 'p'\nversion = '1.0.0'\nlicense = 'MIT'\nsource = 'npm:p@1.0.0'\nsha256 = '{sha256}'\n\
         [[module]]\nfile = 'package/m.wasm'\npaths = ['bin/cc', 'bin/ld']\n\
         [[unpack]]\narchive = 'package/usr.tar'\ninto = 'usr'\n"
    ));
    Package::open(&manifest.unwrap(), &path).await.unwrap()
}
