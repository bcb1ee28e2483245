//! What a queue has done and how it stands, in numbers for those who watch it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use wardian_proto::{InstanceName, reapi};

/// Why a worker does not have a run any more that it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing was heard of the worker for longer than its lease.
    Silent,
    /// It went away.
    Left,
    /// Its process is another one now.
    StartedAnew,
    /// It never got the run.
    NotReceived,
    /// It had the run, and says that it has it no more.
    Dropped,
    /// It gave the run back before it began.
    Returned,
    /// It could not do it, as another one may: the reason.
    Unable(String),
}

impl Loss {
    /// Its kinds, as metrics name them.
    pub const KINDS: [&'static str; 7] =
        ["silent", "left", "started_anew", "not_received", "dropped", "unable", "returned"];

    /// Whether the run may have begun, so that it counts as a start.
    pub(crate) fn may_have_begun(&self) -> bool {
        !matches!(self, Self::NotReceived | Self::Returned)
    }

    /// Its place among the kinds.
    fn kind(&self) -> usize {
        match self {
            Self::Silent => 0,
            Self::Left => 1,
            Self::StartedAnew => 2,
            Self::NotReceived => 3,
            Self::Dropped => 4,
            Self::Unable(_) => 5,
            Self::Returned => 6,
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "was not heard of any more",
            Self::Left => "left",
            Self::StartedAnew => "was started anew",
            Self::NotReceived => "did not get it",
            Self::Dropped => "does not have it any more",
            Self::Returned => "gave it back before it began",
            Self::Unable(why) => why,
        })
    }
}

/// Upper bounds of the buckets of a [`Histogram`] in seconds; a last bucket has none.
pub const BOUNDS_SECONDS: [f64; 12] =
    [0.0005, 0.002, 0.005, 0.02, 0.05, 0.2, 0.5, 2.0, 10.0, 60.0, 300.0, 1800.0];

/// How long something took, counted in buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Histogram {
    /// How many took at most so long; the last bucket has no bound.
    pub buckets: [u64; BOUNDS_SECONDS.len() + 1],
    /// How long all took together.
    pub sum: Duration,
}

impl Histogram {
    /// Counts one.
    pub(crate) fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.buckets[BOUNDS_SECONDS.partition_point(|bound| *bound < seconds)] += 1;
        self.sum = self.sum.saturating_add(took);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// The stages of an action whose time is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Timed {
    Queued,
    InputFetch,
    Execution,
    OutputUpload,
}

impl Timed {
    /// Every stage.
    pub const ALL: [Self; 4] = [Self::Queued, Self::InputFetch, Self::Execution, Self::OutputUpload];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::InputFetch => "input_fetch",
            Self::Execution => "execution",
            Self::OutputUpload => "output_upload",
        }
    }
}

/// Counts since the queue was made.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    stages: [Histogram; Timed::ALL.len()],
    retries: [u64; Loss::KINDS.len()],
    gone: [u64; Loss::KINDS.len()],
    /// Runs that were started too often.
    pub given_up: u64,
    /// How often a run was given to a worker before that had a free slot.
    pub ahead_given: u64,
    /// How often such a run came back before it began.
    pub ahead_returned: u64,
    /// For how long each tenant's runs had a slot, those that have ended.
    pub(crate) worker_time: BTreeMap<InstanceName, Duration>,
}

impl Totals {
    /// How long runs took in a stage.
    pub fn stage(&self, stage: Timed) -> &Histogram {
        &self.stages[stage as usize]
    }

    /// Runs that were taken from a worker without a result, by the kind of loss.
    pub fn retries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Loss::KINDS.into_iter().zip(self.retries)
    }

    /// Workers that went away, by the kind of loss.
    pub fn gone(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Loss::KINDS.into_iter().zip(self.gone)
    }

    pub(crate) fn count_stage(&mut self, stage: Timed, took: Duration) {
        self.stages[stage as usize].add(took);
    }

    pub(crate) fn count_retry(&mut self, loss: &Loss) {
        self.retries[loss.kind()] += 1;
    }

    pub(crate) fn count_gone(&mut self, loss: &Loss) {
        self.gone[loss.kind()] += 1;
    }

    pub(crate) fn add_worker_time(&mut self, tenant: &InstanceName, used: Duration) {
        match self.worker_time.get_mut(tenant) {
            Some(time) => *time = time.saturating_add(used),
            None => drop(self.worker_time.insert(tenant.clone(), used)),
        }
    }

    /// Counts the stages that a worker reports with a result. Both ends of each are by the worker's one clock; what that
    /// clock cannot have meant is left out.
    pub(crate) fn count_result(&mut self, metadata: &reapi::ExecutedActionMetadata) {
        let m = metadata;
        for (stage, start, end) in [
            (Timed::InputFetch, &m.input_fetch_start_timestamp, &m.input_fetch_completed_timestamp),
            (Timed::Execution, &m.execution_start_timestamp, &m.execution_completed_timestamp),
            (Timed::OutputUpload, &m.output_upload_start_timestamp, &m.output_upload_completed_timestamp),
        ] {
            let time = |at: &Option<prost_types::Timestamp>| SystemTime::try_from((*at)?).ok();
            let took = time(start).zip(time(end)).and_then(|(start, end)| end.duration_since(start).ok());
            if let Some(took) = took {
                self.count_stage(stage, took);
            }
        }
    }
}

