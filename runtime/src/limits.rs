//! Every limit a worker keeps, in one place.

use std::time::Duration;

use wardian_store::tree::TreeLimits;

/// Limits of one action on a worker. Units are in the names.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Size of an encoded Action or Command.
    pub message_bytes_max: u64,
    /// What walking an input tree may cost.
    pub tree: TreeLimits,
    /// Files, directories and symlinks in an input root, repeated subtrees counted each time.
    pub input_entries_max: usize,
    /// Sum of the sizes of an input root's files.
    pub input_bytes_max: u64,
    /// Entries below one action's outputs.
    pub output_entries_max: usize,
    /// Sum of the sizes of one action's output files.
    pub output_bytes_max: u64,
    /// Bytes of standard output, and again of standard error.
    pub stdout_bytes_max: usize,
    /// Command arguments and environment together.
    pub arguments_bytes_max: usize,
    /// Longest time a command may run, also when it asks for none.
    pub action_timeout_max: Duration,
    /// All linear memories of a Wasm guest together.
    pub wasm_memory_bytes_max: usize,
    /// Elements of all tables of a Wasm guest together.
    pub wasm_table_elements_max: usize,
    /// Size of a Wasm module.
    pub wasm_module_bytes_max: u64,
    /// Compiled modules kept in memory.
    pub wasm_modules_loaded_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 16 << 20,
            tree: TreeLimits::default(),
            input_entries_max: 500_000,
            input_bytes_max: 32 << 30,
            output_entries_max: 200_000,
            output_bytes_max: 16 << 30,
            stdout_bytes_max: 16 << 20,
            arguments_bytes_max: 4 << 20,
            action_timeout_max: Duration::from_secs(60 * 60),
            wasm_memory_bytes_max: 4 << 30,
            wasm_table_elements_max: 10_000_000,
            wasm_module_bytes_max: 512 << 20,
            wasm_modules_loaded_max: 64,
        }
    }
}
