//! Stories of who goes next, and of workers that come and go. Time is an argument, so none of them sleeps.

use std::collections::BTreeMap;
use std::time::Duration;

use wardian_proto::DigestFunction;

use super::*;
use crate::figures::Loss;
use crate::job::Invocation;
use crate::limits::TenantPolicy;
use crate::platform::Offer;
use crate::platform::tests::{offer, platform};

const WALL: SystemTime = SystemTime::UNIX_EPOCH;

/// A scheduler with a clock, and a number for every job so that none are alike.
pub(super) struct Story {
    pub(super) s: Scheduler,
    pub(super) now: Instant,
    jobs: u32,
}

fn tenant(name: &str) -> InstanceName {
    InstanceName::parse(name).unwrap()
}

pub(super) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) fn linux(slots: usize) -> Offer {
    Offer { slots, ..offer(&[("OSFamily", &["linux"])]) }
}

pub(super) fn ok() -> reapi::ExecuteResponse {
    reapi::ExecuteResponse { result: Some(reapi::ActionResult::default()), ..Default::default() }
}

impl Story {
    pub(super) fn new(limits: SchedulerLimits, policies: &[(&str, TenantPolicy)]) -> Self {
        let named = policies.iter().map(|(name, policy)| (tenant(name), *policy)).collect();
        let tenants = Tenants { named, ..Tenants::default() };
        Self { s: Scheduler::new(limits, tenants), now: Instant::now(), jobs: 0 }
    }

    pub(super) fn job(&mut self, of: &str, invocation: &str) -> Job {
        self.jobs += 1;
        Job {
            instance: tenant(of),
            action: DigestFunction::Sha256.digest(&self.jobs.to_le_bytes()),
            requested: DigestFunction::Sha256.digest(&self.jobs.to_le_bytes()),
            platform: platform(&[("OSFamily", "linux")]),
            priority: 0,
            do_not_cache: false,
            invocation: Invocation::from_client(invocation, ""),
            memory_bytes: 0,
        }
    }

    pub(super) fn submit(&mut self, job: Job) -> OperationName {
        self.s.submit(self.now, WALL, job).unwrap()
    }

    fn queue(&mut self, of: &str, invocation: &str, count: usize) {
        for _ in 0..count {
            let job = self.job(of, invocation);
            self.submit(job);
        }
    }

    /// Runs one thing after the other, each as long as `takes` says, and adds up each one's time by `who`.
    fn run_one_by_one<K: Ord>(
        &mut self,
        worker: WorkerId,
        count: usize,
        takes: impl Fn(&Job) -> u64,
        who: impl Fn(&Job) -> K,
    ) -> BTreeMap<K, u64> {
        let mut had = BTreeMap::new();
        for _ in 0..count {
            let Some(given) = self.s.assign(self.now, worker) else { break };
            let time = takes(&given.job);
            self.now += seconds(time);
            self.s.complete(self.now, worker, given.run, ok());
            *had.entry(who(&given.job)).or_default() += time;
        }
        had
    }

    pub(super) fn status(&self, operation: &OperationName) -> Option<(i32, String)> {
        match self.s.view(operation)?.stage {
            Stage::Completed(response) => response.status.clone().map(|status| (status.code, status.message)),
            _ => None,
        }
    }

    pub(super) fn reason(&self, operation: &OperationName) -> String {
        self.s.waiting(operation).expect("it waits").reason.to_string()
    }
}

fn weight(weight: u32) -> TenantPolicy {
    TenantPolicy { weight, ..TenantPolicy::default() }
}

fn by_tenant(job: &Job) -> String {
    job.instance.to_string()
}

fn by_invocation(job: &Job) -> String {
    job.invocation.to_string()
}

/// Whether `a` is `share` percent of both, give or take five.
fn is_share(a: u64, b: u64, share: u64) -> bool {
    (a * 100 / (a + b)).abs_diff(share) <= 5
}

#[test]
fn tenants_share_time_by_weight_however_long_their_actions_are() {
    let mut story = Story::new(SchedulerLimits::default(), &[("heavy", weight(3)), ("light", weight(1))]);
    let worker = story.s.add_worker(linux(1));
    story.queue("heavy", "", 2_000);
    story.queue("light", "", 2_000);
    let same = story.run_one_by_one(worker, 400, |_| 1, by_tenant);
    assert!(is_share(same["heavy"], same["light"], 75), "{same:?}");
    let longer = |job: &Job| if job.instance == tenant("light") { 5 } else { 1 };
    let had = story.run_one_by_one(worker, 1_000, longer, by_tenant);
    assert!(is_share(had["heavy"], had["light"], 75), "{had:?}");
}

