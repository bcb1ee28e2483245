//! Workers that were not heard of, and what becomes of what they had.

use super::sharing_tests::{Story, linux, ok, seconds};
use super::*;
use crate::figures::Loss;
use crate::platform::Offer;

#[test]
fn a_server_that_stood_still_loses_no_worker() {
    let mut story = Story::new(SchedulerLimits::default(), &[]);
    let worker = story.s.add_worker(linux(1));
    story.s.renew_lease(worker, story.now + seconds(15));
    let job = story.job("", "");
    let operation = story.submit(job);
    let run = story.s.assign(story.now, worker).unwrap().run;
    story.now += seconds(600);
    story.s.stood_still(seconds(598));
    story.s.tick(story.now);
    assert_eq!(story.s.runs_of(worker), [run]);
    // It is lost all the same when it is not heard of then.
    story.now += seconds(15);
    story.s.tick(story.now);
    assert!(!story.s.has_worker(worker));
    assert!(story.s.waiting(&operation).is_some());
}

#[test]
fn each_run_waits_as_long_as_it_was_told_for_a_worker_to_join() {
    let limits = SchedulerLimits { worker_grace: seconds(600), ..SchedulerLimits::default() };
    let mut story = Story::new(limits, &[]);
    let (first, second) = (story.job("", ""), story.job("", ""));
    let first = story.submit(first);
    story.now += seconds(599);
    let second = story.submit(second);
    story.now += seconds(1);
    story.s.tick(story.now);
    assert!(story.status(&first).is_some());
    assert!(story.status(&second).is_none(), "it came a second ago");
    story.now += seconds(599);
    story.s.tick(story.now);
    let (_, message) = story.status(&second).unwrap();
    assert!(message.contains("waited 600 s"), "{message}");
}

#[test]
fn what_only_a_paused_worker_can_serve_waits_for_it() {
    let mut story = Story::new(SchedulerLimits::default(), &[]);
    let worker = story.s.add_worker(linux(1));
    let (before, meanwhile) = (story.job("", ""), story.job("", ""));
    let before = story.submit(before);
    assert!(story.s.pause_worker(story.now, worker, true));
    // Also when there is no grace for platforms that nobody has.
    let meanwhile = story.submit(meanwhile);
    assert!(story.s.assign(story.now, worker).is_none());
    story.now += seconds(3600);
    story.s.tick(story.now);
    for operation in [&before, &meanwhile] {
        assert_eq!(story.reason(operation), "all 1 workers that can run it are paused");
    }
    let other = story.s.add_worker(linux(1));
    assert!(story.s.assign(story.now, other).is_some());
    assert!(story.s.pause_worker(story.now, worker, false));
    assert!(story.s.assign(story.now, worker).is_some());
}

#[test]
fn a_run_that_failed_once_does_not_wait_for_a_paused_worker_when_there_is_another() {
    let mut story = Story::new(SchedulerLimits::default(), &[]);
    let named = |name: &str| Offer { name: name.into(), ..linux(1) };
    let (bad, other) = (story.s.add_worker(named("bad")), story.s.add_worker(named("other")));
    let job = story.job("", "");
    story.submit(job);
    let run = story.s.assign(story.now, bad).unwrap().run;
    story.s.give_back(story.now, bad, run, &Loss::Unable("the disk is full".into()));
    assert!(story.s.assign(story.now, bad).is_none(), "there is another");
    story.s.pause_worker(story.now, other, true);
    assert!(story.s.assign(story.now, bad).is_some());
    story.s.give_back(story.now, bad, run, &Loss::Unable("the disk is full".into()));
    story.s.pause_worker(story.now, other, false);
    assert!(story.s.assign(story.now, bad).is_none(), "there is another again");
    assert!(story.s.assign(story.now, other).is_some());
}

#[test]
fn a_server_that_stood_still_gives_nothing_up() {
    let mut story = Story::new(SchedulerLimits::default(), &[]);
    let worker = story.s.add_worker(linux(1));
    let job = story.job("", "");
    let operation = story.submit(job);
    story.s.remove_worker(story.now, worker, &Loss::Left);
    story.now += seconds(600);
    story.s.stood_still(seconds(599));
    story.s.tick(story.now);
    assert!(story.status(&operation).is_none());
    story.now += seconds(600);
    story.s.tick(story.now);
    assert!(story.status(&operation).is_some());
}

#[test]
fn what_no_worker_was_able_to_do_may_be_sent_again() {
    let mut story = Story::new(SchedulerLimits::default(), &[]);
    let worker = story.s.add_worker(linux(1));
    let job = story.job("", "");
    let operation = story.submit(job);
    while let Some(given) = story.s.assign(story.now, worker) {
        story.s.give_back(story.now, worker, given.run, &Loss::Unable("the disk is full".into()));
    }
    let (code, message) = story.status(&operation).unwrap();
    assert_eq!(code, rpc::Code::Unavailable as i32, "{message}");
    assert!(message.contains("the disk is full"), "{message}");
    // One of them may have been the action's doing.
    let job = story.job("", "");
    let operation = story.submit(job);
    let run = story.s.assign(story.now, worker).unwrap().run;
    story.s.give_back(story.now, worker, run, &Loss::Dropped);
    while let Some(given) = story.s.assign(story.now, worker) {
        story.s.give_back(story.now, worker, given.run, &Loss::Unable("the disk is full".into()));
    }
    assert_eq!(story.status(&operation).unwrap().0, rpc::Code::Internal as i32);
}

/// Every run that was lost has a class of its own then, which every other worker may serve: kept up to date and not
/// matched anew for each worker. The state's own check compares.
#[test]
fn many_workers_go_at_once() {
    let mut story = Story::new(SchedulerLimits::default(), &[]);
    let workers: Vec<_> =
        (0..20).map(|number| story.s.add_worker(Offer { name: format!("w{number}"), ..linux(2) })).collect();
    for worker in &workers {
        story.s.renew_lease(*worker, story.now + seconds(15));
    }
    let operations: Vec<_> = (0..40)
        .map(|_| {
            let job = story.job("", "");
            story.submit(job)
        })
        .collect();
    for worker in &workers {
        while story.s.assign(story.now, *worker).is_some() {}
    }
    assert_eq!(story.s.running(), 40);
    for worker in &workers[5..] {
        story.s.renew_lease(*worker, story.now + seconds(60));
    }
    story.now += seconds(20);
    story.s.tick(story.now);
    assert_eq!((story.s.running(), story.s.queued()), (30, 10));
    // All go but one, which those that it was lost with come back to.
    for worker in &workers[6..] {
        story.s.remove_worker(story.now, *worker, &Loss::Silent);
    }
    assert_eq!(story.s.running(), 2);
    let mut given = 2;
    while given < 40 {
        for run in story.s.runs_of(workers[5]) {
            story.s.complete(story.now, workers[5], run, ok());
        }
        while story.s.assign(story.now, workers[5]).is_some() {
            given += 1;
        }
    }
    for run in story.s.runs_of(workers[5]) {
        story.s.complete(story.now, workers[5], run, ok());
    }
    assert!(operations.iter().all(|operation| story.s.waiting(operation).is_none()));
    assert_eq!((story.s.running(), story.s.queued()), (0, 0));
}
