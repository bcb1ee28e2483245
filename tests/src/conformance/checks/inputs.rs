//! What an action is made of: its messages, and the tree it finds.

use bytes::Bytes;
use prost::Message as _;
use tonic::Code;
use wardian_proto::reapi;
use wardian_proto::reapi::symlink_absolute_path_strategy::Value as Strategy;

use super::super::outcome::{ensure, ensure_eq};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};
use crate::{Built, TestAction};

pub(super) const CHECKS: &[Check] = &[
    check!(act_01_blobs_that_are_no_messages_are_refused: "ACT-01"),
    check!(act_01_actions_without_command_or_input_root_are_refused: "ACT-01"),
    check!(act_07_names_that_are_no_segments_are_refused: "ACT-07"),
    check!(act_07_names_that_occur_twice_are_refused: "ACT-07"),
    check!(act_07_lists_that_are_not_sorted_are_refused: "ACT-07").own(),
    check!(act_07_names_are_sorted_by_their_bytes: "ACT-07"),
    check!(act_08_names_that_differ_in_case_are_two: "ACT-08"),
    check!(act_09_files_are_executable_as_their_node_says: "ACT-09"),
    check!(act_10_absolute_links_are_as_announced: "ACT-10"),
    check!(act_10_links_are_as_they_were_written: "ACT-10"),
    check!(act_14_inputs_stay_as_they_are_for_others: "ACT-14"),
];

/// An action over a root Directory of the check's own making.
async fn over(subject: &Subject, script: &str, root: reapi::Directory) -> Result<Built, Stop> {
    let root = subject.put(&root.encode_to_vec().into()).await?;
    let mut action = subject.script(script);
    action.action.input_root_digest = Some(root.to_wire());
    subject.upload(action).await
}

fn file(subject: &Subject, name: &str) -> reapi::FileNode {
    let digest = Some(subject.digest(b"").to_wire());
    reapi::FileNode { name: name.into(), digest, ..Default::default() }
}

fn directory(subject: &Subject, name: &str) -> reapi::DirectoryNode {
    reapi::DirectoryNode { name: name.into(), digest: Some(subject.digest(b"").to_wire()) }
}

fn link(name: &str, target: &str) -> reapi::SymlinkNode {
    reapi::SymlinkNode { name: name.into(), target: target.into(), ..Default::default() }
}

async fn act_01_blobs_that_are_no_messages_are_refused(subject: &Subject) -> Verdict {
    subject.executes()?;
    let garbage = [b"\xff\xff\xff\xff no message ", &subject.fresh(10)[..]].concat();
    let garbage = subject.put(&Bytes::from(garbage)).await?.to_wire();
    let mut command = subject.script("true");
    command.action.command_digest = Some(garbage.clone());
    let mut root = subject.script("true");
    root.action.input_root_digest = Some(garbage.clone());
    for (what, action) in [("as the Command", command), ("as the input root", root)] {
        let built = subject.upload(action).await?;
        subject.chose_fault(&built, Code::InvalidArgument, &format!("garbage {what}")).await?;
    }
    let built = subject.upload(subject.script("true")).await?;
    let request = reapi::ExecuteRequest { action_digest: Some(garbage), ..subject.request(&built) };
    let fault = subject.fault_as(request, "garbage as the Action").await?;
    ensure!(!subject.is_own() || fault.code == Code::InvalidArgument, "garbage as the Action: {fault:?}");
    Ok(())
}

async fn act_01_actions_without_command_or_input_root_are_refused(subject: &Subject) -> Verdict {
    let full = subject.upload(subject.script("true")).await?;
    let (command, root) = (Some(full.command.to_wire()), Some(full.input_root.to_wire()));
    for (what, action) in [
        ("no command_digest", reapi::Action { input_root_digest: root, ..Default::default() }),
        ("no input_root_digest", reapi::Action { command_digest: command, ..Default::default() }),
    ] {
        let action = subject.put(&action.encode_to_vec().into()).await?;
        let built = Built { action, ..full.clone() };
        subject.chose_fault(&built, Code::InvalidArgument, what).await?;
    }
    Ok(())
}

