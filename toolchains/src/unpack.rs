//! Turns a package into blobs and a Directory tree. Blocking; knows nothing of stores.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::rc::Rc;

use bytes::Bytes;
use flate2::read::GzDecoder;
use wardian_proto::{Digest, DigestFunction, RelPath};
use wardian_store::tree_builder::{BuiltTree, TreeBuilder};

use crate::archive::{Kind, Member, MemberError, Totals, below, walk};
use crate::other_packages::{Visit, walk_folder, walk_zip};
use crate::{EntryProblem, ImportError, ImportLimits, Manifest, Module, Package, Source};

/// The digest function of imported trees.
const FUNCTION: DigestFunction = DigestFunction::Sha256;

/// Files up to this size are held in memory and handed on together; larger ones go through a file.
const SMALL_FILE_BYTES_MAX: u64 = 1 << 20;

/// Bytes of small files that are handed on together.
const BATCH_BYTES_MAX: usize = 2 << 20;

/// Small files that are handed on together.
const BATCH_FILES_MAX: usize = 500;

/// Blobs on their way into a store, each handed on once.
pub(crate) enum Blobs {
    Small(Vec<(Digest, Bytes)>),
    /// A nameless file that holds the blob, at its beginning.
    Large(Digest, File),
}

/// Blobs, and how far the unpacking was when they were handed on.
pub(crate) struct Parcel {
    pub(crate) blobs: Blobs,
    pub(crate) package_bytes_read: u64,
    pub(crate) files: usize,
}

/// What a package was found to hold.
pub(crate) struct Unpacked {
    pub(crate) tree: BuiltTree,
    /// In the manifest's order.
    pub(crate) modules: Vec<Digest>,
    pub(crate) files: usize,
    pub(crate) bytes: u64,
}

/// Unpacks a package, handing blobs on as they are found. Stops when `deliver` says that nobody wants them.
pub(crate) fn unpack(
    package: &Package,
    limits: &ImportLimits,
    deliver: impl FnMut(Parcel) -> Result<(), ImportError>,
) -> Result<Unpacked, ImportError> {
    let read = Rc::new(Cell::new(0));
    let unpacking = Unpacking {
        limits: *limits,
        totals: Totals::default(),
        tree: TreeBuilder::new(),
        blobs: Collected {
            seen: HashSet::new(),
            small: Vec::new(),
            small_bytes: 0,
            files: 0,
            bytes: 0,
            read: Rc::clone(&read),
            deliver,
        },
    };
    unpacking.run(package, read)
}

struct Unpacking<D> {
    limits: ImportLimits,
    totals: Totals,
    tree: TreeBuilder,
    blobs: Collected<D>,
}

/// What the manifest wants of a package, crossed off as it is found.
struct Wanted<'a> {
    manifest: &'a Manifest,
    seen: HashSet<RelPath>,
    /// By the place of the module in the manifest.
    modules: HashMap<usize, Digest>,
    /// Whether there was something of each [`Take`](crate::Take).
    taken: Vec<bool>,
}

impl<D: FnMut(Parcel) -> Result<(), ImportError>> Unpacking<D> {
    fn run(mut self, package: &Package, read: Rc<Cell<u64>>) -> Result<Unpacked, ImportError> {
        let manifest = package.manifest();
        let taken = vec![false; manifest.take.len()];
        let mut wanted = Wanted { manifest, seen: HashSet::new(), modules: HashMap::new(), taken };
        let Self { limits, totals, tree, blobs } = &mut self;
        let mut visit = |member: Member<'_>| wanted.member(member, (limits, totals), tree, blobs);
        walk_package(package, read, (limits, totals), &mut visit)?;
        let modules = wanted.finish()?;
        for (Module { paths, .. }, digest) in manifest.modules.iter().zip(&modules) {
            let (first, others) = paths.split_first().expect("a manifest names at least one");
            let at = |path: &RelPath| {
                let path = path.clone();
                move |why| ImportError::Place { path, why }
            };
            self.tree.file(first, *digest, true).map_err(at(first))?;
            for path in others {
                // Links, so that a worker that lays the tree out copies a large module once.
                self.tree.symlink(path, &link_target(path, first)).map_err(at(path))?;
            }
        }
        self.blobs.flush()?;
        let Collected { files, bytes, .. } = self.blobs;
        Ok(Unpacked { tree: self.tree.build(FUNCTION), modules, files, bytes })
    }
}

