//! Comparing the results of two runs of one action.
//!
//! An action's result should be a function of the action. What differs between two runs is a finding about the
//! command, or about the compiler of its machine code; it is not a fault of the runs.

use std::collections::{BTreeMap, HashMap};

use prost::Message as _;
use wardian_proto::{Digest, DigestFunction, Directory, RelPath, reapi};
use wardian_store::tree::{TreeLimits, closure};
use wardian_store::{BlobStore, StoreError};

/// Something that is not the same in two results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What it is, such as `exit code` or `file out/a.o`.
    pub what: String,
    /// What it is in the first result, if it is there.
    pub first: Option<String>,
    /// What it is in the second.
    pub second: Option<String>,
}

/// Everything about a result that must be the same in every run, by name.
type Seen = BTreeMap<String, String>;

/// Compares two results of actions that name things by `function`, file by file also inside of output
/// directories, whose trees are read from `store`.
pub async fn differences(
    store: &dyn BlobStore,
    function: DigestFunction,
    limits: TreeLimits,
    first: &reapi::ActionResult,
    second: &reapi::ActionResult,
) -> Result<Vec<Difference>, StoreError> {
    let mut seen = [observe(function, first), observe(function, second)];
    let reader = Reader { store, function, limits };
    for directory in different(&seen) {
        let Some(path) = directory.what.strip_prefix(DIRECTORY) else { continue };
        for (seen, result) in seen.iter_mut().zip([first, second]) {
            let output = result.output_directories.iter().find(|output| output.path == path);
            if let Some(output) = output {
                seen.extend(reader.files(output).await?);
            }
        }
        // Where the files say which of them it is, the digests of the trees say nothing more.
        let told = different(&seen).iter().any(|found| found.what.contains(&format!(" {path}/")));
        if told && directory.first.is_some() && directory.second.is_some() {
            seen.iter_mut().for_each(|seen| drop(seen.remove(&directory.what)));
        }
    }
    Ok(different(&seen))
}

const DIRECTORY: &str = "directory ";

/// How many things [`differences`] compares in a result, exit code and streams aside.
pub fn outputs(result: &reapi::ActionResult) -> usize {
    result.output_files.len() + result.output_directories.len() + result.output_symlinks.len()
}

fn observe(function: DigestFunction, result: &reapi::ActionResult) -> Seen {
    let digest = |wire: &Option<reapi::Digest>| {
        wire.as_ref().map_or_else(String::new, |digest| format!("{}/{}", digest.hash, digest.size_bytes))
    };
    let stream = |raw: &[u8], wire: &Option<reapi::Digest>| match wire {
        Some(_) => digest(wire),
        None => function.digest(raw).to_string(),
    };
    let files = result
        .output_files
        .iter()
        .map(|file| (format!("file {}", file.path), with_mode(digest(&file.digest), file.is_executable)));
    let directories = result.output_directories.iter().map(|directory| {
        let wire = match &directory.tree_digest {
            Some(_) => &directory.tree_digest,
            None => &directory.root_directory_digest,
        };
        (format!("{DIRECTORY}{}", directory.path), digest(wire))
    });
    let symlinks =
        result.output_symlinks.iter().map(|link| (format!("symlink {}", link.path), link.target.clone()));
    let others = [
        ("exit code".to_owned(), result.exit_code.to_string()),
        ("standard output".to_owned(), stream(&result.stdout_raw, &result.stdout_digest)),
        ("standard error".to_owned(), stream(&result.stderr_raw, &result.stderr_digest)),
    ];
    files.chain(directories).chain(symlinks).chain(others).collect()
}

fn with_mode(digest: String, is_executable: bool) -> String {
    if is_executable { format!("{digest} executable") } else { digest }
}

fn different(seen: &[Seen; 2]) -> Vec<Difference> {
    let [first, second] = seen;
    let only_second = second.keys().filter(|what| !first.contains_key(*what));
    let all = first.keys().chain(only_second);
    all.filter(|what| first.get(*what) != second.get(*what))
        .map(|what| Difference {
            what: what.clone(),
            first: first.get(what).cloned(),
            second: second.get(what).cloned(),
        })
        .collect()
}

