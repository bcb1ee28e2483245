//! What an action costs: the empty program through the executor alone, then whole actions over gRPC, then
//! clang when its package is at hand (`wardian demo` fetches it). It prints a table of its own: what counts
//! here is single times, and there is no other server to compare with.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use prost::Message as _;
use wardian_proto::longrunning::operation;
use wardian_proto::wardian::WasmUsage;
use wardian_proto::{Digest, reapi};
use wardian_runtime::executor::wasm::WasmExecutor;
use wardian_runtime::{Baseline, CompileSettings, Limits};
use wardian_store::backend::MemoryStore;
use wardian_store::{BlobStore as _, Upload};
use wardian_tests::{Built, TestAction, TestServer, component_of, digest, wardian};
use wardian_toolchains::{Clients, ImportLimits, Imported, Package, import};

/// Runs of the empty program alone; actions over gRPC for each row; warm runs of clang.
const ALONE: usize = 5_000;
const ACTIONS: usize = 3_000;
const CLANG_RUNS: usize = 20;

/// Actions of processes, which cost fifty times as much.
const NATIVE_ACTIONS: usize = 600;

/// Actions in flight.
const IN_FLIGHT: [usize; 3] = [1, 16, 64];

const EMPTY: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

const HELLO_C: &str = "#include <stdio.h>\nint main(void) { puts(\"hello\"); return 0; }\n";

/// Measures the rows with `only` in their name.
pub(crate) async fn run(only: &str) -> anyhow::Result<()> {
    let table = Table::new(only);
    alone(&table).await?;
    over_grpc(&table).await;
    match clang_package().await {
        Some(package) => clang(&table, &package).await?,
        None => eprintln!("clang's package is not at hand: run `wardian demo` once"),
    }
    println!();
    table.notes.borrow().iter().for_each(|note| println!("{note}"));
    Ok(())
}

/// Prints rows as they come, those that were asked for.
struct Table<'a> {
    only: &'a str,
    /// What has no column, printed at the end.
    notes: RefCell<Vec<String>>,
}

impl<'a> Table<'a> {
    fn new(only: &'a str) -> Self {
        println!("| what | p50 µs | p99 µs | a second | CPU µs each |\n|---|---:|---:|---:|---:|");
        Self { only, notes: RefCell::default() }
    }

    fn wants(&self, row: &str) -> bool {
        row.contains(self.only)
    }

    /// Prints a row of single times, taken within `whole`.
    fn row(&self, row: &str, mut times: Vec<Duration>, whole: Duration, processor: Duration) {
        times.sort();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
        let rate = times.len() as f64 / whole.as_secs_f64();
        let each = processor.as_secs_f64() * 1e6 / times.len() as f64;
        println!("| {row} | {:.1} | {:.1} | {rate:.0} | {each:.0} |", at(0.5), at(0.99));
    }
}

/// Processor time of this process and of its children that have ended.
fn processor_time() -> (Duration, Duration) {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name in parentheses").1.split(' ').collect();
    // Fields 14 to 17 of proc_pid_stat(5), in ticks of 10 ms; the first two are cut off.
    let ticks =
        |field: usize| Duration::from_millis(10 * fields[field - 3].parse::<u64>().expect("a number"));
    (ticks(14) + ticks(15), ticks(16) + ticks(17))
}

/// The empty program through the executor, without queue, store or network.
async fn alone(table: &Table<'_>) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (compiled, root) = (folder.path().join("compiled"), folder.path().join("root"));
    std::fs::create_dir(&root)?;
    let module = Bytes::from(wat::parse_str(EMPTY)?);
    let name = digest(&module);
    let store = Arc::new(MemoryStore::new(1 << 20));
    store.put(Upload::bytes(name, module)).await?;
    let settings = CompileSettings { program: wardian(), ..CompileSettings::default() };
    let slots = std::thread::available_parallelism()?.get();
    let executor = Arc::new(WasmExecutor::new(&compiled, store, slots, &Limits::default(), &settings)?);
    executor.run_bare(&name, &root).await?;
    for at_once in [1, slots] {
        let row = format!("empty program, executor alone, {at_once} at once");
        if !table.wants(&row) {
            continue;
        }
        let (began, before) = (Instant::now(), processor_time());
        let runners = (0..at_once).map(|_| {
            let (executor, root) = (Arc::clone(&executor), root.clone());
            tokio::spawn(async move {
                let mut times = Vec::with_capacity(ALONE);
                for _ in 0..ALONE {
                    let began = Instant::now();
                    executor.run_bare(&name, &root).await.expect("the empty program ends well");
                    times.push(began.elapsed());
                }
                times
            })
        });
        let times = futures::future::try_join_all(runners).await?.concat();
        table.row(&row, times, began.elapsed(), processor_time().0 - before.0);
    }
    Ok(())
}

/// Executes an action, however long it takes: a compiler that is compiled by Cranelift says nothing for minutes.
///
/// Returns how long its guest ran, if it had one.
async fn execute(server: &TestServer, action: &Built) -> Option<Duration> {
    let mut operations = server.execution().execute(action.request()).await.expect("a stream").into_inner();
    let mut last = None;
    while let Some(operation) = operations.message().await.expect("the stream goes on") {
        last = operation.result;
    }
    let Some(operation::Result::Response(response)) = last else { panic!("the stream ended early") };
    let response = reapi::ExecuteResponse::decode(&*response.value).expect("an ExecuteResponse");
    assert_eq!(response.status.expect("a status").code, 0);
    let result = response.result.expect("a result");
    assert_eq!(result.exit_code, 0);
    let metadata = result.execution_metadata.expect("the worker says how it was run");
    let usage = metadata.auxiliary_metadata.iter().find(|any| any.type_url.ends_with("WasmUsage"))?;
    WasmUsage::decode(&*usage.value).expect("a WasmUsage").guest_time?.try_into().ok()
}

