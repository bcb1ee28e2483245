//! What is fetched ahead, in how many calls, and what does not stop it or is stopped by it.

use bytes::Bytes;
use prost::Message as _;
use tokio::runtime::Handle;
use wardian_proto::{DigestFunction, RelPath, reapi};
use wardian_store::Upload;
use wardian_store::backend::MemoryStore;
use wardian_store::layers::{Metered, Meters, Operation, Tiered};
use wardian_store::tree_builder::TreeBuilder;

use super::*;

/// A store in front of one far away, and what fetches ahead for it.
struct Fixture {
    prefetcher: Prefetcher,
    near: Arc<MemoryStore>,
    far: Arc<MemoryStore>,
    near_meters: Arc<Meters>,
    far_meters: Arc<Meters>,
}

fn fixture(near_bytes_max: u64, bytes_per_action_max: u64) -> Fixture {
    let (near, far) = (Arc::new(MemoryStore::new(near_bytes_max)), Arc::new(MemoryStore::new(1 << 30)));
    let (near_meters, far_meters) = (Arc::<Meters>::default(), Arc::<Meters>::default());
    let metered =
        |store: &Arc<MemoryStore>, meters: &Arc<Meters>| Metered::new(store.clone(), meters.clone());
    let tiered = Tiered::new(Arc::clone(&near), metered(&far, &far_meters)).joining(1 << 30);
    let store: Arc<dyn BlobStore> = Arc::new(tiered);
    let source = Source {
        store: Arc::clone(&store),
        near: Arc::new(metered(&near, &near_meters)),
        near_bytes_max,
        inputs: Inputs::new(store, Handle::current(), 8 << 20, 1 << 20),
        has_code: Box::new(|_| false),
    };
    let settings = PrefetchSettings { enabled: true, bytes_per_action_max };
    let prefetcher = Prefetcher::new(source, Limits::default(), settings);
    Fixture { prefetcher, near, far, near_meters, far_meters }
}

fn roomy() -> Fixture {
    fixture(1 << 30, 1 << 30)
}

fn digest(content: &[u8]) -> Digest {
    DigestFunction::Sha256.digest(content)
}

fn path(text: &str) -> RelPath {
    RelPath::parse(text).unwrap()
}

impl Fixture {
    async fn put(&self, content: impl Into<Bytes>) -> Digest {
        let content = content.into();
        let digest = digest(&content);
        self.far.put(Upload::bytes(digest, content)).await.unwrap();
        digest
    }

    /// An action of `bin/tool` over a tree that the far store has.
    async fn action(&self, tree: TreeBuilder) -> Digest {
        let tree = tree.build(DigestFunction::Sha256);
        for (_, bytes) in tree.directories {
            self.put(bytes).await;
        }
        let command = reapi::Command { arguments: vec!["bin/tool".into()], ..Default::default() };
        let command = self.put(command.encode_to_vec()).await;
        let action = reapi::Action {
            command_digest: Some(command.to_wire()),
            input_root_digest: Some(tree.root.to_wire()),
            ..Default::default()
        };
        self.put(action.encode_to_vec()).await
    }

    /// A tree of 20 folders with ten files in each, and their digests.
    async fn two_hundred(&self, version: &str) -> (TreeBuilder, Vec<Digest>) {
        let (mut tree, mut files) = (TreeBuilder::new(), Vec::new());
        for number in 0..200 {
            let name = format!("d{}/f{number}", number % 20);
            let file = self.put(format!("{name} {version} {}", "x".repeat(1000 + number))).await;
            tree.file(&path(&name), file, false).unwrap();
            files.push(file);
        }
        (tree, files)
    }

