//! Outputs of every kind, and those that are refused.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use wardian_scheduler::Platform;
use wardian_store::backend::MemoryStore;

use super::*;
use crate::executor::wasm::WasmSettings;

fn output(text: &str) -> OutputPath {
    OutputPath { requested: text.into(), path: RelPath::parse(text).unwrap() }
}

fn spec(outputs: OutputSpec) -> ActionSpec {
    let empty = Digest::empty(DigestFunction::Sha256);
    ActionSpec {
        action: empty,
        input_root: empty,
        platform: Platform::default(),
        wasm: WasmSettings::parse(&Platform::default(), &Limits::default()).unwrap(),
        timeout: Duration::ZERO,
        arguments: vec![],
        environment: vec![],
        working_directory: RelPath::root(),
        outputs,
        directory_format: DirectoryFormat { tree: true, root_directory: true },
        directories: vec![],
    }
}

fn paths(names: &[&str]) -> ActionSpec {
    spec(OutputSpec::Paths(names.iter().map(|n| output(n)).collect()))
}

struct Case {
    store: MemoryStore,
    folder: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        Self { store: MemoryStore::new(1 << 24), folder: tempfile::tempdir().unwrap() }
    }

    fn write(&self, path: &str, data: &[u8]) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, data).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        symlink(target, self.folder.path().join(path)).unwrap();
    }

    async fn collect(&self, spec: &ActionSpec) -> Result<reapi::ActionResult, Failure> {
        let source = Arc::new(StagedOutputs::open(self.folder.path())?);
        collect(&self.store, source, spec, &Limits::default()).await
    }

    async fn blob(&self, wire: Option<&reapi::Digest>) -> Bytes {
        let digest = Digest::from_wire(DigestFunction::Sha256, wire).unwrap();
        self.store.get(&digest, 1 << 24).await.unwrap()
    }
}

#[tokio::test]
async fn files_are_stored_and_absent_ones_left_out() {
    let case = Case::new();
    case.write("out/a", b"alpha");
    case.write("big", &vec![3; 200_000]);
    case.write("unlisted", b"x");
    let result = case.collect(&paths(&["big", "nothing", "out/a", "out/a/below"])).await.unwrap();
    let names: Vec<_> = result.output_files.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(names, ["big", "out/a"]);
    assert_eq!(case.blob(result.output_files[1].digest.as_ref()).await, "alpha");
    assert_eq!(case.blob(result.output_files[0].digest.as_ref()).await.len(), 200_000);
}

#[tokio::test]
async fn directories_become_sorted_trees_with_empty_ones_kept() {
    let case = Case::new();
    case.write("d/x/same", b"1");
    case.write("d/y/same", b"1");
    fs::create_dir_all(case.folder.path().join("d/empty")).unwrap();
    case.link("d/link", "x/same");
    let result = case.collect(&paths(&["d"])).await.unwrap();
    let directory = &result.output_directories[0];
    assert!(directory.is_topologically_sorted);
    let bytes = case.blob(directory.tree_digest.as_ref()).await;
    assert_eq!(bytes[0], 0x0a, "the root comes first");
    let tree = reapi::Tree::decode(bytes).unwrap();
    let root = tree.root.unwrap();
    assert_eq!((root.directories.len(), root.symlinks.len(), tree.children.len()), (3, 1, 2));
    let digest = DigestFunction::Sha256.digest(&root.encode_to_vec()).to_wire();
    assert_eq!(directory.root_directory_digest, Some(digest));
}

#[tokio::test]
async fn an_empty_directory_has_a_tree_of_two_bytes() {
    let case = Case::new();
    fs::create_dir(case.folder.path().join("d")).unwrap();
    let result = case.collect(&paths(&["d"])).await.unwrap();
    let directory = &result.output_directories[0];
    assert_eq!(&case.blob(directory.tree_digest.as_ref()).await[..], b"\x0a\x00");
    assert_eq!(directory.root_directory_digest, Some(Digest::empty(DigestFunction::Sha256).to_wire()));
}

#[tokio::test]
#[allow(deprecated)]
async fn symlinks_are_reported_as_links_also_in_the_older_fields() {
    let case = Case::new();
    case.write("file", b"1");
    case.link("to-file", "file");
    case.link("dangling", "nowhere");
    let result = case.collect(&paths(&["dangling", "to-file"])).await.unwrap();
    assert_eq!(result.output_symlinks.len(), 2);
    assert_eq!(result.output_file_symlinks.len(), 1);
    assert!(result.output_files.is_empty());
}

#[tokio::test]
async fn typed_outputs_of_the_wrong_kind_fail() {
    let case = Case::new();
    case.write("file", b"1");
    case.write("dir/f", b"1");
    case.link("to-file", "file");
    for (files, directories) in [(vec!["dir"], vec![]), (vec![], vec!["file"]), (vec![], vec!["to-file"])] {
        let typed = OutputSpec::Typed {
            files: files.iter().map(|p| output(p)).collect(),
            directories: directories.iter().map(|p| output(p)).collect(),
        };
        let failure = case.collect(&spec(typed)).await.unwrap_err();
        assert!(matches!(failure, Failure::FailedPrecondition(_)), "{failure}");
    }
}

#[tokio::test]
async fn links_never_lead_outside() {
    let case = Case::new();
    case.link("etc", "../../../../../../etc");
    let result = case.collect(&paths(&["etc/passwd"])).await.unwrap();
    assert!(result.output_files.is_empty());
    case.link("absolute", "/etc");
    let result = case.collect(&paths(&["absolute", "absolute/passwd"])).await.unwrap();
    assert!(result.output_files.is_empty());
    assert_eq!(result.output_symlinks[0].target, "/etc");
}

#[tokio::test]
async fn pipes_are_refused() {
    let case = Case::new();
    let path = case.folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let failure = case.collect(&paths(&["pipe"])).await.unwrap_err();
    assert!(matches!(failure, Failure::FailedPrecondition(_)), "{failure}");
}

#[tokio::test]
async fn output_limits_are_named() {
    let case = Case::new();
    for i in 0..5 {
        case.write(&format!("d/{i}"), &[0; 100]);
    }
    for (limits, name) in [
        (Limits { output_entries_max: 3, ..Limits::default() }, "output_entries_max"),
        (Limits { output_bytes_max: 300, ..Limits::default() }, "output_bytes_max"),
    ] {
        let source = Arc::new(StagedOutputs::open(case.folder.path()).unwrap());
        let failure = collect(&case.store, source, &paths(&["d"]), &limits).await.unwrap_err();
        assert!(failure.to_string().contains(name), "{failure}");
    }
}
