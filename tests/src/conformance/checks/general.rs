//! What holds for every service.

use prost::Message as _;
use tonic::{Code, Request};
use wardian_proto::asset::FetchBlobRequest;
use wardian_proto::longrunning::ListOperationsRequest;
use wardian_proto::reapi;

use super::super::outcome::{ensure, ensure_eq, refused};
use super::super::{Subject, Verdict};
use super::{Check, check};

pub(super) const CHECKS: &[Check] = &[
    check!(gen_02_the_instance_is_named_in_every_call: "GEN-02"),
    check!(gen_03_reserved_words_are_no_instances: "GEN-03"),
    check!(gen_04_an_unknown_instance_is_refused_everywhere: "GEN-04").own(),
    check!(gen_05_metadata_of_a_request_change_nothing: "GEN-05", "GEN-06"),
    check!(gen_08_methods_that_are_not_offered_are_unimplemented: "GEN-08"),
];

async fn gen_02_the_instance_is_named_in_every_call(subject: &Subject) -> Verdict {
    let data = subject.fresh(100);
    let digest = subject.put(&data).await?;
    ensure!(subject.has(&digest).await?, "what was stored is looked up in the same instance");
    ensure!(subject.get(&digest).await? == data, "and read by a name that begins with it");
    Ok(())
}

async fn gen_03_reserved_words_are_no_instances(subject: &Subject) -> Verdict {
    const RESERVED: [&str; 7] =
        ["blobs", "uploads", "actions", "actionResults", "operations", "capabilities", "compressed-blobs"];
    for word in RESERVED {
        for instance_name in [word.to_owned(), format!("a/{word}"), format!("{word}/b")] {
            let request =
                reapi::FindMissingBlobsRequest { instance_name: instance_name.clone(), ..Default::default() };
            let outcome = subject.cas().find_missing_blobs(request).await;
            // A server may look at no instance name at all; ours does.
            if subject.is_own() || outcome.is_err() {
                subject.chose(outcome, Code::InvalidArgument, &format!("instance {instance_name:?}"))?;
            }
        }
    }
    Ok(())
}

async fn gen_04_an_unknown_instance_is_refused_everywhere(subject: &Subject) -> Verdict {
    let instance_name = subject.fresh_name();
    let blob = subject.digest(b"absent");
    let digest = Some(blob.to_wire());
    let find = reapi::FindMissingBlobsRequest { instance_name: instance_name.clone(), ..Default::default() };
    let tree = reapi::GetTreeRequest {
        instance_name: instance_name.clone(),
        root_digest: digest.clone(),
        ..Default::default()
    };
    let result = reapi::GetActionResultRequest {
        instance_name: instance_name.clone(),
        action_digest: digest.clone(),
        ..Default::default()
    };
    let execute = reapi::ExecuteRequest {
        instance_name: instance_name.clone(),
        action_digest: digest,
        ..Default::default()
    };
    let capabilities = reapi::GetCapabilitiesRequest { instance_name: instance_name.clone() };
    let list = ListOperationsRequest { name: format!("{instance_name}/operations"), ..Default::default() };
    let fetch = FetchBlobRequest {
        instance_name: instance_name.clone(),
        uris: vec!["https://example.invalid/".into()],
        ..Default::default()
    };
    let failures = [
        ("FindMissingBlobs", refused(subject.cas().find_missing_blobs(find).await, "FindMissingBlobs")?),
        ("GetTree", refused(subject.cas().get_tree(tree).await, "GetTree")?),
        (
            "GetActionResult",
            refused(subject.action_cache().get_action_result(result).await, "GetActionResult")?,
        ),
        ("Execute", refused(subject.execution().execute(execute).await, "Execute")?),
        (
            "GetCapabilities",
            refused(subject.capabilities().get_capabilities(capabilities).await, "GetCapabilities")?,
        ),
        ("ListOperations", refused(subject.operations().list_operations(list).await, "ListOperations")?),
        ("FetchBlob", refused(subject.fetch().fetch_blob(fetch).await, "FetchBlob")?),
        ("Read", refused(subject.read(&format!("{instance_name}/blobs/{blob}"), 0, 0).await, "Read")?),
        (
            "QueryWriteStatus",
            refused(
                subject.query(&format!("{instance_name}/uploads/u/blobs/{blob}")).await,
                "QueryWriteStatus",
            )?,
        ),
    ];
    for (call, status) in failures {
        ensure_eq!(status.code(), Code::InvalidArgument, "{call}");
    }
    Ok(())
}

async fn gen_05_metadata_of_a_request_change_nothing(subject: &Subject) -> Verdict {
    const HEADER: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";
    let free = "any text / at all \u{2603}".to_owned();
    let metadata = reapi::RequestMetadata {
        tool_details: Some(reapi::ToolDetails { tool_name: free.clone(), tool_version: free.clone() }),
        action_id: free.clone(),
        tool_invocation_id: free.clone(),
        correlated_invocations_id: free.clone(),
        action_mnemonic: free.clone(),
        target_id: free.clone(),
        configuration_id: free,
    };
    let garbage = if subject.is_own() { b"\xff\xff\xff".to_vec() } else { Vec::new() };
    for value in [metadata.encode_to_vec(), Vec::new(), garbage] {
        let asked = vec![subject.digest(&subject.fresh(50)).to_wire()];
        let mut request = Request::new(reapi::FindMissingBlobsRequest {
            instance_name: subject.instance(),
            blob_digests: asked.clone(),
            digest_function: subject.function().wire().into(),
        });
        request.metadata_mut().insert_bin(HEADER, tonic::metadata::MetadataValue::from_bytes(&value));
        let response = subject.cas().find_missing_blobs(request).await?.into_inner();
        ensure_eq!(response.missing_blob_digests, asked, "with metadata of {} bytes", value.len());
    }
    Ok(())
}

async fn gen_08_methods_that_are_not_offered_are_unimplemented(subject: &Subject) -> Verdict {
    let mut grpc = tonic::client::Grpc::new(subject.channel());
    for path in [
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/NoSuchMethod",
        "/build.bazel.remote.execution.v2.NoSuchService/Call",
    ] {
        let ready = grpc.ready().await;
        ensure!(ready.is_ok(), "the connection is lost");
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let outcome = grpc.unary(Request::new(()), path.clone(), codec).await;
        super::super::outcome::refused_as(outcome, Code::Unimplemented, path.as_str())?;
    }
    Ok(())
}
