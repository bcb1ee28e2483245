//! ExecutedActionMetadata.

use std::time::{Duration, SystemTime};

use prost::Message as _;
use wardian_proto::reapi;

use super::super::outcome::{ensure, ensure_eq};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};
use crate::TestAction;

pub(super) const CHECKS: &[Check] = &[
    check!(meta_01_times_lie_in_order: "META-01"),
    check!(meta_02_the_virtual_duration_goes_by_the_clock_of_the_timeout: "META-02"),
    check!(meta_04_no_result_is_an_empty_message: "META-04"),
    check!(meta_05_a_result_from_the_cache_has_the_metadata_of_its_run: "META-05"),
];

async fn metadata_of(subject: &Subject, action: TestAction) -> Result<reapi::ExecutedActionMetadata, Stop> {
    let result = subject.execute(&subject.upload(action).await?).await?.result();
    result.execution_metadata.ok_or_else(|| Stop::failed("a result without execution_metadata"))
}

async fn meta_01_times_lie_in_order(subject: &Subject) -> Verdict {
    let action = subject.script("cat in > out").file("in", subject.fresh(1000)).outputs(&["out"]);
    let metadata = metadata_of(subject, action).await?;
    ensure!(!metadata.worker.is_empty(), "the worker has no name");
    let times = [
        ("queued", metadata.queued_timestamp),
        ("worker_start", metadata.worker_start_timestamp),
        ("input_fetch_start", metadata.input_fetch_start_timestamp),
        ("input_fetch_completed", metadata.input_fetch_completed_timestamp),
        ("execution_start", metadata.execution_start_timestamp),
        ("execution_completed", metadata.execution_completed_timestamp),
        ("output_upload_start", metadata.output_upload_start_timestamp),
        ("output_upload_completed", metadata.output_upload_completed_timestamp),
        ("worker_completed", metadata.worker_completed_timestamp),
    ];
    let mut told = Vec::new();
    for (name, time) in times {
        match time {
            None => ensure!(!subject.is_own(), "{name} is not told"),
            Some(time) => {
                let time = SystemTime::try_from(time);
                told.push((name, time.map_err(|error| Stop::failed(format!("{name}: {error}")))?));
            }
        }
    }
    ensure!(told.iter().any(|(name, _)| name.starts_with("execution")), "when it was run is not told");
    for pair in told.windows(2) {
        ensure!(pair[0].1 <= pair[1].1, "{} is after {}: {told:?}", pair[0].0, pair[1].0);
    }
    Ok(())
}

async fn meta_02_the_virtual_duration_goes_by_the_clock_of_the_timeout(subject: &Subject) -> Verdict {
    let told = |metadata: reapi::ExecutedActionMetadata| {
        metadata.virtual_execution_duration.and_then(|duration| Duration::try_from(duration).ok())
    };
    let timeout = Duration::from_secs(20);
    let in_time = told(metadata_of(subject, subject.script("sleep 0.5").timeout(timeout)).await?);
    let Some(in_time) = in_time else {
        ensure!(!subject.is_own(), "virtual_execution_duration is not told");
        return Err(Stop::skipped("virtual_execution_duration is not told"));
    };
    let fits = in_time > Duration::ZERO && in_time <= timeout;
    ensure!(fits, "a run that ended in time took {in_time:?}");
    let timeout = Duration::from_secs(1);
    let built = subject.upload(subject.script("sleep 20").timeout(timeout)).await?;
    let cut_off = subject.execute(&built).await?.result().execution_metadata.and_then(told);
    // A run that was cut off needs to tell nothing; what it tells is no less than the timeout.
    ensure!(cut_off.is_some() || !subject.is_own(), "not told of a run that was cut off");
    ensure!(cut_off.is_none_or(|took| took >= timeout), "cut off after {cut_off:?} by a timeout of 1 s");
    Ok(())
}

async fn meta_04_no_result_is_an_empty_message(subject: &Subject) -> Verdict {
    let built = subject.upload(subject.script("true")).await?;
    let result = subject.execute(&built).await?.result();
    ensure!(result.encoded_len() > 0, "the result is an empty message");
    // Nor is it when it comes from the cache.
    let request = reapi::GetActionResultRequest {
        instance_name: subject.instance(),
        action_digest: Some(built.action.to_wire()),
        digest_function: subject.function().wire().into(),
        ..Default::default()
    };
    match subject.action_cache().get_action_result(request).await {
        Ok(cached) => ensure!(cached.into_inner().encoded_len() > 0, "the cached result is an empty message"),
        Err(status) => ensure!(!subject.is_own(), "nothing is cached: {status:?}"),
    }
    Ok(())
}

async fn meta_05_a_result_from_the_cache_has_the_metadata_of_its_run(subject: &Subject) -> Verdict {
    let built = subject.upload(subject.script("true")).await?;
    let first = subject.execute(&built).await?;
    let second = subject.execute(&built).await?;
    if !second.response.cached_result {
        ensure!(!subject.is_own(), "nothing is cached");
        return Err(Stop::skipped("no result comes from its cache"));
    }
    let (first, second) = (first.result().execution_metadata, second.result().execution_metadata);
    ensure!(first.is_some(), "a result without execution_metadata");
    ensure_eq!(second, first, "metadata");
    Ok(())
}
