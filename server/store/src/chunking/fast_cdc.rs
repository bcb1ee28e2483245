//! FastCDC of 2020: a cut where a rolling hash has zeros at places that a mask names.
//!
//! The cuts themselves are made by the crate that the API names as its reference.

use std::ops::RangeInclusive;

use fastcdc::v2020::{MASKS, cut_gear, get_gear_with_seed};

/// Averages that the API allows.
const AVERAGE_BYTES: RangeInclusive<u32> = 1024..=1 << 20;

/// Bits by which the masks on both sides of the average differ from the average's own.
const NORMALIZATION: usize = 2;

/// The parameters of FastCDC: chunks measure from a quarter of the average to four times the average.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FastCdc {
    average_bytes: u32,
    seed: u32,
}

impl FastCdc {
    /// What the API recommends.
    pub const RECOMMENDED: Self = Self { average_bytes: 512 << 10, seed: 0 };

    /// Parameters within what the API allows; the average is a power of two.
    pub fn new(average_bytes: u32, seed: u32) -> Option<Self> {
        let allowed = AVERAGE_BYTES.contains(&average_bytes) && average_bytes.is_power_of_two();
        allowed.then_some(Self { average_bytes, seed })
    }

    /// The expected size of a chunk.
    pub fn average_bytes(self) -> u32 {
        self.average_bytes
    }

    /// What the gear table is varied with.
    pub fn seed(self) -> u32 {
        self.seed
    }

    /// The smallest chunk, but for the last one of a blob.
    pub fn min_bytes(self) -> u32 {
        self.average_bytes / 4
    }

    /// The largest chunk.
    pub fn max_bytes(self) -> u32 {
        self.average_bytes * 4
    }
}

pub(super) struct Cutter {
    parameters: FastCdc,
    gear: Box<[u64; 256]>,
    gear_shifted: Box<[u64; 256]>,
}

impl Cutter {
    pub(super) fn new(parameters: FastCdc) -> Self {
        let (gear, gear_shifted) = get_gear_with_seed(u64::from(parameters.seed));
        Self { parameters, gear, gear_shifted }
    }

    /// The length of the first chunk of a window that is not empty.
    pub(super) fn cut(&self, window: &[u8]) -> usize {
        let FastCdc { average_bytes, .. } = self.parameters;
        let bits = average_bytes.ilog2() as usize;
        let (strict, loose) = (MASKS[bits + NORMALIZATION], MASKS[bits - NORMALIZATION]);
        let (_hash, length) = cut_gear(
            window,
            self.parameters.min_bytes() as usize,
            average_bytes as usize,
            self.parameters.max_bytes() as usize,
            strict,
            loose,
            strict << 1,
            loose << 1,
            &self.gear,
            &self.gear_shifted,
        );
        length
    }
}
