//! Each check of the conformance suite is a test of its own, against servers of this build.
//!
//! A check that is skipped proves nothing, so each must pass on one of the set-ups at least. They are tried in order,
//! and only as far as needed. The servers are shared: checks never collide, or they could not be run against a live
//! server.

use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use wardian_proto::{DigestFunction, DigestFunctions};
use wardian_server::config::Config;
use wardian_tests::TestServer;
use wardian_tests::conformance::{Check, Outcome, Ownership, Subject, checks, try_check};

/// How long one check may take before it is given up.
const CHECK_LIMIT: Duration = Duration::from_secs(120);

/// A server with settings under which checks are tried.
struct SetUp {
    name: &'static str,
    configure: fn(&mut Config),
    started: OnceCell<(TestServer, Subject)>,
}

/// Everything at once, except MURMUR3, whose hashes look like MD5's.
fn generous(config: &mut Config) {
    for instance in &mut config.instances {
        instance.digest_functions = DigestFunctions::all_but_murmur3();
    }
    // The checks have an origin on this machine.
    config.assets.private_addresses = true;
}

/// The other digest function, small limits, and an action cache and assets that clients cannot write.
fn narrow(config: &mut Config) {
    let functions = vec![DigestFunction::Murmur3, DigestFunction::Blake3];
    for instance in &mut config.instances {
        instance.digest_functions = DigestFunctions::new(functions.clone()).expect("they can be told apart");
    }
    config.requests.batch_bytes_max = 10_000;
    config.requests.blob_bytes_max = 100_000;
    config.action_cache_update = false;
    config.assets.push = false;
    config.logs.idle_max = Duration::from_secs(1);
}

impl SetUp {
    fn all() -> Vec<Self> {
        let set_up = |name, configure| Self { name, configure, started: OnceCell::new() };
        vec![set_up("generous", generous), set_up("narrow", narrow)]
    }

    async fn subject(&self) -> &Subject {
        let start = async || {
            let server = TestServer::with(self.configure).await;
            let address = server.address().to_string();
            let subject = Subject::connect(&address, "", Ownership::Ask).await.expect("the server answers");
            assert!(subject.is_own(), "it is known for what it is");
            (server, subject)
        };
        &self.started.get_or_init(start).await.1
    }
}

async fn prove(check: &Check, set_ups: &[SetUp]) -> Result<(), Failed> {
    let mut skipped = Vec::new();
    for set_up in set_ups {
        match try_check(check, set_up.subject().await, CHECK_LIMIT).await {
            Outcome::Passed => return Ok(()),
            Outcome::Skipped(reason) => skipped.push(format!("{}: {reason}", set_up.name)),
            Outcome::Failed(reason) => return Err(format!("{}: {reason}", set_up.name).into()),
        }
    }
    Err(format!("no set-up proves it: {}", skipped.join("; ")).into())
}

fn main() {
    let arguments = Arguments::from_args();
    let runtime = Arc::new(Runtime::new().expect("a runtime"));
    let set_ups = Arc::new(SetUp::all());
    let trials = checks().into_iter().map(|check| {
        let (runtime, set_ups) = (Arc::clone(&runtime), Arc::clone(&set_ups));
        Trial::test(check.name, move || runtime.block_on(prove(&check, &set_ups)))
            .with_ignored_flag(check.known_failure.is_some())
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    // `exit` below runs no destructors, and the servers have folders to remove.
    let set_ups = Arc::into_inner(set_ups).expect("all tests have ended");
    for (server, _) in set_ups.into_iter().filter_map(|set_up| set_up.started.into_inner()) {
        runtime.block_on(server.shutdown());
    }
    conclusion.exit();
}
