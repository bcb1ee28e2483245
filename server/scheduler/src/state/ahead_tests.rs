//! Stories of runs that a worker is given before it has a free slot.

use std::time::Duration;

use super::*;
use crate::figures::{Loss, Timed};
use crate::limits::TenantPolicy;
use crate::platform::Offer;
use crate::platform::tests::offer;

const WALL: SystemTime = SystemTime::UNIX_EPOCH;
const SECOND: Duration = Duration::from_secs(1);

fn elsewhere(name: &str, slots: usize, ahead: usize) -> Offer {
    Offer { name: name.into(), slots, ahead, ..offer(&[("OSFamily", &["linux"])]) }
}

fn ok() -> reapi::ExecuteResponse {
    reapi::ExecuteResponse { result: Some(reapi::ActionResult::default()), ..Default::default() }
}

struct Story {
    s: Scheduler,
    now: Instant,
}

impl Story {
    fn new() -> Self {
        Self { s: Scheduler::default(), now: Instant::now() }
    }

    fn submit(&mut self, name: &str) -> OperationName {
        self.s.submit(self.now, WALL, super::tests::job(name)).unwrap()
    }

    /// One worker of one slot that has one run begun and one ahead.
    fn with_one_ahead(&mut self) -> (WorkerId, [OperationName; 2], [RunId; 2]) {
        let worker = self.s.add_worker(elsewhere("first", 1, 1));
        let operations = ["a", "b"].map(|name| self.submit(name));
        let runs = [(); 2].map(|()| self.s.assign(self.now, worker).unwrap());
        assert_eq!(runs.clone().map(|given| given.ahead), [false, true]);
        (worker, operations, runs.map(|given| given.run))
    }

    fn is_queued(&self, operation: &OperationName) -> bool {
        matches!(self.s.view(operation).unwrap().stage, Stage::Queued)
    }

    fn reason(&self, operation: &OperationName) -> String {
        self.s.waiting(operation).unwrap().reason.to_string()
    }

    fn queue_times(&self) -> (u64, Duration) {
        let queued = *self.s.figures(self.now).totals.stage(Timed::Queued);
        (queued.count(), queued.sum)
    }
}

#[test]
fn what_is_given_ahead_waits_until_it_has_a_slot() {
    let mut story = Story::new();
    let (worker, operations, runs) = story.with_one_ahead();
    assert!(story.s.assign(story.now, worker).is_none());
    assert!(!story.is_queued(&operations[0]) && story.is_queued(&operations[1]));
    assert_eq!(story.reason(&operations[1]), "given to worker first, which is busy");
    let view = story.s.workers().next().unwrap();
    assert_eq!((view.running, view.ahead), (1, 1));
    let figures = story.s.figures(story.now);
    assert_eq!(figures.platforms.iter().map(|platform| platform.queued).sum::<usize>(), 1);
    assert_eq!(figures.tenants.values().map(|tenant| (tenant.queued, tenant.running)).next(), Some((1, 1)));
    assert_eq!(story.queue_times(), (1, Duration::ZERO));

    story.now += 7 * SECOND;
    story.s.complete(story.now, worker, runs[0], ok());
    assert!(!story.is_queued(&operations[1]) && story.s.waiting(&operations[1]).is_none());
    assert_eq!(story.queue_times(), (2, 7 * SECOND), "it has waited until now");
    assert_eq!(story.s.figures(story.now).tenants.values().next().unwrap().worker_time, 7 * SECOND);
    story.now += SECOND;
    story.s.complete(story.now, worker, runs[1], ok());
    assert_eq!(story.s.figures(story.now).tenants.values().next().unwrap().worker_time, 8 * SECOND);
}

#[test]
fn a_result_that_comes_before_that_of_the_run_before_it_is_taken() {
    let mut story = Story::new();
    let (worker, operations, runs) = story.with_one_ahead();
    story.s.complete(story.now, worker, runs[1], ok());
    assert!(matches!(story.s.view(&operations[1]).unwrap().stage, Stage::Completed(_)));
    assert_eq!(story.queue_times().0, 2);
    assert_eq!(story.s.runs_of(worker), [runs[0]]);
}

