//! A directory tree as text, cut off where it gets too long.

use std::collections::HashMap;

use serde_json::{Value, json};
use wardian_proto::{Digest, Directory};
use wardian_store::tree::Closure;

use super::format;

/// How much of a tree is shown.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct ViewLimits {
    /// Levels of the tree to show.
    #[arg(long, value_name = "LEVELS", default_value_t = 8)]
    pub(crate) depth: usize,
    /// Most entries of the tree to show.
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    pub(crate) max_entries: usize,
}

/// How commands that show a tree print it.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct ViewArgs {
    #[command(flatten)]
    limits: ViewLimits,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl ViewArgs {
    /// Prints what was asked for: JSON or text, of so much of the tree.
    pub(crate) fn print(
        self,
        json: impl FnOnce(ViewLimits) -> Value,
        text: impl FnOnce(ViewLimits) -> Result<String, std::fmt::Error>,
    ) -> anyhow::Result<()> {
        if self.json { super::print_json(&json(self.limits)) } else { super::print(text(self.limits)?) }
    }
}

/// What is below a directory, all levels together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Total {
    entries: u64,
    files: u64,
    bytes: u64,
}

/// One line's worth of a tree.
enum Node<'a> {
    File { name: &'a str, digest: Digest, is_executable: bool },
    Symlink { name: &'a str, target: &'a str },
    Directory { name: &'a str, digest: Digest },
}

impl Node<'_> {
    fn name(&self) -> &str {
        let (Self::File { name, .. } | Self::Symlink { name, .. } | Self::Directory { name, .. }) = self;
        name
    }
}

/// A tree that can be printed.
pub(crate) struct TreeView<'a> {
    tree: &'a Closure,
    totals: HashMap<Digest, Total>,
    limits: ViewLimits,
    shown: usize,
}

impl<'a> TreeView<'a> {
    pub(crate) fn new(tree: &'a Closure, limits: ViewLimits) -> Self {
        let mut totals = HashMap::with_capacity(tree.order.len());
        for digest in &tree.order {
            total(tree, *digest, &mut totals);
        }
        Self { tree, totals, limits, shown: 0 }
    }

    /// Returns the tree below `root` in lines, each with `indent` before it.
    pub(crate) fn lines(&mut self, root: Digest, indent: &str) -> Vec<String> {
        let mut lines = Vec::new();
        self.level(root, indent, 1, &mut lines);
        lines
    }

    /// Returns how much is in the whole tree.
    pub(crate) fn summary(&self, root: Digest) -> String {
        let total = self.totals.get(&root).copied().unwrap_or_default();
        format!("{} files, {}", total.files, format::size(total.bytes))
    }

    fn level(&mut self, digest: Digest, indent: &str, depth: usize, lines: &mut Vec<String>) {
        let Some(directory) = self.tree.directories.get(&digest) else { return };
        let nodes = nodes(directory);
        for (at, node) in nodes.iter().enumerate() {
            let last = at + 1 == nodes.len();
            if self.shown == self.limits.max_entries {
                let more: u64 =
                    nodes[at..].iter().map(|node| 1 + self.below(node).entries).fold(0, u64::saturating_add);
                lines.push(format!("{indent}└── … and {more} more"));
                return;
            }
            self.shown += 1;
            let (branch, below) = if last { ("└── ", "    ") } else { ("├── ", "│   ") };
            let open = depth < self.limits.depth;
            lines.push(format!("{indent}{branch}{}", self.line(node, open)));
            if let Node::Directory { digest, .. } = node
                && open
            {
                self.level(*digest, &format!("{indent}{below}"), depth + 1, lines);
            }
        }
    }

    fn line(&self, node: &Node<'_>, open: bool) -> String {
        let name = format::plain(node.name());
        match node {
            Node::File { digest, is_executable, .. } => {
                let mark = if *is_executable { "*" } else { "" };
                format!("{name}{mark}  {}", format::size(digest.size()))
            }
            Node::Symlink { target, .. } => format!("{name} -> {}", format::plain(target)),
            Node::Directory { digest, .. } if !self.tree.directories.contains_key(digest) => {
                format!("{name}/  (not in the CAS: {digest})")
            }
            Node::Directory { .. } if open => format!("{name}/"),
            Node::Directory { digest, .. } => format!("{name}/  ({})", self.summary(*digest)),
        }
    }

    fn below(&self, node: &Node<'_>) -> Total {
        match node {
            Node::Directory { digest, .. } => self.totals.get(digest).copied().unwrap_or_default(),
            _ => Total::default(),
        }
    }

    /// Returns the entries with whole paths, as values; at most as many as are to be shown.
    pub(crate) fn json(&self, root: Digest) -> Value {
        let mut entries = Vec::new();
        let mut left = vec![(String::new(), root, 1)];
        let mut is_cut = false;
        while let Some((path, digest, depth)) = left.pop() {
            let Some(directory) = self.tree.directories.get(&digest) else { continue };
            for node in nodes(directory) {
                if entries.len() == self.limits.max_entries {
                    is_cut = true;
                    break;
                }
                let path = format!("{path}{}", node.name());
                match &node {
                    Node::Directory { digest, .. } if depth < self.limits.depth => {
                        left.push((format!("{path}/"), *digest, depth + 1));
                    }
                    Node::Directory { .. } => is_cut = true,
                    _ => {}
                }
                entries.push(node_json(&path, &node));
            }
        }
        let total = self.totals.get(&root).copied().unwrap_or_default();
        json!({
            "root": root.to_string(), "files": total.files, "bytes": total.bytes, "entries": entries, "cut": is_cut,
        })
    }
}

