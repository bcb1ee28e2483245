//! Execution: streams of operations, the cache, priorities.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tonic::Code;
use wardian_proto::reapi::execution_stage::Value as Stage;
use wardian_proto::{DigestFunction, reapi};

use super::super::outcome::{ensure, ensure_eq, refused_as};
use super::super::runs::{metadata_of, response_of};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};
use crate::{Built, Ended};

pub(super) const CHECKS: &[Check] = &[
    check!(exe_01_the_stream_is_one_operation_until_it_is_done: "EXE-01", "EXE-09"),
    check!(exe_02_the_operations_own_error_is_never_set: "EXE-02"),
    check!(exe_05_results_come_from_the_cache_unless_it_is_passed_over: "EXE-05", "EXE-12"),
    check!(exe_05_an_execution_past_the_cache_renews_it: "EXE-05").own(),
    check!(exe_06_what_is_not_to_be_cached_is_run_each_time: "EXE-06"),
    check!(exe_06_what_is_not_to_be_cached_is_not_joined: "EXE-06"),
    check!(exe_07_salt_and_timeout_make_another_action: "EXE-07"),
    check!(exe_10_metadata_have_the_actions_digest: "EXE-10"),
    check!(exe_10_streams_that_are_named_can_be_read: "EXE-10"),
    check!(exe_11_an_exit_code_is_a_result: "EXE-11"),
    check!(exe_13_outputs_come_inline_when_asked_for: "EXE-13"),
    check!(exe_14_the_more_urgent_of_those_that_wait_start_sooner: "EXE-14"),
    check!(exe_15_an_execution_has_one_digest_function: "EXE-15"),
    check!(exe_18_an_operation_goes_on_without_its_client: "EXE-18").own(),
    check!(exe_20_a_running_operation_can_be_waited_for: "EXE-20"),
    check!(exe_20_an_operation_that_nobody_knows_is_not_found: "EXE-20"),
    check!(exe_21_operations_that_are_done_can_be_found: "EXE-21").own(),
];

/// Says something that no other run says.
const RANDOM: &str = "od -An -N16 -tx1 /dev/urandom";

/// The same after a while.
const SLOW_RANDOM: &str = "sleep 2; od -An -N16 -tx1 /dev/urandom";

/// Says something, then goes on for long enough to be looked at.
const LONG: &str = "echo begun; sleep 20";

async fn said(subject: &Subject, built: &Built, ended: &Ended) -> Result<Bytes, Stop> {
    let text = subject.stdout(built, &ended.result()).await?;
    ensure!(!text.is_empty(), "an action said nothing that should say something");
    Ok(text)
}

async fn exe_01_the_stream_is_one_operation_until_it_is_done(subject: &Subject) -> Verdict {
    let run = subject.start(&subject.upload(subject.script("sleep 1")).await?).await?;
    let ended = run.ended().await?;
    let (last, before) = ended.operations.split_last().expect("an operation that ended was seen");
    ensure!(!last.name.is_empty(), "the operation has no name");
    ensure!(last.done && before.iter().all(|operation| !operation.done), "a message after the end");
    for operation in &ended.operations {
        ensure_eq!(operation.name, last.name, "name of the operation");
        let stage = metadata_of(operation)?.stage();
        ensure!(stage != Stage::Unknown, "a message has no stage");
        ensure_eq!(stage == Stage::Completed, operation.done, "whether stage {stage:?} is done");
        ensure_eq!(operation.result.is_some(), operation.done, "whether there is a result in {stage:?}");
    }
    response_of(last)?;
    Ok(())
}

async fn exe_02_the_operations_own_error_is_never_set(subject: &Subject) -> Verdict {
    let second = Duration::from_secs(1);
    let missing = {
        let mut built = subject.script("cat in").file("in", subject.fresh(100)).build();
        built.blobs.retain(|(digest, _)| digest.size() != 100);
        subject.executes()?;
        subject.put_all(&built.blobs).await?;
        built
    };
    for (what, built) in [
        ("success", subject.upload(subject.script("true")).await?),
        ("exit code 1", subject.upload(subject.script("exit 1")).await?),
        ("a timeout", subject.upload(subject.script("sleep 20").timeout(second)).await?),
        ("a tool that is not there", {
            let mut action = subject.script("");
            action.command.arguments[0] = "/no/such/tool".into();
            subject.upload(action).await?
        }),
        ("a missing input", missing),
    ] {
        // A server may say so in the call's status as well; whatever operations come have no error.
        if let Err(Stop::Failed(mut failure)) = subject.attempt(subject.request(&built)).await {
            failure.message = format!("{what}: {}", failure.message);
            return Err(Stop::Failed(failure));
        }
    }
    Ok(())
}

