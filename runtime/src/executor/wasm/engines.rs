//! The engines of a worker: one for each kind of machine code, and what shapes that code.
//!
//! Everything that both the worker and its compiling child must agree on is in [`config`].

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::str::FromStr;

use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Strategy};

use crate::Limits;

/// Stack of a guest's own calls. Compilers recurse deeply; 512 KiB, the engine's default, is little.
const GUEST_STACK_BYTES: usize = 8 << 20;

/// Stack of a guest and of the host functions that it calls.
const FIBER_STACK_BYTES: usize = GUEST_STACK_BYTES + (2 << 20);

/// Places in the pool for each guest that may run at once. More than one, because the memory of a guest
/// that has ended may still be on its way back.
const POOL_PLACES_PER_GUEST: u32 = 2;

/// What the engine keeps about one instance of a pooled module: a table of its functions, above all.
const POOLED_INSTANCE_BYTES_MAX: usize = 32 << 20;

/// Memory of a pooled guest that is wiped for the next one instead of being given back to the system.
const POOLED_MEMORY_KEPT_BYTES: usize = 256 << 10;

/// The kinds of machine code that a module can be compiled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tier {
    /// Compiled in seconds by Winch, runs somewhat slower.
    Baseline,
    /// Compiled by Cranelift.
    Optimized,
    /// Compiled by Cranelift, and counts what it executes.
    Metered,
}

impl Tier {
    /// All there are.
    pub(super) const ALL: [Self; 3] = [Self::Baseline, Self::Optimized, Self::Metered];
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Baseline => "baseline",
            Self::Optimized => "optimized",
            Self::Metered => "metered",
        })
    }
}

impl FromStr for Tier {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|tier| tier.to_string() == name);
        known.ok_or_else(|| format!("{name:?} is no tier"))
    }
}

/// The settings of a tier's engines. The compiling child uses the same.
pub(super) fn config(tier: Tier) -> Config {
    let mut config = Config::new();
    config
        .strategy(if tier == Tier::Baseline { Strategy::Winch } else { Strategy::Cranelift })
        .consume_fuel(tier == Tier::Metered)
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .max_wasm_stack(GUEST_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES)
        .wasm_component_model(true);
    config
}

/// Names an engine's version, target, processor features, and every setting that changes the machine code.
pub(super) fn fingerprint(engine: &Engine) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// The engines that run guests. They never compile.
pub(super) struct Engines {
    /// `None` where Winch does not work, such as on processors without AVX.
    baseline: Option<Engine>,
    optimized: Engine,
    metered: Engine,
    /// Like `optimized`, with places for guests made ready beforehand. Not everything fits into them.
    pooled: Option<Engine>,
}

impl Engines {
    /// Engines for as many guests at once as there are `slots`.
    pub(super) fn new(slots: usize, limits: &Limits) -> wasmtime::Result<Self> {
        let baseline = Engine::new(&config(Tier::Baseline));
        let mut pooled = config(Tier::Optimized);
        pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(slots, limits)));
        let pooled = Engine::new(&pooled);
        Ok(Self {
            baseline: usable(baseline, "modules are not compiled by Winch first"),
            optimized: Engine::new(&config(Tier::Optimized))?,
            metered: Engine::new(&config(Tier::Metered))?,
            pooled: usable(pooled, "guests start somewhat slower"),
        })
    }

    /// The engine that can load a tier's code whatever the module needs.
    pub(super) fn roomy(&self, tier: Tier) -> Option<&Engine> {
        match tier {
            Tier::Baseline => self.baseline.as_ref(),
            Tier::Optimized => Some(&self.optimized),
            Tier::Metered => Some(&self.metered),
        }
    }

    /// The engines to load a tier's code with, the best one first.
    pub(super) fn of(&self, tier: Tier) -> impl Iterator<Item = &Engine> {
        let pooled = self.pooled.as_ref().filter(|_| tier == Tier::Optimized);
        pooled.into_iter().chain(self.roomy(tier))
    }

    /// Handles for whoever keeps the clock of the guests.
    pub(super) fn all(&self) -> Vec<Engine> {
        Tier::ALL.iter().filter_map(|tier| self.roomy(*tier)).chain(&self.pooled).cloned().collect()
    }
}

fn usable(engine: wasmtime::Result<Engine>, without: &str) -> Option<Engine> {
    engine.inspect_err(|error| tracing::warn!("{without}: {error:#}")).ok()
}

/// Places for modules of one memory and one table, up to the worker's limits; it is address space, not memory.
fn pool(slots: usize, limits: &Limits) -> PoolingAllocationConfig {
    let places = u32::try_from(slots).unwrap_or(u32::MAX).saturating_mul(POOL_PLACES_PER_GUEST);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(places)
        .total_memories(places)
        .total_tables(places)
        .total_stacks(places)
        .total_gc_heaps(places)
        .total_component_instances(0)
        .max_memories_per_module(1)
        .max_tables_per_module(1)
        .max_memory_size(limits.wasm_memory_bytes_max)
        .table_elements(limits.wasm_table_elements_max)
        .max_core_instance_size(POOLED_INSTANCE_BYTES_MAX)
        .linear_memory_keep_resident(POOLED_MEMORY_KEPT_BYTES)
        .max_unused_warm_slots(places);
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_have_names_and_code_of_their_own() {
        let mut fingerprints = Vec::new();
        for tier in Tier::ALL {
            assert_eq!(tier.to_string().parse(), Ok(tier));
            let first = fingerprint(&Engine::new(&config(tier)).unwrap());
            assert_eq!(first, fingerprint(&Engine::new(&config(tier)).unwrap()), "the same in every process");
            fingerprints.push(first);
        }
        fingerprints.dedup();
        assert_eq!(fingerprints.len(), 3);
        assert!("fast".parse::<Tier>().is_err());
    }

    #[test]
    fn the_pool_loads_what_the_roomy_engine_does() {
        let engines = Engines::new(2, &Limits::default()).unwrap();
        let of: Vec<String> = engines.of(Tier::Optimized).map(fingerprint).collect();
        assert_eq!(of.len(), 2, "the pool could not be made");
        assert_eq!(of[0], of[1]);
    }
}
