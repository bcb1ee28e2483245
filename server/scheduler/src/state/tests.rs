//! The scheduler's stories. Time is an argument, so none of them sleeps.

use std::time::Duration;

use wardian_proto::DigestFunction;

use super::*;
use crate::figures::Loss;
use crate::job::Invocation;
use crate::platform::tests::{offer, platform};

pub(super) fn job(name: &str) -> Job {
    Job {
        instance: InstanceName::default(),
        action: DigestFunction::Sha256.digest(name.as_bytes()),
        requested: DigestFunction::Sha256.digest(name.as_bytes()),
        platform: platform(&[("OSFamily", "linux")]),
        priority: 0,
        do_not_cache: false,
        invocation: Invocation::default(),
        memory_bytes: 0,
    }
}

fn with_worker() -> (Scheduler, WorkerId) {
    let mut scheduler = Scheduler::default();
    let worker = scheduler.add_worker(offer(&[("OSFamily", &["linux"])]));
    (scheduler, worker)
}

fn response(code: i32) -> reapi::ExecuteResponse {
    let result = Some(reapi::ActionResult { exit_code: code, ..Default::default() });
    reapi::ExecuteResponse { result, ..Default::default() }
}

fn exit_code(scheduler: &Scheduler, operation: &OperationName) -> Option<i32> {
    match scheduler.view(operation)?.stage {
        Stage::Completed(response) => Some(response.result.as_ref()?.exit_code),
        _ => None,
    }
}

#[test]
fn an_action_is_queued_assigned_and_completed() {
    let (mut s, worker) = with_worker();
    let operation = s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("a")).unwrap();
    assert!(matches!(s.view(&operation).unwrap().stage, Stage::Queued));
    let run = s.assign(Instant::now(), worker).unwrap().run;
    assert!(matches!(s.view(&operation).unwrap().stage, Stage::Executing(_)));
    s.complete(Instant::now(), worker, run, response(7));
    assert_eq!(exit_code(&s, &operation), Some(7));
    assert_eq!(s.running(), 0);
}

#[test]
fn identical_actions_share_a_run_unless_not_cacheable() {
    let (mut s, worker) = with_worker();
    let first = s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("a")).unwrap();
    let second = s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("a")).unwrap();
    let alone =
        s.submit(Instant::now(), SystemTime::UNIX_EPOCH, Job { do_not_cache: true, ..job("a") }).unwrap();
    let run = s.assign(Instant::now(), worker).unwrap().run;
    s.complete(Instant::now(), worker, run, response(1));
    assert_eq!((exit_code(&s, &first), exit_code(&s, &second)), (Some(1), Some(1)));
    assert_eq!(exit_code(&s, &alone), None);
    assert!(s.assign(Instant::now(), worker).is_some());
}

#[test]
fn slots_are_not_exceeded_and_priority_goes_before_age() {
    let (mut s, worker) = with_worker();
    let old = s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("old")).unwrap();
    let urgent =
        s.submit(Instant::now(), SystemTime::UNIX_EPOCH, Job { priority: -5, ..job("urgent") }).unwrap();
    let run = s.assign(Instant::now(), worker).unwrap().run;
    assert!(s.assign(Instant::now(), worker).is_none());
    s.complete(Instant::now(), worker, run, response(0));
    assert!(exit_code(&s, &urgent).is_some() && exit_code(&s, &old).is_none());
}

#[test]
fn what_is_queued_can_be_ended_without_what_runs() {
    let (mut s, worker) = with_worker();
    let running = s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("a")).unwrap();
    let run = s.assign(Instant::now(), worker).unwrap().run;
    let queued = [job("b"), job("b"), job("c")]
        .map(|job| s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job).unwrap());
    s.end_queued(Instant::now(), &response(9));
    assert!(queued.iter().all(|operation| exit_code(&s, operation) == Some(9)));
    assert_eq!(exit_code(&s, &running), None);
    s.complete(Instant::now(), worker, run, response(0));
    assert_eq!(exit_code(&s, &running), Some(0));
    assert!(s.assign(Instant::now(), worker).is_none());
}

#[test]
fn a_platform_nobody_serves_fails_at_once() {
    let (mut s, _) = with_worker();
    let asked = Job { platform: platform(&[("OSFamily", "wasi")]), ..job("a") };
    assert!(matches!(
        s.submit(Instant::now(), SystemTime::UNIX_EPOCH, asked),
        Err(SubmitError::Unsatisfiable(_))
    ));
    assert!(s.take_changed().is_empty());
}