#[test]
fn a_free_slot_goes_before_one_that_will_be_free() {
    let mut story = Story::new();
    let (first, second) =
        (story.s.add_worker(elsewhere("first", 1, 1)), story.s.add_worker(elsewhere("second", 1, 1)));
    let _all = ["a", "b", "c"].map(|name| story.submit(name));
    assert!(!story.s.assign(story.now, first).unwrap().ahead);
    assert!(story.s.assign(story.now, first).is_none(), "the other one is free");
    story.s.absent(second);
    assert!(story.s.assign(story.now, first).unwrap().ahead, "nobody listens for it");
    assert!(!story.s.assign(story.now, second).unwrap().ahead);
}

#[test]
fn one_that_can_take_it_ahead_is_called_when_no_slot_is_free() {
    let mut story = Story::new();
    let workers = ["first", "second"].map(|name| story.s.add_worker(elsewhere(name, 1, 1)));
    workers.iter().for_each(|worker| story.s.sleep(*worker));
    story.s.take_called(story.now);
    for (name, ahead) in [("a", false), ("b", false), ("c", true), ("d", true)] {
        story.submit(name);
        let called: Vec<_> = story.s.take_called(story.now).into_iter().collect();
        let [worker] = called[..] else { panic!("{called:?} are called for {name}") };
        assert_eq!(story.s.assign(story.now, worker).unwrap().ahead, ahead);
        story.s.sleep(worker);
        assert!(story.s.take_called(story.now).is_empty());
    }
    story.submit("e");
    assert!(story.s.take_called(story.now).is_empty(), "nobody takes it yet");
}

#[test]
fn a_worker_with_a_free_slot_gets_what_another_one_has_not_begun() {
    let mut story = Story::new();
    let (first, operations, runs) = story.with_one_ahead();
    let second = story.s.add_worker(elsewhere("second", 1, 1));
    story.s.take_called(story.now);
    assert!(story.s.assign(story.now, second).is_none());
    assert!(story.s.take_called(story.now).contains(&first), "it is to hear of that");
    assert_eq!(story.s.take_questions(first), [runs[1]]);
    assert!(story.s.take_questions(first).is_empty());
    assert!(story.s.assign(story.now, second).is_none(), "it is asked once");
    // The slot is kept for it meanwhile.
    let late = story.submit("late");
    assert!(story.s.assign(story.now, second).is_none());
    story.s.give_back(story.now, first, runs[1], &Loss::Returned);
    let given = story.s.assign(story.now, second).unwrap();
    assert_eq!((given.run, given.attempt, given.ahead), (runs[1], 1, false));
    assert!(story.is_queued(&late) && !story.is_queued(&operations[1]));
    let totals = story.s.figures(story.now).totals;
    assert_eq!((totals.ahead_given, totals.ahead_returned), (1, 1));
    assert!(totals.retries().all(|(_, count)| count == 0), "nothing was interrupted");
}

#[test]
fn what_came_back_once_is_not_given_ahead_again_and_is_not_passed() {
    let mut story = Story::new();
    let (first, _, runs) = story.with_one_ahead();
    let second = story.s.add_worker(elsewhere("second", 1, 1));
    story.s.assign(story.now, second);
    story.s.give_back(story.now, first, runs[1], &Loss::Returned);
    story.submit("c");
    assert!(story.s.assign(story.now, first).is_none());
    assert_eq!(story.s.assign(story.now, second).unwrap().run, runs[1]);
    assert!(story.s.assign(story.now, second).unwrap().ahead, "what comes after it is");
}

#[test]
fn what_was_begun_meanwhile_goes_on() {
    let mut story = Story::new();
    let (first, operations, runs) = story.with_one_ahead();
    let second = story.s.add_worker(elsewhere("second", 1, 0));
    story.s.assign(story.now, second);
    story.s.complete(story.now, first, runs[0], ok());
    assert!(story.is_queued(&operations[1]), "nobody knows where it is");
    story.submit("c");
    assert!(story.s.assign(story.now, second).is_none());
    story.s.has_begun(story.now, first, runs[1]);
    assert!(!story.is_queued(&operations[1]));
    assert!(story.s.assign(story.now, second).is_some(), "its slot is for others now");
    story.s.complete(story.now, first, runs[1], ok());
    assert!(story.s.runs_of(first).is_empty());
}

