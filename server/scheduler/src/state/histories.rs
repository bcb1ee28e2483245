//! Random histories. After every step [`Scheduler::check`] looks at all books; here is what must hold from the
//! outside: nothing is lost, nothing runs twice at once except after its worker was lost, everybody who waits gets an end,
//! and no worker sleeps that could be given something, or have what another one was given ahead, while none was called.
//!
//! Workers do here what they do in life: they begin what they were given in its order, go on without waiting for the
//! scheduler, and report later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use wardian_proto::DigestFunction;

use super::calls::Choice;
use super::*;
use crate::figures::Loss;
use crate::job::Invocation;
use crate::limits::TenantPolicy;
use crate::platform::Offer;
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
        ahead: u8,
        leased: bool,
    },
    /// One that was lost comes back with what it has.
    Return(u8),
    /// A worker's connection breaks, and it names what it has on the next one.
    Reconnect(u8),
    Lose(u8),
    Drain(u8, bool),
    PauseWorker(u8, bool),
    Assign(u8),
    /// Whoever was called looks, and so do those that are called then.
    Answer,
    /// Nobody listens on a worker's behalf any more.
    Absent(u8),
    /// A worker's run ends, and the next one begins.
    Finish(u8),
    /// The report of that comes.
    Deliver(u8),
    /// A worker hears what it is asked for, and answers.
    AnswerQuestion(u8),
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
        2 => (any::<bool>(), 1..4u8, 0..3u8, any::<bool>())
            .prop_map(|(both, slots, ahead, leased)| Step::Join { both, slots, ahead, leased }),
        1 => any::<u8>().prop_map(Step::Return),
        1 => any::<u8>().prop_map(Step::Reconnect),
        1 => any::<u8>().prop_map(Step::Lose),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(worker, on)| Step::Drain(worker, on)),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(worker, on)| Step::PauseWorker(worker, on)),
        8 => any::<u8>().prop_map(Step::Assign),
        6 => Just(Step::Answer),
        1 => any::<u8>().prop_map(Step::Absent),
        6 => any::<u8>().prop_map(Step::Finish),
        6 => any::<u8>().prop_map(Step::Deliver),
        4 => any::<u8>().prop_map(Step::AnswerQuestion),
        1 => any::<u8>().prop_map(Step::CompleteLate),
        1 => prop::bool::weighted(0.2).prop_map(Step::Pause),
        2 => any::<u8>().prop_map(Step::Wait),
    ]
}

/// What a worker has in fact.
#[derive(Clone, Debug)]
struct Hands {
    offer: Offer,
    begun: Vec<RunId>,
    waiting: VecDeque<RunId>,
    /// Ended, and not reported.
    ended: VecDeque<RunId>,
    /// What it will be asked for.
    questions: VecDeque<RunId>,
}

impl Hands {
    fn new(offer: Offer) -> Self {
        Self {
            offer,
            begun: Vec::new(),
            waiting: VecDeque::new(),
            ended: VecDeque::new(),
            questions: VecDeque::new(),
        }
    }

    fn begin(&mut self) {
        while self.begun.len() < self.offer.slots
            && let Some(run) = self.waiting.pop_front()
        {
            self.begun.push(run);
        }
    }

    /// Gives a run back unless it was begun.
    fn gives_back(&mut self, run: RunId) -> bool {
        let at = self.waiting.iter().position(|other| *other == run);
        at.is_some_and(|at| self.waiting.remove(at).is_some())
    }

    fn holds(&self, run: RunId) -> bool {
        self.begun.contains(&run) || self.waiting.contains(&run) || self.ended.contains(&run)
    }
}

/// The scheduler, and what the world outside believes.
struct World {
    scheduler: Scheduler,
    now: Instant,
    /// Every operation that was neither cancelled nor deleted.
    wanted: Vec<OperationName>,
    workers: Vec<WorkerId>,
    hands: BTreeMap<WorkerId, Hands>,
    /// Workers that were lost and may come back.
    lost: Vec<Hands>,
    /// Runs that came back before they began.
    returned: BTreeSet<RunId>,
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
            hands: BTreeMap::new(),
            lost: Vec::new(),
            returned: BTreeSet::new(),
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

