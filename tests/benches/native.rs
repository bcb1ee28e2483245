//! What each way to confine a native action costs: `true` through a server of each kind, in turn, so that whatever else
//! the machine does meets all of them. The actions are not cached, and one runs at a time.

use std::time::{Duration, Instant};

use wardian_runtime::{ActionGroups, SandboxBackend, SandboxMode, SystemCalls};
use wardian_server::config::Config;
use wardian_tests::{TestAction, TestServer};

/// Actions on each server; the first few are not counted.
const ACTIONS: usize = 300;
const WARM: usize = 20;

/// A way to confine.
struct Kind {
    name: &'static str,
    configure: fn(&mut Config),
    /// What the worker must offer then.
    offered: &'static [(&'static str, &'static str)],
}

const KINDS: [Kind; 6] = [
    Kind {
        name: "no sandbox",
        configure: |config| config.worker.sandbox.mode = SandboxMode::None,
        offered: &[("sandbox", "none")],
    },
    Kind {
        name: "own, all system calls",
        configure: |config| own(config, SystemCalls::All),
        offered: &[("sandbox-backend", "own")],
    },
    Kind {
        name: "own",
        configure: |config| own(config, SystemCalls::Filtered),
        offered: &[("sandbox-backend", "own")],
    },
    Kind {
        name: "own, control groups",
        configure: |config| {
            own(config, SystemCalls::Filtered);
            config.worker.sandbox.groups = ActionGroups::Auto;
        },
        offered: &[("sandbox-backend", "own"), ("control-groups", "v2")],
    },
    Kind { name: "bubblewrap", configure: bubblewrap, offered: &[("sandbox-backend", "bubblewrap")] },
    Kind {
        name: "bubblewrap, control groups",
        configure: |config| {
            bubblewrap(config);
            config.worker.sandbox.groups = ActionGroups::Auto;
        },
        offered: &[("sandbox-backend", "bubblewrap"), ("control-groups", "v2")],
    },
];

fn own(config: &mut Config, system_calls: SystemCalls) {
    let sandbox = &mut config.worker.sandbox;
    sandbox.mode = SandboxMode::Auto;
    sandbox.backend = SandboxBackend::Own;
    sandbox.system_calls = system_calls;
    sandbox.groups = ActionGroups::None;
}

fn bubblewrap(config: &mut Config) {
    own(config, SystemCalls::Filtered);
    config.worker.sandbox.backend = SandboxBackend::Bubblewrap;
}

/// Measures those kinds that this machine has.
pub(crate) async fn run() {
    let mut servers = Vec::new();
    for Kind { name, configure, offered } in KINDS {
        let server = TestServer::with(configure).await;
        let built = server.upload(TestAction::new(&["true"]).platform(offered)).await;
        match server.follow(built.request()).await {
            Ok(_) => servers.push((name, server, Vec::with_capacity(ACTIONS))),
            Err(refusal) => eprintln!("not measured: {name}: {refusal}"),
        }
    }
    for round in 0..ACTIONS + WARM {
        for (_, server, times) in &mut servers {
            let built = server.upload(TestAction::new(&["true"]).do_not_cache()).await;
            let began = Instant::now();
            server.execute(&built).await;
            if round >= WARM {
                times.push(began.elapsed());
            }
        }
    }
    println!("| `true` natively | p50 ms | p99 ms | times no sandbox |\n|---|---:|---:|---:|");
    let mut least: Option<Duration> = None;
    for (name, _, times) in &mut servers {
        times.sort();
        let at = |part: usize| times[(times.len() - 1) * part / 100];
        let least = *least.get_or_insert(at(50));
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let ratio = at(50).as_secs_f64() / least.as_secs_f64();
        println!("| {name} | {:.2} | {:.2} | {ratio:.2} |", milliseconds(at(50)), milliseconds(at(99)));
    }
}
