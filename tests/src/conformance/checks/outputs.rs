//! What comes back of what an action left behind.

use tonic::Code;
use wardian_proto::reapi;
use wardian_proto::reapi::symlink_absolute_path_strategy::Value as Strategy;

use super::super::outcome::{ensure, ensure_eq};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};
use crate::{Built, TestAction};

pub(super) const CHECKS: &[Check] = &[
    check!(out_01_the_older_lists_mean_nothing_beside_output_paths: "OUT-01"),
    check!(out_02_outputs_are_relative_to_the_working_directory: "OUT-02", "OUT-12"),
    check!(out_02_outputs_may_climb_inside_the_input_root: "OUT-02", "OUT-12").own(),
    check!(out_02_outputs_outside_of_the_input_root_are_refused: "OUT-02"),
    check!(out_02_the_whole_working_directory_may_be_an_output: "OUT-02"),
    check!(out_03_files_in_files_are_refused: "OUT-03").own(),
    check!(out_03_directories_may_lie_in_each_other: "OUT-03"),
    check!(out_04_leading_directories_are_made_and_outputs_are_not: "OUT-04"),
    check!(out_05_what_is_not_listed_is_dropped: "OUT-05"),
    check!(out_06_outputs_that_were_not_made_are_left_out: "OUT-06"),
    check!(out_07_what_a_path_is_shows_after_the_run: "OUT-07"),
    check!(out_08_the_older_lists_say_what_an_output_is: "OUT-08"),
    check!(out_08_outputs_of_the_other_kind_are_refused: "OUT-08"),
    check!(out_09_links_are_told_in_the_older_lists_too: "OUT-09"),
    check!(out_10_absolute_links_are_as_announced: "OUT-10"),
    check!(out_11_links_to_nothing_are_links: "OUT-11").own(),
    check!(out_17_whether_a_file_is_executable_is_told: "OUT-17"),
    check!(out_18_streams_come_back: "OUT-18"),
    check!(out_18_streams_that_do_not_fit_the_reply_come_by_digest: "OUT-18"),
    check!(out_20_outputs_are_stored_when_the_result_is_seen: "OUT-20"),
    check!(out_21_what_is_no_file_directory_or_link_is_refused: "OUT-21").own(),
];

/// The result of an action that succeeds, and the action.
async fn result(subject: &Subject, action: TestAction) -> Result<(Built, reapi::ActionResult), Stop> {
    let built = subject.upload(action).await?;
    let result = subject.succeed_as(&built, subject.request(&built)).await?.result();
    Ok((built, result))
}

#[allow(deprecated)]
fn older(mut action: TestAction, files: &[&str], directories: &[&str]) -> TestAction {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    action.command.output_files = texts(files);
    action.command.output_directories = texts(directories);
    action
}

/// Paths of files, directories and links, each sorted.
fn paths(result: &reapi::ActionResult) -> [Vec<&str>; 3] {
    let mut paths = [
        result.output_files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(),
        result.output_directories.iter().map(|directory| directory.path.as_str()).collect(),
        result.output_symlinks.iter().map(|link| link.path.as_str()).collect(),
    ];
    paths.iter_mut().for_each(|paths| paths.sort_unstable());
    paths
}

fn is_disallowed(subject: &Subject) -> Result<bool, Stop> {
    Ok(subject.cache()?.symlink_absolute_path_strategy == i32::from(Strategy::Disallowed))
}

async fn out_01_the_older_lists_mean_nothing_beside_output_paths(subject: &Subject) -> Verdict {
    let action = subject.script("echo a > a; echo b > b; mkdir d").outputs(&["a"]);
    // The kinds are wrong as well, which would be refused if anybody looked at them.
    let (_, result) = result(subject, older(action, &["b", "d"], &["a"])).await?;
    ensure_eq!(paths(&result), [vec!["a"], vec![], vec![]], "outputs");
    Ok(())
}

async fn out_02_outputs_are_relative_to_the_working_directory(subject: &Subject) -> Verdict {
    let action = subject
        .script("echo here > out; echo below > sub/out; echo above > ../out")
        .directory("work")
        .working_directory("work")
        .outputs(&["out", "sub/out"]);
    let (built, result) = result(subject, action).await?;
    ensure_eq!(paths(&result)[0], ["out", "sub/out"], "paths, as they were asked for");
    for file in &result.output_files {
        let expected = if file.path == "out" { "here\n" } else { "below\n" };
        let content = subject.content(&built, file.digest.as_ref(), &file.contents).await?;
        ensure_eq!(content, expected, "content of {}", file.path);
    }
    Ok(())
}

