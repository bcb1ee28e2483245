//! A fleet in virtual time: a thousand workers, a million actions of three tenants, and workers that fall silent. It
//! prints what an operator would want to know before buying the machines.
//!
//!     cargo test --release --workspace --test simulation -- --nocapture

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use wardian_proto::{DigestFunction, InstanceName, reapi};
use wardian_scheduler::state::{Scheduler, Stage};
use wardian_scheduler::{
    Invocation, Job, Loss, Offer, OperationName, Platform, RunId, SchedulerLimits, TenantPolicy, Tenants,
    WorkerId,
};

/// What is simulated. `small` is for those who run it without optimisation.
struct Plan {
    workers: usize,
    slots: usize,
    /// Actions that a worker takes beside those.
    ahead: usize,
    actions: usize,
    /// Actions each tenant has in the queue or running, until it has sent its share of all.
    in_flight: usize,
    /// One worker falls silent in so many milliseconds, and comes back a minute later.
    loss_every_ms: u64,
}

const WEIGHTS: [u32; 3] = [5, 3, 2];
const LEASE: Duration = Duration::from_secs(30);
const RENEWED_EVERY: Duration = Duration::from_secs(10);
const AWAY: Duration = Duration::from_secs(60);

/// How long a report or an order is on its way.
const HOP: Duration = Duration::from_millis(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Orders arrive: a run, or a question for one.
    Ordered(WorkerId, RunId),
    Asked(WorkerId, RunId),
    /// A command ends.
    Ends(WorkerId, RunId),
    /// Reports arrive: a result, or an answer and whether the run comes back.
    Reported(WorkerId, RunId),
    Answered(WorkerId, RunId, bool),
    Silent,
    Joins(usize),
    Second,
}

/// What a worker has in fact.
#[derive(Default)]
struct Hands {
    begun: BTreeMap<RunId, Duration>,
    waiting: VecDeque<RunId>,
}

struct Fleet {
    plan: Plan,
    scheduler: Scheduler,
    start: Instant,
    now: Duration,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    events_so_far: u64,
    random: u64,
    /// Those that are alive, by number.
    alive: BTreeMap<WorkerId, usize>,
    hands: BTreeMap<WorkerId, Hands>,
    /// Who runs what, of those that are alive.
    begun: BTreeMap<RunId, WorkerId>,
    idle: BTreeSet<WorkerId>,
    sent: [usize; 3],
    open: BTreeMap<OperationName, (usize, Duration)>,
    waits: [Vec<u32>; 3],
    busy: [Duration; 3],
    taken_back: usize,
    retries: usize,
    lost: usize,
    ended: usize,
    given_up: usize,
}

impl Fleet {
    fn new(plan: Plan) -> Self {
        let named = WEIGHTS
            .iter()
            .enumerate()
            .map(|(i, weight)| (tenant(i), TenantPolicy { weight: *weight, ..TenantPolicy::default() }))
            .collect();
        let tenants = Tenants { named, ..Tenants::default() };
        Self {
            plan,
            scheduler: Scheduler::new(SchedulerLimits::default(), tenants),
            start: Instant::now(),
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            events_so_far: 0,
            random: 0x9e37_79b9_7f4a_7c15,
            alive: BTreeMap::new(),
            hands: BTreeMap::new(),
            begun: BTreeMap::new(),
            idle: BTreeSet::new(),
            sent: [0; 3],
            open: BTreeMap::new(),
            waits: [const { Vec::new() }; 3],
            busy: [Duration::ZERO; 3],
            taken_back: 0,
            retries: 0,
            lost: 0,
            ended: 0,
            given_up: 0,
        }
    }

    fn clock(&self) -> Instant {
        self.start + self.now
    }

