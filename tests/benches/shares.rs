//! Whether tenants get their shares under real load: sixty-four clients of three instances with unequal weights, for a
//! minute, on two slots.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::try_join_all;
use wardian_proto::reapi;
use wardian_store::{BlobStore as _, Upload};
use wardian_tests::{ServerProcess, TestAction, get};

use crate::fleet::{SERVER, execute};

const TENANTS: [(&str, f64); 3] = [("a", 5.0), ("b", 3.0), ("c", 2.0)];
const CLIENTS: usize = 64;
const TIME: Duration = Duration::from_secs(60);

/// Measures once, and prints what each instance got.
pub(crate) async fn run() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let instances: Vec<String> =
        TENANTS.iter().map(|(name, weight)| format!("{{ name = {name:?}, weight = {weight} }}")).collect();
    let settings = format!("instances = [{}]\n[worker]\nslots = 2\n", instances.join(", "));
    let server = ServerProcess::start(Path::new(SERVER), folder.path(), &settings)?;
    let module = Bytes::from(wat::parse_str(crate::fleet::EMPTY)?);
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients = (0..CLIENTS).map(|client| {
        let (tenant, _) = TENANTS[client % TENANTS.len()];
        let (module, over, done) = (module.clone(), Arc::clone(&over), Arc::clone(&done));
        let server = &server;
        async move {
            let channel = server.channel().await;
            let store = server.store_of(tenant).await;
            let mut number = 0u64;
            while !over.load(Ordering::Relaxed) {
                number += 1;
                let text = format!("{client}/{number}");
                // The last instance's actions take longer, which must not pay.
                let built = match tenant {
                    "c" => TestAction::new(&["sh", "-c", "sleep 0.01", &text]).build(),
                    _ => TestAction::wasm_tool(module.clone(), &[&text]).build(),
                };
                let uploads = built.blobs.iter().map(|(digest, data)| Upload::bytes(*digest, data.clone()));
                for outcome in store.put_batch(uploads.collect()).await {
                    outcome?;
                }
                let request = reapi::ExecuteRequest { instance_name: tenant.into(), ..built.request() };
                execute(&channel, request).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        }
    });
    let measured = async {
        // Until everybody has begun.
        while done.load(Ordering::Relaxed) < 4 * CLIENTS as u64 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (before, began) = (worker_time(&server).await, Instant::now());
        let already = done.load(Ordering::Relaxed);
        tokio::time::sleep(TIME).await;
        let after = worker_time(&server).await;
        let rate = (done.load(Ordering::Relaxed) - already) as f64 / began.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        anyhow::Ok((before, after, rate))
    };
    let (ended, measured) = tokio::join!(try_join_all(clients), measured);
    ended?;
    let (before, after, rate) = measured?;
    let had = |tenant: &str| after[tenant] - before.get(tenant).copied().unwrap_or(0.0);
    let all: f64 = TENANTS.iter().map(|(tenant, _)| had(tenant)).sum();
    println!("| instance | weight | fair | got |\n|---|---:|---:|---:|");
    for (tenant, weight) in TENANTS {
        println!("| {tenant} | {weight} | {:.1} % | {:.1} % |", weight * 10.0, had(tenant) / all * 100.0);
    }
    println!("\n{CLIENTS} clients, {} s, {rate:.0} actions a second", TIME.as_secs());
    Ok(())
}

/// For how long runs of each instance have had slots so far.
async fn worker_time(server: &ServerProcess) -> BTreeMap<String, f64> {
    let numbers = get(server.address, "/metrics").await;
    let lines =
        numbers.lines().filter_map(|line| line.strip_prefix("wardian_tenant_worker_seconds_total{tenant=\""));
    lines
        .filter_map(|rest| {
            let (tenant, seconds) = rest.split_once("\"} ")?;
            Some((tenant.to_owned(), seconds.parse().ok()?))
        })
        .collect()
}
