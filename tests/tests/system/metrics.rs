//! The numbers on the port: for Prometheus, and for `wardian store stats`.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wardian_tests::{TestAction, TestServer, soon};

/// The body of a plain GET, as a scraper asks.
async fn get(server: &TestServer, path: &str) -> String {
    let mut connection = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("an answer", connection.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_did_can_be_scraped() {
    let server = TestServer::start().await;
    let built = server.upload(TestAction::new(&["echo", "hello"])).await;
    server.execute(&built).await;
    server.execute(&built).await;
    let text = get(&server, "/metrics").await;
    assert!(text.contains("application/openmetrics-text"), "{text}");
    for line in [
        "wardian_action_cache_lookups_total{outcome=\"hit\"} 1",
        "wardian_action_cache_lookups_total{outcome=\"miss\"} 1",
        "wardian_store_operation_seconds_count{operation=\"put_record\"} 1",
        "wardian_queue_live_operations 0",
        "wardian_pinned_input_blobs 0",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_numbers_come_as_json_over_either_http() {
    let server = TestServer::start().await;
    server.put("some blob").await;
    let stats = server.stats().await;
    assert!(stats.store.used_bytes > 0 && stats.store.used_bytes < stats.store.capacity_bytes);
    let put = stats.server.unwrap().operations["put_batch"];
    assert_eq!((put.calls, put.items, put.bytes, put.failures), (1, 1, 9, 0));
    assert!(get(&server, "/stats").await.contains("\"capacity_bytes\""));
}
