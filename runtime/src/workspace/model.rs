//! What a workspace should do, as a map from paths to bytes: for random histories of file operations.

use std::collections::BTreeMap;

use super::{Errno, FsError, Kind, Last, Listed, NodeId, OpenFile, Workspace};

/// Offsets and lengths beside the borders of pages.
pub(super) const OFFSETS: [u64; 7] = [0, 1, 300, 65_500, 65_536, 70_000, 131_072];
pub(super) const LENGTHS: [usize; 5] = [0, 1, 40, 65_536, 66_000];

#[derive(Clone, Debug)]
pub(super) enum Op {
    Write { path: String, offset: u64, length: usize, fill: u8 },
    Append { path: String, length: usize, fill: u8 },
    Truncate { path: String, size: u64 },
    Create { path: String, exclusive: bool, truncate: bool },
    Read { path: String, offset: u64, length: usize },
    Unlink { path: String },
    MakeDirectory { path: String },
    RemoveDirectory { path: String },
    Rename { from: String, to: String },
    Link { from: String, to: String },
    List { path: String },
    Hold { path: String },
    WriteHeld { offset: u64, length: usize, fill: u8 },
    DropHeld,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Entry {
    Directory,
    /// Which of the model's files.
    File(usize),
}

/// What a file system is: names, and the bytes of the files they lead to.
#[derive(Default)]
pub(super) struct Model {
    entries: BTreeMap<String, Entry>,
    files: Vec<Vec<u8>>,
    held: Option<usize>,
}

type Outcome<T> = Result<T, Errno>;

impl Model {
    pub(super) fn input(files: &[(&str, &[u8])]) -> Self {
        let mut model = Self::default();
        for (path, content) in files {
            for (end, _) in path.match_indices('/') {
                model.entries.insert(path[..end].to_owned(), Entry::Directory);
            }
            model.add_file(path, content.to_vec());
        }
        model
    }

    fn add_file(&mut self, path: &str, content: Vec<u8>) {
        self.files.push(content);
        self.entries.insert(path.to_owned(), Entry::File(self.files.len() - 1));
    }

    /// What is at a path, when all above it are directories.
    fn get(&self, path: &str) -> Outcome<Option<Entry>> {
        for (end, _) in path.match_indices('/') {
            match self.entries.get(&path[..end]) {
                Some(Entry::Directory) => {}
                Some(Entry::File(_)) => return Err(Errno::Notdir),
                None => return Err(Errno::Noent),
            }
        }
        Ok(self.entries.get(path).copied())
    }

    fn file(&self, path: &str) -> Outcome<usize> {
        match self.get(path)? {
            Some(Entry::File(file)) => Ok(file),
            Some(Entry::Directory) => Err(Errno::Isdir),
            None => Err(Errno::Noent),
        }
    }

    fn is_empty(&self, path: &str) -> bool {
        let below = format!("{path}/");
        !self.entries.keys().any(|other| other.starts_with(&below))
    }

    fn write(&mut self, file: usize, offset: u64, data: &[u8]) -> usize {
        let (content, offset) = (&mut self.files[file], usize::try_from(offset).unwrap());
        if !data.is_empty() {
            content.resize(content.len().max(offset + data.len()), 0);
            content[offset..offset + data.len()].copy_from_slice(data);
        }
        data.len()
    }