    /// xorshift64: the same fleet every time.
    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.events_so_far += 1;
        self.events.push(Reverse((self.now + after, self.events_so_far, event)));
    }

    fn join(&mut self, number: usize) {
        let offer = Offer {
            name: format!("worker-{number}"),
            properties: [("OSFamily".to_owned(), vec!["wasi".to_owned()])].into(),
            slots: self.plan.slots,
            ahead: self.plan.ahead,
            ..Offer::default()
        };
        let worker = self.scheduler.add_worker(offer);
        self.scheduler.renew_lease(worker, self.clock() + LEASE);
        self.alive.insert(worker, number);
        self.hands.insert(worker, Hands::default());
        self.idle.insert(worker);
    }

    fn submit(&mut self, of: usize) {
        let number = self.sent[of];
        self.sent[of] += 1;
        let wire = reapi::platform::Property { name: "OSFamily".into(), value: "wasi".into() };
        let platform = Platform::from_wire(Some(&reapi::Platform { properties: vec![wire] })).unwrap();
        let job = Job {
            instance: tenant(of),
            action: DigestFunction::Sha256.digest(format!("{of}/{number}").as_bytes()),
            requested: DigestFunction::Sha256.digest(format!("{of}/{number}").as_bytes()),
            platform,
            priority: i32::try_from(self.random(3)).unwrap() - 1,
            do_not_cache: false,
            // A build of two thousand actions after the other, eight at a time.
            invocation: Invocation::from_client(&format!("{}-{}", number / 16_000, number % 8), ""),
            memory_bytes: 0,
        };
        let operation = self.scheduler.submit(self.clock(), SystemTime::UNIX_EPOCH, job).unwrap();
        self.open.insert(operation, (of, self.now));
    }

    fn fill(&mut self) {
        let share = self.plan.actions / 3;
        for of in 0..3 {
            while self.sent[of] < share && self.sent[of] - self.ended_of(of) < self.plan.in_flight {
                self.submit(of);
            }
        }
    }

    fn ended_of(&self, of: usize) -> usize {
        self.waits[of].len()
    }

    /// Gives every worker what it can take that may take something.
    fn assign(&mut self) {
        for worker in std::mem::take(&mut self.idle) {
            loop {
                let Some(given) = self.scheduler.assign(self.clock(), worker) else {
                    // It is asked again when something comes in.
                    if self.scheduler.runs_of(worker).len() < self.plan.slots + self.plan.ahead {
                        self.idle.insert(worker);
                    }
                    break;
                };
                self.retries += usize::from(given.attempt > 1);
                self.at(HOP, Event::Ordered(worker, given.run));
            }
        }
        for worker in self.scheduler.take_called(self.clock()) {
            for run in self.scheduler.take_questions(worker) {
                self.at(HOP, Event::Asked(worker, run));
            }
        }
    }

    fn ordered(&mut self, worker: WorkerId, run: RunId) {
        if let Some(hands) = self.hands.get_mut(&worker) {
            hands.waiting.push_back(run);
            self.begin(worker);
        }
    }

    /// Begins what a worker has slots for.
    fn begin(&mut self, worker: WorkerId) {
        let hands = self.hands.get_mut(&worker).expect("it is alive");
        let mut begun = Vec::new();
        while hands.begun.len() < self.plan.slots
            && let Some(run) = hands.waiting.pop_front()
        {
            hands.begun.insert(run, self.now);
            begun.push(run);
        }
        for run in begun {
            assert_eq!(self.begun.insert(run, worker), None, "nothing runs twice at once");
            // From half a second to three and a half; the last tenant's actions take twice as long.
            let mut millis = 500 + self.random(3_000);
            if self.scheduler.job_of(worker, run).is_some_and(|job| job.instance == tenant(2)) {
                millis *= 2;
            }
            self.at(Duration::from_millis(millis), Event::Ends(worker, run));
        }
    }

    fn asked(&mut self, worker: WorkerId, run: RunId) {
        let Some(hands) = self.hands.get_mut(&worker) else { return };
        let at = hands.waiting.iter().position(|other| *other == run);
        let gives_back = at.is_some_and(|at| hands.waiting.remove(at).is_some());
        self.taken_back += usize::from(gives_back);
        self.at(HOP, Event::Answered(worker, run, gives_back));
    }

    fn answered(&mut self, worker: WorkerId, run: RunId, gives_back: bool) {
        if gives_back {
            self.scheduler.give_back(self.clock(), worker, run, &Loss::Returned);
        } else {
            self.scheduler.has_begun(self.clock(), worker, run);
        }
    }

    fn ends(&mut self, worker: WorkerId, run: RunId) {
        // Silent workers report nothing.
        if self.hands.contains_key(&worker) {
            self.begun.remove(&run);
            self.at(HOP, Event::Reported(worker, run));
            let hands = self.hands.get_mut(&worker).expect("it is alive");
            let took = self.now - hands.begun.remove(&run).expect("it has begun");
            if let Some(job) = self.scheduler.job_of(worker, run) {
                let of = usize::from(job.instance == tenant(1)) + 2 * usize::from(job.instance == tenant(2));
                self.busy[of] += took;
            }
            self.begin(worker);
        }
    }

    fn reported(&mut self, worker: WorkerId, run: RunId) {
        if !self.alive.contains_key(&worker) {
            return;
        }
        if self.scheduler.job_of(worker, run).is_some() {
            let ok =
                reapi::ExecuteResponse { result: Some(reapi::ActionResult::default()), ..Default::default() };
            self.scheduler.complete(self.clock(), worker, run, ok);
            self.settle();
        }
        self.idle.insert(worker);
    }

    /// Takes note of what has ended.
    fn settle(&mut self) {
        for operation in self.scheduler.take_changed() {
            let Some(view) = self.scheduler.view(&operation) else { continue };
            let Stage::Completed(response) = view.stage else { continue };
            // What changed several times is listed several times.
            let Some((of, sent)) = self.open.remove(&operation) else { continue };
            self.waits[of].push(u32::try_from((self.now - sent).as_millis()).unwrap());
            self.ended += 1;
            self.given_up += usize::from(response.result.is_none());
        }
        self.scheduler.expire(self.clock());
    }

    fn silent(&mut self) {
        let nth = self.random(self.alive.len() as u64) as usize;
        let (worker, number) = self.alive.iter().nth(nth).map(|(w, n)| (*w, *n)).unwrap();
        self.alive.remove(&worker);
        self.hands.remove(&worker);
        self.begun.retain(|_, other| *other != worker);
        self.idle.remove(&worker);
        self.lost += 1;
        self.at(AWAY, Event::Joins(number));
        let next = Duration::from_millis(self.plan.loss_every_ms);
        self.at(next, Event::Silent);
    }

    fn second(&mut self) {
        if self.now.as_secs().is_multiple_of(RENEWED_EVERY.as_secs()) {
            let until = self.clock() + LEASE;
            for worker in self.alive.keys() {
                assert!(self.scheduler.renew_lease(*worker, until), "nobody alive is lost");
            }
        }
        self.scheduler.tick(self.clock());
        self.settle();
        self.at(Duration::from_secs(1), Event::Second);
    }

    /// How much of the slots' time commands ran, in percent.
    fn used(&self) -> f64 {
        let slots = (self.plan.workers * self.plan.slots) as f64;
        self.busy.iter().map(Duration::as_secs_f64).sum::<f64>() / (self.now.as_secs_f64() * slots) * 100.0
    }

    /// Runs all of it. Returns each tenant's share of the time, in percent, while all had something waiting.
    fn run(&mut self) -> [f64; 3] {
        for number in 0..self.plan.workers {
            self.join(number);
        }
        self.at(Duration::from_secs(1), Event::Second);
        self.at(Duration::from_secs(20), Event::Silent);
        self.fill();
        self.assign();
        let mut shares = None;
        while self.ended < self.plan.actions / 3 * 3 {
            let Reverse((at, _, event)) = self.events.pop().expect("something is always due");
            self.now = at;
            match event {
                Event::Ordered(worker, run) => self.ordered(worker, run),
                Event::Asked(worker, run) => self.asked(worker, run),
                Event::Ends(worker, run) => self.ends(worker, run),
                Event::Reported(worker, run) => self.reported(worker, run),
                Event::Answered(worker, run, gives_back) => self.answered(worker, run, gives_back),
                Event::Silent => self.silent(),
                Event::Joins(number) => self.join(number),
                Event::Second => self.second(),
            }
            self.fill();
            self.assign();
            if shares.is_none() && self.sent.contains(&(self.plan.actions / 3)) {
                let all: f64 = self.busy.iter().map(Duration::as_secs_f64).sum();
                shares = Some(self.busy.map(|busy| busy.as_secs_f64() / all * 100.0));
            }
        }
        shares.expect("somebody sent everything")
    }
}

