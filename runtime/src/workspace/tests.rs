//! What single operations do. Whole histories are in `model_tests.rs`.

use wardian_proto::{DigestFunction, reapi};
use wardian_store::tree_builder::TreeBuilder;

use super::test_store::{RUNTIME, Store, limits, path};
use super::*;

const ROOT: NodeId = NodeId::ROOT;
const WRITE: OpenFile =
    OpenFile { create: true, exclusive: false, truncate: false, directory: false, follow: true, write: true };
const READ: OpenFile = OpenFile { create: false, write: false, ..WRITE };

fn errno<T: std::fmt::Debug>(result: Result<T>) -> Errno {
    match result.unwrap_err() {
        FsError::Errno(errno) => errno,
        FsError::Failure(failure) => panic!("{failure}"),
    }
}

fn write(workspace: &mut Workspace, path: &str, content: &[u8]) {
    let node = workspace.open(ROOT, path, OpenFile { truncate: true, ..WRITE }).unwrap();
    assert_eq!(workspace.write(node, 0, content).unwrap(), content.len());
    workspace.close(node);
}

fn read(workspace: &mut Workspace, path: &str) -> Result<Vec<u8>> {
    let node = workspace.open(ROOT, path, READ)?;
    let mut content = vec![0; usize::try_from(workspace.size(node)?).unwrap()];
    workspace.read(node, 0, &mut content)?;
    workspace.close(node);
    Ok(content)
}

fn names(workspace: &mut Workspace, path: &str) -> Vec<String> {
    let node = workspace.find(ROOT, path, Last::Follow).unwrap();
    workspace.list(node).unwrap().iter().map(|entry| entry.name.to_owned()).collect()
}

#[test]
fn links_stay_inside_the_tree() {
    let store = Store::new(1 << 20);
    let links = [
        ("up", ".."),
        ("d/up", "../f"),
        ("d/far", "../../../etc/passwd"),
        ("d/root", "../d/up"),
        ("loop", "loop"),
        ("dangling", "none"),
    ];
    let root = store.tree(&[("f", b"file"), ("d/x", b"x")], &links);
    let mut w = store.workspace(root);
    assert_eq!(read(&mut w, "d/up").unwrap(), b"file");
    assert_eq!(read(&mut w, "d/root").unwrap(), b"file");
    for (path, expected) in [
        ("up", Errno::Notcapable),
        ("..", Errno::Notcapable),
        ("d/../../x", Errno::Notcapable),
        ("d/far", Errno::Notcapable),
        ("/f", Errno::Notcapable),
        ("loop", Errno::Loop),
        ("dangling", Errno::Noent),
        ("f/", Errno::Notdir),
        ("f/x", Errno::Notdir),
        ("f/..", Errno::Notdir),
        ("d/up/", Errno::Notdir),
        ("", Errno::Noent),
        ("a\0b", Errno::Inval),
        (&"x".repeat(256), Errno::Nametoolong),
        (&"x/".repeat(3000), Errno::Nametoolong),
    ] {
        assert_eq!(errno(read(&mut w, path)), expected, "{path:?}");
    }
    // An absolute target is one from the root of the tree, and a chain of 40 is followed.
    w.create_symlink("/d/x", ROOT, "d/absolute").unwrap();
    assert_eq!(read(&mut w, "d/absolute").unwrap(), b"x");
    w.create_symlink("f", ROOT, "l0").unwrap();
    for i in 0..40 {
        w.create_symlink(&format!("l{i}"), ROOT, &format!("l{}", i + 1)).unwrap();
    }
    assert_eq!(read(&mut w, "l39").unwrap(), b"file");
    assert_eq!(errno(read(&mut w, "l40")), Errno::Loop);
    // Making a file behind a link makes it where the link leads.
    write(&mut w, "dangling", b"made");
    assert_eq!(read(&mut w, "none").unwrap(), b"made");
}

