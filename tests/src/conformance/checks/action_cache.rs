//! ActionCache.

use bytes::Bytes;
use prost::Message as _;
use tonic::{Code, Status};
use wardian_proto::{Digest, reapi};

use super::super::outcome::{ensure, ensure_eq, refused_as};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};
use crate::TestAction;

pub(super) const CHECKS: &[Check] = &[
    check!(ac_01_an_action_without_a_result_is_not_found: "AC-01"),
    check!(ac_02_results_are_hidden_until_files_and_streams_are_stored: "AC-02", "AC-15").own(),
    check!(ac_02_results_are_hidden_until_their_trees_are_stored: "AC-02", "AC-15").own(),
    check!(ac_03_contents_come_inline_only_when_asked_for: "AC-03"),
    check!(ac_03_contents_that_do_not_fit_the_reply_stay_out: "AC-03"),
    check!(ac_04_a_result_belongs_to_function_and_action: "AC-04"),
    check!(ac_10_results_that_are_none_are_refused: "AC-10"),
    check!(ac_12_contents_that_a_client_inlined_are_served: "AC-12").own(),
    check!(ac_13_results_may_be_written_as_announced: "AC-13"),
    check!(ac_14_results_may_have_a_priority: "AC-14"),
    check!(ac_16_failed_and_uncacheable_executions_leave_no_result: "AC-16"),
];

/// An Action that is stored together with its Command, as servers may insist.
async fn action(subject: &Subject) -> Result<Digest, Stop> {
    let built = TestAction::new(&["true", &subject.fresh_name()]).digest_function(subject.function()).build();
    subject.put_all(&built.blobs).await?;
    Ok(built.action)
}

async fn get(
    subject: &Subject,
    action: &Digest,
    request: reapi::GetActionResultRequest,
) -> Result<reapi::ActionResult, Status> {
    let request = reapi::GetActionResultRequest {
        instance_name: subject.instance(),
        action_digest: Some(action.to_wire()),
        digest_function: action.function().wire().into(),
        ..request
    };
    Ok(subject.action_cache().get_action_result(request).await?.into_inner())
}

async fn is_hit(subject: &Subject, action: &Digest) -> Result<bool, Stop> {
    match get(subject, action, Default::default()).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(status.into()),
    }
}

async fn update(
    subject: &Subject,
    action: &Digest,
    result: reapi::ActionResult,
) -> Result<reapi::ActionResult, Status> {
    let request = reapi::UpdateActionResultRequest {
        instance_name: subject.instance(),
        action_digest: Some(action.to_wire()),
        action_result: Some(result),
        digest_function: action.function().wire().into(),
        ..Default::default()
    };
    Ok(subject.action_cache().update_action_result(request).await?.into_inner())
}

fn needs_update(subject: &Subject) -> Result<(), Stop> {
    let announced = subject.cache()?.action_cache_update_capabilities;
    let is_enabled = announced.is_some_and(|update| update.update_enabled);
    is_enabled.then_some(()).ok_or_else(|| Stop::skipped("update_enabled is not announced"))
}

fn file(subject: &Subject, path: &str, content: &[u8]) -> reapi::OutputFile {
    let digest = Some(subject.digest(content).to_wire());
    reapi::OutputFile { path: path.into(), digest, ..Default::default() }
}

async fn ac_01_an_action_without_a_result_is_not_found(subject: &Subject) -> Verdict {
    let absent = subject.digest(&subject.fresh(100));
    refused_as(get(subject, &absent, Default::default()).await, Code::NotFound, "an unknown action")?;
    let stored = action(subject).await?;
    refused_as(
        get(subject, &stored, Default::default()).await,
        Code::NotFound,
        "an action that was not run",
    )?;
    Ok(())
}

