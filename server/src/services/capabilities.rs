//! What this server can do, and nothing it cannot.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use wardian_proto::reapi;
use wardian_proto::semver::SemVer;

use super::{Context, chunks, compression};
use crate::auth::{Caller, Verb};

pub(super) struct Capabilities(pub(super) Arc<Context>);

fn version(major: i32, minor: i32) -> Option<SemVer> {
    Some(SemVer { major, minor, ..Default::default() })
}

/// Every priority is served, and in order.
fn any_priority() -> Option<reapi::PriorityCapabilities> {
    let range =
        reapi::priority_capabilities::PriorityRange { min_priority: i32::MIN, max_priority: i32::MAX };
    Some(reapi::PriorityCapabilities { priorities: vec![range] })
}

#[tonic::async_trait]
impl reapi::capabilities_server::Capabilities for Capabilities {
    async fn get_capabilities(
        &self,
        request: Request<reapi::GetCapabilitiesRequest>,
    ) -> Result<Response<reapi::ServerCapabilities>, Status> {
        let context = &self.0;
        let caller = Caller::of(&request)?;
        let instance = context.any_right_on(&caller, &request.get_ref().instance_name)?;
        let functions: Vec<i32> = instance.digest_functions.iter().map(|f| f.wire().into()).collect();
        let compressors: Vec<i32> =
            compression::SUPPORTED.iter().map(|c| compression::wire(*c).into()).collect();
        let requests = context.requests;
        let cache = reapi::CacheCapabilities {
            digest_functions: functions.clone(),
            action_cache_update_capabilities: Some(reapi::ActionCacheUpdateCapabilities {
                update_enabled: context.action_cache_update && caller.may(Verb::AcWrite, &instance.name),
            }),
            max_batch_total_size_bytes: i64::try_from(requests.batch_bytes_max).unwrap_or(i64::MAX),
            max_cas_blob_size_bytes: i64::try_from(requests.blob_bytes_max).unwrap_or(i64::MAX),
            supported_compressors: compressors.clone(),
            supported_batch_update_compressors: compressors,
            symlink_absolute_path_strategy: reapi::symlink_absolute_path_strategy::Value::Allowed.into(),
            split_blob_support: true,
            splice_blob_support: true,
            fast_cdc_2020_params: Some(reapi::FastCdc2020Params {
                avg_chunk_size_bytes: chunks::FAST_CDC.average_bytes().into(),
                seed: chunks::FAST_CDC.seed(),
            }),
            rep_max_cdc_params: Some(reapi::RepMaxCdcParams {
                min_chunk_size_bytes: chunks::REP_MAX_CDC.min_bytes().into(),
                horizon_size_bytes: chunks::REP_MAX_CDC.horizon_bytes().into(),
            }),
            ..Default::default()
        };
        let execution = reapi::ExecutionCapabilities {
            digest_function: functions[0],
            digest_functions: functions,
            exec_enabled: caller.may(Verb::Execute, &instance.name),
            execution_priority_capabilities: any_priority(),
            ..Default::default()
        };
        Ok(Response::new(reapi::ServerCapabilities {
            cache_capabilities: Some(cache),
            execution_capabilities: Some(execution),
            // argv[0] is looked up as version 2.3 says. Clients of 2.0 still work, hence "deprecated",
            // without which older Bazels would refuse the server.
            deprecated_api_version: version(2, 0),
            low_api_version: version(2, 3),
            high_api_version: version(2, 12),
        }))
    }
}
