//! Taking up what an earlier process left behind.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use wardian_proto::reapi;

use super::classes::ClassKey;
use super::run::{Run, Standing};
use super::{Scheduler, key, workers};
use crate::fair::Place;
use crate::job::{Job, OperationName, RunId};

impl Scheduler {
    /// Lets the names of new runs begin behind `number`, so that none is that of an earlier process.
    pub fn number_from(&mut self, number: u64) {
        self.last_id = self.last_id.max(number);
    }

    /// Starts nothing for a while, in which workers can say what they run already.
    pub fn settle_until(&mut self, until: Instant) {
        self.settling_until = Some(until);
    }

    /// Whether nothing is started yet.
    pub fn settles(&self) -> bool {
        self.settling_until.is_some()
    }

    /// Takes in an operation that had not ended. It waits for its run, which is queued whether or not a worker has
    /// it: a worker that does will say so. Limits do not matter, as it was taken in under them.
    pub fn restore(&mut self, now: Instant, name: OperationName, id: RunId, queued_at: SystemTime, job: Job) {
        let tenant = job.instance.clone();
        match self.runs.get_mut(&id) {
            Some(_) => drop(self.join(id, &name, job.priority)),
            None => self.restore_run(now, &name, id, queued_at, job),
        }
        self.operations.live(name, id, tenant);
        self.check();
    }

    fn restore_run(
        &mut self,
        now: Instant,
        name: &OperationName,
        id: RunId,
        queued_at: SystemTime,
        job: Job,
    ) {
        let key_of_class =
            ClassKey { platform: job.platform.demands(), memory: job.memory_bytes, avoid: Vec::new() };
        let class = self.classes.join(key_of_class, workers::candidates(&self.workers));
        if self.classes.get(class).workers.is_empty() {
            let until = now + self.limits.unserved_max;
            self.classes.get_mut(class).given_up_at.get_or_insert(until);
        }
        if !job.do_not_cache {
            self.joinable.entry(key(&job)).or_insert(id);
        }
        let place = Place {
            tenant: job.instance.clone(),
            invocation: job.invocation.clone(),
            class,
            priority: job.priority,
            memory: job.memory_bytes,
        };
        self.queue.push(id, &place, self.tenants.policy(&job.instance).weight);
        self.stirred.class(place.class);
        let run = Run {
            job: Arc::new(job),
            operations: vec![name.clone()],
            place,
            queued_at,
            since: now,
            patient_until: None,
            standing: Standing::Waiting,
            attempts: Vec::new(),
            came_back: false,
            held: None,
        };
        self.runs.insert(id, run);
        self.number_from(id.0);
    }

    /// Takes in an operation that ended some time ago. To be called in the order in which they did.
    pub fn restore_ended(
        &mut self,
        now: Instant,
        ago: Duration,
        name: OperationName,
        job: Job,
        response: reapi::ExecuteResponse,
    ) {
        let at = now.checked_sub(ago).unwrap_or(now);
        self.operations.end(at, name, Arc::new(job), Arc::new(response));
        self.check();
    }
}
