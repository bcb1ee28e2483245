//! What waits, and which of it goes next.
//!
//! In this order: the *tenant* (the instance) that has had the least for its weight; of its *invocations* (one run of a
//! build tool) the one that has had the least; of that invocation's runs the most urgent, of equally urgent ones the
//! oldest. Every [`OLDEST_EVERY`]th time an invocation's turn goes to its oldest run instead, so that urgent ones cannot
//! starve others. Runs that the same workers can serve are a *class*; finding the next run for a worker takes time for each
//! class and each level, and not for each run.

mod shares;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use wardian_proto::InstanceName;

use self::shares::{Charge, Shares};
use crate::job::{Invocation, RunId};

/// Of so many turns of an invocation one goes to the oldest run, however urgent others are.
const OLDEST_EVERY: u32 = 8;

/// Names a class of runs that the same workers can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ClassId(pub(crate) u64);

/// Where a run stands in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) tenant: InstanceName,
    pub(crate) invocation: Invocation,
    pub(crate) class: ClassId,
    pub(crate) priority: i32,
    /// What it is expected to take of its worker's memory, in bytes.
    pub(crate) memory: u64,
}

/// What a tenant has at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenantLoad {
    /// Runs that wait for a worker.
    pub queued: usize,
    /// Runs that a worker has.
    pub running: usize,
    /// What those are expected to take of their workers' memory, in bytes.
    pub memory_bytes: u64,
}

/// What a run was charged when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Charges {
    tenant: Charge,
    invocation: Charge,
}

/// The runs that wait.
#[derive(Debug, Default)]
pub(crate) struct FairQueue {
    tenants: Shares<InstanceName>,
    inside: HashMap<InstanceName, Inside>,
    /// What waits in each class, the oldest first.
    classes: BTreeMap<ClassId, BTreeSet<RunId>>,
    len: usize,
}

/// What one tenant has.
#[derive(Debug, Default)]
struct Inside {
    shares: Shares<Invocation>,
    lines: HashMap<Invocation, Line>,
    load: TenantLoad,
}

/// What one invocation has.
#[derive(Debug, Default)]
struct Line {
    lanes: BTreeMap<ClassId, Lane>,
    turns: u32,
    running: usize,
}

/// What one invocation has in one class. Numbers of runs count up, so the smallest is the oldest.
#[derive(Debug, Default)]
struct Lane {
    urgent: BTreeSet<(i32, RunId)>,
    oldest: BTreeMap<RunId, i32>,
}

impl FairQueue {
    /// Lets a run wait. `weight` is that of its tenant from now on.
    pub(crate) fn push(&mut self, run: RunId, place: &Place, weight: u32) {
        self.tenants.enter(&place.tenant, weight, place.class);
        let inside = self.inside.entry(place.tenant.clone()).or_default();
        inside.shares.enter(&place.invocation, 1, place.class);
        inside.load.queued += 1;
        let line = inside.lines.entry(place.invocation.clone()).or_default();
        let lane = line.lanes.entry(place.class).or_default();
        lane.urgent.insert((place.priority, run));
        lane.oldest.insert(run, place.priority);
        self.classes.entry(place.class).or_default().insert(run);
        self.len += 1;
    }

    /// Takes a run out that shall not start.
    pub(crate) fn remove(&mut self, run: RunId, place: &Place) {
        self.take(run, place);
        self.settle(place);
    }

    /// The run that goes next among those of `classes`, of tenants that may start something in that class.
    pub(crate) fn next(
        &self,
        classes: &[ClassId],
        may_start: impl Fn(&InstanceName, ClassId) -> bool,
    ) -> Option<(RunId, ClassId)> {
        let due = |class: &ClassId| {
            self.tenants.due(*class).find(|(_, tenant)| may_start(tenant, *class)).map(|due| (due, *class))
        };
        let ((_, tenant), _) = classes.iter().filter_map(due).min()?;
        let inside = &self.inside[tenant];
        let allowed = || classes.iter().copied().filter(|class| may_start(tenant, *class));
        let (_, invocation) = allowed().filter_map(|class| inside.shares.due(class).next()).min()?;
        let line = &inside.lines[invocation];
        let lanes = || allowed().filter_map(|class| Some((line.lanes.get(&class)?, class)));
        if line.turns % OLDEST_EVERY == OLDEST_EVERY - 1 {
            lanes().filter_map(|(lane, class)| Some((*lane.oldest.keys().next()?, class))).min()
        } else {
            let first = lanes().filter_map(|(lane, class)| Some((*lane.urgent.first()?, class))).min();
            first.map(|((_, run), class)| (run, class))
        }
    }