#[test]
fn idling_saves_nothing_up_and_one_at_a_time_gains_nothing() {
    let mut story = Story::new(SchedulerLimits::default(), &[("busy", weight(3)), ("single", weight(1))]);
    let worker = story.s.add_worker(linux(1));
    story.queue("busy", "", 1_000);
    story.run_one_by_one(worker, 200, |_| 1, by_tenant);
    // It comes late, and always with one action that is queued when the last one has ended.
    let mut had = BTreeMap::new();
    for _ in 0..100 {
        if story.s.tenants().all(|(name, load)| *name != tenant("single") || load.queued == 0) {
            story.queue("single", "", 1);
        }
        for (name, time) in story.run_one_by_one(worker, 1, |_| 1, by_tenant) {
            *had.entry(name).or_default() += time;
        }
    }
    assert!(is_share(had["busy"], had["single"], 75), "{had:?}");
}

#[test]
fn invocations_of_a_tenant_share_evenly() {
    let mut story = Story::new(SchedulerLimits::default(), &[]);
    let worker = story.s.add_worker(linux(1));
    story.queue("", "large", 500);
    story.run_one_by_one(worker, 50, |_| 1, by_invocation);
    story.queue("", "small", 20);
    let had = story.run_one_by_one(worker, 42, |_| 1, by_invocation);
    assert!(had["small"] >= 18, "who comes later does not wait for all of the earlier: {had:?}");
}

#[test]
fn urgent_actions_of_an_invocation_do_not_starve_its_others() {
    let mut story = Story::new(SchedulerLimits::default(), &[]);
    let worker = story.s.add_worker(linux(1));
    let patient = story.job("", "");
    let patient = story.submit(patient);
    for _ in 0..100 {
        let urgent = Job { priority: -1, ..story.job("", "") };
        story.submit(urgent);
    }
    let first = story.s.assign(story.now, worker).unwrap();
    assert_eq!(first.job.priority, -1);
    story.s.complete(story.now, worker, first.run, ok());
    story.run_one_by_one(worker, 7, |_| 1, by_tenant);
    assert!(matches!(story.s.view(&patient).unwrap().stage, Stage::Completed(_)));
}

#[test]
fn quotas_hold_and_are_named() {
    let policy =
        TenantPolicy { running_max: Some(1), queued_max: Some(2), memory_bytes_max: Some(100), ..weight(1) };
    let mut story = Story::new(SchedulerLimits::default(), &[("small", policy)]);
    let worker = story.s.add_worker(linux(4));
    story.queue("small", "", 2);
    let third = story.job("small", "");
    assert_eq!(story.s.submit(story.now, WALL, third), Err(SubmitError::TenantQueueFull(2)));
    let first = story.s.assign(story.now, worker).unwrap();
    assert!(story.s.assign(story.now, worker).is_none(), "one at a time");
    let more = story.job("small", "");
    let waits = story.submit(more);
    assert_eq!(story.reason(&waits), "the instance has 1 actions running; its limit is 1");
    story.queue("other", "", 1);
    assert_eq!(story.s.assign(story.now, worker).unwrap().job.instance, tenant("other"), "others pass");
    story.s.complete(story.now, worker, first.run, ok());
    assert!(story.s.assign(story.now, worker).is_some());
}

#[test]
fn memory_of_a_tenant_is_bounded_but_what_never_fits_runs_alone() {
    let policy = TenantPolicy { memory_bytes_max: Some(100), ..weight(1) };
    let mut story = Story::new(SchedulerLimits::default(), &[("t", policy)]);
    let worker = story.s.add_worker(linux(4));
    for memory_bytes in [60, 60, 500] {
        let job = Job { memory_bytes, ..story.job("t", "") };
        story.submit(job);
    }
    let mut alone = Vec::new();
    while let Some(given) = story.s.assign(story.now, worker) {
        assert!(story.s.assign(story.now, worker).is_none());
        story.s.complete(story.now, worker, given.run, ok());
        alone.push(given.job.memory_bytes);
    }
    assert_eq!(alone, [60, 60, 500]);
}

