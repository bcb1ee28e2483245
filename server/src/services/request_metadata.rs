//! What clients say about the build that a call belongs to.

use prost::Message as _;
use tonic::metadata::MetadataMap;
use wardian_proto::reapi;
use wardian_scheduler::Invocation;

/// The header that carries a RequestMetadata.
const HEADER: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// The build that a call belongs to. Nothing depends on it but whose turn it is, so what cannot be read is like none.
pub(super) fn invocation(headers: &MetadataMap) -> Invocation {
    let bytes = headers.get_bin(HEADER).and_then(|value| value.to_bytes().ok());
    let metadata = bytes.and_then(|bytes| reapi::RequestMetadata::decode(bytes).ok()).unwrap_or_default();
    Invocation::from_client(&metadata.tool_invocation_id, &metadata.correlated_invocations_id)
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataValue;

    use super::*;

    fn headers(bytes: &[u8]) -> MetadataMap {
        let mut headers = MetadataMap::new();
        headers.insert_bin(HEADER, MetadataValue::from_bytes(bytes));
        headers
    }

    #[test]
    fn the_invocation_is_read_and_nonsense_is_none() {
        let metadata = reapi::RequestMetadata {
            tool_invocation_id: "one".into(),
            correlated_invocations_id: "all".into(),
            ..Default::default()
        };
        assert_eq!(invocation(&headers(&metadata.encode_to_vec())).to_string(), "one");
        let correlated = reapi::RequestMetadata { tool_invocation_id: String::new(), ..metadata };
        assert_eq!(invocation(&headers(&correlated.encode_to_vec())).to_string(), "all");
        for headers in [MetadataMap::new(), headers(b"\xff\xff")] {
            assert_eq!(invocation(&headers), Invocation::default());
        }
    }
}
