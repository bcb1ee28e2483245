//! Stores over stores: each changes one thing and forwards the rest.

mod existence;
mod flights;
mod handed;
mod metered;
mod meters;
mod read_only;
mod tiered;

pub use existence::Existence;
pub use handed::{AtHand, Handed};
pub use metered::Metered;
pub use meters::{LATENCY_BOUNDS_SECONDS, Meters, Operation, Reading};
pub use read_only::ReadOnly;
pub use tiered::Tiered;

#[cfg(test)]
mod leased;
#[cfg(test)]
use leased::Leased;
