//! Execution: what is refused, and how.

use std::time::Duration;

use bytes::Bytes;
use tonic::Code;
use wardian_proto::{Digest, reapi};

use super::super::outcome::{ensure, ensure_eq};
use super::super::runs::{Fault, within};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};
use crate::{Built, TestAction};

pub(super) const CHECKS: &[Check] = &[
    check!(exe_03_each_kind_of_fault_has_its_code: "EXE-03"),
    check!(exe_03_a_cancelled_execution_is_cancelled: "EXE-03"),
    check!(exe_04_every_missing_input_is_named: "EXE-04", "ACT-01"),
    check!(exe_04_a_missing_command_is_named: "EXE-04", "ACT-01"),
    check!(exe_04_a_missing_input_root_is_named: "EXE-04", "ACT-01"),
    check!(exe_04_a_missing_action_is_named: "EXE-04"),
    check!(exe_04_missing_blobs_are_named_in_every_function: "EXE-04"),
    check!(exe_16_a_timeout_beyond_the_longest_is_refused: "EXE-16"),
    check!(exe_17_a_platform_that_nobody_has_is_refused: "EXE-17"),
    check!(exe_22_action_digests_that_are_none_are_refused: "EXE-22"),
];

/// How long a server may take to refuse what it will never run.
const REFUSAL_LIMIT: Duration = Duration::from_secs(20);

async fn exe_03_each_kind_of_fault_has_its_code(subject: &Subject) -> Verdict {
    let slow = subject.upload(subject.script("sleep 20").timeout(Duration::from_secs(1))).await?;
    subject.fault(&slow, "a timeout").await?.must_be(Code::DeadlineExceeded, "a timeout")?;
    let mut incomplete = subject.script("cat in").file("in", subject.fresh(100)).build();
    incomplete.blobs.retain(|(digest, _)| digest.size() != 100);
    subject.put_all(&incomplete.blobs).await?;
    let fault = subject.fault(&incomplete, "a missing input").await?;
    fault.must_be(Code::FailedPrecondition, "a missing input")?;
    let bad = reapi::Digest { hash: "short".into(), size_bytes: 1 };
    let request = reapi::ExecuteRequest { action_digest: Some(bad), ..subject.request(&slow) };
    subject
        .fault_as(request, "a malformed digest")
        .await?
        .must_be(Code::InvalidArgument, "a malformed digest")
}

async fn exe_03_a_cancelled_execution_is_cancelled(subject: &Subject) -> Verdict {
    let built = subject.upload(subject.script("sleep 20")).await?;
    let mut run = subject.start(&built).await?;
    let name = run.name().await?;
    let request = wardian_proto::longrunning::CancelOperationRequest { name };
    match subject.operations().cancel_operation(request).await {
        Err(status) if status.code() == Code::Unimplemented => {
            return Err(Stop::skipped("CancelOperation is not offered"));
        }
        outcome => outcome?,
    };
    let ended = run.ended().await?;
    let fault = Fault::of_response(&ended.response);
    let fault = fault.ok_or_else(|| Stop::failed("it was cancelled and finished all the same"))?;
    fault.must_be(Code::Cancelled, "an execution that was cancelled")
}

fn subjects(digests: &[Digest]) -> Vec<String> {
    let mut subjects: Vec<_> = digests.iter().map(|digest| format!("blobs/{digest}")).collect();
    subjects.sort();
    subjects
}

/// Uploads all of an action but some blobs: exactly those are named, and with them it runs.
async fn names(subject: &Subject, action: TestAction, withheld: impl Fn(&Built) -> Vec<Digest>) -> Verdict {
    subject.executes()?;
    let built = action.build();
    let withheld = withheld(&built);
    let rest: Vec<_> = built.blobs.iter().filter(|(digest, _)| !withheld.contains(digest)).cloned().collect();
    ensure_eq!(rest.len() + withheld.len(), built.blobs.len(), "blobs");
    subject.put_all(&rest).await?;
    let what = format!("{} missing blobs", withheld.len());
    let fault = subject.fault(&built, &what).await?;
    fault.must_be(Code::FailedPrecondition, &what)?;
    ensure_eq!(fault.missing, subjects(&withheld), "blobs that are named as MISSING");
    // The client can act on what it was told.
    subject.put_all(&built.blobs).await?;
    subject.succeed_as(&built, subject.request(&built)).await?;
    Ok(())
}

/// An action with inputs at several depths; all its blobs are its own.
fn with_inputs(subject: &Subject) -> TestAction {
    let text = |depth: &str| format!("{depth} {}\n", subject.fresh_name());
    subject
        .script("cat top a/middle a/b/deep")
        .file("top", text("top"))
        .file("a/middle", text("middle"))
        .file("a/b/deep", text("deep"))
        .platform(&subject.platform_and(&[]))
}

