//! Capabilities.

use tonic::Code;
use wardian_proto::reapi;
use wardian_proto::semver::SemVer;

use super::super::outcome::{ensure, ensure_eq};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};

pub(super) const CHECKS: &[Check] = &[
    check!(cap_01_what_is_served_is_announced: "CAP-01"),
    check!(cap_02_versions_lie_in_order: "CAP-02"),
    check!(cap_03_digest_functions_are_announced: "CAP-03"),
    check!(cap_04_ranges_of_priority_are_ranges: "CAP-04"),
    check!(cap_05_limits_are_no_less_than_nothing: "CAP-05"),
    check!(cap_06_the_strategy_for_links_is_known: "CAP-06"),
    check!(cap_07_encodings_are_announced_apart: "CAP-07"),
    check!(cap_08_chunkings_are_announced_with_what_uses_them: "CAP-08"),
    check!(cap_09_execution_is_announced: "CAP-09"),
    check!(cap_10_what_is_announced_is_the_instances: "CAP-10").own(),
    check!(cap_11_old_and_new_clients_find_their_version: "CAP-11").own(),
];

async fn cap_01_what_is_served_is_announced(subject: &Subject) -> Verdict {
    let request = reapi::GetCapabilitiesRequest { instance_name: subject.instance() };
    let got = subject.capabilities().get_capabilities(request).await?.into_inner();
    let absent = |code| code == Code::Unimplemented;
    let look_up = subject.missing(&[]).await;
    let has_cas = !look_up.as_ref().err().is_some_and(|status| absent(status.code()));
    ensure_eq!(got.cache_capabilities.is_some(), has_cas, "cache_capabilities, with a CAS: {has_cas}");
    // Without an action digest the request is refused wherever there is somebody to refuse it.
    let request = reapi::ExecuteRequest { instance_name: subject.instance(), ..Default::default() };
    let execute = subject.execution().execute(request).await;
    let executes = !execute.as_ref().err().is_some_and(|status| absent(status.code()));
    let announced = got.execution_capabilities.as_ref().is_some_and(|execution| execution.exec_enabled);
    ensure!(!announced || executes, "execution is announced and not offered");
    ensure!(announced || !executes || !subject.is_own(), "execution is offered and not announced");
    Ok(())
}

fn key(version: &SemVer) -> (i32, i32, i32) {
    (version.major, version.minor, version.patch)
}

async fn cap_02_versions_lie_in_order(subject: &Subject) -> Verdict {
    let announced = subject.announced()?;
    let (Some(low), Some(high)) = (&announced.low_api_version, &announced.high_api_version) else {
        return Err(Stop::failed("low_api_version or high_api_version is missing"));
    };
    ensure!(key(low) <= key(high), "versions from {low:?} to {high:?}");
    ensure!(high.major == 2, "version 2 is what was asked, and {high:?} is the newest");
    if let Some(deprecated) = &announced.deprecated_api_version {
        ensure!(key(deprecated) <= key(low), "deprecated {deprecated:?}, lowest {low:?}");
    }
    for version in [low, high] {
        let is_plain = version.major >= 0 && version.minor >= 0 && version.patch >= 0;
        ensure!(is_plain, "{version:?} is no version");
    }
    Ok(())
}

async fn cap_03_digest_functions_are_announced(subject: &Subject) -> Verdict {
    let announced = subject.announced()?;
    if let Some(cache) = &announced.cache_capabilities {
        ensure!(!cache.digest_functions.is_empty(), "the cache announces no digest function");
    }
    if let Some(execution) = announced.execution_capabilities.as_ref().filter(|e| e.exec_enabled) {
        ensure!(execution.digest_function != 0, "digest_function of execution is unknown");
        let many = &execution.digest_functions;
        let holds = many.is_empty() || many.contains(&execution.digest_function);
        ensure!(holds, "digest_functions {many:?} without digest_function {}", execution.digest_function);
    }
    Ok(())
}

async fn cap_04_ranges_of_priority_are_ranges(subject: &Subject) -> Verdict {
    let announced = subject.announced()?;
    let cache = announced.cache_capabilities.as_ref().and_then(|c| c.cache_priority_capabilities.clone());
    let execution = announced.execution_capabilities.as_ref();
    let execution = execution.and_then(|e| e.execution_priority_capabilities.clone());
    let ranges: Vec<_> = cache.into_iter().chain(execution).flat_map(|all| all.priorities).collect();
    ensure!(ranges.iter().all(|range| range.min_priority <= range.max_priority), "ranges: {ranges:?}");
    if subject.is_own() {
        let update = subject.cache()?.action_cache_update_capabilities;
        ensure!(update.is_some() && !ranges.is_empty(), "updates {update:?}, ranges {ranges:?}");
    }
    Ok(())
}

