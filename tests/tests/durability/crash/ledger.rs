//! What the server was given and what it said about that: from this follows what it must still know.

use std::collections::{BTreeMap, HashSet};

use rand::RngExt as _;
use wardian_proto::{Digest, reapi};
use wardian_tests::{Random, random};

/// Actions that get new results again and again.
const ACTIONS: usize = 20;

/// Everything about one folder.
pub(super) struct Ledger {
    /// Whether the store is so large that nothing is evicted.
    pub(super) keeps_all: bool,
    /// Blobs that were sent, wholly or in part.
    sent: Vec<Digest>,
    is_sent: HashSet<Digest>,
    /// Blobs whose upload was acknowledged.
    acknowledged: Vec<Digest>,
    is_acknowledged: HashSet<Digest>,
    /// By action, the newest result that was acknowledged and the newest that was sent.
    results: BTreeMap<Digest, Versions>,
    actions: Vec<Digest>,
}

/// What was acknowledged at a moment.
pub(super) struct Mark {
    acknowledged: usize,
    results: BTreeMap<Digest, Versions>,
}

/// Results of one action are numbered; 0 is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Versions {
    pub(super) acknowledged: u32,
    pub(super) sent: u32,
}

impl Ledger {
    pub(super) fn new(keeps_all: bool, seed: u64) -> Self {
        let mut random = random(seed);
        let actions = (0..ACTIONS).map(|_| wardian_tests::Blob::random(&mut random, 100..=100).digest);
        Self {
            keeps_all,
            sent: Vec::new(),
            is_sent: HashSet::new(),
            acknowledged: Vec::new(),
            is_acknowledged: HashSet::new(),
            results: BTreeMap::new(),
            actions: actions.collect(),
        }
    }

    pub(super) fn sending(&mut self, blob: Digest) {
        if self.is_sent.insert(blob) {
            self.sent.push(blob);
        }
    }

    pub(super) fn stored(&mut self, blob: Digest) {
        if self.is_acknowledged.insert(blob) {
            self.acknowledged.push(blob);
        }
    }

    /// What was acknowledged so far.
    pub(super) fn mark(&self) -> Mark {
        Mark { acknowledged: self.acknowledged.len(), results: self.results.clone() }
    }

    /// Takes back what was acknowledged since: it may be lost, and so may what it was to replace, because the
    /// index can know of the new result only.
    pub(super) fn forget_since(&mut self, mark: Mark) {
        for blob in self.acknowledged.drain(mark.acknowledged..) {
            self.is_acknowledged.remove(&blob);
        }
        for (action, versions) in &mut self.results {
            let before = mark.results.get(action).filter(|before| before.sent == versions.sent);
            versions.acknowledged = before.map_or(0, |before| before.acknowledged);
        }
    }

    pub(super) fn sent(&self) -> &[Digest] {
        &self.sent
    }

    pub(super) fn was_acknowledged(&self, blob: &Digest) -> bool {
        self.is_acknowledged.contains(blob)
    }

    /// Some of the blobs whose upload was acknowledged; fewer than `count` when there are fewer.
    pub(super) fn some_stored(&self, random: &mut Random, count: usize) -> Vec<Digest> {
        if self.acknowledged.is_empty() {
            return Vec::new();
        }
        (0..count).map(|_| self.acknowledged[random.random_range(0..self.acknowledged.len())]).collect()
    }

    /// An action and its next result.
    pub(super) fn sending_result(&mut self, random: &mut Random) -> (Digest, u32, reapi::ActionResult) {
        let action = self.actions[random.random_range(0..self.actions.len())];
        let outputs = self.some_stored(random, 2);
        let versions = self.results.entry(action).or_default();
        versions.sent += 1;
        (action, versions.sent, result(versions.sent, &outputs))
    }

    pub(super) fn stored_result(&mut self, action: Digest, version: u32) {
        let versions = self.results.entry(action).or_default();
        versions.acknowledged = versions.acknowledged.max(version);
    }

    /// Every action that has results.
    pub(super) fn results(&self) -> impl Iterator<Item = (&Digest, Versions)> {
        self.results.iter().map(|(action, versions)| (action, *versions))
    }
}

fn result(version: u32, outputs: &[Digest]) -> reapi::ActionResult {
    let output_files = outputs.iter().zip(0..).map(|(output, number)| reapi::OutputFile {
        path: format!("out/{number}"),
        digest: Some(output.to_wire()),
        ..Default::default()
    });
    let metadata = reapi::ExecutedActionMetadata { worker: version.to_string(), ..Default::default() };
    reapi::ActionResult {
        output_files: output_files.collect(),
        execution_metadata: Some(metadata),
        ..Default::default()
    }
}

/// The number of a result.
pub(super) fn version_of(result: &reapi::ActionResult) -> u32 {
    let metadata = result.execution_metadata.as_ref().expect("results come back as they were sent");
    metadata.worker.parse().expect("results have a number")
}