async fn act_07_names_that_are_no_segments_are_refused(subject: &Subject) -> Verdict {
    subject.executes()?;
    for name in ["", ".", "..", "/", "a/b", "../x", "/tmp/x", "a\0b"] {
        for (what, root) in [
            ("file", reapi::Directory { files: vec![file(subject, name)], ..Default::default() }),
            (
                "directory",
                reapi::Directory { directories: vec![directory(subject, name)], ..Default::default() },
            ),
            ("symlink", reapi::Directory { symlinks: vec![link(name, "target")], ..Default::default() }),
        ] {
            let built = over(subject, "true", root).await?;
            subject.chose_fault(&built, Code::InvalidArgument, &format!("{what} {name:?}")).await?;
        }
    }
    Ok(())
}

async fn act_07_names_that_occur_twice_are_refused(subject: &Subject) -> Verdict {
    subject.executes()?;
    let (files, directories, symlinks) =
        (vec![file(subject, "a")], vec![directory(subject, "a")], vec![link("a", "b")]);
    let base = reapi::Directory { files: files.clone(), ..Default::default() };
    for (what, root) in [
        ("two files", reapi::Directory { files: [files.clone(), files].concat(), ..Default::default() }),
        ("a file and a directory", reapi::Directory { directories: directories.clone(), ..base.clone() }),
        ("a file and a link", reapi::Directory { symlinks: symlinks.clone(), ..base }),
        ("a directory and a link", reapi::Directory { directories, symlinks, ..Default::default() }),
    ] {
        let built = over(subject, "true", root).await?;
        subject.chose_fault(&built, Code::InvalidArgument, &format!("{what} of one name")).await?;
    }
    Ok(())
}

async fn act_07_lists_that_are_not_sorted_are_refused(subject: &Subject) -> Verdict {
    subject.executes()?;
    let links = vec![link("b", "x"), link("a", "x")];
    let files = |names: &[&str]| names.iter().map(|name| file(subject, name)).collect();
    let directories = |names: &[&str]| names.iter().map(|name| directory(subject, name)).collect();
    for (what, root) in [
        ("files", reapi::Directory { files: files(&["b", "a"]), ..Default::default() }),
        ("directories", reapi::Directory { directories: directories(&["b", "a"]), ..Default::default() }),
        ("symlinks", reapi::Directory { symlinks: links, ..Default::default() }),
        // In the order of UTF-16, which is not that of code points.
        (
            "files by UTF-16",
            reapi::Directory { files: files(&["\u{10000}", "\u{ff00}"]), ..Default::default() },
        ),
    ] {
        let built = over(subject, "true", root.clone()).await?;
        let fault = subject.chose_fault(&built, Code::InvalidArgument, &format!("unsorted {what}")).await?;
        ensure!(fault.message.contains("sorted"), "unsorted {what}: refused with {:?}", fault.message);
        // Below the root as well.
        let below = subject.put(&root.encode_to_vec().into()).await?;
        let node = reapi::DirectoryNode { name: "below".into(), digest: Some(below.to_wire()) };
        let root = reapi::Directory { directories: vec![node], ..Default::default() };
        let built = over(subject, "true", root).await?;
        subject.chose_fault(&built, Code::InvalidArgument, &format!("unsorted {what} below")).await?;
    }
    Ok(())
}

async fn act_07_names_are_sorted_by_their_bytes(subject: &Subject) -> Verdict {
    subject.executes()?;
    let names = ["A", "Z", "a", "a-b", "a.b", "ab", "b", "\u{e9}", "\u{ff00}", "\u{10000}"];
    let root = reapi::Directory {
        files: names.iter().map(|name| file(subject, name)).collect(),
        directories: vec![directory(subject, "-"), directory(subject, "c")],
        symlinks: vec![link("0", "a"), link("d", "a")],
        ..Default::default()
    };
    subject.put(&Bytes::new()).await?;
    let built = over(subject, "ls -1 | wc -l", root).await?;
    let result = subject.succeed_as(&built, subject.request(&built)).await?.result();
    let count = subject.stdout(&built, &result).await?;
    let count = String::from_utf8_lossy(&count);
    ensure_eq!(count.trim(), "14", "entries of the input root");
    Ok(())
}

