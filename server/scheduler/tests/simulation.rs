//! A fleet in virtual time: a thousand workers, a million actions of three tenants, and workers that fall silent. It
//! prints what an operator would want to know before buying the machines.
//!
//!     cargo test --release --workspace --test simulation -- --nocapture

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant, SystemTime};

use wardian_proto::{DigestFunction, InstanceName, reapi};
use wardian_scheduler::state::{Given, Scheduler, Stage};
use wardian_scheduler::{
    Invocation, Job, Offer, OperationName, Platform, RunId, SchedulerLimits, TenantPolicy, Tenants, WorkerId,
};

/// What is simulated. `small` is for those who run it without optimisation.
struct Plan {
    workers: usize,
    slots: usize,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ends(WorkerId, RunId),
    Silent,
    Joins(usize),
    Second,
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
    idle: BTreeSet<WorkerId>,
    sent: [usize; 3],
    open: BTreeMap<OperationName, (usize, Duration)>,
    waits: [Vec<u32>; 3],
    busy: [Duration; 3],
    started: BTreeMap<RunId, Duration>,
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
            idle: BTreeSet::new(),
            sent: [0; 3],
            open: BTreeMap::new(),
            waits: [const { Vec::new() }; 3],
            busy: [Duration::ZERO; 3],
            started: BTreeMap::new(),
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
            ..Offer::default()
        };
        let worker = self.scheduler.add_worker(offer);
        self.scheduler.renew_lease(worker, self.clock() + LEASE);
        self.alive.insert(worker, number);
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

    /// Gives every idle worker what it can take.
    fn assign(&mut self) {
        for worker in std::mem::take(&mut self.idle) {
            loop {
                let Some(given) = self.scheduler.assign(self.clock(), worker) else {
                    // Something free and nothing to do: it is asked again when something comes in.
                    if self.scheduler.queued() == 0 || self.scheduler.runs_of(worker).len() < self.plan.slots
                    {
                        self.idle.insert(worker);
                    }
                    break;
                };
                self.started(worker, &given);
            }
        }
    }

    fn started(&mut self, worker: WorkerId, given: &Given) {
        self.retries += usize::from(given.attempt > 1);
        self.started.insert(given.run, self.now);
        // From half a second to three and a half; the last tenant's actions take twice as long.
        let mut millis = 500 + self.random(3_000);
        if given.job.instance == tenant(2) {
            millis *= 2;
        }
        self.at(Duration::from_millis(millis), Event::Ends(worker, given.run));
    }

    fn ends(&mut self, worker: WorkerId, run: RunId) {
        // Silent workers report nothing.
        if !self.alive.contains_key(&worker) {
            return;
        }
        if let Some(job) = self.scheduler.job_of(worker, run) {
            let of = usize::from(job.instance == tenant(1)) + 2 * usize::from(job.instance == tenant(2));
            let took = self.now - self.started.remove(&run).unwrap();
            self.busy[of] += took;
            let ok =
                reapi::ExecuteResponse { result: Some(reapi::ActionResult::default()), ..Default::default() };
            self.scheduler.complete(self.clock(), worker, run, ok);
            self.settle(took);
        }
        self.idle.insert(worker);
    }

    /// Takes note of what has ended.
    fn settle(&mut self, took: Duration) {
        for operation in self.scheduler.take_changed() {
            let Some(view) = self.scheduler.view(&operation) else { continue };
            let Stage::Completed(response) = view.stage else { continue };
            // What changed several times is listed several times.
            let Some((of, sent)) = self.open.remove(&operation) else { continue };
            let wait = (self.now - sent).saturating_sub(took);
            self.waits[of].push(u32::try_from(wait.as_millis()).unwrap());
            self.ended += 1;
            self.given_up += usize::from(response.result.is_none());
        }
        self.scheduler.expire(self.clock());
    }

    fn silent(&mut self) {
        let nth = self.random(self.alive.len() as u64) as usize;
        let (worker, number) = self.alive.iter().nth(nth).map(|(w, n)| (*w, *n)).unwrap();
        self.alive.remove(&worker);
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
        self.settle(Duration::ZERO);
        self.at(Duration::from_secs(1), Event::Second);
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
                Event::Ends(worker, run) => self.ends(worker, run),
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

#[test]
fn a_thousand_workers_run_a_million_actions() {
    let plan = Plan { workers: 1_000, slots: 4, actions: 999_999, in_flight: 20_000, loss_every_ms: 2_000 };
    let slots = plan.workers * plan.slots;
    let mut fleet = Fleet::new(plan);
    let real = Instant::now();
    let shares = fleet.run();
    let real = real.elapsed();

    let busy: Duration = fleet.busy.iter().sum();
    let used = busy.as_secs_f64() / (fleet.now.as_secs_f64() * slots as f64) * 100.0;
    println!(
        "{} actions on {slots} slots in {} s: {used:.1} % of the slots' time was useful",
        fleet.ended,
        fleet.now.as_secs()
    );
    println!(
        "{} workers fell silent, {} actions were started again, {} were given up",
        fleet.lost, fleet.retries, fleet.given_up
    );
    for (of, waits) in fleet.waits.iter_mut().enumerate() {
        waits.sort_unstable();
        let at = |part: usize| f64::from(waits[waits.len() * part / 100]) / 1000.0;
        println!(
            "tenant of weight {}: {:.1} % of the time; waited {:.1} s (half), {:.1} s (99 %)",
            WEIGHTS[of],
            shares[of],
            at(50),
            at(99),
        );
    }
    println!("the scheduler took {:.1} µs for each action", real.as_secs_f64() * 1e6 / fleet.ended as f64);

    assert_eq!(fleet.given_up, 0);
    assert!(fleet.open.is_empty() && fleet.scheduler.live_operations() == 0, "nobody waits any more");
    assert!(fleet.lost > 50 && fleet.retries > 0);
    for (share, weight) in shares.iter().zip(WEIGHTS) {
        let fair = f64::from(weight) * 10.0;
        assert!((share - fair).abs() <= 5.0, "weight {weight} got {share:.1} %");
    }
}