/// Reads what is inside of output directories.
struct Reader<'a> {
    store: &'a dyn BlobStore,
    function: DigestFunction,
    limits: TreeLimits,
}

impl Reader<'_> {
    /// The files and symlinks of a directory. Empty directories are seen in the digest only.
    async fn files(&self, output: &reapi::OutputDirectory) -> Result<Seen, StoreError> {
        let parse = |wire: &Option<reapi::Digest>| Digest::from_wire(self.function, wire.as_ref()).ok();
        let (root, directories) = match (parse(&output.tree_digest), parse(&output.root_directory_digest)) {
            (Some(tree), _) => self.tree(&tree).await?,
            (None, Some(root)) => (root, closure(self.store, root, self.limits).await?.directories),
            (None, None) => return Ok(Seen::new()),
        };
        let mut seen = Seen::new();
        let mut entries = 0;
        let mut pending = vec![(root, RelPath::root())];
        while let Some((digest, path)) = pending.pop() {
            let Some(directory) = directories.get(&digest) else { continue };
            let named = |name: &_, kind: &str| format!("{kind} {}/{}", output.path, path.join(name));
            for file in &directory.files {
                let value = with_mode(file.digest.to_string(), file.is_executable);
                seen.insert(named(&file.name, "file"), value);
            }
            for link in &directory.symlinks {
                seen.insert(named(&link.name, "symlink"), link.target.clone());
            }
            // The same Directory may be found in many places: what is counted is what is told.
            entries += directory.files.len() + directory.symlinks.len() + directory.directories.len();
            if entries > self.limits.entries_max {
                let (limit_name, limit) = ("entries of an output directory", self.limits.entries_max as u64);
                return Err(StoreError::TooLarge { digest: root, limit_name, limit });
            }
            if path.segments().count() > self.limits.depth_max {
                let (limit_name, limit) = ("levels of an output directory", self.limits.depth_max as u64);
                return Err(StoreError::TooLarge { digest: root, limit_name, limit });
            }
            pending.extend(directory.directories.iter().map(|child| (child.digest, path.join(&child.name))));
        }
        Ok(seen)
    }

    /// The root of a Tree message and all of its Directories.
    async fn tree(&self, digest: &Digest) -> Result<(Digest, HashMap<Digest, Directory>), StoreError> {
        let wire = self.store.get(digest, self.limits.bytes_max).await?;
        let damaged = || StoreError::Damaged(format!("{digest} is no Tree with a root"));
        let tree = reapi::Tree::decode(wire).map_err(|_| damaged())?;
        let root = tree.root.ok_or_else(damaged)?;
        let name = |directory: &reapi::Directory| self.function.digest(&directory.encode_to_vec());
        let root_digest = name(&root);
        let mut directories = HashMap::new();
        for directory in std::iter::once(root).chain(tree.children) {
            let name = name(&directory);
            let parsed = Directory::from_wire(self.function, directory)
                .map_err(|source| StoreError::Directory { digest: *digest, source })?;
            directories.insert(name, parsed);
        }
        Ok((root_digest, directories))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use wardian_store::Upload;
    use wardian_store::backend::MemoryStore;
    use wardian_store::tree_builder::TreeBuilder;

    use super::*;

    const FUNCTION: DigestFunction = DigestFunction::Sha256;

    async fn put(store: &MemoryStore, bytes: Bytes) -> Digest {
        let digest = FUNCTION.digest(&bytes);
        store.put(Upload::bytes(digest, bytes)).await.unwrap();
        digest
    }

    /// A result with the output directory `out`, told as a Tree or as its root.
    async fn directory(store: &MemoryStore, files: &[(&str, &str)], as_tree: bool) -> reapi::ActionResult {
        let mut tree = TreeBuilder::new();
        for (path, content) in files {
            let path = RelPath::parse(path).unwrap();
            tree.file(&path, FUNCTION.digest(content.as_bytes()), false).unwrap();
        }
        let built = tree.build(FUNCTION);
        let mut wire = Vec::new();
        for (_, bytes) in &built.directories {
            put(store, bytes.clone()).await;
            wire.push(reapi::Directory::decode(bytes.clone()).unwrap());
        }
        let root = wire.pop();
        let tree = put(store, reapi::Tree { root, children: wire }.encode_to_vec().into()).await;
        let output = reapi::OutputDirectory {
            path: "out".into(),
            tree_digest: as_tree.then(|| tree.to_wire()),
            root_directory_digest: Some(built.root.to_wire()),
            ..Default::default()
        };
        reapi::ActionResult { output_directories: vec![output], ..Default::default() }
    }

    async fn compare(
        store: &MemoryStore,
        first: &reapi::ActionResult,
        second: &reapi::ActionResult,
    ) -> Vec<String> {
        let found = differences(store, FUNCTION, TreeLimits::default(), first, second).await.unwrap();
        let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        found.iter().map(|d| format!("{}: {} {}", d.what, word(&d.first), word(&d.second))).collect()
    }

    fn name(content: &str) -> Digest {
        FUNCTION.digest(content.as_bytes())
    }

    #[tokio::test]
    async fn directories_are_compared_file_by_file() {
        let store = MemoryStore::new(1 << 20);
        for as_tree in [true, false] {
            let first = directory(&store, &[("a", "1"), ("sub/b", "2"), ("sub/c", "3")], as_tree).await;
            let second = directory(&store, &[("a", "1"), ("sub/b", "4"), ("d", "5")], as_tree).await;
            assert_eq!(compare(&store, &first, &first).await, Vec::<String>::new());
            assert_eq!(
                compare(&store, &first, &second).await,
                [
                    format!("file out/sub/b: {} {}", name("2"), name("4")),
                    format!("file out/sub/c: {} -", name("3")),
                    format!("file out/d: - {}", name("5")),
                ]
            );
            // A directory that is there once only is told with all that is in it.
            let none = reapi::ActionResult::default();
            let told = compare(&store, &none, &second).await;
            assert_eq!(told.len(), 4, "{told:?}");
            assert!(told.iter().any(|line| line.starts_with("directory out: - ")), "{told:?}");
        }
    }

    #[tokio::test]
    async fn exit_code_streams_and_files_are_compared() {
        let store = MemoryStore::new(1 << 20);
        let file = |content: &str, is_executable| reapi::OutputFile {
            path: "f".into(),
            digest: Some(name(content).to_wire()),
            is_executable,
            ..Default::default()
        };
        let first = reapi::ActionResult {
            stdout_raw: "text".into(),
            output_files: vec![file("1", false)],
            ..Default::default()
        };
        // Inline or stored: it is the same text.
        let same = reapi::ActionResult {
            stdout_raw: Bytes::new(),
            stdout_digest: Some(name("text").to_wire()),
            ..first.clone()
        };
        assert_eq!(compare(&store, &first, &same).await, Vec::<String>::new());
        let second = reapi::ActionResult {
            exit_code: 3,
            stderr_raw: "why".into(),
            output_files: vec![file("1", true)],
            ..same
        };
        assert_eq!(
            compare(&store, &first, &second).await,
            [
                "exit code: 0 3".to_owned(),
                format!("file f: {} {} executable", name("1"), name("1")),
                format!("standard error: {} {}", name(""), name("why")),
            ]
        );
    }

    #[tokio::test]
    async fn trees_that_cannot_be_read_are_an_error() {
        let store = MemoryStore::new(1 << 20);
        let first = directory(&store, &[("a", "1")], true).await;
        let mut second = first.clone();
        second.output_directories[0].tree_digest = Some(name("never stored").to_wire());
        let compared = differences(&store, FUNCTION, TreeLimits::default(), &first, &second).await;
        assert!(matches!(compared, Err(StoreError::NotFound(_))), "{compared:?}");
        let limits = TreeLimits { entries_max: 0, ..TreeLimits::default() };
        let none = reapi::ActionResult::default();
        let compared = differences(&store, FUNCTION, limits, &first, &none).await;
        assert!(matches!(compared, Err(StoreError::TooLarge { .. })), "{compared:?}");
    }
}