/// Memory that this process, server and client in one, has resident now.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
}

/// Executes actions, `in_flight` at a time.
async fn execute_all(table: &Table<'_>, server: &TestServer, row: &str, actions: &[Built], in_flight: usize) {
    if !table.wants(row) {
        return;
    }
    let (began, before) = (Instant::now(), processor_time());
    let times: Vec<(Duration, Option<Duration>)> = stream::iter(actions)
        .map(async |action| {
            let began = Instant::now();
            let guest = execute(server, action).await;
            (began.elapsed(), guest)
        })
        .buffer_unordered(in_flight)
        .collect()
        .await;
    let after = processor_time();
    let (times, guests): (Vec<_>, Vec<_>) = times.into_iter().unzip();
    table.row(row, times, began.elapsed(), after.0 + after.1 - before.0 - before.1);
    let mut guests: Vec<Duration> = guests.into_iter().flatten().collect();
    guests.sort();
    let guest =
        guests.get(guests.len() / 2).map(|guest| format!("guest p50 {:.1} µs, ", guest.as_secs_f64() * 1e6));
    let resident = resident_bytes() as f64 / f64::from(1 << 20);
    table.notes.borrow_mut().push(format!("{row}: {}{resident:.0} MiB resident", guest.unwrap_or_default()));
}

/// Uploads as many variants of an action as are asked for; none is cached, so that each of them runs.
async fn upload(server: &TestServer, count: usize, action: impl Fn(&str) -> TestAction) -> Vec<Built> {
    let mut actions = Vec::new();
    for number in 0..count {
        actions.push(server.upload(action(&number.to_string()).do_not_cache()).await);
    }
    actions
}

async fn over_grpc(table: &Table<'_>) {
    let server = TestServer::start().await;
    let module = Bytes::from(wat::parse_str(EMPTY).expect("a module"));
    let wasm = upload(&server, ACTIONS, |n| TestAction::wasm_tool(module.clone(), &[n])).await;
    let native = upload(&server, NATIVE_ACTIONS, |n| TestAction::new(&["/bin/true", n])).await;
    execute(&server, &wasm[0]).await;
    // There is no smaller one among the guests.
    let component = component_of("hello");
    let components =
        upload(&server, NATIVE_ACTIONS, |n| TestAction::wasm_tool(component.clone(), &[n])).await;
    execute(&server, &components[0]).await;
    for (what, actions) in
        [("empty program", &wasm), ("native /bin/true", &native), ("component hello", &components)]
    {
        for in_flight in IN_FLIGHT {
            let row = format!("{what} over gRPC, {in_flight} in flight");
            execute_all(table, &server, &row, actions, in_flight).await;
        }
    }
}

pub(crate) async fn clang_package() -> Option<Package> {
    let manifest = wardian_toolchains::builtin("clang")?;
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache")))?;
    let path = Clients::on_path(cache.join("wardian/packages")).package_path(&manifest);
    Package::open(&manifest, &path).await.ok()
}

fn compile(tools: Digest, name: &str) -> TestAction {
    let output = format!("{name}.o");
    let arguments = [
        &["tools/bin/clang", "--sysroot=tools/usr", "-resource-dir=tools/usr", "-O2"][..],
        &["-c", "hello.c", "-o", &output],
    ]
    .concat();
    TestAction::new(&arguments)
        .platform(&[("OSFamily", "wasi")])
        .graft("tools", tools)
        .file("hello.c", HELLO_C)
        .outputs(&[&output])
}

async fn clang(table: &Table<'_>, package: &Package) -> anyhow::Result<()> {
    for (what, baseline) in [("Winch first", Baseline::All), ("Cranelift only", Baseline::Off)] {
        let cold = format!("clang hello.c, first object, {what}");
        let warm = format!("clang hello.c, warm, {what}");
        if !table.wants(&cold) && !table.wants(&warm) {
            continue;
        }
        let server = TestServer::with(|config| config.worker.compile.baseline = baseline).await;
        let Imported { root, .. } =
            import(&server.store(), package, ImportLimits::default(), &|_| {}).await?;
        let first = upload(&server, 1, |_| compile(root, "first")).await;
        execute_all(table, &server, &cold, &first, 1).await;
        let runs = upload(&server, CLANG_RUNS, |n| compile(root, n)).await;
        execute_all(table, &server, &warm, &runs, 1).await;
    }
    let staged = "clang's whole tree staged, for /bin/true";
    if table.wants(staged) {
        // What the same inputs cost who wants them in a folder.
        let server = TestServer::start().await;
        let Imported { root, .. } =
            import(&server.store(), package, ImportLimits::default(), &|_| {}).await?;
        let action = |n: &str| TestAction::new(&["/bin/true", n]).graft("tools", root);
        let runs = upload(&server, CLANG_RUNS, action).await;
        execute_all(table, &server, staged, &runs, 1).await;
    }
    Ok(())
}
