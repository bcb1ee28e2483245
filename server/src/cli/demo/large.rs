//! The demo with a compiler: two C files are compiled, linked and run.

use wardian_proto::Digest;
use wardian_toolchains::{ImportLimits, Imported, Package, import};

use super::super::format;
use super::super::progress::Progress;
use super::Next;
use super::job::{Job, Ran};
use super::table::{Round, Rounds};
use crate::client::Client;

const HEADER: &str = include_str!("../../../demo/greenhouse.h");
const GREENHOUSE: &str = include_str!("../../../demo/greenhouse.c");
const MAIN: &str = include_str!("../../../demo/main.c");

const CLANG: &str = "tools/bin/clang --sysroot=tools/usr -resource-dir=tools/usr -O2 -Wall -Isrc";
const LINK: &str = "\
    tools/bin/wasm-ld -m wasm32 -Ltools/usr/lib/wasm32-wasip1 tools/usr/lib/wasm32-wasip1/crt1-command.o \
    out/main.o out/greenhouse.o -lc tools/usr/lib/wasm32-unknown-wasip1/libclang_rt.builtins.a \
    -o out/greenhouse.wasm";

const WAIT: &str = "
The first use of clang compiles it: 75 MB of WebAssembly become machine code, once for each data folder.
That takes ten seconds or so on two cores; better code follows in the background. Later actions find it ready.";

/// Shows the demo and returns what to try next.
pub(super) async fn show(client: &Client, package: &Package, progress: &Progress) -> anyhow::Result<Next> {
    let tools = store_toolchain(client, package, progress).await?;
    // Its package was checked against the hash in the manifest.
    client.put_toolchain(&package.manifest().toolchain(tools.root, tools.modules)).await?;
    let demo = Demo { client, progress, tools: tools.root };
    progress.say(WAIT);
    let first = demo.round(false).await?;
    let program = first.last().expect("a round has four steps");
    progress.say(String::from_utf8_lossy(&program.stdout).trim_end());
    let rounds = Rounds(vec![
        Round { name: "first time", steps: first },
        Round { name: "again", steps: demo.round(false).await? },
        Round { name: "cache off", steps: demo.round(true).await? },
    ]);
    progress.say(&rounds.table());
    progress.say(&rounds.verdict()?);
    Ok(demo.next(&rounds))
}

/// Stores the toolchain as any client would: through the API, only what the server lacks.
async fn store_toolchain(
    client: &Client,
    package: &Package,
    progress: &Progress,
) -> anyhow::Result<Imported> {
    let manifest = package.manifest();
    let task = progress.bytes(&format!("storing {} {}", manifest.name, manifest.version), 1);
    let report =
        |at: wardian_toolchains::Progress| task.set_position(at.package_bytes_done, at.package_bytes);
    let imported = import(client.store(), package, ImportLimits::default(), &report).await?;
    let (files, bytes) = (imported.files, format::size(imported.bytes));
    task.finish(&format!(
        "{} is in the store: {files} files, {bytes}, tree {}",
        manifest.name,
        format::short(&imported.root)
    ));
    Ok(imported)
}

struct Demo<'a> {
    client: &'a Client,
    progress: &'a Progress,
    tools: Digest,
}

impl Demo<'_> {
    /// Compiles both files at the same time, then links, then runs.
    async fn round(&self, no_cache: bool) -> anyhow::Result<Vec<Ran>> {
        let main = self.compile("compile main.c", "main", MAIN, "out/main.o")?;
        let house = self.compile("compile greenhouse.c", "greenhouse", GREENHOUSE, "out/greenhouse.o")?;
        let (main, house) = futures::try_join!(self.run(main, no_cache), self.run(house, no_cache))?;
        let link = Job::new("link", LINK, "out/greenhouse.wasm")
            .stored("out/main.o", main.output)?
            .stored("out/greenhouse.o", house.output)?
            .graft("tools", self.tools)?;
        let link = self.run(link, no_cache).await?;
        let run =
            Job::new("run it", "greenhouse.wasm", "logbook.txt").stored("greenhouse.wasm", link.output)?;
        let run = self.run(run, no_cache).await?;
        Ok(vec![main, house, link, run])
    }

    fn compile(
        &self,
        title: &str,
        name: &str,
        text: &'static str,
        output: &'static str,
    ) -> anyhow::Result<Job> {
        let command = format!("{CLANG} -c src/{name}.c -o {output}");
        Job::new(title, &command, output)
            .source(&format!("src/{name}.c"), text)?
            .source("src/greenhouse.h", HEADER)?
            .graft("tools", self.tools)
    }

    async fn run(&self, job: Job, no_cache: bool) -> anyhow::Result<Ran> {
        job.run(self.client, self.progress, no_cache).await
    }

    fn next(&self, rounds: &Rounds) -> Next {
        let steps = &rounds.0[0].steps;
        let (link, run, tools) = (&steps[2], &steps[3], self.tools);
        let command = |command: String, what: &str| (command, what.to_owned());
        let clang = format!("run --graft tools={tools} --property OSFamily=wasi");
        Next {
            commands: vec![
                command(format!("cas tree --depth 2 {tools}"), "the compiler as the store holds it"),
                command(format!("action show --depth 3 {}", link.action), "what the link step was made of"),
                command(format!("cas get {} | head -3", run.output), "what the program wrote"),
                command(format!("{clang} -- tools/bin/clang --version"), "the compiler at your command"),
                command(
                    format!(
                        "{clang} --input . --output hello.o -- \\\n    tools/bin/clang --sysroot=tools/usr \
                         -resource-dir=tools/usr -c hello.c -o hello.o"
                    ),
                    "a hello.c of your own in this directory",
                ),
            ],
        }
    }
}