async fn out_02_outputs_may_climb_inside_the_input_root(subject: &Subject) -> Verdict {
    let action = subject
        .script("echo above > ../out; mkdir ../beside; echo x > ../beside/x")
        .directory("work")
        .working_directory("work")
        .outputs(&["../beside", "../out"]);
    let (_, result) = result(subject, action).await?;
    ensure_eq!(paths(&result), [vec!["../out"], vec!["../beside"], vec![]], "outputs");
    Ok(())
}

async fn out_02_outputs_outside_of_the_input_root_are_refused(subject: &Subject) -> Verdict {
    for path in ["/etc/passwd", "../../x", "a/../../../x"] {
        let action = subject.script("true").directory("work").working_directory("work").outputs(&[path]);
        let built = subject.upload(action).await?;
        match subject.attempt(subject.request(&built)).await? {
            Err(fault) if subject.is_own() => fault.must_be(Code::InvalidArgument, path)?,
            Err(_) => {}
            // A server that does not look at it must at least not find it.
            Ok(ended) => {
                let result = ended.result();
                let found = paths(&result).concat();
                ensure!(!subject.is_own() && found.is_empty(), "{path}: taken, with outputs {found:?}");
            }
        }
    }
    Ok(())
}

async fn out_02_the_whole_working_directory_may_be_an_output(subject: &Subject) -> Verdict {
    let action = subject.script("echo x > made").file("work/given", "y\n").working_directory("work");
    let (built, result) = result(subject, older(action, &[], &[""])).await?;
    ensure_eq!(paths(&result)[1], [""], "output directories");
    let tree = super::output_trees::tree_of(subject, &built, &result.output_directories[0]).await?;
    let root = tree.message.root.unwrap_or_default();
    let names: Vec<_> = root.files.iter().map(|file| file.name.as_str()).collect();
    ensure_eq!(names, ["given", "made"], "files in it");
    Ok(())
}

async fn out_03_files_in_files_are_refused(subject: &Subject) -> Verdict {
    for (what, files, directories) in [
        ("a file in a file", &["a", "a/b"][..], &[][..]),
        ("a file that is a directory as well", &["a"], &["a"]),
    ] {
        let built = subject.upload(older(subject.script("true"), files, directories)).await?;
        subject.chose_fault(&built, Code::InvalidArgument, what).await?;
    }
    Ok(())
}

async fn out_03_directories_may_lie_in_each_other(subject: &Subject) -> Verdict {
    let action = older(subject.script("mkdir -p d/e; echo x > d/e/f"), &["d/e/f"], &["d", "d/e"]);
    let (_, result) = result(subject, action).await?;
    ensure_eq!(paths(&result), [vec!["d/e/f"], vec!["d", "d/e"], vec![]], "outputs");
    Ok(())
}

async fn out_04_leading_directories_are_made_and_outputs_are_not(subject: &Subject) -> Verdict {
    let script = "test -d a/b; test ! -e a/b/c; test -d d; test ! -e d/e; echo x > a/b/c; mkdir d/e";
    let with_paths = subject.script(script).outputs(&["a/b/c", "d/e"]);
    let with_kinds = older(subject.script(script), &["a/b/c"], &["d/e"]);
    for action in [with_paths, with_kinds] {
        // In a working directory as well as in the root.
        for directory in ["", "work"] {
            let action = action.clone().directory("work").working_directory(directory);
            let (_, result) = result(subject, action).await?;
            ensure_eq!(paths(&result), [vec!["a/b/c"], vec!["d/e"], vec![]], "outputs in {directory:?}");
        }
    }
    Ok(())
}

async fn out_05_what_is_not_listed_is_dropped(subject: &Subject) -> Verdict {
    let dropped = subject.fresh_name();
    let script = format!("echo {dropped} > other; mkdir beside; echo x > out; ln -s out link");
    let (_, result) = result(subject, subject.script(&script).outputs(&["out"])).await?;
    ensure_eq!(paths(&result), [vec!["out"], vec![], vec![]], "outputs");
    // It may be stored all the same; ours is not.
    let blob = subject.digest(format!("{dropped}\n").as_bytes());
    ensure!(!subject.is_own() || !subject.has(&blob).await?, "what was not listed is stored");
    Ok(())
}

async fn out_06_outputs_that_were_not_made_are_left_out(subject: &Subject) -> Verdict {
    let paths_action = subject.script("echo x > made").outputs(&["absent", "made", "never/made"]);
    let kinds_action = older(subject.script("echo x > made"), &["absent", "made"], &["never/made"]);
    for action in [paths_action, kinds_action] {
        let (_, result) = result(subject, action).await?;
        ensure_eq!(paths(&result), [vec!["made"], vec![], vec![]], "outputs");
    }
    Ok(())
}