async fn ac_02_results_are_hidden_until_files_and_streams_are_stored(subject: &Subject) -> Verdict {
    needs_update(subject)?;
    let action = action(subject).await?;
    let [small, large, out, err] = [50, 90_000, 60, 70].map(|size| subject.fresh(size));
    let result = reapi::ActionResult {
        output_files: vec![
            file(subject, "a", &small),
            file(subject, "b", &large),
            file(subject, "empty", b""),
        ],
        stdout_digest: Some(subject.digest(&out).to_wire()),
        stderr_digest: Some(subject.digest(&err).to_wire()),
        ..Default::default()
    };
    update(subject, &action, result).await?;
    for blob in [small, large, out, err] {
        ensure!(!is_hit(subject, &action).await?, "served while a blob of {} bytes is missing", blob.len());
        subject.put(&blob).await?;
    }
    ensure!(is_hit(subject, &action).await?, "not served with all that it names");
    Ok(())
}

async fn ac_02_results_are_hidden_until_their_trees_are_stored(subject: &Subject) -> Verdict {
    needs_update(subject)?;
    let action = action(subject).await?;
    let (top, deep) = (subject.fresh(100), subject.fresh(100));
    let node = |name: &str, content: &[u8]| reapi::FileNode {
        name: name.into(),
        digest: Some(subject.digest(content).to_wire()),
        ..Default::default()
    };
    let child = reapi::Directory { files: vec![node("deep", &deep)], ..Default::default() };
    let child_bytes = Bytes::from(child.encode_to_vec());
    let child_digest = Some(subject.digest(&child_bytes).to_wire());
    let directories = vec![reapi::DirectoryNode { name: "child".into(), digest: child_digest }];
    let root = reapi::Directory { files: vec![node("top", &top)], directories, ..Default::default() };
    let root_bytes = Bytes::from(root.encode_to_vec());
    let tree = Bytes::from(reapi::Tree { root: Some(root), children: vec![child] }.encode_to_vec());
    let output = reapi::OutputDirectory {
        path: "out".into(),
        tree_digest: Some(subject.digest(&tree).to_wire()),
        root_directory_digest: Some(subject.digest(&root_bytes).to_wire()),
        ..Default::default()
    };
    let result = reapi::ActionResult { output_directories: vec![output], ..Default::default() };
    update(subject, &action, result).await?;
    for (what, blob) in [
        ("the Tree", tree),
        ("a file", top),
        ("a deep file", deep),
        ("the root", root_bytes),
        ("a child", child_bytes),
    ] {
        ensure!(!is_hit(subject, &action).await?, "served while {what} is missing");
        subject.put(&blob).await?;
    }
    ensure!(is_hit(subject, &action).await?, "not served with all that it names");
    Ok(())
}

async fn ac_03_contents_come_inline_only_when_asked_for(subject: &Subject) -> Verdict {
    needs_update(subject)?;
    let action = action(subject).await?;
    let [one, two, out, err] = [0; 4].map(|_| subject.fresh(100));
    for blob in [&one, &two, &out, &err] {
        subject.put(blob).await?;
    }
    let result = reapi::ActionResult {
        output_files: vec![file(subject, "one", &one), file(subject, "two", &two)],
        stdout_digest: Some(subject.digest(&out).to_wire()),
        stderr_digest: Some(subject.digest(&err).to_wire()),
        ..Default::default()
    };
    update(subject, &action, result).await?;
    let plain = get(subject, &action, Default::default()).await?;
    let is_bare = plain.stdout_raw.is_empty() && plain.stderr_raw.is_empty();
    ensure!(is_bare && plain.output_files.iter().all(|f| f.contents.is_empty()), "inline, and nobody asked");
    let asked = reapi::GetActionResultRequest {
        inline_stdout: true,
        inline_stderr: true,
        inline_output_files: vec!["two".into(), "unheard of".into()],
        ..Default::default()
    };
    let full = get(subject, &action, asked).await?;
    let contents = |path| full.output_files.iter().find(|f| f.path == path).map(|f| f.contents.clone());
    // A server may leave out any of it, but what comes must be right.
    for (what, came, expected) in [
        ("stdout", Some(full.stdout_raw.clone()), out),
        ("stderr", Some(full.stderr_raw.clone()), err),
        ("a file that was asked for", contents("two"), two),
    ] {
        let came = came.unwrap_or_default();
        let may_be_left_out = came.is_empty() && !subject.is_own();
        ensure!(came == expected || may_be_left_out, "{what}: {} bytes came inline", came.len());
    }
    ensure_eq!(contents("one"), Some(Bytes::new()), "a file that was not asked for");
    Ok(())
}

