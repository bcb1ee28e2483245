//! Random histories. After every step [`Scheduler::check`] looks at all books; here is what must hold from the
//! outside: nothing is lost, nothing runs twice at once except after its worker was lost, everybody who waits gets an end,
//! and no worker sleeps that could be given something while none was called.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use wardian_proto::DigestFunction;

use super::*;
use crate::figures::Loss;
use crate::job::Invocation;
use crate::limits::TenantPolicy;
use crate::platform::tests::{offer, platform};

/// One thing that happens. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    Submit {
        tenant: u8,
        invocation: u8,
        action: u8,
        os: u8,
        priority: i8,
        cached: bool,
        memory: u8,
    },
    Cancel(u8),
    Delete(u8),
    Join {
        both: bool,
        slots: u8,
        leased: bool,
    },
    Lose(u8),
    Drain(u8, bool),
    Assign(u8),
    /// Whoever was called looks, and so do those that are called then.
    Answer,
    /// Nobody listens on a worker's behalf any more.
    Absent(u8),
    Complete(u8),
    /// A report of a worker that lost the run in the meantime.
    CompleteLate(u8),
    Pause(bool),
    Wait(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let submit = (0..3u8, 0..3u8, 0..12u8, 0..3u8, -2..3i8, prop::bool::weighted(0.8), 0..4u8).prop_map(
        |(tenant, invocation, action, os, priority, cached, memory)| Step::Submit {
            tenant,
            invocation,
            action,
            os,
            priority,
            cached,
            memory,
        },
    );
    prop_oneof![
        8 => submit,
        2 => any::<u8>().prop_map(Step::Cancel),
        1 => any::<u8>().prop_map(Step::Delete),
        2 => (any::<bool>(), 1..4u8, any::<bool>())
            .prop_map(|(both, slots, leased)| Step::Join { both, slots, leased }),
        1 => any::<u8>().prop_map(Step::Lose),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(worker, on)| Step::Drain(worker, on)),
        8 => any::<u8>().prop_map(Step::Assign),
        6 => Just(Step::Answer),
        1 => any::<u8>().prop_map(Step::Absent),
        5 => any::<u8>().prop_map(Step::Complete),
        1 => any::<u8>().prop_map(Step::CompleteLate),
        1 => prop::bool::weighted(0.2).prop_map(Step::Pause),
        2 => any::<u8>().prop_map(Step::Wait),
    ]
}

/// The scheduler, and what the world outside believes.
struct World {
    scheduler: Scheduler,
    now: Instant,
    /// Every operation that was neither cancelled nor deleted.
    wanted: Vec<OperationName>,
    workers: Vec<WorkerId>,
    /// Those that were called and have not looked.
    called: BTreeSet<WorkerId>,
    /// What each run was given to, by the workers' own belief.
    running: BTreeMap<RunId, BTreeSet<WorkerId>>,
    late: Vec<(WorkerId, RunId)>,
}

fn pick<T: Clone>(from: &[T], number: u8) -> Option<T> {
    (!from.is_empty()).then(|| from[number as usize % from.len()].clone())
}

fn done(code: i32) -> reapi::ExecuteResponse {
    let result = Some(reapi::ActionResult { exit_code: code, ..Default::default() });
    reapi::ExecuteResponse { result, ..Default::default() }
}

impl World {
    fn new() -> Self {
        let mut tenants = Tenants::default();
        let tenant = InstanceName::parse("t1").unwrap();
        let policy = TenantPolicy {
            weight: 5,
            running_max: Some(2),
            queued_max: Some(6),
            memory_bytes_max: Some(3),
            operations_max: None,
        };
        tenants.named.insert(tenant, policy);
        let limits = SchedulerLimits {
            queued_runs_max: 20,
            live_operations_max: 30,
            worker_grace: Duration::from_secs(90),
            ..SchedulerLimits::default()
        };
        Self {
            scheduler: Scheduler::new(limits, tenants),
            now: Instant::now(),
            wanted: Vec::new(),
            workers: Vec::new(),
            called: BTreeSet::new(),
            running: BTreeMap::new(),
            late: Vec::new(),
        }
    }

