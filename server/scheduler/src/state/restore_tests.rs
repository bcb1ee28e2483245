//! Workers that come back, and what they bring along.

use super::*;
use crate::figures::Loss;
use crate::platform::Offer;
use crate::platform::tests::offer;

const WALL: SystemTime = SystemTime::UNIX_EPOCH;

fn job(name: &str, memory_bytes: u64) -> Job {
    Job { memory_bytes, ..super::tests::job(name) }
}

fn linux(name: &str) -> Offer {
    Offer { name: name.into(), memory_bytes: Some(100), ..offer(&[("OSFamily", &["linux"])]) }
}

#[test]
fn a_worker_keeps_no_more_than_it_has_room_for() {
    let (mut s, now) = (Scheduler::default(), Instant::now());
    let first = s.add_worker(linux("a"));
    let operations = ["x", "y"].map(|name| s.submit(now, WALL, job(name, 60)).unwrap());
    let run = s.assign(now, first).unwrap().run;
    let other = s.run_of(&operations[1]).unwrap().run;
    assert!(s.keeps(now, first, run, Holding::Begun));
    assert!(!s.keeps(now, first, other, Holding::Begun), "its one slot is taken");
    let roomy = s.add_worker(Offer { slots: 2, ..linux("b") });
    assert!(s.keeps(now, roomy, other, Holding::Begun));
    s.give_back(now, first, run, &Loss::Dropped);
    assert!(!s.keeps(now, roomy, run, Holding::Begun), "there is a slot but no memory");
}

#[test]
fn what_a_worker_does_not_have_is_queued_again_and_given_up_in_the_end() {
    let (mut s, now) = (Scheduler::default(), Instant::now());
    let worker = s.add_worker(linux("a"));
    let operation = s.submit(now, WALL, job("x", 0)).unwrap();
    for attempt in 1..=3 {
        let given = s.assign(now, worker).unwrap();
        assert_eq!(given.attempt, attempt);
        s.take_untied();
        s.give_back(now, worker, given.run, &Loss::Dropped);
        assert_eq!(s.take_untied(), [given.run]);
        s.give_back(now, worker, given.run, &Loss::Dropped);
    }
    let Stage::Completed(response) = s.view(&operation).unwrap().stage else { panic!("it is given up") };
    let status = response.status.clone().unwrap();
    assert_eq!(status.code, i32::from(rpc::Code::Internal));
    assert!(status.message.contains("does not have it any more"), "{}", status.message);
}

#[test]
fn nobody_is_kept_free_for_what_it_may_not_be_given_any_more() {
    let (mut s, mut now) = (Scheduler::default(), Instant::now());
    let (a, b) = (s.add_worker(Offer { slots: 2, ..linux("a") }), s.add_worker(linux("b")));
    s.submit(now, WALL, job("small", 40)).unwrap();
    s.assign(now, a).unwrap();
    s.submit(now, WALL, job("large", 90)).unwrap();
    now += std::time::Duration::from_secs(31);
    assert!(s.assign(now, a).is_none(), "it is kept free");
    s.drain(now, a, true);
    assert!(s.assign(now, b).is_some(), "the other may take it");
}

#[test]
fn after_a_restart_runs_wait_for_those_who_have_them() {
    let (mut s, now) = (Scheduler::default(), Instant::now());
    s.number_from(1 << 40);
    let instance = InstanceName::default();
    let names = [(); 3].map(|()| OperationName::new(&instance));
    s.restore(now, names[0].clone(), RunId(5), WALL, job("x", 0));
    s.restore(now, names[1].clone(), RunId(5), WALL, job("x", 0));
    s.restore(now, names[2].clone(), RunId(6), WALL, job("y", 0));
    let soon = now + std::time::Duration::from_secs(5);
    s.settle_until(soon);
    let (a, b) = (s.add_worker(linux("a")), s.add_worker(linux("b")));
    assert!(s.assign(now, a).is_none());
    assert!(s.waiting(&names[2]).unwrap().reason.to_string().contains("restarted"));
    assert!(s.keeps(now, a, RunId(5), Holding::Begun), "whoever has it goes on");
    let joined = s.submit(now, WALL, job("x", 0)).unwrap();
    s.tick(soon);
    assert_eq!(s.assign(soon, b).unwrap().run, RunId(6));
    s.complete(soon, a, RunId(5), reapi::ExecuteResponse::default());
    for name in [&names[0], &names[1], &joined] {
        assert!(matches!(s.view(name).unwrap().stage, Stage::Completed(_)));
    }
    let fresh = s.submit(soon, WALL, job("z", 0)).unwrap();
    assert!(s.run_of(&fresh).unwrap().run.0 > 1 << 40, "no name is given twice");
}

#[test]
fn what_ended_before_a_restart_is_known_for_as_long_as_before() {
    let (mut s, now) = (Scheduler::default(), Instant::now() + std::time::Duration::from_secs(10_000));
    let name = OperationName::new(&InstanceName::default());
    let ago = std::time::Duration::from_secs(14 * 60);
    s.restore_ended(now, ago, name.clone(), job("x", 0), reapi::ExecuteResponse::default());
    assert!(s.expire(now).is_empty());
    assert_eq!(s.expire(now + std::time::Duration::from_secs(61)), [name]);
}

#[test]
fn starts_that_never_were_are_not_counted() {
    let (mut s, now) = (Scheduler::default(), Instant::now());
    let worker = s.add_worker(linux("a"));
    let operation = s.submit(now, WALL, job("x", 0)).unwrap();
    for _ in 0..10 {
        let run = s.assign(now, worker).unwrap().run;
        s.give_back(now, worker, run, &Loss::NotReceived);
        let run = s.assign(now, worker).unwrap().run;
        s.give_back(now, worker, run, &Loss::Returned);
    }
    // Silent for longer than its lease, again and again, and at it all the time.
    let run = s.assign(now, worker).unwrap().run;
    let mut worker = worker;
    for _ in 0..10 {
        s.remove_worker(now, worker, &Loss::Silent);
        worker = s.add_worker(linux("a"));
        assert!(s.keeps(now, worker, run, Holding::Begun));
    }
    assert!(matches!(s.view(&operation).unwrap().stage, Stage::Executing(_)));
    assert_eq!(s.figures(now).totals.given_up, 0);
}

#[test]
fn what_was_cancelled_is_not_given_up_when_its_worker_is_lost() {
    let (mut s, now) = (Scheduler::default(), Instant::now());
    let worker = s.add_worker(linux("a"));
    let operation = s.submit(now, WALL, job("x", 0)).unwrap();
    s.assign(now, worker).unwrap();
    s.cancel(now, &operation, reapi::ExecuteResponse::default());
    s.remove_worker(now, worker, &Loss::Silent);
    assert_eq!((s.figures(now).totals.given_up, s.running()), (0, 0));
}