#[test]
fn a_worker_is_kept_free_for_what_needs_much_memory() {
    let mut story = Story::new(SchedulerLimits::default(), &[]);
    let worker = story.s.add_worker(Offer { memory_bytes: Some(100), ..linux(3) });
    let add = |story: &mut Story, memory_bytes: u64| {
        let job = Job { memory_bytes, ..story.job("", "") };
        story.submit(job)
    };
    let sizes = [40, 90, 40, 40];
    let operations = sizes.map(|bytes| add(&mut story, bytes));
    let take = |story: &mut Story| story.s.assign(story.now, worker);
    let first = take(&mut story).unwrap();
    let second = take(&mut story).unwrap();
    assert_eq!((first.job.memory_bytes, second.job.memory_bytes), (40, 40), "the large one is passed");
    assert_eq!(story.reason(&operations[1]), "needs 90 bytes of memory; no worker has more than 20 free");
    story.now += seconds(31);
    story.s.complete(story.now, worker, first.run, ok());
    assert!(take(&mut story).is_none(), "but not for ever");
    story.s.complete(story.now, worker, second.run, ok());
    assert_eq!(take(&mut story).unwrap().job.memory_bytes, 90);
}

#[test]
fn who_is_kept_free_is_called_for_what_goes_first() {
    let mut story = Story::new(SchedulerLimits::default(), &[]);
    let worker = story.s.add_worker(Offer { memory_bytes: Some(100), ..linux(3) });
    let add = |story: &mut Story, of: &str, memory_bytes: u64| {
        let job = Job { memory_bytes, ..story.job(of, "") };
        story.submit(job)
    };
    add(&mut story, "a", 60);
    story.s.assign(story.now, worker).unwrap();
    add(&mut story, "a", 90);
    story.now += seconds(31);
    assert!(story.s.assign(story.now, worker).is_none(), "it is kept free");
    story.s.sleep(worker);
    assert!(story.s.take_called(story.now).is_empty(), "there is no room yet");
    add(&mut story, "b", 10);
    assert_eq!(story.s.take_called(story.now), [worker].into());
    assert_eq!(story.s.assign(story.now, worker).unwrap().job.instance, tenant("b"), "it has had less");
}

#[test]
fn who_is_kept_free_is_called_when_a_limit_was_all_that_held() {
    let policy = TenantPolicy { running_max: Some(1), ..TenantPolicy::default() };
    let mut story = Story::new(SchedulerLimits::default(), &[("a", policy)]);
    let add = |story: &mut Story, of: &str, memory_bytes: u64| {
        let job = Job { memory_bytes, ..story.job(of, "") };
        story.submit(job)
    };
    let small = story.s.add_worker(Offer { memory_bytes: Some(100), ..linux(2) });
    add(&mut story, "c", 20);
    story.s.assign(story.now, small).unwrap();
    let large = story.s.add_worker(Offer { memory_bytes: Some(100), ..linux(3) });
    add(&mut story, "b", 60);
    let first = story.s.assign(story.now, large).unwrap();
    add(&mut story, "a", 90);
    story.now += seconds(31);
    assert!(story.s.assign(story.now, large).is_none(), "it is kept free");
    add(&mut story, "a", 10);
    let second = story.s.assign(story.now, small).unwrap();
    assert_eq!(second.job.memory_bytes, 10);
    story.s.complete(story.now, large, first.run, ok());
    assert!(story.s.assign(story.now, large).is_none(), "the tenant has all it may have");
    story.s.sleep(large);
    story.s.take_called(story.now);
    story.s.complete(story.now, small, second.run, ok());
    assert!(story.s.take_called(story.now).contains(&large));
    assert_eq!(story.s.assign(story.now, large).unwrap().job.memory_bytes, 90);
}

#[test]
fn a_silent_worker_is_lost_and_another_gets_its_run() {
    let mut story = Story::new(SchedulerLimits::default(), &[]);
    let (first, second) = (story.s.add_worker(linux(1)), story.s.add_worker(linux(1)));
    for worker in [first, second] {
        assert!(story.s.renew_lease(worker, story.now + seconds(30)));
    }
    let job = story.job("", "");
    let operation = story.submit(job);
    let given = story.s.assign(story.now, first).unwrap();
    story.now += seconds(29);
    assert!(story.s.renew_lease(second, story.now + seconds(30)));
    story.s.tick(story.now);
    assert!(story.s.assign(story.now, second).is_none(), "its lease still runs");
    story.now += seconds(1);
    story.s.tick(story.now);
    assert!(!story.s.renew_lease(first, story.now + seconds(30)), "it must join again");
    let waiting = story.s.waiting(&operation).unwrap();
    assert_eq!(waiting.attempts[0].reason, Loss::Silent);
    let again = story.s.assign(story.now, second).unwrap();
    assert_eq!((again.run, again.attempt), (given.run, 2));
    story.s.complete(story.now, first, given.run, ok());
    assert!(story.status(&operation).is_none(), "late reports do not count");
}