    fn submit(&mut self, step: &Step) {
        let Step::Submit { tenant, invocation, action, os, priority, cached, memory } = step else { return };
        let job = Job {
            instance: InstanceName::parse(&format!("t{tenant}")).unwrap(),
            action: DigestFunction::Sha256.digest(&[*action, *os]),
            requested: DigestFunction::Sha256.digest(&[*action, *os]),
            platform: platform(&[("OSFamily", ["linux", "wasi", "plan9"][*os as usize])]),
            priority: i32::from(*priority),
            do_not_cache: !cached,
            invocation: Invocation::from_client(&invocation.to_string(), ""),
            memory_bytes: u64::from(*memory),
        };
        match self.scheduler.submit(self.now, SystemTime::UNIX_EPOCH, job) {
            Ok(operation) => self.wanted.push(operation),
            Err(
                SubmitError::QueueFull(_)
                | SubmitError::TenantQueueFull(_)
                | SubmitError::TenantTooManyOperations(_)
                | SubmitError::TooManyOperations(_),
            ) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn join(&mut self, both: bool, slots: u8, leased: bool) {
        let systems: &[&str] = if both { &["linux", "wasi"] } else { &["linux"] };
        let mut offer = offer(&[("OSFamily", systems)]);
        offer.slots = slots.into();
        offer.memory_bytes = Some(4);
        let worker = self.scheduler.add_worker(offer);
        if leased {
            assert!(self.scheduler.renew_lease(worker, self.now + Duration::from_secs(100)));
        }
        self.workers.push(worker);
    }

    fn assign(&mut self, worker: WorkerId) -> bool {
        self.called.remove(&worker);
        let Some(given) = self.scheduler.assign(self.now, worker) else {
            self.scheduler.sleep(worker);
            return false;
        };
        assert_eq!(self.scheduler.runs_of(worker).iter().filter(|run| **run == given.run).count(), 1);
        let holders = self.running.entry(given.run).or_default();
        // Whoever else believes to have it was taken away since.
        assert!(holders.iter().all(|other| !self.workers.contains(other) || *other == worker));
        holders.insert(worker);
        true
    }

    fn complete(&mut self, worker: WorkerId, run: RunId) {
        let live = self.scheduler.job_of(worker, run).is_some();
        self.scheduler.complete(self.now, worker, run, done(0));
        if live {
            self.running.remove(&run);
        }
        assert!(self.scheduler.job_of(worker, run).is_none());
    }

    /// Takes note of workers that the scheduler no longer knows.
    fn forget_lost(&mut self) {
        let known: BTreeSet<WorkerId> = self.scheduler.workers().map(|worker| worker.id).collect();
        self.workers.retain(|worker| known.contains(worker));
        for (run, holders) in &self.running {
            self.late.extend(
                holders.iter().filter(|holder| !known.contains(holder)).map(|holder| (*holder, *run)),
            );
        }
    }

    /// Everybody looks who was called, as often as there is something.
    fn answer(&mut self) {
        for _ in 0..1_000 {
            self.hear();
            let Some(worker) = self.called.first().copied() else { return };
            while self.assign(worker) {}
        }
        panic!("workers are called for ever");
    }

    /// Who sleeps while nobody is called is given nothing if it looks.
    fn look_at_sleepers(&mut self) {
        for worker in self.workers.clone() {
            if self.scheduler.workers[&worker].asleep {
                let given = self.scheduler.assign(self.now, worker);
                assert!(given.is_none(), "nothing waits for a worker that nobody calls");
                self.scheduler.sleep(worker);
            }
        }
        assert!(self.scheduler.take_called(self.now).is_empty(), "nobody is called for nothing");
    }

    fn hear(&mut self) {
        self.called.extend(self.scheduler.take_called(self.now));
        self.called.retain(|worker| self.workers.contains(worker));
    }

    fn has(&self, worker: WorkerId) -> Vec<RunId> {
        self.scheduler.runs_of(worker)
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Submit { .. } => self.submit(step),
            Step::Cancel(number) => {
                if let Some(operation) = pick(&self.wanted, *number) {
                    assert!(self.scheduler.cancel(self.now, &operation, done(-1)));
                    assert!(matches!(self.scheduler.view(&operation).unwrap().stage, Stage::Completed(_)));
                    self.wanted.retain(|other| *other != operation);
                }
            }
            Step::Delete(number) => {
                if let Some(operation) = pick(&self.wanted, *number) {
                    assert!(self.scheduler.delete(&operation));
                    self.wanted.retain(|other| *other != operation);
                }
            }
            Step::Join { both, slots, leased } => self.join(*both, *slots, *leased),
            Step::Lose(number) => {
                if let Some(worker) = pick(&self.workers, *number) {
                    self.scheduler.remove_worker(self.now, worker, &Loss::Silent);
                    self.forget_lost();
                }
            }
            Step::Drain(number, on) => {
                if let Some(worker) = pick(&self.workers, *number) {
                    assert!(self.scheduler.drain(self.now, worker, *on));
                }
            }
            Step::Assign(number) => {
                if let Some(worker) = pick(&self.workers, *number) {
                    self.assign(worker);
                }
            }
            Step::Answer => self.answer(),
            Step::Absent(number) => {
                if let Some(worker) = pick(&self.workers, *number) {
                    self.called.remove(&worker);
                    self.scheduler.absent(worker);
                }
            }
            Step::Complete(number) => {
                if let Some(worker) = pick(&self.workers, *number)
                    && let Some(run) = self.has(worker).first().copied()
                {
                    self.complete(worker, run);
                }
            }
            Step::CompleteLate(number) => {
                if let Some((worker, run)) = pick(&self.late, *number) {
                    let before = self.scheduler.running();
                    self.scheduler.complete(self.now, worker, run, done(1));
                    assert_eq!(self.scheduler.running(), before, "a late report changes nothing");
                }
            }
            Step::Pause(on) => self.scheduler.pause(*on),
            Step::Wait(seconds) => {
                self.now += Duration::from_secs(u64::from(*seconds) / 4);
                self.scheduler.tick(self.now);
                self.forget_lost();
            }
        }
        self.hear();
        if self.called.is_empty() {
            self.look_at_sleepers();
        }
        for operation in &self.wanted {
            let view = self.scheduler.view(operation).expect("nobody's operation is lost");
            let waits = self.scheduler.waiting(operation);
            assert_eq!(waits.is_some(), matches!(view.stage, Stage::Queued), "who waits can say why");
        }
    }

    /// Lets everything come to its end.
    fn settle(&mut self) {
        self.scheduler.pause(false);
        for worker in self.workers.clone() {
            self.scheduler.drain(self.now, worker, false);
        }
        self.join(true, 2, false);
        for _ in 0..1_000 {
            let mut busy = false;
            self.answer();
            for worker in self.workers.clone() {
                busy |= self.assign(worker);
                for run in self.has(worker) {
                    self.complete(worker, run);
                    busy = true;
                }
            }
            if !busy && self.scheduler.queued() == 0 {
                break;
            }
            self.now += Duration::from_secs(10);
            self.scheduler.tick(self.now);
            self.forget_lost();
        }
        assert_eq!((self.scheduler.queued(), self.scheduler.running()), (0, 0));
        for operation in &self.wanted {
            let view = self.scheduler.view(operation).expect("kept for a while");
            assert!(matches!(view.stage, Stage::Completed(_)), "everybody gets an end");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_whatever_happens(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.settle();
    }
}