#[test]
fn the_last_name_of_a_change_is_not_followed() {
    let store = Store::new(1 << 20);
    let root = store.tree(&[("d/f", b"file")], &[("l", "d"), ("m", "d/f")]);
    let mut w = store.workspace(root);
    assert_eq!(errno(w.remove_directory(ROOT, "l")), Errno::Notdir);
    assert_eq!(errno(w.remove_directory(ROOT, "l/")), Errno::Notdir);
    assert_eq!(errno(w.unlink(ROOT, "l/")), Errno::Notdir);
    assert_eq!(errno(w.rename((ROOT, "m/"), (ROOT, "n"))), Errno::Notdir);
    assert_eq!(errno(w.create_directory(ROOT, "l")), Errno::Exist);
    assert_eq!(errno(w.create_symlink("x", ROOT, "new/")), Errno::Noent);
    w.unlink(ROOT, "l").unwrap();
    w.rename((ROOT, "m"), (ROOT, "n")).unwrap();
    assert_eq!(read(&mut w, "n").unwrap(), b"file");
    assert_eq!(w.read_link(ROOT, "n").unwrap(), "d/f");
    for (path, unlink, rmdir) in [
        (".", Errno::Isdir, Errno::Inval),
        ("d/..", Errno::Isdir, Errno::Notempty),
        ("d/.", Errno::Isdir, Errno::Inval),
    ] {
        assert_eq!(errno(w.unlink(ROOT, path)), unlink, "{path}");
        assert_eq!(errno(w.remove_directory(ROOT, path)), rmdir, "{path}");
        assert_eq!(errno(w.rename((ROOT, path), (ROOT, "x"))), Errno::Busy, "{path}");
        assert_eq!(errno(w.create_directory(ROOT, path)), Errno::Exist, "{path}");
    }
}

#[test]
fn grafts_are_read_only_or_private_copies() {
    let store = Store::new(1 << 20);
    let root = store.tree(&[("usr/old", b"hidden"), ("f", b"mine")], &[]);
    let tools =
        store.tree(&[("bin/cc", b"compiler"), ("lib/a", b"a")], &[("cc", "bin/cc"), ("out", "../../f")]);
    let mut w = store.workspace(root);
    w.graft(&path("usr/tools"), tools, Access::ReadOnly).unwrap();
    w.graft(&path("own"), tools, Access::CopyOnWrite).unwrap();
    assert_eq!(read(&mut w, "usr/tools/cc").unwrap(), b"compiler");
    assert_eq!(read(&mut w, "usr/tools/out").unwrap(), b"mine");
    assert_eq!(names(&mut w, "usr"), ["old", "tools"]);
    for changed in [
        w.open(ROOT, "usr/tools/bin/cc", WRITE).map(|_| ()),
        w.open(ROOT, "usr/tools/cc", OpenFile { truncate: true, ..READ }).map(|_| ()),
        w.open(ROOT, "usr/tools/new", WRITE).map(|_| ()),
        w.create_directory(ROOT, "usr/tools/lib/d").map(|_| ()),
        w.create_symlink("x", ROOT, "usr/tools/l"),
        w.unlink(ROOT, "usr/tools/lib/a"),
        w.remove_directory(ROOT, "usr/tools/lib"),
        w.rename((ROOT, "usr/tools/lib/a"), (ROOT, "a")),
        w.rename((ROOT, "f"), (ROOT, "usr/tools/f")),
        w.rename((ROOT, "f"), (ROOT, "usr/tools/lib/a")),
        w.link((ROOT, "f"), Last::Keep, (ROOT, "usr/tools/f")),
    ] {
        assert_eq!(errno(changed), Errno::Rofs);
    }
    let node = w.find(ROOT, "usr/tools/lib/a", Last::Keep).unwrap();
    assert_eq!(errno(w.set_times(node, Some(1), None)), Errno::Rofs);
    assert_eq!(errno(w.link((ROOT, "usr/tools/lib/a"), Last::Keep, (ROOT, "a"))), Errno::Xdev);
    assert_eq!(errno(w.remove_directory(ROOT, "usr/tools")), Errno::Busy);
    assert_eq!(errno(w.rename((ROOT, "usr/tools"), (ROOT, "t"))), Errno::Busy);
    write(&mut w, "own/bin/cc", b"changed");
    assert_eq!(read(&mut w, "own/cc").unwrap(), b"changed");
    assert_eq!(read(&mut w, "usr/tools/cc").unwrap(), b"compiler");
    assert_eq!(read(&mut store.workspace(tools), "bin/cc").unwrap(), b"compiler");
}