async fn ac_03_contents_that_do_not_fit_the_reply_stay_out(subject: &Subject) -> Verdict {
    const FILE_BYTES: usize = 3_000_000;
    needs_update(subject)?;
    let max = subject.cache()?.max_cas_blob_size_bytes;
    if max > 0 && usize::try_from(max).is_ok_and(|max| max < FILE_BYTES) {
        return Err(Stop::skipped("max_cas_blob_size_bytes keeps every reply small"));
    }
    let action = action(subject).await?;
    let mut result = reapi::ActionResult::default();
    for path in ["a", "b"] {
        let data = subject.fresh(FILE_BYTES);
        subject.put(&data).await?;
        result.output_files.push(file(subject, path, &data));
    }
    update(subject, &action, result).await?;
    let inline_output_files = vec!["a".into(), "b".into()];
    let asked = reapi::GetActionResultRequest { inline_output_files, ..Default::default() };
    // The client takes 4 MiB; a larger reply would fail here.
    let came = get(subject, &action, asked).await?;
    ensure!(came.output_files.iter().all(|file| file.digest.is_some()), "a file without its digest");
    Ok(())
}

async fn ac_04_a_result_belongs_to_function_and_action(subject: &Subject) -> Verdict {
    needs_update(subject)?;
    let action = action(subject).await?;
    update(subject, &action, reapi::ActionResult { exit_code: 3, ..Default::default() }).await?;
    ensure_eq!(get(subject, &action, Default::default()).await?.exit_code, 3, "exit_code");
    let longer =
        Digest::from_parts(action.function(), action.hash(), action.size() + 1).expect("of its length");
    ensure!(!is_hit(subject, &longer).await?, "found under another size");
    for other in subject.functions() {
        if other != action.function() && other.hash_bytes() == action.function().hash_bytes() {
            let twin = Digest::from_parts(other, action.hash(), action.size()).expect("of its length");
            ensure!(!is_hit(subject, &twin).await?, "found under {}", other.wire().as_str_name());
        }
    }
    update(subject, &action, reapi::ActionResult { exit_code: 4, ..Default::default() }).await?;
    ensure_eq!(get(subject, &action, Default::default()).await?.exit_code, 4, "exit_code of the later one");
    Ok(())
}

async fn ac_10_results_that_are_none_are_refused(subject: &Subject) -> Verdict {
    needs_update(subject)?;
    let action = action(subject).await?;
    let bad = Some(reapi::Digest { hash: "short".into(), size_bytes: 1 });
    let directory =
        reapi::OutputDirectory { path: "d".into(), tree_digest: bad.clone(), ..Default::default() };
    let output = reapi::OutputFile { path: "f".into(), digest: bad.clone(), ..Default::default() };
    for (what, result) in [
        ("stdout", reapi::ActionResult { stdout_digest: bad, ..Default::default() }),
        ("a tree", reapi::ActionResult { output_directories: vec![directory], ..Default::default() }),
        ("a file", reapi::ActionResult { output_files: vec![output], ..Default::default() }),
    ] {
        let what = format!("a malformed digest of {what}");
        match update(subject, &action, result).await {
            // A server may look at it only when it would serve it.
            Ok(_) if !subject.is_own() => ensure!(!is_hit(subject, &action).await?, "{what} is served"),
            outcome => _ = refused_as(outcome, Code::InvalidArgument, &what)?,
        }
    }
    let nothing = reapi::UpdateActionResultRequest {
        instance_name: subject.instance(),
        action_digest: Some(action.to_wire()),
        digest_function: action.function().wire().into(),
        ..Default::default()
    };
    let outcome = subject.action_cache().update_action_result(nothing).await;
    refused_as(outcome, Code::InvalidArgument, "no result at all")?;
    ensure!(!is_hit(subject, &action).await?, "refused, and stored all the same");
    Ok(())
}