/// Returns the entries of one Directory in the order of their names.
fn nodes(directory: &Directory) -> Vec<Node<'_>> {
    let files = directory.files.iter().map(|entry| Node::File {
        name: entry.name.as_str(),
        digest: entry.digest,
        is_executable: entry.is_executable,
    });
    let symlinks = directory.symlinks.iter();
    let symlinks = symlinks.map(|entry| Node::Symlink { name: entry.name.as_str(), target: &entry.target });
    let directories = directory.directories.iter();
    let directories =
        directories.map(|entry| Node::Directory { name: entry.name.as_str(), digest: entry.digest });
    let mut nodes: Vec<_> = files.chain(symlinks).chain(directories).collect();
    nodes.sort_by(|a, b| a.name().cmp(b.name()));
    nodes
}

fn node_json(path: &str, node: &Node<'_>) -> Value {
    match node {
        Node::File { digest, is_executable, .. } => json!({
            "path": path, "kind": "file", "digest": digest.to_string(), "size": digest.size(),
            "executable": is_executable,
        }),
        Node::Symlink { target, .. } => json!({"path": path, "kind": "symlink", "target": target}),
        Node::Directory { digest, .. } => {
            json!({"path": path, "kind": "directory", "digest": digest.to_string()})
        }
    }
}

/// Returns one Directory as lines that programs can cut: kind, digest, name.
pub(crate) fn listing(directory: &Directory) -> String {
    let line = |node: &Node<'_>| {
        let name = format::plain(node.name());
        match node {
            Node::File { digest, is_executable: false, .. } => format!("file  {digest}  {name}\n"),
            Node::File { digest, .. } => format!("exec  {digest}  {name}\n"),
            Node::Directory { digest, .. } => format!("dir   {digest}  {name}/\n"),
            Node::Symlink { target, .. } => format!("link  {name} -> {}\n", format::plain(target)),
        }
    };
    nodes(directory).iter().map(line).collect()
}

/// Returns one Directory as values.
pub(crate) fn listing_json(directory: &Directory) -> Value {
    nodes(directory).iter().map(|node| node_json(node.name(), node)).collect()
}

/// Adds up what is below a directory, each distinct one once.
fn total(tree: &Closure, digest: Digest, totals: &mut HashMap<Digest, Total>) -> Total {
    if let Some(known) = totals.get(&digest) {
        return *known;
    }
    let Some(directory) = tree.directories.get(&digest) else { return Total::default() };
    let mut sum = Total {
        entries: (directory.files.len() + directory.symlinks.len() + directory.directories.len()) as u64,
        files: directory.files.len() as u64,
        bytes: directory.files.iter().map(|file| file.digest.size()).fold(0, u64::saturating_add),
    };
    for entry in &directory.directories {
        // As deep as the walk that found the tree, which has a limit.
        let below = total(tree, entry.digest, totals);
        sum.entries = sum.entries.saturating_add(below.entries);
        sum.files = sum.files.saturating_add(below.files);
        sum.bytes = sum.bytes.saturating_add(below.bytes);
    }
    totals.insert(digest, sum);
    sum
}

#[cfg(test)]
mod tests {
    use wardian_proto::RelPath;
    use wardian_store::backend::MemoryStore;
    use wardian_store::tree::{TreeLimits, closure};
    use wardian_store::tree_builder::TreeBuilder;
    use wardian_store::{BlobStore as _, Upload};

    use super::*;
    use crate::client::DIGEST_FUNCTION;

    async fn tree(paths: &[&str]) -> (Digest, Closure) {
        let (store, mut tree) = (MemoryStore::new(1 << 20), TreeBuilder::new());
        for path in paths {
            tree.file(&RelPath::parse(path).unwrap(), DIGEST_FUNCTION.digest(path.as_bytes()), false)
                .unwrap();
        }
        tree.symlink(&RelPath::parse("z").unwrap(), "a\n").unwrap();
        let built = tree.build(DIGEST_FUNCTION);
        for (digest, bytes) in built.directories {
            store.put(Upload::bytes(digest, bytes)).await.unwrap();
        }
        (built.root, closure(&store, built.root, TreeLimits::default()).await.unwrap())
    }

    async fn view(depth: usize, max_entries: usize) -> Vec<String> {
        let (root, tree) = tree(&["a", "d/x", "d/e/y", "d/e/z"]).await;
        TreeView::new(&tree, ViewLimits { depth, max_entries }).lines(root, "")
    }

    #[tokio::test]
    async fn whole_trees_are_drawn() {
        let expected = [
            "├── a  1 B",
            "├── d/",
            "│   ├── e/",
            "│   │   ├── y  5 B",
            "│   │   └── z  5 B",
            "│   └── x  3 B",
            r"└── z -> a\n",
        ];
        assert_eq!(view(9, 99).await, expected);
    }

    #[tokio::test]
    async fn what_is_left_out_is_counted() {
        let expected = ["├── a  1 B", "├── d/  (3 files, 13 B)", r"└── z -> a\n"];
        assert_eq!(view(1, 99).await, expected);
        assert_eq!(view(9, 1).await, ["├── a  1 B", "└── … and 6 more"]);
        let expected = ["├── a  1 B", "├── d/", "│   └── … and 4 more", "└── … and 1 more"];
        assert_eq!(view(9, 2).await, expected);
    }

    #[tokio::test]
    async fn values_have_whole_paths() {
        let (root, tree) = tree(&["a", "d/x"]).await;
        let value = TreeView::new(&tree, ViewLimits { depth: 9, max_entries: 99 }).json(root);
        let paths: Vec<_> = value["entries"].as_array().unwrap().iter().map(|e| e["path"].clone()).collect();
        assert_eq!(paths, ["a", "d", "z", "d/x"]);
        assert_eq!((value["cut"].clone(), value["files"].clone()), (false.into(), 2.into()));
    }
}