/// What waits for workers of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformFigures {
    /// The properties that are asked for, or [`OTHER_PLATFORMS`].
    pub platform: String,
    /// Runs that wait.
    pub queued: usize,
    /// When the oldest of them was queued.
    pub oldest: SystemTime,
}

/// Stands for all platforms that are not told apart.
pub const OTHER_PLATFORMS: &str = "other";

/// Platforms that are told apart, those with the longest queues.
pub const PLATFORMS_SHOWN_MAX: usize = 32;

/// Longest text of a platform in bytes; of a longer one the beginning.
const PLATFORM_BYTES_MAX: usize = 200;

/// What a tenant has and had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenantFigures {
    /// Runs that wait.
    pub queued: usize,
    /// Runs that a worker has.
    pub running: usize,
    /// For how long its runs had slots, all in all.
    pub worker_time: Duration,
}

/// How a queue stands.
#[derive(Clone, Debug)]
pub struct Figures {
    /// What waits, by platform.
    pub platforms: Vec<PlatformFigures>,
    /// Every tenant that has or had something.
    pub tenants: BTreeMap<InstanceName, TenantFigures>,
    /// Counts since the queue was made.
    pub totals: Totals,
}

/// The name of a platform among the figures.
pub(crate) fn platform_text<'a>(properties: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let pairs: Vec<String> = properties.map(|(name, value)| format!("{name}={value}")).collect();
    let mut text = if pairs.is_empty() { "any".to_owned() } else { pairs.join(",") };
    text.truncate(text.floor_char_boundary(PLATFORM_BYTES_MAX));
    text
}

/// Keeps the longest queues apart and adds up the others.
pub(crate) fn longest(mut platforms: Vec<PlatformFigures>) -> Vec<PlatformFigures> {
    platforms.sort_by(|a, b| b.queued.cmp(&a.queued).then_with(|| a.platform.cmp(&b.platform)));
    if platforms.len() > PLATFORMS_SHOWN_MAX {
        let rest = platforms.split_off(PLATFORMS_SHOWN_MAX);
        let other = PlatformFigures {
            platform: OTHER_PLATFORMS.to_owned(),
            queued: rest.iter().map(|figures| figures.queued).sum(),
            oldest: rest.iter().map(|figures| figures.oldest).min().expect("more than none are left"),
        };
        platforms.push(other);
    }
    platforms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_long_is_in_a_later_bucket() {
        let mut histogram = Histogram::default();
        for millis in [0, 5, 6, 3_600_000] {
            histogram.add(Duration::from_millis(millis));
        }
        assert_eq!(histogram.buckets, [1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!((histogram.count(), histogram.sum), (4, Duration::from_millis(3_600_011)));
    }

    #[test]
    fn a_clock_that_went_back_is_not_believed() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let mut totals = Totals::default();
        totals.count_result(&reapi::ExecutedActionMetadata {
            input_fetch_start_timestamp: at(5),
            input_fetch_completed_timestamp: at(4),
            execution_start_timestamp: at(5),
            execution_completed_timestamp: at(7),
            output_upload_start_timestamp: at(7),
            ..Default::default()
        });
        let counts = Timed::ALL.map(|stage| (totals.stage(stage).count(), totals.stage(stage).sum.as_secs()));
        assert_eq!(counts, [(0, 0), (0, 0), (1, 2), (0, 0)]);
    }

    #[test]
    fn platforms_without_number_are_added_up() {
        let figures = |number: usize| PlatformFigures {
            platform: format!("pool={number}"),
            queued: number + 1,
            oldest: SystemTime::UNIX_EPOCH + Duration::from_secs(number as u64),
        };
        let few = longest((0..PLATFORMS_SHOWN_MAX).map(figures).collect());
        assert!(few.len() == PLATFORMS_SHOWN_MAX && few[0].platform == "pool=31", "{few:?}");
        let many = longest((0..PLATFORMS_SHOWN_MAX + 2).map(figures).collect());
        assert_eq!(many.len(), PLATFORMS_SHOWN_MAX + 1);
        let other = PlatformFigures { platform: OTHER_PLATFORMS.into(), queued: 3, ..figures(0) };
        assert_eq!(many.last(), Some(&other));
        let text = platform_text([("pool", "é".repeat(150).as_str())].into_iter());
        assert!(text.len() <= PLATFORM_BYTES_MAX && text.ends_with('é'));
        assert_eq!(platform_text([].into_iter()), "any");
    }
}