#[test]
fn what_was_begun_is_not_asked_for_again() {
    let mut story = Story::new();
    let (first, operations, runs) = story.with_one_ahead();
    let second = story.s.add_worker(elsewhere("second", 1, 0));
    story.s.assign(story.now, second);
    // Its word comes before the result of the one before it is taken in.
    story.s.has_begun(story.now, first, runs[1]);
    assert!(story.is_queued(&operations[1]));
    assert!(story.s.assign(story.now, second).is_none());
    assert_eq!(story.s.take_questions(first), []);
    story.s.complete(story.now, first, runs[0], ok());
    assert!(!story.is_queued(&operations[1]));
}

#[test]
fn a_slot_is_not_kept_for_ever() {
    let mut story = Story::new();
    let (first, _, runs) = story.with_one_ahead();
    let second = story.s.add_worker(elsewhere("second", 1, 0));
    story.s.assign(story.now, second);
    story.submit("c");
    assert!(story.s.assign(story.now, second).is_none());
    story.now += SECOND;
    story.s.tick(story.now);
    let given = story.s.assign(story.now, second).unwrap();
    assert_ne!(given.run, runs[1], "that is still with the first one, for all that anybody knows");
    story.s.remove_worker(story.now, first, &Loss::Silent);
    assert!(story.s.runs_of(first).is_empty());
    story.s.complete(story.now, second, given.run, ok());
    assert_eq!(story.s.assign(story.now, second).unwrap().run, runs[0], "the older one");
}

#[test]
fn a_lost_worker_had_not_begun_what_it_had_ahead() {
    let mut story = Story::new();
    let (first, operations, runs) = story.with_one_ahead();
    story.s.remove_worker(story.now, first, &Loss::Silent);
    assert!(operations.iter().all(|operation| story.is_queued(operation)));
    let second = story.s.add_worker(elsewhere("second", 2, 0));
    let attempts =
        [(); 2].map(|()| story.s.assign(story.now, second).map(|given| (given.run, given.attempt)));
    assert_eq!(attempts, [Some((runs[0], 2)), Some((runs[1], 1))]);
    assert_eq!(story.s.figures(story.now).totals.retries().map(|(_, count)| count).sum::<u64>(), 1);
}

#[test]
fn what_it_had_begun_by_its_own_word_was_a_start() {
    let mut story = Story::new();
    let (first, _, runs) = story.with_one_ahead();
    story.s.progress(story.now, runs[1], reapi::ExecutedActionMetadata::default());
    story.s.remove_worker(story.now, first, &Loss::Silent);
    let second = story.s.add_worker(elsewhere("second", 2, 0));
    let attempts = [(); 2].map(|()| story.s.assign(story.now, second).unwrap().attempt);
    assert_eq!(attempts, [2, 2]);
}

#[test]
fn who_is_drained_is_asked_for_what_it_has_not_begun() {
    let mut story = Story::new();
    let (first, _, runs) = story.with_one_ahead();
    story.s.drain(story.now, first, true);
    assert_eq!(story.s.take_questions(first), [runs[1]]);
    // The connection broke before it heard.
    story.s.forget_questions(story.now, first);
    assert_eq!(story.s.take_questions(first), [runs[1]]);
    story.s.give_back(story.now, first, runs[1], &Loss::Returned);
    assert_eq!((story.s.queued(), story.s.runs_of(first)), (1, vec![runs[0]]));
}

#[test]
fn what_nobody_waits_for_ends_when_it_comes_back() {
    let mut story = Story::new();
    let (first, operations, runs) = story.with_one_ahead();
    story.s.cancel(story.now, &operations[1], ok());
    assert_eq!(story.s.take_abandoned(), [runs[1]]);
    story.s.give_back(story.now, first, runs[1], &Loss::Returned);
    assert_eq!((story.s.queued(), story.s.running()), (0, 1));
}

#[test]
fn what_needs_memory_counts_in_full_and_is_not_passed_by_what_needs_none() {
    let mut story = Story::new();
    let offer = Offer { memory_bytes: Some(100), ..elsewhere("first", 1, 2) };
    let worker = story.s.add_worker(offer);
    let mut submit = |name: &str, memory_bytes| {
        story.s.submit(story.now, WALL, Job { memory_bytes, ..super::tests::job(name) }).unwrap()
    };
    let all = [submit("a", 40), submit("b", 40), submit("c", 40), submit("small", 0)];
    let given = [(); 3].map(|()| story.s.assign(story.now, worker).map(|given| given.ahead));
    assert_eq!(given, [Some(false), Some(true), None]);
    assert_eq!(story.s.workers().next().unwrap().memory_used, 80);
    assert!(story.is_queued(&all[2]) && story.is_queued(&all[3]));
}

