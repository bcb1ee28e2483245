//! What a distance to the server costs a worker whose store is empty, with and without inputs that are fetched ahead: a
//! module that opens 200 files in 20 folders one after the other, a process with the same inputs, and clang over its
//! whole sysroot. Machine code is there already, so that what is measured are the inputs.

use std::path::Path;
use std::time::{Duration, Instant};

use tonic::transport::Channel;
use wardian_proto::Digest;
use wardian_store::{BlobStore as _, Upload};
use wardian_tests::{Built, Distance, ServerProcess, TestAction, WorkerProcess, bytes_of, reader_of};
use wardian_toolchains::{ImportLimits, Imported, import};

use super::executor::clang_package;
use super::fleet::{SERVER, execute};

const ONE_WAY: [Duration; 3] = [Duration::ZERO, Duration::from_millis(5), Duration::from_millis(20)];

const FILES: usize = 200;
const DIRECTORIES: usize = 20;

const HEADERS_CC: &str = "#include <algorithm>\n#include <map>\n#include <string>\n#include <vector>\n\
    int main() { std::map<std::string, std::vector<int>> m; m[\"a\"] = {3, 1, 2}; std::sort(m[\"a\"].begin(), \
    m[\"a\"].end()); return m[\"a\"][0] - 1; }\n";

/// What is run.
#[derive(Clone, Copy)]
enum Kind {
    Module,
    Native,
    Clang(Digest),
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Module => "module, 200 files",
            Self::Native => "process, 200 files",
            Self::Clang(_) => "clang++ -c, its headers",
        }
    }

    /// An action that was not run before.
    fn action(self) -> Built {
        let name = uuid::Uuid::new_v4().to_string();
        let paths: Vec<String> =
            (0..FILES).map(|number| format!("d{:02}/f{number:03}", number % DIRECTORIES)).collect();
        let action = match self {
            Self::Module => TestAction::wasm_tool(reader_of(&paths), &[&name]),
            Self::Native => TestAction::new(&["sh", "-c", "cat d*/f* > /dev/null", &name]),
            Self::Clang(tools) => {
                let arguments = [
                    "tools/bin/clang++",
                    "--sysroot=tools/usr",
                    "-resource-dir=tools/usr",
                    "-fno-exceptions",
                    "-c",
                    "a.cc",
                    "-o",
                    &name,
                ];
                let action = TestAction::new(&arguments).platform(&[("OSFamily", "wasi")]);
                return action.graft("tools", tools).file("a.cc", HEADERS_CC).outputs(&[&name]).build();
            }
        };
        let with_file = |action: TestAction, (number, path): (usize, &String)| {
            let mut content = bytes_of(2000 + 10 * number, 0).to_vec();
            content.extend(path.as_bytes());
            action.file(path, content)
        };
        paths.iter().enumerate().fold(action, with_file).build()
    }
}

/// Measures the rows with `only` in their name.
pub(crate) async fn run(only: &str) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let server = ServerProcess::start(Path::new(SERVER), folder.path(), "[worker]\nslots = 0\n")?;
    let mut kinds = vec![Kind::Module, Kind::Native];
    match clang_package().await {
        Some(package) => {
            let store = server.store(u64::MAX).await;
            let Imported { root, .. } = import(&store, &package, ImportLimits::default(), &|_| {}).await?;
            kinds.push(Kind::Clang(root));
        }
        None => eprintln!("clang's package is not at hand: run `wardian demo` once"),
    }
    println!("| what | one way ms | without: first ms (calls) | second | with: first ms (calls) | second |");
    println!("|---|---:|---:|---:|---:|---:|");
    for kind in kinds.into_iter().filter(|kind| kind.name().contains(only)) {
        for enabled in [false, true] {
            // So that there is machine code.
            let near = Near { folder: folder.path(), server: &server, enabled };
            near.measure(kind, Duration::ZERO).await?;
        }
        for one_way in ONE_WAY {
            let mut line = format!("| {} | {} |", kind.name(), one_way.as_millis());
            for enabled in [false, true] {
                let near = Near { folder: folder.path(), server: &server, enabled };
                for (time, calls) in near.measure(kind, one_way).await? {
                    line += &format!(" {:.0} ({calls}) |", time.as_secs_f64() * 1e3);
                }
            }
            println!("{line}");
        }
    }
    Ok(())
}

/// A worker that has nothing near.
struct Near<'a> {
    folder: &'a Path,
    server: &'a ServerProcess,
    enabled: bool,
}

impl Near<'_> {
    /// Times of two actions, one after the other, and the calls that each made.
    async fn measure(&self, kind: Kind, one_way: Duration) -> anyhow::Result<Vec<(Duration, u64)>> {
        let folder = self.folder.join(format!("worker-{}", self.enabled));
        match std::fs::remove_dir_all(folder.join("data/store")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let distance = Distance::to(self.server.address, one_way).await;
        let settings = format!(
            "[worker]\nslots = 1\n[worker.compile]\nbaseline = \"all\"\n[worker.prefetch]\nenabled = {}\n",
            self.enabled
        );
        let mut worker =
            WorkerProcess::start(Path::new(SERVER), &folder, distance.address, "far", &settings)?;
        let channel = self.server.channel().await;
        let mut measured = Vec::new();
        // The first one waits for the worker to connect, and for nothing else.
        run_one(
            &channel,
            self.server,
            &TestAction::new(&["true", &uuid::Uuid::new_v4().to_string()]).build(),
        )
        .await?;
        for _ in 0..2 {
            let action = kind.action();
            let before = distance.calls();
            let time = run_one(&channel, self.server, &action).await?;
            measured.push((time, distance.calls() - before));
        }
        worker.process.kill();
        Ok(measured)
    }
}

async fn run_one(channel: &Channel, server: &ServerProcess, action: &Built) -> anyhow::Result<Duration> {
    let store = server.store(u64::MAX).await;
    let uploads = action.blobs.iter().map(|(digest, data)| Upload::bytes(*digest, data.clone())).collect();
    for outcome in store.put_batch(uploads).await {
        outcome?;
    }
    let began = Instant::now();
    execute(channel, action.request()).await?;
    Ok(began.elapsed())
}