#[test]
fn limits_are_told_to_the_guest_and_remembered() {
    let store = Store::new(1 << 20);
    let root = store.tree(&[("f", b"input")], &[]);
    let small = WorkspaceLimits {
        wasm_workspace_bytes_max: 100,
        wasm_workspace_files_max: 3,
        wasm_path_depth_max: 2,
        ..limits()
    };
    let mut w = store.workspace_with(root, small.clone());
    let node = w.open(ROOT, "new", WRITE).unwrap();
    assert_eq!(w.write(node, 0, &[1; 60]).unwrap(), 60);
    assert_eq!(errno(w.write(node, 60, &[1; 60])), Errno::Nospc);
    let hit = LimitHit { name: "wasm_workspace_bytes_max", used: 60, allowed: 100 };
    assert_eq!(w.limit_hit(), Some(&hit));
    // What is cut is free again. What the input has costs nothing until it is changed.
    w.set_size(node, 10).unwrap();
    assert_eq!(w.write(node, 10, &[1; 60]).unwrap(), 60);
    assert_eq!(read(&mut w, "f").unwrap(), b"input");
    assert_eq!(errno(w.create_symlink(&"x".repeat(40), ROOT, "l")), Errno::Nospc);
    w.close(node);

    let mut w = store.workspace_with(root, small);
    w.create_directory(ROOT, "a").unwrap();
    w.create_directory(ROOT, "a/b").unwrap();
    assert_eq!(errno(w.create_directory(ROOT, "a/b/c")), Errno::Nametoolong);
    w.create_directory(ROOT, "c").unwrap();
    assert_eq!(errno(w.rename((ROOT, "a"), (ROOT, "c/a"))), Errno::Nametoolong);
    assert_eq!(w.limit_hit().unwrap().name, "wasm_path_depth_max");
    assert_eq!(errno(w.open(ROOT, "x", WRITE)), Errno::Nospc);
    assert_eq!(errno(w.link((ROOT, "f"), Last::Keep, (ROOT, "g"))), Errno::Nospc);
    w.remove_directory(ROOT, "c").unwrap();
    w.link((ROOT, "f"), Last::Keep, (ROOT, "g")).unwrap();
}

#[test]
fn holes_and_huge_offsets_cost_nothing() {
    let store = Store::new(1 << 20);
    let root = store.tree(&[], &[]);
    let mut w = store.workspace(root);
    let node = w.open(ROOT, "sparse", WRITE).unwrap();
    w.write(node, 1 << 40, b"end").unwrap();
    assert_eq!(w.size(node).unwrap(), (1 << 40) + 3);
    let mut buf = [9; 5];
    assert_eq!(w.read(node, (1 << 40) - 2, &mut buf).unwrap(), 5);
    assert_eq!(&buf, b"\0\0end");
    assert!(w.in_use().0 < 70_000);
    assert_eq!(errno(w.write(node, u64::MAX, b"x")), Errno::Fbig);
    assert_eq!(errno(w.write(node, i64::MAX as u64, b"x")), Errno::Fbig);
    assert_eq!(errno(w.set_size(node, u64::MAX)), Errno::Fbig);
    assert_eq!(w.read(node, u64::MAX, &mut buf).unwrap(), 0);
    w.set_size(node, 0).unwrap();
    assert_eq!(w.in_use().0, 0);
}

#[test]
fn large_inputs_are_read_by_parts_and_kept_by_reference() {
    let store = Store::new(16 << 20);
    let content: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 253) as u8).collect();
    let root = store.tree(&[("large", &content)], &[]);
    let mut w = store.workspace(root);
    let node = w.open(ROOT, "large", WRITE).unwrap();
    assert!(w.unchanged(node).unwrap().is_some());
    w.write(node, 3_000_000, b"changed").unwrap();
    assert!(w.unchanged(node).unwrap().is_none());
    assert!(w.in_use().0 <= 65_536, "{:?}", w.in_use());
    let mut expected = content;
    expected[3_000_000..3_000_007].copy_from_slice(b"changed");
    assert!(read(&mut w, "large").unwrap() == expected);
    // Cut and made longer again, what was there is gone.
    w.set_size(node, 1_000).unwrap();
    w.set_size(node, 2_000).unwrap();
    let mut tail = [1; 1_500];
    assert_eq!(w.read(node, 500, &mut tail).unwrap(), 1_500);
    assert!(tail[..500] == expected[500..1_000] && tail[500..].iter().all(|byte| *byte == 0));
}