async fn exe_05_results_come_from_the_cache_unless_it_is_passed_over(subject: &Subject) -> Verdict {
    let built = subject.upload(subject.script(RANDOM)).await?;
    let first = subject.succeed_as(&built, subject.request(&built)).await?;
    ensure!(!first.response.cached_result, "cached_result of an action that nobody has run before");
    let second = subject.succeed_as(&built, subject.request(&built)).await?;
    let (before, after) = (said(subject, &built, &first).await?, said(subject, &built, &second).await?);
    ensure!(second.response.cached_result || !subject.is_own(), "a second run in spite of the cache");
    ensure_eq!(second.response.cached_result, before == after, "cached_result");
    let request = reapi::ExecuteRequest { skip_cache_lookup: true, ..subject.request(&built) };
    let third = subject.succeed_as(&built, request).await?;
    ensure!(!third.response.cached_result, "cached_result with skip_cache_lookup");
    let third = said(subject, &built, &third).await?;
    ensure!(third != before && third != after, "an old result with skip_cache_lookup");
    Ok(())
}

async fn exe_05_an_execution_past_the_cache_renews_it(subject: &Subject) -> Verdict {
    let built = subject.upload(subject.script(RANDOM)).await?;
    subject.succeed_as(&built, subject.request(&built)).await?;
    let request = reapi::ExecuteRequest { skip_cache_lookup: true, ..subject.request(&built) };
    let newer = subject.succeed_as(&built, request).await?;
    let cached = subject.succeed_as(&built, subject.request(&built)).await?;
    ensure!(cached.response.cached_result, "nothing is cached");
    ensure_eq!(cached.result(), newer.result(), "the result that is cached");
    Ok(())
}

async fn exe_06_what_is_not_to_be_cached_is_run_each_time(subject: &Subject) -> Verdict {
    let built = subject.upload(subject.script(RANDOM).do_not_cache()).await?;
    let mut texts = Vec::new();
    for _ in 0..2 {
        let ended = subject.succeed_as(&built, subject.request(&built)).await?;
        ensure!(!ended.response.cached_result, "cached_result of an action that is not to be cached");
        texts.push(said(subject, &built, &ended).await?);
    }
    ensure!(texts[0] != texts[1], "the second run has the result of the first");
    Ok(())
}

async fn exe_06_what_is_not_to_be_cached_is_not_joined(subject: &Subject) -> Verdict {
    let built = subject.upload(subject.script(SLOW_RANDOM).do_not_cache()).await?;
    let (one, two) = (subject.start(&built).await?, subject.start(&built).await?);
    let (one, two) = (one.ended().await?, two.ended().await?);
    let (one, two) = (said(subject, &built, &one).await?, said(subject, &built, &two).await?);
    ensure!(one != two, "two executions share a run");
    Ok(())
}

async fn exe_07_salt_and_timeout_make_another_action(subject: &Subject) -> Verdict {
    let plain = subject.script(RANDOM);
    let mut salted = plain.clone();
    salted.action.salt = Bytes::from_static(b"salt");
    let (short, long) = (Duration::from_secs(50), Duration::from_secs(60));
    let mut texts = Vec::new();
    for action in [plain.clone(), salted, plain.clone().timeout(short), plain.timeout(long)] {
        let built = subject.upload(action).await?;
        let ended = subject.succeed_as(&built, subject.request(&built)).await?;
        ensure!(!ended.response.cached_result, "a result of another action");
        texts.push(said(subject, &built, &ended).await?);
    }
    texts.sort();
    texts.dedup();
    ensure_eq!(texts.len(), 4, "results of four actions that differ in salt or timeout");
    Ok(())
}

async fn exe_10_metadata_have_the_actions_digest(subject: &Subject) -> Verdict {
    let built = subject.upload(subject.script("sleep 1")).await?;
    // The second time it may come from the cache.
    for _ in 0..2 {
        for operation in subject.execute(&built).await?.operations {
            let metadata = metadata_of(&operation)?;
            ensure_eq!(metadata.action_digest, Some(built.action.to_wire()), "action_digest");
        }
    }
    Ok(())
}

async fn exe_10_streams_that_are_named_can_be_read(subject: &Subject) -> Verdict {
    let built = subject.upload(subject.script(LONG)).await?;
    let mut run = subject.start(&built).await?;
    let stream = loop {
        let Some(operation) = run.next().await?.cloned() else { break String::new() };
        let name = metadata_of(&operation)?.stdout_stream_name;
        if !name.is_empty() {
            break name;
        }
    };
    if stream.is_empty() {
        ensure!(!subject.is_own(), "no stream was named");
        return Err(Stop::skipped("no stdout_stream_name is told"));
    }
    // It stays open while the command runs, and what the command wrote comes all the same.
    let request = wardian_proto::bytestream::ReadRequest { resource_name: stream, ..Default::default() };
    let mut pieces = subject.byte_stream().read(request).await?.into_inner();
    let mut text = Vec::new();
    while text.len() < b"begun\n".len() {
        let Some(piece) = pieces.message().await? else { break };
        text.extend_from_slice(&piece.data);
    }
    subject.give_up(&run.name().await?).await;
    ensure_eq!(String::from_utf8_lossy(&text), "begun\n", "what the stream holds");
    Ok(())
}

