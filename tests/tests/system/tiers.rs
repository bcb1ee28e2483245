//! A server whose store is another server's CAS.

use std::collections::BTreeMap;

use tonic::Code;
use wardian_server::client::ServerUrl;
use wardian_server::stats::OperationStats;
use wardian_store::BlobStore as _;
use wardian_tests::{TestAction, TestServer, bytes_of, code, soon};

/// One that travels whole, one that goes by in pieces.
const BOTH_WAYS: [usize; 2] = [1000, 900_000];

type Tiers = BTreeMap<String, BTreeMap<String, OperationStats>>;

async fn far_and_near() -> (TestServer, TestServer) {
    let far = TestServer::start().await;
    let address = far.address();
    let near = TestServer::with(|config| {
        let url: ServerUrl = address.to_string().parse().unwrap();
        config.remote.access = Some(url.into());
    })
    .await;
    (far, near)
}

async fn far_reads(server: &TestServer) -> u64 {
    let operations = server.stats().await.server.unwrap().operations;
    operations["read"].items + operations["get_batch"].items
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_takes_both_serve() {
    let (far, near) = far_and_near().await;
    for (size, seed) in BOTH_WAYS.into_iter().zip(1..) {
        let (down, up) = (bytes_of(size, seed), bytes_of(size, 100 + seed));
        let through = near.put(up.clone()).await;
        assert!(far.has(through).await && near.has(through).await);
        assert!(far.store().get(&through, u64::MAX).await.unwrap() == up);

        let digest = wardian_tests::digest(&down);
        assert!(!near.has(digest).await);
        far.put(down.clone()).await;
        assert!(near.has(digest).await);
        assert!(near.store().get(&digest, u64::MAX).await.unwrap() == down);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_run_near_with_inputs_and_outputs_from_afar() {
    let (far, near) = far_and_near().await;
    let action = || {
        TestAction::new(&["sh", "-c", "cat in/* > out; cat out"])
            .file("in/a", "a\n")
            .file("in/b", bytes_of(300_000, 1))
            .outputs(&["out"])
    };
    let built = far.upload(action()).await;
    let ended = near.execute(&built).await;
    assert_eq!((ended.refusal(), ended.result().exit_code), (None, 0));
    let result = ended.result();
    assert_eq!(far.get(result.output_files[0].digest.as_ref()).await.len(), 300_002);

    // The second time its inputs are near.
    let before = far_reads(&far).await;
    let tiers = near.stats().await.server.unwrap().tiers;
    let missed = |tier: &str| tiers[tier]["read"].missing + tiers[tier]["get_batch"].missing;
    assert!(missed("near") > 0, "{tiers:?}");
    assert_eq!(missed("far"), 0, "{tiers:?}");
    let again = near.upload(action().do_not_cache()).await;
    let ended = near.execute(&again).await;
    assert_eq!((ended.refusal(), ended.result().exit_code), (None, 0));
    assert_eq!(far_reads(&far).await, before);
    let after = near.stats().await.server.unwrap().tiers;
    let asked = |tiers: &Tiers, tier: &str| tiers[tier]["read"].items + tiers[tier]["get_batch"].items;
    assert!(asked(&after, "near") > asked(&tiers, "near"));
    assert_eq!(asked(&after, "far"), asked(&tiers, "far"));
    assert!(far.stats().await.server.unwrap().tiers.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_far_server_nothing_is_promised_but_reads_go_on() {
    let (far, near) = far_and_near().await;
    let data = bytes_of(5000, 9);
    let digest = near.put(data.clone()).await;
    soon("the end of the far server", far.shutdown()).await;
    let request = wardian_proto::reapi::FindMissingBlobsRequest {
        blob_digests: vec![digest.to_wire()],
        ..Default::default()
    };
    let asked = near.cas().find_missing_blobs(request).await;
    assert_eq!(code(&asked), Code::Unavailable);
    assert!(near.store().get(&digest, u64::MAX).await.unwrap() == data);
}