    fn create(&mut self, path: &str, exclusive: bool, truncate: bool) -> Outcome<()> {
        match self.get(path)? {
            Some(_) if exclusive => Err(Errno::Exist),
            Some(Entry::Directory) => Err(Errno::Isdir),
            Some(Entry::File(file)) => {
                if truncate {
                    self.files[file].clear();
                }
                Ok(())
            }
            None => {
                self.add_file(path, Vec::new());
                Ok(())
            }
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> Outcome<()> {
        let old = self.get(from)?.ok_or(Errno::Noent)?;
        let new = self.get(to)?;
        if old == Entry::Directory && (to == from || to.starts_with(&format!("{from}/"))) {
            return if to == from { Ok(()) } else { Err(Errno::Inval) };
        }
        match (old, new) {
            (Entry::File(a), Some(Entry::File(b))) if a == b => return Ok(()),
            (Entry::File(_), Some(Entry::Directory)) => return Err(Errno::Isdir),
            (Entry::Directory, Some(Entry::File(_))) => return Err(Errno::Notdir),
            (Entry::Directory, Some(Entry::Directory)) if !self.is_empty(to) => return Err(Errno::Notempty),
            _ => {}
        }
        let below = format!("{from}/");
        let moved: Vec<String> =
            self.entries.keys().filter(|path| *path == from || path.starts_with(&below)).cloned().collect();
        for path in moved {
            let entry = self.entries.remove(&path).unwrap();
            self.entries.insert(format!("{to}{}", &path[from.len()..]), entry);
        }
        Ok(())
    }

    fn list(&self, path: &str) -> Outcome<Vec<String>> {
        match self.get(path)? {
            None => Err(Errno::Noent),
            Some(Entry::File(_)) => Err(Errno::Notdir),
            Some(Entry::Directory) => {
                let below = format!("{path}/");
                let names = self.entries.keys().filter_map(|other| other.strip_prefix(&below));
                Ok(names.filter(|name| !name.contains('/')).map(str::to_owned).collect())
            }
        }
    }
}

fn errno<T>(result: Result<T, FsError>) -> Outcome<T> {
    result.map_err(|error| match error {
        FsError::Errno(errno) => errno,
        FsError::Failure(failure) => panic!("{failure}"),
    })
}

/// Opens for writing, does one thing, closes.
fn with_file<T>(
    workspace: &mut Workspace,
    path: &str,
    work: impl FnOnce(&mut Workspace, NodeId) -> Result<T, FsError>,
) -> Outcome<T> {
    let node = errno(workspace.open(NodeId::ROOT, path, OpenFile { write: true, ..OpenFile::default() }))?;
    let done = work(workspace, node);
    workspace.close(node);
    errno(done)
}

/// Does the same to both and compares what they say.
pub(super) fn step(workspace: &mut Workspace, held: &mut Option<NodeId>, model: &mut Model, op: Op) {
    let root = NodeId::ROOT;
    match op.clone() {
        Op::Write { path, offset, length, fill } => {
            let data = vec![fill; length];
            let ours = with_file(workspace, &path, |w, node| w.write(node, offset, &data));
            let theirs = model.file(&path).map(|file| model.write(file, offset, &data));
            assert_eq!(ours, theirs, "{op:?}");
        }
        Op::Append { path, length, fill } => {
            let data = vec![fill; length];
            let ours = with_file(workspace, &path, |w, node| {
                let size = w.size(node)?;
                w.write(node, size, &data)
            });
            let theirs =
                model.file(&path).map(|file| model.write(file, model.files[file].len() as u64, &data));
            assert_eq!(ours, theirs, "{op:?}");
        }
        Op::Truncate { path, size } => {
            let ours = with_file(workspace, &path, |w, node| w.set_size(node, size));
            let theirs =
                model.file(&path).map(|file| model.files[file].resize(usize::try_from(size).unwrap(), 0));
            assert_eq!(ours, theirs, "{op:?}");
        }
        Op::Create { path, exclusive, truncate } => {
            let how = OpenFile { create: true, exclusive, truncate, write: true, ..OpenFile::default() };
            let ours = errno(workspace.open(root, &path, how)).map(|node| workspace.close(node));
            assert_eq!(ours, model.create(&path, exclusive, truncate), "{op:?}");
        }
        Op::Read { path, offset, length } => {
            let mut buf = vec![0xee; length];
            let ours = with_file(workspace, &path, |w, node| w.read(node, offset, &mut buf));
            let theirs = model.file(&path).map(|file| {
                let content = &model.files[file];
                let start = usize::try_from(offset).unwrap().min(content.len());
                content[start..content.len().min(start + length)].to_vec()
            });
            assert_eq!(ours.map(|n| buf[..n].to_vec()), theirs, "{op:?}");
        }
        Op::Unlink { path } => {
            let ours = errno(workspace.unlink(root, &path));
            let theirs = model.file(&path).map(|_| _ = model.entries.remove(&path));
            assert_eq!(ours, theirs, "{op:?}");
        }
        Op::MakeDirectory { path } => {
            let ours = errno(workspace.create_directory(root, &path)).map(|_| ());
            let theirs = model.get(&path).and_then(|there| match there {
                Some(_) => Err(Errno::Exist),
                None => Ok(_ = model.entries.insert(path, Entry::Directory)),
            });
            assert_eq!(ours, theirs, "{op:?}");
        }
        Op::RemoveDirectory { path } => {
            let ours = errno(workspace.remove_directory(root, &path));
            let theirs = model.list(&path).and_then(|names| match names.is_empty() {
                false => Err(Errno::Notempty),
                true => Ok(_ = model.entries.remove(&path)),
            });
            assert_eq!(ours, theirs, "{op:?}");
        }
        Op::Rename { from, to } => {
            let ours = errno(workspace.rename((root, &from), (root, &to)));
            assert_eq!(ours, model.rename(&from, &to), "{op:?}");
        }
        Op::Link { from, to } => {
            let ours = errno(workspace.link((root, &from), Last::Keep, (root, &to)));
            let theirs = model.file(&from).map_err(|e| if e == Errno::Isdir { Errno::Perm } else { e });
            let theirs = theirs.and_then(|file| match model.get(&to)? {
                Some(_) => Err(Errno::Exist),
                None => Ok(_ = model.entries.insert(to, Entry::File(file))),
            });
            assert_eq!(ours, theirs, "{op:?}");
        }
        Op::List { path } => {
            let how = OpenFile { directory: true, ..OpenFile::default() };
            let ours = errno(workspace.open(root, &path, how)).map(|node| {
                let listing = workspace.list(node).unwrap();
                let names = listing.iter().map(|Listed { name, .. }| name.to_owned()).collect::<Vec<_>>();
                workspace.release(listing);
                workspace.close(node);
                names
            });
            assert_eq!(ours, model.list(&path), "{op:?}");
        }
        Op::Hold { path } => {
            let opened = errno(workspace.open(root, &path, OpenFile { write: true, ..OpenFile::default() }));
            let theirs = model.file(&path);
            assert_eq!(opened.map(|_| ()), theirs.map(|_| ()), "{op:?}");
            if let (Ok(node), Ok(file)) = (opened, theirs) {
                held.replace(node).into_iter().for_each(|old| workspace.close(old));
                model.held = Some(file);
            }
        }
        Op::WriteHeld { offset, length, fill } => {
            if let (Some(node), Some(file)) = (*held, model.held) {
                let data = vec![fill; length];
                assert_eq!(errno(workspace.write(node, offset, &data)), Ok(model.write(file, offset, &data)));
                let mut content = vec![0; model.files[file].len() + 1];
                let read = errno(workspace.read(node, 0, &mut content)).unwrap();
                assert!(content[..read] == model.files[file], "{op:?}");
            }
        }
        Op::DropHeld => {
            held.take().into_iter().for_each(|node| workspace.close(node));
            model.held = None;
        }
    }
}

/// Walks everything from the root and compares it with the model.
pub(super) fn compare(workspace: &mut Workspace, model: &Model) {
    let mut found = BTreeMap::new();
    let mut pending = vec![(NodeId::ROOT, String::new())];
    while let Some((directory, prefix)) = pending.pop() {
        let listing = workspace.list(directory).unwrap();
        for entry in listing.iter() {
            let path = format!("{prefix}{}", entry.name);
            let node = workspace.find(directory, entry.name, Last::Keep).unwrap();
            let stat = workspace.stat(node).unwrap();
            assert_eq!((stat.inode, stat.kind), (entry.inode, entry.kind), "{path}");
            if entry.kind == Kind::Directory {
                pending.push((node, format!("{path}/")));
                found.insert(path, None);
                continue;
            }
            let mut content = vec![0; usize::try_from(stat.size).unwrap()];
            assert_eq!(workspace.read(node, 0, &mut content).unwrap(), content.len());
            found.insert(path, Some((content, stat.links)));
        }
        workspace.release(listing);
    }
    let links = |file| model.entries.values().filter(|entry| **entry == Entry::File(file)).count() as u64;
    let expected: BTreeMap<_, _> = model
        .entries
        .iter()
        .map(|(path, entry)| match entry {
            Entry::Directory => (path.clone(), None),
            Entry::File(file) => (path.clone(), Some((model.files[*file].clone(), links(*file)))),
        })
        .collect();
    assert!(found == expected, "{:?} is not {:?}", found.keys(), expected.keys());
}

/// Removes everything.
pub(super) fn empty(workspace: &mut Workspace) {
    let mut pending = vec![String::new()];
    let mut directories = Vec::new();
    while let Some(prefix) = pending.pop() {
        let path = if prefix.is_empty() { "." } else { &prefix[..prefix.len() - 1] };
        let directory = workspace.find(NodeId::ROOT, path, Last::Keep).unwrap();
        let listing = workspace.list(directory).unwrap();
        for entry in listing.iter() {
            let path = format!("{prefix}{}", entry.name);
            if entry.kind == Kind::Directory {
                pending.push(format!("{path}/"));
                directories.push(path);
            } else {
                workspace.unlink(NodeId::ROOT, &path).unwrap();
            }
        }
        workspace.release(listing);
    }
    for path in directories.iter().rev() {
        workspace.remove_directory(NodeId::ROOT, path).unwrap();
    }
}