async fn exe_11_an_exit_code_is_a_result(subject: &Subject) -> Verdict {
    let script = "echo out; echo err >&2; echo made > made; exit 3";
    let built = subject.upload(subject.script(script).outputs(&["made"])).await?;
    let ended = match subject.attempt(subject.request(&built)).await? {
        Ok(ended) => ended,
        Err(fault) => return Err(Stop::failed(format!("exit code 3 is told as {fault:?}"))),
    };
    let result = ended.result();
    ensure_eq!(result.exit_code, 3, "exit_code");
    let stderr = subject.content(&built, result.stderr_digest.as_ref(), &result.stderr_raw).await?;
    ensure_eq!(stderr, "err\n", "standard error");
    ensure_eq!(subject.stdout(&built, &result).await?, "out\n", "standard output");
    ensure_eq!(result.output_files.len(), 1, "outputs of an action that fails");
    Ok(())
}

async fn exe_13_outputs_come_inline_when_asked_for(subject: &Subject) -> Verdict {
    let script = "echo to stdout; echo to stderr >&2; echo one > one; echo two > two";
    let built = subject.upload(subject.script(script).outputs(&["one", "two"])).await?;
    // Run at first, and then from the cache.
    for _ in 0..2 {
        let request = reapi::ExecuteRequest {
            inline_stdout: true,
            inline_stderr: true,
            inline_output_files: vec!["two".into(), "unheard of".into()],
            ..subject.request(&built)
        };
        let result = subject.succeed_as(&built, request).await?.result();
        let file = |path: &str| result.output_files.iter().find(|file| file.path == path);
        let contents = |path: &str| file(path).map(|file| file.contents.clone()).unwrap_or_default();
        for (what, came, expected) in [
            ("stdout", &result.stdout_raw, "to stdout\n"),
            ("stderr", &result.stderr_raw, "to stderr\n"),
            ("a file that was asked for", &contents("two"), "two\n"),
        ] {
            // They are hints, so that a server may leave out any of it.
            let is_right = *came == expected || (came.is_empty() && !subject.is_own());
            ensure!(is_right, "{what}: {came:?} came inline");
        }
        ensure!(contents("one").is_empty() || !subject.is_own(), "a file that was not asked for is inline");
        ensure!(file("two").is_some_and(|file| file.digest.is_some()), "a file without its digest");
    }
    Ok(())
}

async fn exe_14_the_more_urgent_of_those_that_wait_start_sooner(subject: &Subject) -> Verdict {
    const WAITING: usize = 10;
    const URGENT: usize = 3;
    let ranges = subject.executes()?.execution_priority_capabilities.clone().unwrap_or_default().priorities;
    let Some(range) = ranges.iter().find(|range| range.min_priority < range.max_priority) else {
        return Err(Stop::skipped("execution_priority_capabilities announces none"));
    };
    let (urgent, other) = (range.min_priority.max(-100), range.max_priority.min(100));
    ensure!(urgent < other, "ranges: {ranges:?}");
    let mut runs = Vec::new();
    for (priority, count) in [(other, WAITING), (urgent, URGENT)] {
        for _ in 0..count {
            let built = subject.upload(subject.script("sleep 0.7").do_not_cache()).await?;
            runs.push((priority, built));
        }
    }
    let mut begun = Vec::new();
    for (priority, built) in &runs {
        let execution_policy = Some(reapi::ExecutionPolicy { priority: *priority });
        let request = reapi::ExecuteRequest { execution_policy, ..subject.request(built) };
        begun.push(subject.start_as(request).await?);
    }
    let mut times = Vec::new();
    for run in begun {
        let metadata = run.ended().await?.result().execution_metadata.unwrap_or_default();
        let time = |time: Option<prost_types::Timestamp>| time.and_then(|t| SystemTime::try_from(t).ok());
        let (queued, started) = (time(metadata.queued_timestamp), time(metadata.worker_start_timestamp));
        let (Some(queued), Some(started)) = (queued, started) else {
            return Err(Stop::skipped("results do not tell when actions were queued and started"));
        };
        times.push((queued, started));
    }
    let (others, urgent) = times.split_at(WAITING);
    let all_queued = times.iter().map(|(queued, _)| *queued).max().expect("there are some");
    let mean = |starts: &[SystemTime]| {
        let since = |start: &SystemTime| start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let count = u32::try_from(starts.len()).expect("they are few");
        starts.iter().map(since).sum::<Duration>() / count
    };
    let late: Vec<_> = others.iter().map(|(_, start)| *start).filter(|start| *start > all_queued).collect();
    if late.len() < 2 {
        return Err(Stop::skipped("too few actions had to wait"));
    }
    let urgent: Vec<_> = urgent.iter().map(|(_, start)| *start).collect();
    let (sooner, later) = (mean(&urgent), mean(&late));
    ensure!(sooner < later, "the urgent ones started {:?} later on average", sooner - later);
    Ok(())
}