/// Shows every member of a package, whatever kind of archive it is. What is read of its file is counted.
pub(crate) fn walk_package(
    package: &Package,
    read: Rc<Cell<u64>>,
    limits: (&ImportLimits, &Totals),
    visit: &mut Visit<'_>,
) -> Result<(), ImportError> {
    let failed = |source| ImportError::Open { path: package.path().to_owned(), source };
    let open = || {
        let reader = File::open(package.path()).map_err(failed)?;
        Ok::<_, ImportError>(BufReader::new(Counted { reader, read }))
    };
    match &package.manifest().source {
        _ if package.is_built() => walk("package", open()?, limits, visit),
        Source::Npm { .. } | Source::Crate { .. } => walk("package", GzDecoder::new(open()?), limits, visit),
        Source::Pypi { .. } => walk_zip("package", open()?, limits, visit),
        Source::Dir { .. } => walk_folder(package.path(), limits, visit),
    }
}

/// The target of a symlink at `from` that leads to `to`.
fn link_target(from: &RelPath, to: &RelPath) -> String {
    if from.parent() == to.parent() {
        return to.file_name().unwrap_or_default().to_owned();
    }
    format!("{}{}", "../".repeat(from.segments().count() - 1), to.as_str())
}

/// Puts a member of an inner archive at its path in the tree.
fn place<D: FnMut(Parcel) -> Result<(), ImportError>>(
    tree: &mut TreeBuilder,
    blobs: &mut Collected<D>,
    limits: &ImportLimits,
    path: RelPath,
    mut member: Member<'_>,
) -> Result<(), MemberError> {
    below("names in a path", path.segments().count() as u64, limits.path_depth_max)?;
    match &member.kind {
        Kind::Directory => tree.directory(&path)?,
        Kind::Symlink(target) => tree.symlink(&path, target)?,
        Kind::File { .. } => {
            let (digest, is_executable) = blobs.file(&mut member)?;
            tree.file(&path, digest, is_executable)?;
        }
    }
    Ok(())
}

impl Wanted<'_> {
    /// Looks at a member of the package, which may be a module, an archive to unpack, or something to take.
    fn member<D: FnMut(Parcel) -> Result<(), ImportError>>(
        &mut self,
        mut member: Member<'_>,
        (limits, totals): (&ImportLimits, &Totals),
        tree: &mut TreeBuilder,
        blobs: &mut Collected<D>,
    ) -> Result<(), MemberError> {
        if !self.seen.insert(member.path.clone()) && member.kind != Kind::Directory {
            return Err(EntryProblem::Twice.into());
        }
        if let Kind::Symlink(_) = member.kind {
            return Err(EntryProblem::Kind("a symlink").into());
        }
        if let Some(item) = self.manifest.unpack.iter().find(|item| item.archive == member.path) {
            let Kind::File { .. } = member.kind else { return Err(EntryProblem::Kind("no file").into()) };
            let mut place = |member: Member<'_>| {
                let path = item.into.resolve(member.path.as_str())?;
                place(tree, blobs, limits, path, member)
            };
            let walked = walk(item.archive.as_str(), member.data, (limits, totals), &mut place);
            return walked.map_err(MemberError::Told);
        }
        let modules = self.manifest.modules.iter().enumerate();
        let modules: Vec<usize> = modules.filter(|(_, m)| m.file == member.path).map(|(at, _)| at).collect();
        let mut places = Vec::new();
        for (at, item) in self.manifest.take.iter().enumerate() {
            if let Some(rest) = below_path(&member.path, &item.from) {
                self.taken[at] = true;
                places.push(item.into.resolve(rest)?);
            }
        }
        if modules.is_empty() && places.is_empty() {
            return Ok(());
        }
        if member.kind == Kind::Directory {
            for path in places {
                below("names in a path", path.segments().count() as u64, limits.path_depth_max)?;
                tree.directory(&path)?;
            }
            return if modules.is_empty() { Ok(()) } else { Err(EntryProblem::Kind("no file").into()) };
        }
        let (digest, is_executable) = blobs.file(&mut member)?;
        self.modules.extend(modules.into_iter().map(|at| (at, digest)));
        for path in places {
            below("names in a path", path.segments().count() as u64, limits.path_depth_max)?;
            tree.file(&path, digest, is_executable)?;
        }
        Ok(())
    }

    /// Fails when something was not there; returns the modules.
    fn finish(self) -> Result<Vec<Digest>, ImportError> {
        let Manifest { modules, unpack, take, .. } = self.manifest;
        let archives = unpack.iter().map(|item| &item.archive);
        if let Some(missing) = archives.into_iter().find(|path| !self.seen.contains(path)) {
            return Err(ImportError::Missing(missing.clone()));
        }
        if let Some(at) = self.taken.iter().position(|taken| !taken) {
            return Err(ImportError::Missing(take[at].from.clone()));
        }
        let found = |(at, module): (usize, &Module)| {
            self.modules.get(&at).copied().ok_or_else(|| ImportError::Missing(module.file.clone()))
        };
        modules.iter().enumerate().map(found).collect()
    }
}