    fn join(&mut self, both: bool, slots: u8, ahead: u8, leased: bool) {
        let systems: &[&str] = if both { &["linux", "wasi"] } else { &["linux"] };
        let mut offer = offer(&[("OSFamily", systems)]);
        offer.slots = slots.into();
        offer.ahead = ahead.into();
        offer.memory_bytes = Some(4);
        self.add(offer, leased);
    }

    fn add(&mut self, offer: Offer, leased: bool) -> WorkerId {
        let worker = self.scheduler.add_worker(offer.clone());
        self.hands.insert(worker, Hands::new(offer));
        if leased {
            assert!(self.scheduler.renew_lease(worker, self.now + Duration::from_secs(100)));
        }
        self.workers.push(worker);
        worker
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
        assert!(!given.ahead || !self.returned.contains(&given.run), "nothing goes to and fro");
        assert!(!given.ahead || !self.is_somebody_free(given.run), "a free slot goes first");
        let hands = self.hands.get_mut(&worker).unwrap();
        assert!(!hands.holds(given.run), "the worker has it already");
        hands.waiting.push_back(given.run);
        hands.begin();
        assert!(given.ahead || hands.begun.contains(&given.run), "it need not wait");
        true
    }

    /// Whether another worker could begin a run at once.
    fn is_somebody_free(&self, run: RunId) -> bool {
        let place = &self.scheduler.runs[&run].place;
        self.scheduler.classes.get(place.class).workers.iter().any(|id| {
            let worker = &self.scheduler.workers[id];
            let fits = worker.free_slots() > 0 && worker.has_room(place.memory);
            fits && worker.takes_work() && !worker.absent && !self.scheduler.is_kept_free(*id)
        })
    }

    /// A worker hears the oldest question there is for it.
    fn answer_question(&mut self, worker: WorkerId) -> bool {
        let hands = self.hands.get_mut(&worker).unwrap();
        let Some(run) = hands.questions.pop_front() else { return false };
        if hands.gives_back(run) {
            self.give_back(worker, run);
        } else if hands.holds(run) {
            self.scheduler.has_begun(self.now, worker, run);
        }
        true
    }

    fn give_back(&mut self, worker: WorkerId, run: RunId) {
        self.scheduler.give_back(self.now, worker, run, &Loss::Returned);
        self.returned.insert(run);
        if let Some(holders) = self.running.get_mut(&run) {
            holders.remove(&worker);
        }
    }

    fn deliver(&mut self, worker: WorkerId) -> bool {
        let Some(run) = self.hands.get_mut(&worker).unwrap().ended.pop_front() else { return false };
        self.complete(worker, run);
        true
    }

    fn finish(&mut self, worker: WorkerId, number: u8) -> bool {
        let hands = self.hands.get_mut(&worker).unwrap();
        let Some(run) = pick(&hands.begun, number) else { return false };
        hands.begun.retain(|other| *other != run);
        hands.ended.push_back(run);
        hands.begin();
        true
    }

