//! What a connection may still do after another one took its place.

use wardian_proto::InstanceName;
use wardian_scheduler::{Invocation, Job, Operation, Platform};

use super::super::test_setup::{fleet, offer};
use super::*;

/// A connection of the worker, before its first report.
fn connect(fleet: &Fleet) -> Session {
    let joined = fleet.join(&offer(), None).unwrap();
    Session {
        fleet: fleet.clone(),
        name: offer().name,
        joined,
        sequence: 0,
        given: HashMap::new(),
        trusted: 0,
        leave: false,
        acknowledge: mpsc::unbounded_channel().0,
    }
}

fn submit(fleet: &Fleet, name: &str) -> Operation {
    let action = DigestFunction::Sha256.digest(name.as_bytes());
    let job = Job {
        instance: InstanceName::default(),
        action,
        requested: action,
        platform: Platform::default(),
        priority: 0,
        do_not_cache: false,
        invocation: Invocation::default(),
        memory_bytes: 0,
    };
    fleet.shared.queue.submit(job, None).unwrap()
}

fn report() -> wardian::WorkerReport {
    wardian::WorkerReport { offer: Some(offer()), ..Default::default() }
}

#[tokio::test]
async fn a_connection_that_was_replaced_is_given_nothing() {
    let fleet = fleet();
    let mut first = connect(&fleet);
    first.begin(&report()).unwrap();
    // It has looked whether it is the worker's, and another one comes before it is given anything.
    assert!(fleet.current(&first.name, first.joined.connection).is_some());
    let mut second = connect(&fleet);
    second.begin(&report()).unwrap();
    let _operation = submit(&fleet, "a");
    assert!(first.assign().is_none(), "nobody would hear of it");
    let mut orders = wardian::WorkerOrders::default();
    second.collect(&mut orders).unwrap();
    assert_eq!(orders.runs.len(), 1);
    assert_eq!(first.collect(&mut orders).unwrap_err().code(), tonic::Code::Aborted);
}

#[tokio::test]
async fn what_was_given_on_a_connection_that_broke_is_given_again_on_the_next() {
    let fleet = fleet();
    let mut first = connect(&fleet);
    first.begin(&report()).unwrap();
    let _operation = submit(&fleet, "a");
    let given = first.assign().unwrap().run;
    let mut second = connect(&fleet);
    second.begin(&report()).unwrap();
    assert_eq!(second.assign().unwrap().run, given);
}

#[tokio::test]
async fn late_reports_of_a_connection_that_was_replaced_take_nothing_from_the_worker() {
    let fleet = fleet();
    let mut first = connect(&fleet);
    first.begin(&report()).unwrap();
    let _operation = submit(&fleet, "a");
    let mut orders = wardian::WorkerOrders::default();
    first.collect(&mut orders).unwrap();
    let name = orders.runs[0].run.clone();
    let mut second = connect(&fleet);
    second.begin(&report()).unwrap();
    second.collect(&mut orders).unwrap();
    let worker = second.joined.worker;
    let has = || fleet.shared.queue.runs_of(worker).len();
    for late in [
        wardian::WorkerReport { orders_seen: 1, ..report() },
        wardian::WorkerReport { returned: vec![name], ..report() },
    ] {
        assert_eq!(first.take(late, &mut orders).unwrap_err().code(), tonic::Code::Aborted);
        assert_eq!(has(), 1, "the worker was given it again");
    }
    assert!(first.begin(&report()).is_err());
    assert_eq!(has(), 1);
    // On its own connection the same is believed.
    second.take(wardian::WorkerReport { orders_seen: 1, ..report() }, &mut orders).unwrap();
    assert_eq!(has(), 0);
}