/// What is left of a path below another; empty for the path itself.
pub(crate) fn below_path<'a>(path: &'a RelPath, above: &RelPath) -> Option<&'a str> {
    let rest = path.as_str().strip_prefix(above.as_str())?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

/// The blobs found so far: small ones until there are enough to hand on.
struct Collected<D> {
    seen: HashSet<Digest>,
    small: Vec<(Digest, Bytes)>,
    small_bytes: usize,
    files: usize,
    bytes: u64,
    read: Rc<Cell<u64>>,
    deliver: D,
}

impl<D: FnMut(Parcel) -> Result<(), ImportError>> Collected<D> {
    /// Takes the bytes of a file; returns their digest and whether it is executable.
    fn file(&mut self, member: &mut Member<'_>) -> Result<(Digest, bool), MemberError> {
        let Kind::File { size, is_executable } = member.kind else {
            return Err(EntryProblem::Kind("no file").into());
        };
        self.files += 1;
        let digest = if size <= SMALL_FILE_BYTES_MAX {
            let mut data = Vec::with_capacity(usize::try_from(size).expect("at most SMALL_FILE_BYTES_MAX"));
            member.read(size, &mut |piece| {
                data.extend_from_slice(piece);
                Ok(())
            })?;
            let digest = FUNCTION.digest(&data);
            self.small(digest, data.into()).map_err(MemberError::Told)?;
            digest
        } else {
            let spool = |source| MemberError::Told(ImportError::Spool(source));
            let (mut file, mut hasher) = (tempfile::tempfile().map_err(spool)?, FUNCTION.hasher(size));
            member.read(size, &mut |piece| {
                hasher.update(piece);
                file.write_all(piece).map_err(spool)
            })?;
            file.rewind().map_err(spool)?;
            let digest = hasher.finish();
            self.large(digest, file).map_err(MemberError::Told)?;
            digest
        };
        Ok((digest, is_executable))
    }

    fn small(&mut self, digest: Digest, data: Bytes) -> Result<(), ImportError> {
        if !self.seen.insert(digest) {
            return Ok(());
        }
        self.bytes += digest.size();
        self.small_bytes += data.len();
        self.small.push((digest, data));
        if self.small_bytes >= BATCH_BYTES_MAX || self.small.len() >= BATCH_FILES_MAX {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn large(&mut self, digest: Digest, file: File) -> Result<(), ImportError> {
        if !self.seen.insert(digest) {
            return Ok(());
        }
        self.bytes += digest.size();
        self.hand_on(Blobs::Large(digest, file))
    }

    fn flush(&mut self) -> Result<(), ImportError> {
        self.small_bytes = 0;
        let small = std::mem::take(&mut self.small);
        if small.is_empty() { Ok(()) } else { self.hand_on(Blobs::Small(small)) }
    }

    fn hand_on(&mut self, blobs: Blobs) -> Result<(), ImportError> {
        (self.deliver)(Parcel { blobs, package_bytes_read: self.read.get(), files: self.files })
    }
}

impl<R: Seek> Seek for Counted<R> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.reader.seek(to)
    }
}

/// Counts the bytes that are read, for those who wait.
struct Counted<R> {
    reader: R,
    read: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.read.set(self.read.get() + read as u64);
        Ok(read)
    }
}