    /// Takes a run out because it starts.
    pub(crate) fn start(&mut self, run: RunId, place: &Place) -> Charges {
        let tenant = self.tenants.start(&place.tenant);
        let inside = self.inside.get_mut(&place.tenant).expect("what starts has waited");
        let invocation = inside.shares.start(&place.invocation);
        inside.load.running += 1;
        inside.load.memory_bytes += place.memory;
        let line = inside.lines.get_mut(&place.invocation).expect("what starts has waited");
        line.turns = line.turns.wrapping_add(1);
        line.running += 1;
        self.take(run, place);
        Charges { tenant, invocation }
    }

    /// Notes that a run that was started runs no more, and how long it had a slot; `None` when it never had one.
    pub(crate) fn finish(&mut self, place: &Place, charges: Charges, used: Option<Duration>) {
        self.tenants.finish(&place.tenant, charges.tenant, used);
        let inside = self.inside.get_mut(&place.tenant).expect("what runs is not forgotten");
        inside.shares.finish(&place.invocation, charges.invocation, used);
        inside.load.running -= 1;
        inside.load.memory_bytes -= place.memory;
        inside.lines.get_mut(&place.invocation).expect("what runs is not forgotten").running -= 1;
        self.settle(place);
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many wait in a class.
    pub(crate) fn len_of(&self, class: ClassId) -> usize {
        self.classes.get(&class).map_or(0, BTreeSet::len)
    }

    /// Each class in which something waits, with how much and the oldest of it.
    pub(crate) fn depths(&self) -> impl Iterator<Item = (ClassId, usize, RunId)> {
        self.classes.iter().filter_map(|(class, runs)| Some((*class, runs.len(), *runs.first()?)))
    }

    /// What a tenant has.
    pub(crate) fn load(&self, tenant: &InstanceName) -> TenantLoad {
        self.inside.get(tenant).map_or_else(TenantLoad::default, |inside| inside.load)
    }

    /// Every tenant that has something, with what it has.
    pub(crate) fn loads(&self) -> impl Iterator<Item = (&InstanceName, TenantLoad)> {
        self.inside.iter().map(|(tenant, inside)| (tenant, inside.load))
    }

    /// Takes a waiting run out of the books.
    fn take(&mut self, run: RunId, place: &Place) {
        self.tenants.leave(&place.tenant, place.class);
        let inside = self.inside.get_mut(&place.tenant).expect("what leaves has waited");
        inside.shares.leave(&place.invocation, place.class);
        inside.load.queued -= 1;
        let line = inside.lines.get_mut(&place.invocation).expect("what leaves has waited");
        let lane = line.lanes.get_mut(&place.class).expect("what leaves has waited");
        let priority = lane.oldest.remove(&run).expect("what leaves has waited");
        lane.urgent.remove(&(priority, run));
        if lane.oldest.is_empty() {
            line.lanes.remove(&place.class);
        }
        let waiting = self.classes.get_mut(&place.class).expect("what leaves has waited");
        waiting.remove(&run);
        if waiting.is_empty() {
            self.classes.remove(&place.class);
        }
        self.len -= 1;
    }

    /// Forgets what has neither waiting nor running work.
    fn settle(&mut self, place: &Place) {
        let inside = self.inside.get_mut(&place.tenant).expect("callers name a tenant");
        if inside.lines.get(&place.invocation).is_some_and(|line| line.running == 0 && line.lanes.is_empty())
        {
            inside.lines.remove(&place.invocation);
        }
        if inside.load.queued == 0 && inside.load.running == 0 {
            self.inside.remove(&place.tenant);
        }
    }

    /// What must hold after every mutation.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        self.tenants.check();
        let mut len = 0;
        for inside in self.inside.values() {
            inside.shares.check();
            let waiting: usize = inside
                .lines
                .values()
                .flat_map(|line| line.lanes.values())
                .map(|lane| lane.oldest.len())
                .sum();
            assert_eq!(waiting, inside.load.queued);
            len += waiting;
        }
        assert_eq!(len, self.len);
        assert_eq!(len, self.classes.values().map(BTreeSet::len).sum::<usize>());
    }
}