async fn exe_04_every_missing_input_is_named(subject: &Subject) -> Verdict {
    let is_file = |data: &Bytes| [&b"top "[..], b"middle ", b"deep "].iter().any(|t| data.starts_with(t));
    let files = |built: &Built| -> Vec<Digest> {
        built.blobs.iter().filter(|(_, data)| is_file(data)).map(|(digest, _)| *digest).collect()
    };
    names(subject, with_inputs(subject), files).await?;
    // A Directory and a file beside it.
    let mixed = |built: &Built| {
        let directory = |data: &Bytes| data.windows(4).any(|part| part == b"deep") && !is_file(data);
        let file = |data: &Bytes| data.starts_with(b"top ");
        let is_command = |digest: &Digest| *digest == built.command;
        let chosen = built
            .blobs
            .iter()
            .filter(|(digest, data)| !is_command(digest) && (directory(data) || file(data)));
        chosen.map(|(digest, _)| *digest).collect()
    };
    names(subject, with_inputs(subject), mixed).await
}

async fn exe_04_a_missing_command_is_named(subject: &Subject) -> Verdict {
    names(subject, with_inputs(subject), |built| vec![built.command]).await
}

async fn exe_04_a_missing_input_root_is_named(subject: &Subject) -> Verdict {
    names(subject, with_inputs(subject), |built| vec![built.input_root]).await
}

async fn exe_04_a_missing_action_is_named(subject: &Subject) -> Verdict {
    names(subject, with_inputs(subject), |built| vec![built.action]).await
}

async fn exe_04_missing_blobs_are_named_in_every_function(subject: &Subject) -> Verdict {
    for function in subject.functions() {
        let action = with_inputs(subject).digest_function(function);
        let top = |built: &Built| {
            let top = built.blobs.iter().filter(|(_, data)| data.starts_with(b"top "));
            top.map(|(digest, _)| *digest).collect()
        };
        names(subject, action, top).await?;
    }
    Ok(())
}

async fn exe_16_a_timeout_beyond_the_longest_is_refused(subject: &Subject) -> Verdict {
    // The longest that a Duration may be.
    let timeout = Duration::from_secs(315_576_000_000);
    let built = subject.upload(subject.script("true").timeout(timeout)).await?;
    match subject.attempt(subject.request(&built)).await? {
        Ok(_) if !subject.is_own() => Err(Stop::skipped("no timeout is too long for it")),
        Ok(_) => Err(Stop::failed("a timeout of ten thousand years is taken")),
        Err(fault) if subject.is_own() => fault.must_be(Code::InvalidArgument, "the longest timeout"),
        Err(_) => Ok(()),
    }
}

async fn exe_17_a_platform_that_nobody_has_is_refused(subject: &Subject) -> Verdict {
    let name = format!("property-{}", subject.fresh_name());
    let platform = subject.platform_and(&[(&name, "any")]);
    let built = subject.upload(subject.script("true").platform(&platform)).await?;
    let Some(attempt) = within(REFUSAL_LIMIT, subject.attempt(subject.request(&built))).await else {
        return Err(Stop::failed("neither refused nor run: it waits"));
    };
    match attempt? {
        Ok(_) => Err(Stop::failed("run, though no worker can have such a property")),
        Err(fault) if subject.is_own() => {
            fault.must_be(Code::FailedPrecondition, "a property that nobody has")?;
            ensure!(fault.message.contains(&name), "the property is not named: {}", fault.message);
            Ok(())
        }
        Err(_) => Ok(()),
    }
}

async fn exe_22_action_digests_that_are_none_are_refused(subject: &Subject) -> Verdict {
    subject.executes()?;
    let good = subject.digest(&subject.fresh(10)).to_wire();
    for (what, action_digest) in [
        ("no action_digest", None),
        ("an empty one", Some(reapi::Digest::default())),
        ("a short hash", Some(reapi::Digest { hash: "abc".into(), ..good.clone() })),
        (
            "a hash in upper case",
            Some(reapi::Digest { hash: "AB".repeat(good.hash.len() / 2), ..good.clone() }),
        ),
        ("a negative size", Some(reapi::Digest { size_bytes: -1, ..good })),
    ] {
        let request = reapi::ExecuteRequest {
            instance_name: subject.instance(),
            action_digest,
            digest_function: subject.function().wire().into(),
            ..Default::default()
        };
        let fault = subject.fault_as(request, what).await?;
        fault.must_be(Code::InvalidArgument, what)?;
        ensure!(!subject.is_own() || !fault.is_in_response, "{what}: the call itself is not refused");
    }
    Ok(())
}
