//! RepMaxCDC: a cut where the rolling hash is greatest within a horizon, and the same again before that cut until
//! the chunk is smaller than twice the minimum.

use std::collections::VecDeque;
use std::ops::Range;

use fastcdc::v2020::get_gear_with_seed;

/// Bytes that a hash depends on: each step shifts it by one of its 64 bits.
const HASH_WINDOW_BYTES: u32 = 64;

/// Largest window that a cut may depend on. The recommended parameters need 2.5 MiB.
const WINDOW_BYTES_MAX: u32 = 64 << 20;

/// The parameters of RepMaxCDC: chunks measure at least the minimum and less than twice as much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RepMaxCdc {
    min_bytes: u32,
    horizon_bytes: u32,
}

impl RepMaxCdc {
    /// What the API recommends.
    pub const RECOMMENDED: Self = Self { min_bytes: 256 << 10, horizon_bytes: 8 * (256 << 10) };

    /// Parameters within what the API allows, with a window of at most 64 MiB.
    pub fn new(min_bytes: u32, horizon_bytes: u32) -> Option<Self> {
        let window = min_bytes.checked_mul(2)?.checked_add(horizon_bytes)?;
        let allowed = min_bytes >= HASH_WINDOW_BYTES && window <= WINDOW_BYTES_MAX;
        allowed.then_some(Self { min_bytes, horizon_bytes })
    }

    /// The smallest chunk; only a blob that is smaller itself has a smaller one.
    pub fn min_bytes(self) -> u32 {
        self.min_bytes
    }

    /// How far a better place to cut is looked for.
    pub fn horizon_bytes(self) -> u32 {
        self.horizon_bytes
    }

    /// What a cut depends on.
    pub(super) fn window_bytes(self) -> usize {
        (2 * self.min_bytes + self.horizon_bytes) as usize
    }
}

/// A place where the hash is greater than everywhere before it, counted from the first place where the present
/// chunk may end.
#[derive(Clone, Copy)]
struct Step {
    at: usize,
    hash: u64,
}

pub(super) struct Cutter {
    min: usize,
    gear: Box<[u64; 256]>,
    /// The places of the present window that may be cut at, the greatest last. A hash depends on the bytes before
    /// it alone, so those that lie beyond a cut are still right after it.
    stairs: VecDeque<Step>,
    /// Places whose hash was looked at.
    looked_at: usize,
}

impl Cutter {
    pub(super) fn new(parameters: RepMaxCdc) -> Self {
        let (gear, _) = get_gear_with_seed(0);
        Self { min: parameters.min_bytes as usize, gear, stairs: VecDeque::new(), looked_at: 0 }
    }

    /// The length of the first chunk of a window, which is shorter than the horizon asks for only at the end.
    pub(super) fn cut(&mut self, window: &[u8]) -> usize {
        let Some(last) = window.len().checked_sub(2 * self.min) else { return window.len() };
        self.look(window, last + 1);
        let length = self.min + self.best();
        self.pass(length);
        length
    }

    /// Brings the stairs up to date with the places before `end`.
    fn look(&mut self, window: &[u8], end: usize) {
        // Before the first step that is left there may be places that were hidden by those that are gone.
        let hidden = self.stairs.front().map_or(self.looked_at, |step| step.at);
        for step in self.climb(window, 0..hidden, None).into_iter().rev() {
            self.stairs.push_front(step);
        }
        let best = self.stairs.back().map(|step| step.hash);
        let more = self.climb(window, self.looked_at..end, best);
        self.stairs.extend(more);
        self.looked_at = end;
    }

    /// The places of a range whose hash is greater than `best` and all before them.
    fn climb(&self, window: &[u8], range: Range<usize>, mut best: Option<u64>) -> Vec<Step> {
        let mut steps = Vec::new();
        let first = self.min + range.start;
        let next = |hash: u64, byte: &u8| (hash << 1).wrapping_add(self.gear[usize::from(*byte)]);
        let mut hash = window[first - HASH_WINDOW_BYTES as usize..first].iter().fold(0, next);
        for at in range {
            if best.is_none_or(|best| best < hash) {
                best = Some(hash);
                steps.push(Step { at, hash });
            }
            hash = next(hash, &window[self.min + at]);
        }
        steps
    }

    /// The greatest place; while it is too far away, the greatest that leaves room for a chunk before it.
    fn best(&self) -> usize {
        let mut best = self.stairs.back().expect("the first place is always a step").at;
        while best >= self.min {
            let end = best - self.min;
            let before = self.stairs.partition_point(|step| step.at <= end);
            best = self.stairs[before - 1].at;
        }
        best
    }

    /// Makes everything relative to the chunk after one of this length.
    fn pass(&mut self, length: usize) {
        while self.stairs.front().is_some_and(|step| step.at < length) {
            self.stairs.pop_front();
        }
        for step in &mut self.stairs {
            step.at -= length;
        }
        self.looked_at = self.looked_at.saturating_sub(length);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The definition, word by word: every place is hashed anew for every cut.
    pub(crate) fn by_definition(min: u32, horizon: u32, data: &[u8]) -> Vec<usize> {
        let (min, horizon) = (min as usize, horizon as usize);
        let (gear, _) = get_gear_with_seed(0);
        let hash_at = |place: usize| {
            data[place - 64..place].iter().fold(0_u64, |h, b| (h << 1).wrapping_add(gear[usize::from(*b)]))
        };
        let mut lengths = Vec::new();
        let mut start = 0;
        while start < data.len() {
            let visible = (data.len() - start).min(2 * min + horizon);
            if visible < 2 * min {
                lengths.push(visible);
                break;
            }
            let mut last = visible - 2 * min;
            let length = loop {
                // The first of the greatest: `max_by_key` would give the last.
                let best = (0..=last).rev().max_by_key(|at| hash_at(start + min + at)).unwrap();
                if best < min {
                    break min + best;
                }
                last = best - min;
            };
            lengths.push(length);
            start += length;
        }
        lengths
    }
}