async fn out_07_what_a_path_is_shows_after_the_run(subject: &Subject) -> Verdict {
    let script = "echo x > file; mkdir dir; ln -s file flink; ln -s dir dlink";
    let action = subject.script(script).outputs(&["dir", "dlink", "file", "flink"]);
    let (_, result) = result(subject, action).await?;
    ensure_eq!(paths(&result), [vec!["file"], vec!["dir"], vec!["dlink", "flink"]], "outputs");
    let mut targets: Vec<_> = result.output_symlinks.iter().map(|link| link.target.as_str()).collect();
    targets.sort_unstable();
    ensure_eq!(targets, ["dir", "file"], "what the links lead to");
    Ok(())
}

#[allow(deprecated)]
async fn out_08_the_older_lists_say_what_an_output_is(subject: &Subject) -> Verdict {
    let script = "echo x > f; mkdir d; ln -s f fl; ln -s d dl";
    let action = older(subject.script(script), &["f", "fl"], &["d", "dl"]);
    let (_, result) = result(subject, action).await?;
    ensure_eq!(paths(&result), [vec!["f"], vec!["d"], vec![]], "outputs");
    let told = |links: &[reapi::OutputSymlink]| -> Vec<(String, String)> {
        links.iter().map(|link| (link.path.clone(), link.target.clone())).collect()
    };
    ensure_eq!(told(&result.output_file_symlinks), [("fl".into(), "f".into())], "output_file_symlinks");
    let directories = told(&result.output_directory_symlinks);
    ensure_eq!(directories, [("dl".into(), "d".into())], "output_directory_symlinks");
    Ok(())
}

async fn out_08_outputs_of_the_other_kind_are_refused(subject: &Subject) -> Verdict {
    let script = "echo x > f; mkdir d; ln -s f fl; ln -s d dl";
    for (what, files, directories) in [
        ("a directory for a file", &["d"][..], &[][..]),
        ("a file for a directory", &[], &["f"]),
        ("a link to a directory for a file", &["dl"], &[]),
        ("a link to a file for a directory", &[], &["fl"]),
    ] {
        let built = subject.upload(older(subject.script(script), files, directories)).await?;
        subject.fault(&built, what).await?.must_be(Code::FailedPrecondition, what)?;
    }
    Ok(())
}

#[allow(deprecated)]
async fn out_09_links_are_told_in_the_older_lists_too(subject: &Subject) -> Verdict {
    let script = "echo x > f; mkdir d; ln -s f fl; ln -s d dl";
    let (_, result) = result(subject, subject.script(script).outputs(&["dl", "fl"])).await?;
    for (what, links, expected) in [
        ("output_file_symlinks", &result.output_file_symlinks, "fl"),
        ("output_directory_symlinks", &result.output_directory_symlinks, "dl"),
    ] {
        let paths: Vec<_> = links.iter().map(|link| link.path.as_str()).collect();
        ensure_eq!(paths, [expected], "{what}");
    }
    ensure_eq!(paths(&result)[2], ["dl", "fl"], "output_symlinks");
    Ok(())
}

async fn out_10_absolute_links_are_as_announced(subject: &Subject) -> Verdict {
    let is_disallowed = is_disallowed(subject)?;
    // Whether links inside of directories are meant is not said: they are, here.
    let scripts = ["ln -s /etc/passwd out", "mkdir out; ln -s /etc/passwd out/link"];
    let count = if subject.is_own() { 2 } else { 1 };
    for script in &scripts[..count] {
        let built = subject.upload(subject.script(script).outputs(&["out"])).await?;
        if is_disallowed {
            subject.fault(&built, script).await?.must_be(Code::FailedPrecondition, script)?;
        } else {
            let result = subject.succeed_as(&built, subject.request(&built)).await?.result();
            // The link itself, or the directory that it is in.
            let [_, directories, links] = paths(&result);
            ensure_eq!([directories, links].concat(), ["out"], "output_directories and output_symlinks");
        }
    }
    Ok(())
}

async fn out_11_links_to_nothing_are_links(subject: &Subject) -> Verdict {
    let (_, result) = result(subject, subject.script("ln -s no/where out").outputs(&["out"])).await?;
    ensure_eq!(paths(&result), [vec![], vec![], vec!["out"]], "outputs");
    ensure_eq!(result.output_symlinks[0].target, "no/where", "the target");
    // The older lists name a kind, and this has none.
    let built = subject.upload(older(subject.script("ln -s no/where out"), &["out"], &[])).await?;
    subject.chose_fault(&built, Code::FailedPrecondition, "a link to nothing for a file").await?;
    Ok(())
}