#[test]
fn what_loses_every_worker_is_given_up_with_the_reasons() {
    let mut story = Story::new(SchedulerLimits::default(), &[]);
    let job = story.job("", "");
    let spare = story.s.add_worker(linux(0));
    let mut operation = None;
    for round in 0..3 {
        let worker = story.s.add_worker(linux(1));
        let operation =
            operation.get_or_insert_with(|| story.s.submit(story.now, WALL, job.clone()).unwrap());
        assert!(story.s.assign(story.now, worker).is_some(), "round {round}");
        story.s.remove_worker(story.now, worker, &Loss::Left);
        assert_eq!(story.status(operation).is_some(), round == 2);
    }
    let (code, message) = story.status(&operation.unwrap()).unwrap();
    assert_eq!(code, rpc::Code::Internal as i32);
    assert_eq!(message.matches("w: left").count(), 3, "{message}");
    assert_eq!(story.s.runs_of(spare), []);
}

#[test]
fn a_run_goes_back_to_a_worker_that_was_lost_with_it_only_when_it_must() {
    let mut story = Story::new(SchedulerLimits::default(), &[]);
    let named = |name: &str| Offer { name: name.into(), ..linux(1) };
    let bad = story.s.add_worker(named("bad"));
    story.queue("", "", 1);
    assert!(story.s.assign(story.now, bad).is_some());
    let good = story.s.add_worker(named("good"));
    story.s.remove_worker(story.now, bad, &Loss::Dropped);
    let back = story.s.add_worker(named("bad"));
    assert!(story.s.assign(story.now, back).is_none(), "there is another");
    story.s.drain(story.now, good, true);
    assert!(story.s.assign(story.now, back).is_some(), "now there is not");
}

#[test]
fn what_nobody_serves_waits_for_a_worker_as_long_as_it_is_told() {
    let limits = SchedulerLimits { worker_grace: seconds(60), ..SchedulerLimits::default() };
    let mut story = Story::new(limits, &[]);
    story.s.add_worker(offer(&[("OSFamily", &["wasi"])]));
    let (early, late) = (story.job("", ""), story.job("", ""));
    let early = story.submit(early);
    let reason = story.reason(&early);
    assert!(reason.contains("OSFamily=linux") && reason.contains("OSFamily=wasi"), "{reason}");
    story.now += seconds(60);
    story.s.tick(story.now);
    let (code, message) = story.status(&early).unwrap();
    assert_eq!(code, rpc::Code::FailedPrecondition as i32);
    assert!(message.contains("OSFamily=linux") && message.contains("waited 60 s"), "{message}");
    let late = story.submit(late);
    let worker = story.s.add_worker(linux(1));
    story.now += seconds(120);
    story.s.tick(story.now);
    assert!(story.status(&late).is_none(), "somebody serves it now");
    assert!(story.s.assign(story.now, worker).is_some());
}

#[test]
fn what_is_queued_does_not_wait_for_ever_when_the_last_worker_leaves() {
    let mut story = Story::new(SchedulerLimits::default(), &[]);
    let worker = story.s.add_worker(linux(1));
    let (running, queued) = (story.job("", ""), story.job("", ""));
    let (running, queued) = (story.submit(running), story.submit(queued));
    let given = story.s.assign(story.now, worker).unwrap();
    assert!(story.s.drain(story.now, worker, true));
    assert!(story.s.assign(story.now, worker).is_none());
    story.now += seconds(60);
    story.s.tick(story.now);
    assert_eq!(story.status(&queued).unwrap().0, rpc::Code::FailedPrecondition as i32);
    assert!(story.status(&running).is_none(), "what runs goes on");
    story.s.complete(story.now, worker, given.run, ok());
    assert!(matches!(story.s.view(&running).unwrap().stage, Stage::Completed(_)));
}

#[test]
fn a_paused_queue_starts_nothing_and_says_so() {
    let mut story = Story::new(SchedulerLimits::default(), &[]);
    let worker = story.s.add_worker(linux(1));
    story.s.pause(story.now, true);
    let job = story.job("", "");
    let operation = story.submit(job);
    assert!(story.s.assign(story.now, worker).is_none());
    assert_eq!(story.reason(&operation), "the queue is paused");
    story.s.pause(story.now, false);
    assert!(story.s.assign(story.now, worker).is_some());
}

