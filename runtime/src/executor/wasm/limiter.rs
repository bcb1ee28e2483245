//! Bounds on what a guest has of memory and tables.

use wasmtime::ResourceLimiter;

use crate::Limits;
use crate::workspace::LimitHit;

/// Bounds a guest's memory and tables, all of them together, and remembers what it refused.
pub(super) struct Limiter {
    memory_bytes: Budget,
    table_elements: Budget,
    limit_hit: Option<LimitHit>,
}

/// What a guest has of one resource, and how much of it it may have.
struct Budget {
    name: &'static str,
    used: usize,
    max: usize,
}

impl Budget {
    /// Takes the growth of one memory or table from what is left; returns whether it fits.
    ///
    /// Growth beyond the `own_max` that the module declares fails whatever is said here, so it costs
    /// nothing.
    fn grow(&mut self, current: usize, desired: usize, own_max: Option<usize>) -> bool {
        if own_max.is_some_and(|max| desired > max) {
            return true;
        }
        let total = self.used.saturating_add(desired.saturating_sub(current));
        let fits = total <= self.max;
        if fits {
            self.used = total;
        }
        fits
    }

    fn hit(&self) -> LimitHit {
        LimitHit { name: self.name, used: self.used as u64, allowed: self.max as u64 }
    }
}

impl Limiter {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            memory_bytes: Budget {
                name: "wasm_memory_bytes_max",
                used: 0,
                max: limits.wasm_memory_bytes_max,
            },
            table_elements: Budget {
                name: "wasm_table_elements_max",
                used: 0,
                max: limits.wasm_table_elements_max,
            },
            limit_hit: None,
        }
    }

    /// Bytes of memory that the guest has. A memory never shrinks, so this is also the most it had.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes.used as u64
    }

    /// The limit that the guest ran into first.
    pub(super) fn limit_hit(&self) -> Option<&LimitHit> {
        self.limit_hit.as_ref()
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        own_max: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let fits = self.memory_bytes.grow(current, desired, own_max);
        if !fits {
            self.limit_hit.get_or_insert(self.memory_bytes.hit());
        }
        Ok(fits)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        own_max: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // A pooled table's maximum is the limit itself, which decides below.
        let own_max = own_max.filter(|max| *max < self.table_elements.max);
        let fits = self.table_elements.grow(current, desired, own_max);
        if !fits {
            self.limit_hit.get_or_insert(self.table_elements.hit());
        }
        Ok(fits)
    }
}