fn tenant(number: usize) -> InstanceName {
    InstanceName::parse(&format!("tenant-{number}")).unwrap()
}

fn run(plan: Plan) -> Fleet {
    let (slots, ahead) = (plan.workers * plan.slots, plan.ahead);
    let mut fleet = Fleet::new(plan);
    let real = Instant::now();
    let shares = fleet.run();
    let real = real.elapsed();

    println!(
        "{} actions on {slots} slots in {} s, {ahead} ahead for each worker: {:.2} % of the slots' time was useful",
        fleet.ended,
        fleet.now.as_secs(),
        fleet.used()
    );
    println!(
        "{} workers fell silent, {} actions were started again, {} were given up, {} were taken back",
        fleet.lost, fleet.retries, fleet.given_up, fleet.taken_back
    );
    for (of, waits) in fleet.waits.iter_mut().enumerate() {
        waits.sort_unstable();
        let at = |part: usize| f64::from(waits[waits.len() * part / 100]) / 1000.0;
        println!(
            "tenant of weight {}: {:.1} % of the time; took {:.1} s (half), {:.1} s (99 %) from sending to result",
            WEIGHTS[of],
            shares[of],
            at(50),
            at(99),
        );
    }
    println!("the scheduler took {:.1} µs for each action", real.as_secs_f64() * 1e6 / fleet.ended as f64);

    assert_eq!(fleet.given_up, 0);
    assert!(fleet.open.is_empty() && fleet.scheduler.live_operations() == 0, "nobody waits any more");
    assert!(fleet.lost > 5 && fleet.retries > 0);
    for (share, weight) in shares.iter().zip(WEIGHTS) {
        let fair = f64::from(weight) * 10.0;
        assert!((share - fair).abs() <= 5.0, "weight {weight} got {share:.1} %");
    }
    fleet
}

#[test]
fn a_thousand_workers_run_a_million_actions() {
    let plan = Plan {
        workers: 1_000,
        slots: 4,
        ahead: 4,
        actions: 999_999,
        in_flight: 20_000,
        loss_every_ms: 2_000,
    };
    let fleet = run(plan);
    assert!(fleet.taken_back > 0, "in the end slots are free that others have something for");
}

#[test]
fn a_worker_that_has_its_next_action_does_not_wait_for_orders() {
    let plan = |ahead| Plan {
        workers: 100,
        slots: 4,
        ahead,
        actions: 99_999,
        in_flight: 2_000,
        loss_every_ms: 10_000,
    };
    let (without, with) = (run(plan(0)), run(plan(4)));
    assert_eq!(without.taken_back, 0);
    assert!(with.used() > without.used(), "{} and {}", with.used(), without.used());
}