    /// A worker says what it has on a new connection. What it may not keep it drops.
    fn names_what_it_has(&mut self, worker: WorkerId) {
        self.scheduler.forget_questions(self.now, worker);
        let mut hands = self.hands.remove(&worker).unwrap();
        hands.questions.clear();
        let mut keeps = |run: &RunId, holding| {
            let kept = self.scheduler.keeps(self.now, worker, *run, holding);
            if kept {
                self.running.entry(*run).or_default().insert(worker);
            }
            kept
        };
        hands.ended.retain(|run| keeps(run, Holding::Ended));
        hands.begun.retain(|run| keeps(run, Holding::Begun));
        hands.waiting.retain(|run| keeps(run, Holding::Waiting));
        hands.begin();
        for run in self.scheduler.runs_of(worker) {
            assert!(hands.holds(run), "what was given was received here");
        }
        self.hands.insert(worker, hands);
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
        let gone: Vec<WorkerId> = self.hands.keys().filter(|id| !known.contains(id)).copied().collect();
        self.lost.extend(gone.into_iter().filter_map(|id| self.hands.remove(&id)));
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
            // What it could have ahead it gets sooner or later.
            let could_begin = !matches!(self.scheduler.choice(self.now, worker), Choice::Ahead(_));
            if self.scheduler.workers[&worker].asleep && could_begin {
                let asking = |world: &Self| world.scheduler.workers[&worker].ahead.asking.len();
                let before = asking(self);
                let given = self.scheduler.assign(self.now, worker);
                assert!(given.is_none(), "nothing waits for a worker that nobody calls");
                assert_eq!(asking(self), before, "and it could have nothing that others have not begun");
                self.scheduler.sleep(worker);
            }
        }
        assert!(self.scheduler.take_called(self.now).is_empty(), "nobody is called for nothing");
    }

    fn hear(&mut self) {
        self.called.extend(self.scheduler.take_called(self.now));
        self.called.retain(|worker| self.workers.contains(worker));
        for worker in self.workers.clone() {
            let questions = self.scheduler.take_questions(worker);
            self.hands.get_mut(&worker).unwrap().questions.extend(questions);
        }
        for run in self.scheduler.take_abandoned() {
            let gives_back = |(_, hands): &mut (&WorkerId, &mut Hands)| hands.gives_back(run);
            let holder =
                self.hands.iter_mut().find_map(|mut entry| gives_back(&mut entry).then_some(*entry.0));
            if let Some(holder) = holder {
                self.give_back(holder, run);
            }
        }
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
            Step::Join { both, slots, ahead, leased } => self.join(*both, *slots, *ahead, *leased),
            Step::Return(number) => {
                if let Some(hands) = pick(&self.lost, *number) {
                    self.lost.clear();
                    let worker = self.add(hands.offer.clone(), true);
                    self.hands.insert(worker, hands);
                    self.names_what_it_has(worker);
                }
            }
            Step::Reconnect(number) => {
                if let Some(worker) = pick(&self.workers, *number) {
                    self.names_what_it_has(worker);
                }
            }
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
            Step::PauseWorker(number, on) => {
                if let Some(worker) = pick(&self.workers, *number) {
                    assert!(self.scheduler.pause_worker(self.now, worker, *on));
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
            Step::Finish(number) => {
                if let Some(worker) = pick(&self.workers, *number) {
                    self.finish(worker, *number / 8);
                }
            }
            Step::Deliver(number) => {
                if let Some(worker) = pick(&self.workers, *number) {
                    self.deliver(worker);
                }
            }
            Step::AnswerQuestion(number) => {
                if let Some(worker) = pick(&self.workers, *number) {
                    self.answer_question(worker);
                }
            }
            Step::CompleteLate(number) => {
                if let Some((worker, run)) = pick(&self.late, *number) {
                    let before = self.scheduler.running();
                    self.scheduler.complete(self.now, worker, run, done(1));
                    assert_eq!(self.scheduler.running(), before, "a late report changes nothing");
                }
            }
            Step::Pause(on) => self.scheduler.pause(self.now, *on),
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
        self.scheduler.pause(self.now, false);
        for worker in self.workers.clone() {
            self.scheduler.drain(self.now, worker, false);
            self.scheduler.pause_worker(self.now, worker, false);
        }
        self.join(true, 2, 1, false);
        for _ in 0..1_000 {
            let mut busy = false;
            self.answer();
            for worker in self.workers.clone() {
                busy |= self.assign(worker);
                self.hear();
                while self.answer_question(worker) || self.finish(worker, 0) || self.deliver(worker) {
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