    async fn fetch(&self, action: Digest) -> Result<Charge<'_>, Failure> {
        self.prefetcher.shared.fetch(action).await
    }

    async fn near_among(&self, files: &[Digest]) -> usize {
        files.len() - self.near.find_missing(files).await.unwrap().len()
    }

    fn calls_afar(&self) -> u64 {
        [Operation::Read, Operation::GetBatch].map(|kind| self.far_meters.read(kind).calls).iter().sum()
    }

    fn charged(&self) -> u64 {
        self.prefetcher.shared.charged.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_whole_tree_comes_in_a_few_calls_and_once() {
    let f = roomy();
    let (mut tree, files) = f.two_hundred("1").await;
    let tool = f.put(vec![7; 300_000]).await;
    tree.file(&path("bin/tool"), tool, true).unwrap();
    let action = f.action(tree).await;
    drop(f.fetch(action).await.unwrap());
    assert_eq!(f.near_among(&files).await, 200);
    assert_eq!(f.near_among(&[tool]).await, 1);
    // Action, Command, root, the other Directories and that of the tool, two batches below 1 MiB at the most, the tool.
    assert!(f.calls_afar() <= 8, "{}", f.calls_afar());
    let bytes = files.iter().chain([&tool]).map(Digest::size).sum();
    let counts = PrefetchCounts { files: 201, bytes, files_used: 0, bytes_used: 0 };
    assert_eq!(f.prefetcher.counts(), counts);
    f.prefetcher.used(files.iter().copied().take(2));
    f.prefetcher.used(files.iter().copied().take(2));
    let bytes_used = files[0].size() + files[1].size();
    assert_eq!(f.prefetcher.counts(), PrefetchCounts { files_used: 2, bytes_used, ..counts });

    let (before, looked_up) = (f.calls_afar(), f.near_meters.read(Operation::FindMissing).items);
    drop(f.fetch(action).await.unwrap());
    assert_eq!(f.calls_afar(), before);
    // The tool is looked for again, and nothing else.
    assert_eq!(f.near_meters.read(Operation::FindMissing).items, looked_up + 1);
}

#[tokio::test]
async fn of_the_next_tree_only_what_is_new_is_looked_at() {
    let f = roomy();
    let (tree, _) = f.two_hundred("1").await;
    drop(f.fetch(f.action(tree).await).await.unwrap());
    let looked_up = f.near_meters.read(Operation::FindMissing).items;
    let (mut tree, _) = f.two_hundred("1").await;
    let new = f.put("new").await;
    tree.file(&path("src/new"), new, false).unwrap();
    drop(f.fetch(f.action(tree).await).await.unwrap());
    assert_eq!(f.near_meters.read(Operation::FindMissing).items, looked_up + 1);
    assert_eq!(f.near_among(&[new]).await, 1);
}

#[tokio::test]
async fn bounds_hold_for_one_action_and_for_all_together() {
    let f = fixture(1 << 20, 100_000);
    let (tree, files) = f.two_hundred("1").await;
    let (other_tree, others) = f.two_hundred("2").await;
    let (third_tree, third) = f.two_hundred("3").await;
    let bytes_near = async |files: &[Digest]| {
        let missing = f.near.find_missing(files).await.unwrap();
        files.iter().filter(|file| !missing.contains(file)).map(Digest::size).sum::<u64>()
    };
    let first = f.fetch(f.action(tree).await).await.unwrap();
    assert!((90_000..=100_000).contains(&bytes_near(&files).await));
    assert_eq!(f.charged(), bytes_near(&files).await);
    let second = f.fetch(f.action(other_tree).await).await.unwrap();
    assert!(bytes_near(&others).await > 90_000);
    // A quarter of what is near, all in all.
    let third_action = f.action(third_tree).await;
    let third_charge = f.fetch(third_action).await.unwrap();
    assert!(f.charged() <= (1 << 20) / SHARE_OF_NEAR);
    assert!((50_000..=100_000).contains(&bytes_near(&third).await));
    drop((first, second, third_charge));
    assert_eq!(f.charged(), 0);
}

#[tokio::test]
async fn of_a_huge_tree_what_the_tool_has_read_before() {
    let f = fixture(1 << 30, 100_000);
    let (first, files) = f.two_hundred("1").await;
    let spec = action::read(&*f.far, f.action(first).await, &Limits::default()).await.unwrap();
    f.prefetcher.learn(&spec, vec![("d3/f3".into(), files[3]), ("d5/f105".into(), files[105])]);
    let (second, files) = f.two_hundred("2").await;
    drop(f.fetch(f.action(second).await).await.unwrap());
    assert_eq!((f.near_among(&files).await, f.near_among(&[files[3], files[105]]).await), (2, 2));
}

#[tokio::test]
async fn what_is_missing_stops_nothing_else() {
    let f = roomy();
    let (mut tree, files) = f.two_hundred("1").await;
    tree.file(&path("d0/absent"), digest(b"absent"), false).unwrap();
    drop(f.fetch(f.action(tree).await).await.unwrap());
    assert_eq!(f.near_among(&files).await, 200);
    assert_eq!(f.prefetcher.counts().files, 200);

    let (mut tree, _) = f.two_hundred("2").await;
    tree.graft(&path("gone"), digest(b"no such directory")).unwrap();
    let action = f.action(tree).await;
    assert!(matches!(f.fetch(action).await, Err(Failure::MissingBlobs(_))));
    // It is the same the next time, and not remembered as done.
    assert!(f.fetch(action).await.is_err());
    assert!(f.fetch(digest(b"no such action")).await.is_err());
    assert_eq!(f.charged(), 0);
}

/// Lets everything that can go on go on.
async fn turn() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn it_ends_with_the_run_however_that_ends() {
    let f = roomy();
    let (tree, files) = f.two_hundred("1").await;
    let action = f.action(tree).await;
    let is_listed = || f.prefetcher.shared.runs().by_action.contains_key(&action);
    for way in 0..3 {
        let (cancel, cancelled) = watch::channel(false);
        f.prefetcher.begin(action, cancelled.clone());
        f.prefetcher.begin(action, cancelled);
        assert_eq!(f.prefetcher.shared.runs().by_action.len(), 1);
        turn().await;
        assert!(is_listed(), "what it has taken counts until the end");
        match way {
            0 => drop(cancel.send_replace(true)),
            1 => drop(cancel),
            _ => f.prefetcher.ended(action),
        }
        turn().await;
        assert!(!is_listed(), "{way}");
        assert_eq!(f.charged(), 0, "{way}");
    }
    assert_eq!(f.near_among(&files).await, 200);
    // A run that was cancelled before it began.
    let (_cancel, cancelled) = watch::channel(true);
    f.prefetcher.begin(action, cancelled);
    turn().await;
    assert!(!is_listed());
}
