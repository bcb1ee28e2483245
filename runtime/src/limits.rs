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
    /// Outputs that a Command may name in one field.
    pub outputs_max: usize,
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
    /// Files, directories and streams that a Wasm guest has open. Each may be a descriptor of the server.
    pub wasm_handles_max: usize,
    /// Bytes that a WASI preview-1 guest has written to its workspace and not removed.
    pub wasm_workspace_bytes_max: u64,
    /// How many of them are held in memory; the rest is in a private file of the worker.
    pub wasm_workspace_memory_bytes_max: u64,
    /// Files, directories and symlinks that a preview-1 guest has made and not removed.
    pub wasm_workspace_files_max: usize,
    /// Directories above a file in the workspace of a preview-1 guest.
    pub wasm_path_depth_max: usize,
    /// Bytes of input trees that a worker keeps in memory for all of its preview-1 guests together.
    pub wasm_input_cache_bytes_max: usize,
    /// How many more times an action may ask to be run, to compare what comes out.
    pub wasm_audit_runs_max: u64,
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
            outputs_max: 20_000,
            output_entries_max: 200_000,
            output_bytes_max: 16 << 30,
            stdout_bytes_max: 16 << 20,
            arguments_bytes_max: 4 << 20,
            action_timeout_max: Duration::from_secs(60 * 60),
            wasm_memory_bytes_max: 4 << 30,
            wasm_table_elements_max: 10_000_000,
            wasm_handles_max: 1024,
            wasm_workspace_bytes_max: 8 << 30,
            wasm_workspace_memory_bytes_max: 128 << 20,
            wasm_workspace_files_max: 200_000,
            wasm_path_depth_max: 128,
            wasm_input_cache_bytes_max: 256 << 20,
            wasm_audit_runs_max: 4,
            wasm_module_bytes_max: 512 << 20,
            wasm_modules_loaded_max: 64,
        }
    }
}

/// Raises this process's limit on open files to what it may have, and returns it.
///
/// Every connection, upload, staged copy and file of a guest needs one; the usual soft limit of 1024 is
/// less than one client may use.
pub fn raise_open_files_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Refused (some sandboxes do): go on with what there is.
    if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current }
}