#[test]
fn what_is_open_lives_on_without_a_name() {
    let store = Store::new(1 << 20);
    let root = store.tree(&[("f", b"input"), ("d/x", b"")], &[]);
    let mut w = store.workspace(root);
    let file = w.open(ROOT, "f", WRITE).unwrap();
    w.unlink(ROOT, "f").unwrap();
    w.write(file, 5, b" and more").unwrap();
    let mut buf = [0; 20];
    assert_eq!(w.read(file, 0, &mut buf).unwrap(), 14);
    assert_eq!(w.stat(file).unwrap().links, 0);
    w.close(file);
    assert_eq!(w.in_use(), (0, 0));
    let directory = w.open(ROOT, "d", OpenFile { directory: true, ..READ }).unwrap();
    w.unlink(ROOT, "d/x").unwrap();
    w.remove_directory(ROOT, "d").unwrap();
    assert_eq!(errno(w.open(directory, "new", WRITE)), Errno::Noent);
    assert_eq!(errno(w.find(directory, "..", Last::Follow)), Errno::Noent);
    assert_eq!(w.list(directory).unwrap().iter().count(), 0);
    w.close(directory);
}

#[test]
fn everything_that_was_looked_at_is_told_and_nothing_else() {
    let store = Store::new(1 << 20);
    let root = store.tree(
        &[("a/read", b"0123456789"), ("a/untouched", b"x"), ("b/stat", b"stat"), ("c/listed", b"")],
        &[("link", "a")],
    );
    let mut w = store.workspace(root);
    let node = w.open(ROOT, "link/read", READ).unwrap();
    w.read(node, 2, &mut [0; 3]).unwrap();
    w.read(node, 4, &mut [0; 2]).unwrap();
    let stat = w.find(ROOT, "b/stat", Last::Follow).unwrap();
    w.stat(stat).unwrap();
    w.find(ROOT, "b/absent", Last::Follow).unwrap_err();
    w.find(ROOT, "none/at/all", Last::Follow).unwrap_err();
    names(&mut w, "c");
    // What it makes itself is no observation, and a rename does not change where something was seen.
    write(&mut w, "new", b"new");
    read(&mut w, "new").unwrap();
    w.rename((ROOT, "b"), (ROOT, "moved")).unwrap();
    let content = wardian_proto::DigestFunction::Sha256.digest(b"0123456789");
    assert_eq!(w.files_read(10), [("a/read".to_owned(), content)]);
    let observed = w.observed();
    let [top] = &observed[..] else { panic!("one tree") };
    assert_eq!((top.digest, &top.absent[..]), (Some(root), &["moved", "new", "none"].map(String::from)[..]));
    let seen: Vec<_> = top.children.iter().map(|o| (&*o.name, o.listed, o.target)).collect();
    assert_eq!(seen, [("a", false, false), ("b", false, false), ("c", true, false), ("link", false, true)]);
    let [a, b, ..] = &top.children[..] else { panic!("two") };
    assert_eq!(a.children.len(), 1);
    assert_eq!(a.children[0].content.iter().collect::<Vec<_>>(), [(2, 6)]);
    assert_eq!(a.children[0].digest, Some(DigestFunction::Sha256.digest(b"0123456789")));
    assert!(!a.children[0].stat && b.children[0].stat && b.children[0].content.is_empty());
    assert_eq!(b.absent, ["absent"]);
}

#[test]
fn listings_are_sorted_and_do_not_change() {
    let store = Store::new(1 << 20);
    let root = store.tree(&[("b", b""), ("d", b""), ("f", b"")], &[]);
    let mut w = store.workspace(root);
    for name in ["e", "a", "c", "g"] {
        write(&mut w, name, b"");
    }
    w.unlink(ROOT, "d").unwrap();
    let listing = w.list(ROOT).unwrap();
    let listed: Vec<_> = listing.iter().map(|entry| entry.name.to_owned()).collect();
    assert_eq!(listed, ["a", "b", "c", "e", "f", "g"]);
    w.unlink(ROOT, "e").unwrap();
    w.create_directory(ROOT, "e").unwrap();
    assert_eq!(listing.iter().count(), 6);
    assert_ne!(w.entry(ROOT, "e"), listing.get(3).map(|entry| (entry.inode, entry.kind)));
    assert_eq!(w.entry(ROOT, "d"), None);
    assert_eq!(w.entry(ROOT, "f"), listing.get(4).map(|entry| (entry.inode, entry.kind)));
}