async fn cap_05_limits_are_no_less_than_nothing(subject: &Subject) -> Verdict {
    let cache = subject.cache()?;
    let (batch, blob) = (cache.max_batch_total_size_bytes, cache.max_cas_blob_size_bytes);
    ensure!(batch >= 0 && blob >= 0, "limits of {batch} and {blob} bytes");
    // What a batch may hold must come back in one message that a client takes.
    ensure!(!subject.is_own() || (1..4 << 20).contains(&batch), "a batch of {batch} bytes fits no reply");
    Ok(())
}

async fn cap_06_the_strategy_for_links_is_known(subject: &Subject) -> Verdict {
    let strategy = subject.cache()?.symlink_absolute_path_strategy;
    ensure!([1, 2].contains(&strategy), "symlink_absolute_path_strategy is {strategy}");
    Ok(())
}

async fn cap_07_encodings_are_announced_apart(subject: &Subject) -> Verdict {
    let cache = subject.cache()?;
    for (field, announced) in [
        ("supported_compressors", &cache.supported_compressors),
        ("supported_batch_update_compressors", &cache.supported_batch_update_compressors),
    ] {
        let mut distinct = announced.clone();
        distinct.sort_unstable();
        distinct.dedup();
        ensure_eq!(distinct.len(), announced.len(), "{field} has one twice: {announced:?}");
        ensure!(distinct.iter().all(|number| (0..=3).contains(number)), "{field}: {announced:?}");
    }
    // Announced or not, blobs as they are always work.
    let data = subject.fresh(100);
    let digest = subject.put(&data).await?;
    ensure!(subject.get(&digest).await? == data, "other bytes came back");
    Ok(())
}

async fn cap_08_chunkings_are_announced_with_what_uses_them(subject: &Subject) -> Verdict {
    let cache = subject.cache()?;
    let has_chunking = cache.fast_cdc_2020_params.is_some() || cache.rep_max_cdc_params.is_some();
    let is_offered = cache.split_blob_support || cache.splice_blob_support;
    ensure!(!subject.is_own() || has_chunking == is_offered, "parameters without a use, or the reverse");
    if let Some(fast) = &cache.fast_cdc_2020_params {
        ensure!((1024..=1 << 20).contains(&fast.avg_chunk_size_bytes), "FastCDC: {fast:?}");
    }
    if let Some(rep_max) = &cache.rep_max_cdc_params {
        ensure!(rep_max.min_chunk_size_bytes >= 64, "RepMaxCDC: {rep_max:?}");
    }
    Ok(())
}

async fn cap_09_execution_is_announced(subject: &Subject) -> Verdict {
    let execution = subject.executes()?;
    let mut names = execution.supported_node_properties.clone();
    ensure!(names.iter().all(|name| !name.is_empty()), "a node property without a name");
    names.sort_unstable();
    names.dedup();
    ensure_eq!(names.len(), execution.supported_node_properties.len(), "node properties, each once");
    Ok(())
}

async fn cap_10_what_is_announced_is_the_instances(subject: &Subject) -> Verdict {
    // Asked of an instance that there is not, the call does not answer for another.
    let request = reapi::GetCapabilitiesRequest { instance_name: subject.fresh_name() };
    let outcome = subject.capabilities().get_capabilities(request).await;
    subject.chose(outcome, Code::InvalidArgument, "an unknown instance")?;
    Ok(())
}

async fn cap_11_old_and_new_clients_find_their_version(subject: &Subject) -> Verdict {
    let announced = subject.announced()?;
    let version = |version: &Option<SemVer>| version.as_ref().map(|v| (v.major, v.minor));
    ensure_eq!(version(&announced.deprecated_api_version), Some((2, 0)), "deprecated_api_version");
    ensure_eq!(version(&announced.low_api_version), Some((2, 3)), "low_api_version");
    ensure_eq!(version(&announced.high_api_version), Some((2, 12)), "high_api_version");
    Ok(())
}
