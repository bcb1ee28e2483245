//! What can be set about compilation.

use std::path::PathBuf;
use std::time::Duration;

use wardian_proto::Digest;

/// Which modules may run Winch's code until Cranelift's is ready.
///
/// Winch has had faults through which a guest could leave its sandbox where Cranelift's code was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// Those of registered toolchains.
    Toolchains,
    /// All.
    All,
    /// None.
    Off,
}

impl Baseline {
    /// Every value, with the word for it in the configuration.
    pub const WORDS: [(&str, Self); 3] =
        [("toolchains", Self::Toolchains), ("all", Self::All), ("off", Self::Off)];
}

/// How modules are compiled, within which limits, and what is kept. Units are in the names.
#[derive(Clone, Debug)]
pub struct CompileSettings {
    /// The program whose command `compile-module` compiles: this very program, except in tests.
    pub program: PathBuf,
    /// Which modules get a quick first compilation.
    pub baseline: Baseline,
    /// Modules that count as a registered toolchain's.
    pub trusted: Vec<Digest>,
    /// Modules to compile when the worker starts, if the store has them.
    pub warm: Vec<Digest>,
    /// Memory of one compilation. Small modules are given less: see [`Self::memory_bytes_of`].
    pub child_memory_bytes_max: u64,
    /// Memory of all compilations together that somebody waits for; one in the background comes on top.
    pub memory_bytes_max: u64,
    /// Processor time of one compilation.
    pub cpu_max: Duration,
    /// How long one compilation may take.
    pub wall_max: Duration,
    /// Size of one compiled module.
    pub artifact_bytes_max: u64,
    /// Size of all compiled modules on the disk; the ones used longest ago go first.
    pub kept_bytes_max: u64,
}

impl Default for CompileSettings {
    fn default() -> Self {
        Self {
            program: this_program(),
            baseline: Baseline::Toolchains,
            trusted: Vec::new(),
            warm: Vec::new(),
            child_memory_bytes_max: 4 << 30,
            memory_bytes_max: 4 << 30,
            cpu_max: Duration::from_secs(600),
            wall_max: Duration::from_secs(900),
            artifact_bytes_max: 2 << 30,
            kept_bytes_max: 8 << 30,
        }
    }
}

/// This very program, also after an upgrade put another one in its place.
fn this_program() -> PathBuf {
    if cfg!(target_os = "linux") {
        return "/proc/self/exe".into();
    }
    // Without it nothing is compiled, and every attempt says that "wardian" could not be started.
    std::env::current_exe().unwrap_or_else(|_| "wardian".into())
}

/// What a compilation is given to start with, and for each byte of the module. Measured: 105 bytes for each
/// of a module of 0.4 MB, 28 for each of one of 75 MB.
const MEMORY_BYTES_MIN: u64 = 512 << 20;
const MEMORY_BYTES_PER_MODULE_BYTE: u64 = 64;

impl CompileSettings {
    /// The memory that the compilation of a module of this size may take.
    pub fn memory_bytes_of(&self, module_bytes: u64) -> u64 {
        let wanted =
            MEMORY_BYTES_MIN.saturating_add(module_bytes.saturating_mul(MEMORY_BYTES_PER_MODULE_BYTE));
        wanted.min(self.child_memory_bytes_max)
    }
}