#[test]
fn a_full_queue_refuses() {
    let mut s =
        Scheduler::new(SchedulerLimits { queued_runs_max: 1, ..Default::default() }, Tenants::default());
    s.add_worker(offer(&[("OSFamily", &["linux"])]));
    s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("a")).unwrap();
    assert_eq!(s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("b")), Err(SubmitError::QueueFull(1)));
    assert!(s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("a")).is_ok(), "joining costs no place");
}

#[test]
fn a_lost_worker_gives_its_runs_back() {
    let (mut s, worker) = with_worker();
    let operation = s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("a")).unwrap();
    let run = s.assign(Instant::now(), worker).unwrap().run;
    s.remove_worker(Instant::now(), worker, &Loss::Silent);
    s.complete(Instant::now(), worker, run, response(9));
    assert!(matches!(s.view(&operation).unwrap().stage, Stage::Queued), "late reports do not count");
    let other = s.add_worker(offer(&[("OSFamily", &["linux"])]));
    assert_eq!(s.assign(Instant::now(), other).unwrap().run, run);
}

#[test]
fn cancelling_one_of_two_leaves_the_other() {
    let (mut s, worker) = with_worker();
    let first = s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("a")).unwrap();
    let second = s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("a")).unwrap();
    let run = s.assign(Instant::now(), worker).unwrap().run;
    assert!(s.cancel(Instant::now(), &first, response(-1)));
    assert!(s.take_abandoned().is_empty());
    assert!(s.cancel(Instant::now(), &second, response(-1)));
    assert_eq!(s.take_abandoned(), [run]);
    let third = s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("a")).unwrap();
    assert!(matches!(s.view(&third).unwrap().stage, Stage::Queued), "an abandoned run is not joined");
    s.complete(Instant::now(), worker, run, response(0));
    assert_eq!(exit_code(&s, &first), Some(-1));
    assert!(s.assign(Instant::now(), worker).is_some());
}

#[test]
fn cancelling_a_queued_action_takes_it_out() {
    let (mut s, worker) = with_worker();
    let operation = s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("a")).unwrap();
    assert!(s.cancel(Instant::now(), &operation, response(-1)));
    assert!(s.assign(Instant::now(), worker).is_none());
    assert!(!s.cancel(Instant::now(), &OperationName::from_client("operations/none"), response(-1)));
}

#[test]
fn ended_operations_are_forgotten_by_age_and_number() {
    let limits = SchedulerLimits {
        completed_kept_for: Duration::from_secs(10),
        completed_kept_max: 1,
        ..Default::default()
    };
    let mut s = Scheduler::new(limits, Tenants::default());
    let worker = s.add_worker(offer(&[("OSFamily", &["linux"])]));
    let start = Instant::now();
    let mut operations = Vec::new();
    for name in ["a", "b"] {
        operations.push(s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job(name)).unwrap());
        let run = s.assign(Instant::now(), worker).unwrap().run;
        s.complete(start, worker, run, response(0));
    }
    assert_eq!(s.expire(start), [operations[0].clone()]);
    assert_eq!(s.expire(start + Duration::from_secs(10)), [operations[1].clone()]);
    assert!(s.view(&operations[1]).is_none());
}

#[test]
fn large_responses_push_older_ones_out() {
    let mut s = Scheduler::new(
        SchedulerLimits { completed_bytes_max: 150, ..Default::default() },
        Tenants::default(),
    );
    let worker = s.add_worker(offer(&[("OSFamily", &["linux"])]));
    let start = Instant::now();
    let mut operations = Vec::new();
    for name in ["a", "b"] {
        operations.push(s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job(name)).unwrap());
        let run = s.assign(Instant::now(), worker).unwrap().run;
        s.complete(
            start,
            worker,
            run,
            reapi::ExecuteResponse { message: "x".repeat(100), ..Default::default() },
        );
    }
    assert_eq!(s.expire(start), [operations[0].clone()]);
    assert!(s.view(&operations[1]).is_some());
}