async fn out_17_whether_a_file_is_executable_is_told(subject: &Subject) -> Verdict {
    let script = "echo x > plain; echo x > run; chmod +x run; mkdir d; cp -p plain run d";
    let (built, result) = result(subject, subject.script(script).outputs(&["d", "plain", "run"])).await?;
    let mut files: Vec<_> =
        result.output_files.iter().map(|file| (file.path.as_str(), file.is_executable)).collect();
    files.sort_unstable();
    ensure_eq!(files, [("plain", false), ("run", true)], "files");
    let directory = result.output_directories.first();
    let directory = directory.ok_or_else(|| Stop::failed("the directory is not told"))?;
    let root = super::output_trees::tree_of(subject, &built, directory).await?.message.root;
    let root = root.unwrap_or_default();
    let files: Vec<_> = root.files.iter().map(|file| (file.name.as_str(), file.is_executable)).collect();
    ensure_eq!(files, [("plain", false), ("run", true)], "files of the directory");
    Ok(())
}

async fn out_18_streams_come_back(subject: &Subject) -> Verdict {
    let (built, loud) = result(subject, subject.script("echo to stdout; echo to stderr >&2")).await?;
    ensure_eq!(subject.stdout(&built, &loud).await?, "to stdout\n", "standard output");
    let stderr = subject.content(&built, loud.stderr_digest.as_ref(), &loud.stderr_raw).await?;
    ensure_eq!(stderr, "to stderr\n", "standard error");
    let is_bare = loud.stdout_raw.is_empty() && loud.stderr_raw.is_empty();
    ensure!(is_bare || !subject.is_own(), "streams come inline, and nobody asked");
    let (built, silent) = result(subject, subject.script("true")).await?;
    ensure_eq!(subject.stdout(&built, &silent).await?, "", "nothing on standard output");
    Ok(())
}

async fn out_18_streams_that_do_not_fit_the_reply_come_by_digest(subject: &Subject) -> Verdict {
    const BYTES: usize = 5_000_000;
    let max = subject.cache()?.max_cas_blob_size_bytes;
    if max > 0 && usize::try_from(max).is_ok_and(|max| max < BYTES) {
        return Err(Stop::skipped("max_cas_blob_size_bytes keeps every stream small"));
    }
    let script = format!("head -c {BYTES} /dev/zero");
    let built = subject.upload(subject.script(&script)).await?;
    let request = reapi::ExecuteRequest { inline_stdout: true, ..subject.request(&built) };
    // The client takes 4 MiB; a larger message would fail here.
    let result = subject.succeed_as(&built, request).await?.result();
    ensure!(result.stdout_raw.is_empty(), "{} bytes came inline", result.stdout_raw.len());
    let stdout = subject.get(&subject.digest_in(&built, result.stdout_digest.as_ref())?).await?;
    ensure!(stdout == vec![0; BYTES], "{} bytes came back", stdout.len());
    Ok(())
}

async fn out_20_outputs_are_stored_when_the_result_is_seen(subject: &Subject) -> Verdict {
    for _ in 0..5 {
        let script = "echo $1; echo $1 a >&2; echo $1 b > small; (echo $1; head -c 300000 /dev/zero) > large; \
                      mkdir -p d/e; echo $1 c > d/e/f";
        let action = subject.script(script).outputs(&["d", "large", "small"]);
        let (built, result) = result(subject, action).await?;
        let mut named = vec![result.stdout_digest.clone(), result.stderr_digest.clone()];
        named.extend(result.output_files.iter().map(|file| file.digest.clone()));
        for directory in &result.output_directories {
            let tree = super::output_trees::tree_of(subject, &built, directory).await?;
            named.push(directory.tree_digest.clone());
            let all = tree.message.root.iter().chain(&tree.message.children);
            named.extend(all.flat_map(|directory| &directory.files).map(|file| file.digest.clone()));
        }
        let named: Vec<_> = named.into_iter().flatten().collect();
        ensure!(named.len() >= 4, "a result that names {} blobs", named.len());
        ensure_eq!(subject.missing(&named).await?, [], "blobs that are missing");
    }
    Ok(())
}

async fn out_21_what_is_no_file_directory_or_link_is_refused(subject: &Subject) -> Verdict {
    for script in ["mkfifo out", "mkdir out; mkfifo out/pipe"] {
        let built = subject.upload(subject.script(script).outputs(&["out"])).await?;
        subject.chose_fault(&built, Code::FailedPrecondition, script).await?;
    }
    Ok(())
}