#[test]
fn node_properties_are_kept() {
    let store = Store::new(1 << 20);
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 5 });
    let file = reapi::FileNode {
        name: "f".into(),
        digest: Some(store.put("content").to_wire()),
        node_properties: Some(reapi::NodeProperties {
            mtime: time(1_600_000_000),
            unix_mode: Some(0o755),
            ..Default::default()
        }),
        ..Default::default()
    };
    let plain = reapi::FileNode { name: "g".into(), node_properties: None, ..file.clone() };
    let properties = reapi::NodeProperties { mtime: time(1_500_000_000), ..Default::default() };
    let directory = reapi::Directory {
        files: vec![file, plain],
        node_properties: Some(properties),
        ..Default::default()
    };
    let root = store.put(prost::Message::encode_to_vec(&directory));
    let mut w = store.workspace(root);
    assert_eq!(w.stat(ROOT).unwrap().times.modified, 1_500_000_000_000_000_005);
    let [f, g] = ["f", "g"].map(|name| w.find(ROOT, name, Last::Keep).unwrap());
    assert_eq!(w.stat(f).unwrap().times.modified, 1_600_000_000_000_000_005);
    assert_eq!(w.stat(g).unwrap().times.modified, FIXED_TIME);
    assert_eq!([f, g].map(|node| w.is_executable(node).unwrap()), [true, false]);
}

#[test]
fn inputs_that_cannot_be_read_end_the_action() {
    let store = Store::new(1 << 20);
    let absent = DigestFunction::Sha256.digest(b"absent");
    let mut tree = TreeBuilder::new();
    tree.file(&path("f"), absent, false).unwrap();
    tree.graft(&path("d"), absent).unwrap();
    tree.graft(&path("bad"), store.put("no Directory")).unwrap();
    let built = tree.build(DigestFunction::Sha256);
    store.put(built.directories[0].1.clone());
    let mut w = store.workspace(built.root);
    for path in ["f", "d/x"] {
        match read(&mut w, path).unwrap_err() {
            FsError::Failure(failure) => {
                assert!(matches!(*failure, Failure::MissingBlobs(ref digests) if *digests == [absent]));
            }
            FsError::Errno(errno) => panic!("{errno:?}"),
        }
    }
    assert!(matches!(read(&mut w, "bad/x").unwrap_err(),
        FsError::Failure(failure) if matches!(*failure, Failure::InvalidArgument(_))));
}

#[test]
fn looking_at_too_many_inputs_ends_the_action() {
    let store = Store::new(1 << 20);
    let root = store.tree(&[("a", b""), ("b", b""), ("c", b"")], &[]);
    let mut w = store.workspace_with(root, WorkspaceLimits { input_entries_max: 2, ..limits() });
    assert_eq!(names(&mut w, "."), ["a", "b", "c"], "a listing looks at nothing");
    read(&mut w, "a").unwrap();
    read(&mut w, "b").unwrap();
    assert!(matches!(read(&mut w, "c").unwrap_err(),
        FsError::Failure(failure) if failure.to_string().contains("input_entries_max")));
}

#[test]
fn tools_are_looked_up_inside_the_tree_only() {
    let store = Store::new(1 << 20);
    let links = [
        ("bin/a", "../real/tool"),
        ("bin/dir", "../real"),
        ("bin/up", "../../../etc/passwd"),
        ("bin/loop", "loop"),
        ("bin/dangling", "nothing"),
    ];
    let root = store.tree(&[("real/tool", b"tool")], &links);
    let tree = InputTree::new(store.inputs.clone(), root);
    for (name, found) in [
        ("real/tool", true),
        ("bin/a", true),
        ("bin/dir/tool", true),
        ("bin/up", false),
        ("bin/loop", false),
        ("bin/dangling", false),
        ("real", false),
        ("real/tool/x", false),
    ] {
        let file = RUNTIME.block_on(tree.file(&path(name))).unwrap();
        assert_eq!(file, found.then(|| DigestFunction::Sha256.digest(b"tool")), "{name}");
    }
    for (name, found) in [("", true), ("bin", true), ("bin/dir", false), ("real/tool", false), ("x", false)] {
        assert_eq!(RUNTIME.block_on(tree.has_directory(&path(name))).unwrap(), found, "{name}");
    }
}