async fn exe_15_an_execution_has_one_digest_function(subject: &Subject) -> Verdict {
    for function in subject.functions() {
        let name = function.wire().as_str_name();
        let script = "cat in; echo made > made; mkdir d; echo x > d/x";
        let action = subject.script(script).file("in", "input\n").outputs(&["d", "made"]);
        let built = subject.upload(action.digest_function(function)).await?;
        let result = subject.succeed_as(&built, subject.request(&built)).await?.result();
        ensure_eq!(subject.stdout(&built, &result).await?, "input\n", "standard output by {name}");
        for digest in [
            result.output_files.first().and_then(|file| file.digest.as_ref()),
            result.output_directories.first().and_then(|directory| directory.tree_digest.as_ref()),
        ] {
            let digest = subject.digest_in(&built, digest)?;
            let data = subject.get(&digest).await?;
            ensure_eq!(function.digest(&data), digest, "digest of an output by {name}");
        }
    }
    // Of another length than the Action's own, whatever that is.
    let other = match subject.function().hash_bytes() {
        32 => DigestFunction::Sha384,
        _ => DigestFunction::Sha256,
    };
    let mut action = subject.script("true");
    action.action.input_root_digest = Some(other.digest(b"").to_wire());
    let fault = subject.fault(&subject.upload(action).await?, "two digest functions").await?;
    ensure!(!subject.is_own() || fault.code == Code::InvalidArgument, "refused as {fault:?}");
    Ok(())
}

async fn exe_18_an_operation_goes_on_without_its_client(subject: &Subject) -> Verdict {
    let built = subject.upload(subject.script(SLOW_RANDOM)).await?;
    let mut run = subject.start(&built).await?;
    let name = run.name().await?;
    let is_running = run.reaches(Stage::Executing).await?;
    ensure!(is_running, "it was over before it was seen to run");
    drop(run);
    // Whatever the server does about it, it has done by the time it answered another call.
    subject.missing(&[]).await?;
    let ended = subject.wait(&name).await?.ended().await?;
    ensure_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 0), "what came of it");
    said(subject, &built, &ended).await?;
    Ok(())
}

async fn exe_20_a_running_operation_can_be_waited_for(subject: &Subject) -> Verdict {
    let built = subject.upload(subject.script("sleep 2")).await?;
    let mut first = subject.start(&built).await?;
    let name = first.name().await?;
    let mut second = subject.wait(&name).await?;
    ensure_eq!(second.name().await?, name, "the operation's name");
    let (first, second) = (first.ended().await?, second.ended().await?);
    ensure_eq!(second.response, first.response, "the response");
    // Servers may forget it now; those that know it still tell no more than the end.
    match subject.wait(&name).await {
        Err(status) if !subject.is_own() => ensure_eq!(status.code(), Code::NotFound, "{name}"),
        Err(status) => return Err(status.into()),
        Ok(run) => {
            let late = run.ended().await?;
            ensure_eq!((late.operations.len(), late.response), (1, first.response), "what comes later");
        }
    }
    Ok(())
}

async fn exe_20_an_operation_that_nobody_knows_is_not_found(subject: &Subject) -> Verdict {
    subject.executes()?;
    for name in [format!("{}operations/{}", subject.prefix(), subject.upload_id()), subject.fresh_name()] {
        let outcome = match subject.wait(&name).await {
            Ok(run) => run.status().await,
            Err(status) => Err(status),
        };
        refused_as(outcome, Code::NotFound, &format!("WaitExecution of {name:?}"))?;
    }
    Ok(())
}

async fn exe_21_operations_that_are_done_can_be_found(subject: &Subject) -> Verdict {
    let built = subject.upload(subject.script("true")).await?;
    let ended = subject.execute(&built).await?;
    for _ in 0..2 {
        let late = subject.wait(ended.name()).await?.ended().await?;
        ensure_eq!(late.operations.last(), ended.operations.last(), "the operation");
    }
    Ok(())
}
