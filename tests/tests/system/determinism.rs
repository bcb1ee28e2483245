//! The same action gives the same bytes: many times over, under load, at each tier of machine code, and on other hosts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use wardian_proto::{Digest, DigestFunction};
use wardian_runtime::Baseline;
use wardian_store::BlobStore as _;
use wardian_tests::corpus::Load;
use wardian_tests::{Ended, ServerProcess, TestAction, TestServer, faketime, wardian};

/// How often an action is run.
const RUNS: usize = 20;

const TIERS: [&str; 3] = ["optimized", "metered", "baseline"];

/// Where the random bytes are in what the guest `look` prints; its first number is the wall clock.
const RANDOM: std::ops::Range<usize> = 48..80;

/// An action that prints whatever could differ, with these properties beside those that make it a WASI action.
fn looking(properties: &[(&str, &str)]) -> TestAction {
    let properties = [&[("OSFamily", "wasi")], properties].concat();
    let mut action = TestAction::wasm("look", &["in/file"])
        .platform(&properties)
        .file("work/in/file", "content")
        .file("work/other", "")
        .file("zebra", "")
        .symlink("a-link", "zebra")
        .directory("middle")
        .working_directory("work")
        .env("TZ", "UTC")
        .do_not_cache();
    action.command.arguments[0] = "../bin/tool".into();
    action
}

async fn printed(server: &TestServer, action: TestAction) -> Bytes {
    let ended = server.succeed(action).await;
    server.get(ended.result().stdout_digest.as_ref()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_runs_under_load_give_the_same_bytes_at_each_tier() {
    let server = TestServer::with(|config| {
        config.worker.slots = 4;
        config.worker.compile.baseline = Baseline::All;
    })
    .await;
    let _load = Load::start();
    let mut printed_at = Vec::new();
    for tier in TIERS {
        let runs = (0..RUNS).map(|_| printed(&server, looking(&[("wasm-tier", tier)])));
        let printed = futures::future::join_all(runs).await;
        assert!(printed.iter().all(|bytes| *bytes == printed[0]), "at tier {tier}");
        printed_at.push(printed[0].to_vec());
    }
    // Which tier it is is part of the action, so their random bytes differ, and nothing else does.
    assert_ne!(printed_at[0][RANDOM], printed_at[1][RANDOM]);
    printed_at.iter_mut().for_each(|bytes| bytes[RANDOM].fill(0));
    assert_eq!(printed_at[0], printed_at[1]);
    assert_eq!(printed_at[0], printed_at[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_the_same_in_another_process_time_zone_and_environment() {
    let here = TestServer::start().await;
    let built = here.upload(looking(&[])).await;
    let expected = here.execute(&built).await.result();
    for environment in [
        &[("TZ", "Pacific/Kiritimati"), ("LANG", "tr_TR.UTF-8"), ("HOME", "/nowhere")][..],
        &[("TZ", "America/St_Johns"), ("LC_ALL", "C"), ("SOURCE_DATE_EPOCH", "1"), ("TMPDIR", "/var/tmp")],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let there = ServerProcess::start_among(&wardian(), folder.path(), "", environment).unwrap();
        let ended: Ended = there.execute(&built).await;
        assert_eq!(ended.refusal(), None);
        assert_eq!(ended.result().exit_code, 0);
        assert_eq!(ended.result().stdout_digest, expected.stdout_digest, "with {environment:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_the_same_when_the_clock_is_years_ahead() {
    let Some(library) = faketime() else {
        eprintln!("this machine has no faketime, so nothing was proved");
        return;
    };
    let here = TestServer::start().await;
    let (fixed, real) = (looking(&[]), looking(&[("wasi-clock", "real")]));
    let (fixed, real) = (here.upload(fixed).await, here.upload(real).await);
    let expected = here.execute(&fixed).await.result();
    let ahead = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME", "+1000d"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let there = ServerProcess::start_among(&wardian(), folder.path(), "", &ahead).unwrap();
    let ended = there.execute(&fixed).await;
    assert_eq!(ended.result().stdout_digest, expected.stdout_digest);

    // Its clock is another one indeed.
    let printed = there.execute(&real).await.result().stdout_digest.unwrap();
    let printed = Digest::from_wire(DigestFunction::Sha256, Some(&printed)).unwrap();
    let printed = there.store(0).await.get(&printed, 1 << 20).await.unwrap();
    let clock = u64::from_le_bytes(printed[..8].try_into().unwrap());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    assert!(Duration::from_nanos(clock) > now + Duration::from_hours(24 * 999));
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_are_the_machines_when_the_platform_says_so() {
    let server = TestServer::start().await;
    let now = || u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap();
    let number = |bytes: &Bytes, index: usize| {
        u64::from_le_bytes(bytes[8 * index..8 * (index + 1)].try_into().expect("eight bytes"))
    };
    let fixed = printed(&server, looking(&[])).await;
    assert_eq!(number(&fixed, 0), 946_684_800_000_000_000);
    assert_eq!((number(&fixed, 1), number(&fixed, 2)), (1_000_001_000, 1_000_002_000));
    assert_eq!(number(&fixed, 3), number(&fixed, 0));

    let before = now();
    let real = printed(&server, looking(&[("wasi-clock", "real")])).await;
    let after = now();
    assert!((before..=after).contains(&number(&real, 0)), "{before} {} {after}", number(&real, 0));
    assert!((number(&real, 0)..=after).contains(&number(&real, 3)));
    assert!(number(&real, 1) <= number(&real, 2));
    // Times of inputs, inode numbers and the order of listings stay as they are.
    assert_eq!(real[RANDOM.end..], fixed[RANDOM.end..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_are_the_machines_when_the_platform_says_so() {
    let server = TestServer::start().await;
    let seeded = [printed(&server, looking(&[])).await, printed(&server, looking(&[])).await];
    assert_eq!(seeded[0], seeded[1]);
    let system = || printed(&server, looking(&[("wasi-random", "system")]));
    let system = [system().await, system().await];
    assert_ne!(system[0][RANDOM], system[1][RANDOM]);
    assert_eq!(system[0][..RANDOM.start], seeded[0][..RANDOM.start]);
    assert_eq!(system[0][RANDOM.end..], seeded[0][RANDOM.end..]);
}