#[test]
fn a_worker_goes_on_with_what_nobody_else_has() {
    let mut story = Story::new(SchedulerLimits::default(), &[]);
    let (first, second) = (story.s.add_worker(linux(1)), story.s.add_worker(linux(1)));
    let job = story.job("", "");
    let operation = story.submit(job);
    let run = story.s.assign(story.now, first).unwrap().run;
    assert!(
        story.s.keeps(story.now, first, run, Holding::Begun)
            && !story.s.keeps(story.now, second, run, Holding::Begun)
    );
    story.s.remove_worker(story.now, first, &Loss::Silent);
    let back = story.s.add_worker(linux(1));
    assert!(story.s.keeps(story.now, back, run, Holding::Begun), "it comes back with it under a new name");
    assert!(!story.s.keeps(story.now, second, run, Holding::Begun));
    story.s.complete(story.now, back, run, ok());
    assert!(matches!(story.s.view(&operation).unwrap().stage, Stage::Completed(_)));
    assert!(!story.s.keeps(story.now, back, run, Holding::Begun), "it has ended");
}

#[test]
fn how_a_command_is_run_makes_no_class_of_its_own() {
    let mut story = Story::new(SchedulerLimits::default(), &[]);
    story.s.add_worker(linux(1));
    for fuel in 0..CLASSES_MAX + 1 {
        let asked = platform(&[("wasm-fuel", &fuel.to_string()), ("OSFamily", "linux")]);
        let job = Job { platform: asked, ..story.job("", "") };
        story.submit(job);
    }
    for memory_bytes in 1..CLASSES_MAX as u64 {
        let job = Job { memory_bytes, ..story.job("", "") };
        story.submit(job);
    }
    let another = Job { memory_bytes: 1 << 40, ..story.job("", "") };
    let refused = story.s.submit(story.now, WALL, another);
    assert_eq!(refused, Err(SubmitError::TooManyPlatforms(CLASSES_MAX)));
    story.queue("", "", 1);
}

#[test]
fn a_tenant_cannot_fill_the_queue_by_joining() {
    let policy = TenantPolicy { operations_max: Some(2), ..TenantPolicy::default() };
    let mut story = Story::new(SchedulerLimits::default(), &[("greedy", policy)]);
    let worker = story.s.add_worker(linux(1));
    let job = story.job("greedy", "");
    let first = story.submit(job.clone());
    let second = story.submit(job.clone());
    let refused = |story: &mut Story| story.s.submit(story.now, WALL, job.clone());
    assert_eq!(refused(&mut story), Err(SubmitError::TenantTooManyOperations(2)));
    let other = story.job("other", "");
    story.submit(other);
    // Each way in which an operation waits no more makes room for one.
    assert!(story.s.cancel(story.now, &second, ok()));
    let third = refused(&mut story).unwrap();
    assert!(story.s.delete(&third));
    refused(&mut story).unwrap();
    assert_eq!(refused(&mut story), Err(SubmitError::TenantTooManyOperations(2)));
    let run = story.s.assign(story.now, worker).unwrap().run;
    story.s.complete(story.now, worker, run, ok());
    assert!(story.status(&first).is_none(), "it ended well");
    refused(&mut story).unwrap();
}

#[test]
fn what_was_said_of_earlier_runs_is_not_meant_for_the_next_and_few_are_remembered() {
    let limits = SchedulerLimits { worker_grace: Duration::from_secs(90), ..SchedulerLimits::default() };
    let mut story = Story::new(limits, &[]);
    let job = Job { do_not_cache: true, ..story.job("", "") };
    let first = story.submit(job.clone());
    assert!(story.s.cancel(story.now, &first, ok()));
    story.now += Duration::from_secs(80);
    let second = story.submit(job);
    story.now += Duration::from_secs(20);
    story.s.tick(story.now);
    assert!(story.s.waiting(&second).is_some(), "its own grace is not over");
    story.now += Duration::from_secs(70);
    story.s.tick(story.now);
    assert!(story.s.waiting(&second).is_none());
    for memory_bytes in 1..200 {
        let job = Job { memory_bytes, ..story.job("", "") };
        let operation = story.submit(job);
        assert!(story.s.cancel(story.now, &operation, ok()));
    }
    assert_eq!((story.s.classes.len(), story.s.classes.iter().count()), (0, classes::UNUSED_KEPT_MAX));
}