async fn act_08_names_that_differ_in_case_are_two(subject: &Subject) -> Verdict {
    let action = subject.script("cat Name name").file("Name", "upper\n").file("name", "lower\n");
    let built = subject.upload(action).await?;
    let ended = match subject.attempt(subject.request(&built)).await? {
        Err(_) if !subject.is_own() => return Err(Stop::skipped("its file system takes them for one")),
        Err(fault) => return Err(Stop::failed(format!("refused: {fault:?}"))),
        Ok(ended) => ended,
    };
    ensure_eq!(subject.stdout(&built, &ended.result()).await?, "upper\nlower\n", "the two files");
    Ok(())
}

async fn act_09_files_are_executable_as_their_node_says(subject: &Subject) -> Verdict {
    let script = "test -x run; test ! -x data; test -x deep/run; test ! -x deep/data; ./run; deep/run";
    let tool = "#!/bin/sh\necho ran\n";
    let action = subject
        .script(script)
        .executable("run", tool)
        .executable("deep/run", tool)
        // The same bytes, so that it is the node that counts and not the blob.
        .file("data", tool)
        .file("deep/data", tool);
    let built = subject.upload(action).await?;
    let result = subject.succeed_as(&built, subject.request(&built)).await?.result();
    ensure_eq!(subject.stdout(&built, &result).await?, "ran\nran\n", "standard output");
    Ok(())
}

async fn act_10_absolute_links_are_as_announced(subject: &Subject) -> Verdict {
    let strategy = subject.cache()?.symlink_absolute_path_strategy;
    for target in ["/bin/sh", "/"] {
        // In the root, and below.
        for path in ["link", "a/b/link"] {
            let what = format!("a link {path} to {target}");
            let built = subject.upload(subject.script("true").symlink(path, target)).await?;
            if strategy == i32::from(Strategy::Disallowed) {
                subject.fault(&built, &what).await?.must_be(Code::InvalidArgument, &what)?;
            } else {
                subject.succeed_as(&built, subject.request(&built)).await?;
            }
        }
    }
    Ok(())
}

async fn act_10_links_are_as_they_were_written(subject: &Subject) -> Verdict {
    let script = "readlink a/up a/odd dangling; cat a/up a/odd here; cat dir/file";
    let action = subject
        .script(script)
        .file("file", "text\n")
        .file("a/file", "in a\n")
        .symlink("a/up", "../file")
        .symlink("a/odd", "..//a/./file")
        .symlink("here", "a/file")
        .symlink("dir", "a")
        .symlink("dangling", "no/where");
    let built = subject.upload(action).await?;
    let result = subject.succeed_as(&built, subject.request(&built)).await?.result();
    let expected = "../file\n..//a/./file\nno/where\ntext\nin a\nin a\nin a\n";
    ensure_eq!(subject.stdout(&built, &result).await?, expected, "links and what they lead to");
    Ok(())
}

async fn act_14_inputs_stay_as_they_are_for_others(subject: &Subject) -> Verdict {
    for size in [200, 300_000] {
        let content = subject.fresh_text(size);
        // It may be kept from doing so; it must not do it to anybody else.
        let spoil = "echo spoilt > in || true; chmod +w in || true; echo spoilt > in || true; \
                     rm -f in || true; echo spoilt > in || true";
        let with_input = |script: &str| -> TestAction { subject.script(script).file("in", content.clone()) };
        subject.succeed(with_input(spoil)).await?;
        let built = subject.upload(with_input("cat in")).await?;
        let result = subject.succeed_as(&built, subject.request(&built)).await?.result();
        ensure!(subject.stdout(&built, &result).await? == content, "another action finds another input");
        ensure!(subject.get(&subject.digest(&content)).await? == content, "the blob has other bytes");
    }
    Ok(())
}