async fn ac_12_contents_that_a_client_inlined_are_served(subject: &Subject) -> Verdict {
    needs_update(subject)?;
    let action = action(subject).await?;
    let (out, content) = (subject.fresh(100), subject.fresh(100));
    let mut output = file(subject, "f", &content);
    output.contents = content.clone();
    let result =
        reapi::ActionResult { stdout_raw: out.clone(), output_files: vec![output], ..Default::default() };
    let stored = update(subject, &action, result).await?;
    let got = get(subject, &action, Default::default()).await?;
    ensure_eq!(got.output_files.len(), 1, "number of files");
    ensure_eq!(stored, got, "what the update returned");
    let has_worker = got.execution_metadata.as_ref().is_some_and(|metadata| !metadata.worker.is_empty());
    ensure!(has_worker, "the worker's name is empty");
    ensure!(got.stdout_raw.is_empty(), "stdout is still inline");
    ensure_eq!(got.stdout_digest, Some(subject.digest(&out).to_wire()), "stdout_digest");
    for data in [&out, &content] {
        ensure!(subject.get(&subject.digest(data)).await? == data, "what was inline is not in the CAS");
    }
    Ok(())
}

async fn ac_13_results_may_be_written_as_announced(subject: &Subject) -> Verdict {
    let announced = subject.cache()?.action_cache_update_capabilities;
    let is_enabled = announced.is_some_and(|update| update.update_enabled);
    let action = action(subject).await?;
    let outcome = update(subject, &action, reapi::ActionResult { exit_code: 3, ..Default::default() }).await;
    if is_enabled {
        outcome?;
    } else {
        subject.chose(outcome, Code::PermissionDenied, "an update that is not allowed")?;
    }
    ensure_eq!(is_hit(subject, &action).await?, is_enabled, "whether there is a result");
    // Only where it is off can it be seen that it is; both set-ups must agree with what they announce.
    Ok(())
}

async fn ac_14_results_may_have_a_priority(subject: &Subject) -> Verdict {
    needs_update(subject)?;
    let ranges = subject.cache()?.cache_priority_capabilities.clone().unwrap_or_default().priorities;
    let ends = ranges.iter().flat_map(|range| [range.min_priority, range.max_priority]);
    for priority in ends.chain([0]) {
        let action = action(subject).await?;
        let request = reapi::UpdateActionResultRequest {
            instance_name: subject.instance(),
            action_digest: Some(action.to_wire()),
            action_result: Some(reapi::ActionResult { exit_code: 5, ..Default::default() }),
            results_cache_policy: Some(reapi::ResultsCachePolicy { priority }),
            digest_function: action.function().wire().into(),
        };
        subject.action_cache().update_action_result(request).await?;
        ensure!(is_hit(subject, &action).await?, "priority {priority}: no result");
    }
    Ok(())
}

async fn ac_16_failed_and_uncacheable_executions_leave_no_result(subject: &Subject) -> Verdict {
    let uncacheable = subject.script("echo fine").do_not_cache();
    let built = subject.upload(uncacheable).await?;
    let ended = subject.execute(&built).await?;
    ensure_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 0), "an action that is not to be cached");
    ensure!(!is_hit(subject, &built.action).await?, "do_not_cache, and there is a result");
    let slow = subject.script("sleep 60");
    let built = subject.upload(slow.timeout(std::time::Duration::from_millis(200))).await?;
    let ended = subject.execute(&built).await?;
    ensure_eq!(ended.code(), Code::DeadlineExceeded, "an action that takes too long");
    ensure!(!is_hit(subject, &built.action).await?, "it took too long, and there is a result");
    if subject.is_own() {
        let built = subject.upload(subject.script("exit 3")).await?;
        let ended = subject.execute(&built).await?;
        ensure_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 3), "an action that fails");
        ensure!(!is_hit(subject, &built.action).await?, "exit code 3, and there is a result");
    }
    Ok(())
}