#[test]
fn a_more_urgent_client_makes_the_shared_run_more_urgent() {
    let (mut s, worker) = with_worker();
    s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("first")).unwrap();
    let shared = s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("shared")).unwrap();
    s.submit(Instant::now(), SystemTime::UNIX_EPOCH, Job { priority: -1, ..job("shared") }).unwrap();
    let run = s.assign(Instant::now(), worker).unwrap().run;
    s.complete(Instant::now(), worker, run, response(0));
    assert_eq!(exit_code(&s, &shared), Some(0));
}

#[test]
fn joining_is_bounded_too() {
    let mut s =
        Scheduler::new(SchedulerLimits { live_operations_max: 2, ..Default::default() }, Tenants::default());
    let worker = s.add_worker(offer(&[("OSFamily", &["linux"])]));
    s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("a")).unwrap();
    s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("a")).unwrap();
    assert_eq!(
        s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("a")),
        Err(SubmitError::TooManyOperations(2))
    );
    let run = s.assign(Instant::now(), worker).unwrap().run;
    s.complete(Instant::now(), worker, run, response(0));
    assert!(
        s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("a")).is_ok(),
        "ended operations do not count"
    );
}

#[test]
fn an_abandoned_run_ends_with_its_worker() {
    let (mut s, worker) = with_worker();
    let operation = s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("a")).unwrap();
    s.assign(Instant::now(), worker).unwrap();
    s.cancel(Instant::now(), &operation, response(-1));
    s.remove_worker(Instant::now(), worker, &Loss::Silent);
    let other = s.add_worker(offer(&[("OSFamily", &["linux"])]));
    assert!(s.assign(Instant::now(), other).is_none());
}

#[test]
fn listing_is_by_instance_in_pages() {
    let (mut s, _) = with_worker();
    for i in 0..5 {
        s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job(&i.to_string())).unwrap();
    }
    let other = InstanceName::parse("other").unwrap();
    s.submit(Instant::now(), SystemTime::UNIX_EPOCH, Job { instance: other.clone(), ..job("x") }).unwrap();
    let first = s.list(&InstanceName::default(), None, 3);
    let rest = s.list(&InstanceName::default(), first.last(), 3);
    assert_eq!((first.len(), rest.len(), s.list(&other, None, 9).len()), (3, 2, 1));
}

#[test]
fn deleting_drops_interest_but_not_the_run() {
    let (mut s, worker) = with_worker();
    let operation = s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job("a")).unwrap();
    assert!(s.delete(&operation) && !s.delete(&operation));
    assert!(s.view(&operation).is_none());
    assert!(s.assign(Instant::now(), worker).is_some());
}

#[test]
fn a_run_holds_what_it_was_given_until_it_ends() {
    let (mut s, worker) = with_worker();
    let (first, second) = (Arc::new(()), Arc::new(()));
    let submit = |s: &mut Scheduler, name: &str, held: &Arc<()>| {
        let operation = s.submit(Instant::now(), SystemTime::UNIX_EPOCH, job(name)).unwrap();
        let mut held = Some(Held::new(Arc::clone(held)));
        s.hold(&operation, &mut held);
        (operation, held.is_none())
    };
    let (_, taken) = submit(&mut s, "a", &first);
    assert!(taken);
    let (joined, taken) = submit(&mut s, "a", &second);
    assert!(!taken, "whoever joins needs no hold of its own");
    assert_eq!(Arc::strong_count(&second), 1);
    let run = s.assign(Instant::now(), worker).unwrap().run;
    s.remove_worker(Instant::now(), worker, &Loss::Silent);
    assert!(s.take_released().is_empty(), "a run that is queued again holds on");
    let worker = s.add_worker(offer(&[("OSFamily", &["linux"])]));
    s.assign(Instant::now(), worker).unwrap();
    s.cancel(Instant::now(), &joined, response(-1));
    assert!(s.take_released().is_empty(), "another client still waits");
    s.complete(Instant::now(), worker, run, response(0));
    assert_eq!(s.take_released().len(), 1);
    assert_eq!(Arc::strong_count(&first), 1, "and the ended operation keeps nothing of it");

    let (cancelled, _) = submit(&mut s, "b", &first);
    s.cancel(Instant::now(), &cancelled, response(-1));
    assert_eq!(s.take_released().len(), 1);
    submit(&mut s, "c", &first);
    s.end_queued(Instant::now(), &response(-1));
    assert_eq!(s.take_released().len(), 1);
    let mut late = Some(Held::new(()));
    s.hold(&cancelled, &mut late);
    assert!(late.is_some(), "an operation that ended has no run");
}