#[test]
fn after_a_restart_a_worker_keeps_what_it_has_begun_and_what_waits_there() {
    let mut story = Story::new();
    let instance = InstanceName::default();
    let names = [(); 4].map(|()| OperationName::new(&instance));
    for (at, name) in names.iter().enumerate() {
        story.s.restore(
            story.now,
            name.clone(),
            RunId(at as u64 + 1),
            WALL,
            super::tests::job(&at.to_string()),
        );
    }
    let worker = story.s.add_worker(elsewhere("first", 1, 1));
    let mut keeps = |run, holding| story.s.keeps(story.now, worker, RunId(run), holding);
    assert!(keeps(1, Holding::Ended), "its result is here and needs no slot");
    assert!(keeps(2, Holding::Begun));
    assert!(!keeps(3, Holding::Begun), "there is one slot");
    assert!(!keeps(4, Holding::Waiting), "with what is about to be taken in it has all that it may have");
    story.s.complete(story.now, worker, RunId(1), ok());
    assert!(story.s.keeps(story.now, worker, RunId(3), Holding::Waiting));
    assert!(!story.is_queued(&names[1]) && story.is_queued(&names[2]));
    story.s.complete(story.now, worker, RunId(2), ok());
    assert!(!story.is_queued(&names[2]));
}

#[test]
fn what_waits_behind_a_long_run_goes_back_and_is_not_passed_for_ever() {
    let mut story = Story::new();
    let (first, operations, runs) = story.with_one_ahead();
    let second = story.s.add_worker(elsewhere("second", 1, 0));
    // The free slot asks for it, and its answer is lost; meanwhile younger ones are there.
    story.submit("c");
    let [younger, later] = ["c", "d"].map(|name| story.submit(name));
    let given = story.s.assign(story.now, second).unwrap();
    assert!(story.is_queued(&later) && !story.is_queued(&younger));
    story.now += SECOND;
    story.s.tick(story.now);
    assert!(story.s.take_questions(first).is_empty(), "it may begin in a moment");
    story.now += SECOND;
    story.s.tick(story.now);
    assert_eq!(story.s.take_questions(first), [runs[1]]);
    story.s.give_back(story.now, first, runs[1], &Loss::Returned);
    assert!(story.s.assign(story.now, first).is_none(), "nothing more before it has ended something");
    story.s.complete(story.now, second, given.run, ok());
    let next = story.s.assign(story.now, second).unwrap();
    assert_eq!(next.run, runs[1], "at its old place");
    assert!(!story.is_queued(&operations[1]));
    // A worker that goes on has its next run ahead again.
    story.s.complete(story.now, first, runs[0], ok());
    assert!(!story.s.assign(story.now, first).unwrap().ahead);
    story.submit("e");
    assert!(story.s.assign(story.now, first).unwrap().ahead);
}

#[test]
fn what_a_tenant_may_have_running_is_not_used_up_by_what_waits() {
    let policy = TenantPolicy { running_max: Some(2), ..TenantPolicy::default() };
    let mut story = Story::new();
    story.s = Scheduler::new(SchedulerLimits::default(), Tenants { default: policy, ..Tenants::default() });
    let worker = story.s.add_worker(elsewhere("first", 1, 1));
    for name in ["a", "b"] {
        story.submit(name);
    }
    assert!(!story.s.assign(story.now, worker).unwrap().ahead);
    assert!(story.s.assign(story.now, worker).is_none());
}

#[test]
fn what_a_worker_has_ahead_it_keeps_only_if_it_would_be_given_it_now() {
    let mut story = Story::new();
    let worker = story.s.add_worker(elsewhere("first", 1, 1));
    let demands = crate::platform::tests::platform(&[("OSFamily", "linux"), ("sandbox", "namespaces")]);
    let job = Job { platform: demands, ..super::tests::job("a") };
    story.s.restore(story.now, OperationName::new(&job.instance), RunId::from_number(7), WALL, job);
    assert!(!story.s.keeps(story.now, worker, RunId::from_number(7), Holding::Waiting));
    // What has begun goes on.
    assert!(story.s.keeps(story.now, worker, RunId::from_number(7), Holding::Begun));
}
