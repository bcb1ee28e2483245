//! The section `[worker]`.

use std::path::PathBuf;
use std::time::Duration;

use wardian_runtime::{
    ActionGroups, Baseline, CompileSettings, SandboxBackend, SandboxMode, SandboxSettings, SystemCalls,
};

use super::WorkerSettings;
use super::section::{SECONDS_MAX, Section};
use crate::instance::parse_properties;

/// Reads the whole section.
pub(super) fn read(section: &mut Section<'_>, worker: &mut WorkerSettings) {
    section.text("name", |name| {
        worker.name = name.to_owned();
        if name.is_empty() { Err("is empty".into()) } else { Ok(()) }
    });
    let mut slots = worker.slots as u64;
    section.number("slots", 0, 1024, &mut slots);
    worker.slots = usize::try_from(slots).expect("a small number");
    let mut ahead = worker.ahead_per_slot as u64;
    section.number("ahead_per_slot", 0, crate::fleet::AHEAD_PER_SLOT_MAX.into(), &mut ahead);
    worker.ahead_per_slot = usize::try_from(ahead).expect("a small number");
    section.seconds("drain_seconds_max", &mut worker.drain_time_max);
    let mut memory = 0;
    section.number("memory_bytes", 1, u64::MAX, &mut memory);
    worker.memory_bytes = (memory > 0).then_some(memory);
    section.boolean("native", &mut worker.native);
    section.list("properties", |entries| {
        worker.properties = parse_properties(entries)?;
        Ok(())
    });
    section.section("sandbox", |section| sandbox(section, &mut worker.sandbox));
    section.section("limits", |section| {
        let limits = &mut worker.limits;
        section.seconds("action_timeout_seconds_max", &mut limits.action_timeout_max);
        section.count("input_entries_max", &mut limits.input_entries_max);
        section.number("input_bytes_max", 1, u64::MAX, &mut limits.input_bytes_max);
        section.count("outputs_max", &mut limits.outputs_max);
        section.count("output_entries_max", &mut limits.output_entries_max);
        section.number("output_bytes_max", 1, u64::MAX, &mut limits.output_bytes_max);
        section.count("stdout_bytes_max", &mut limits.stdout_bytes_max);
        section.count("wasm_memory_bytes_max", &mut limits.wasm_memory_bytes_max);
        section.count("wasm_table_elements_max", &mut limits.wasm_table_elements_max);
        section.count("wasm_handles_max", &mut limits.wasm_handles_max);
        section.number("wasm_workspace_bytes_max", 1, u64::MAX, &mut limits.wasm_workspace_bytes_max);
        let memory = &mut limits.wasm_workspace_memory_bytes_max;
        section.number("wasm_workspace_memory_bytes_max", 1, u64::MAX, memory);
        section.count("wasm_workspace_files_max", &mut limits.wasm_workspace_files_max);
        section.count("wasm_path_depth_max", &mut limits.wasm_path_depth_max);
        section.count("wasm_input_cache_bytes_max", &mut limits.wasm_input_cache_bytes_max);
        section.number("wasm_audit_runs_max", 0, 100, &mut limits.wasm_audit_runs_max);
        section.number("wasm_module_bytes_max", 1, u64::MAX, &mut limits.wasm_module_bytes_max);
        section.count("wasm_modules_loaded_max", &mut limits.wasm_modules_loaded_max);
    });
    section.section("compile", |section| compile(section, &mut worker.compile));
    section.section("prefetch", |section| {
        let prefetch = &mut worker.prefetch;
        section.boolean("enabled", &mut prefetch.enabled);
        section.number("bytes_per_action_max", 1, i64::MAX as u64, &mut prefetch.bytes_per_action_max);
    });
}

fn sandbox(section: &mut Section<'_>, sandbox: &mut SandboxSettings) {
    section.text("mode", |word| {
        let known = SandboxMode::WORDS.iter().find(|(name, _)| *name == word);
        sandbox.mode = known.ok_or("is none of \"auto\", \"require\", \"none\"")?.1;
        Ok(())
    });
    section.text("backend", |word| {
        let known = SandboxBackend::WORDS.iter().find(|(name, _)| *name == word);
        sandbox.backend = known.ok_or("is none of \"auto\", \"own\", \"bubblewrap\"")?.1;
        Ok(())
    });
    section.text("system_calls", |word| {
        let known = SystemCalls::WORDS.iter().find(|(name, _)| *name == word);
        sandbox.system_calls = known.ok_or("is none of \"filtered\", \"all\"")?.1;
        Ok(())
    });
    section.boolean("network", &mut sandbox.network);
    section.list("read_only_paths", |paths| {
        if let Some(path) = paths.iter().find(|path| !path.starts_with('/') || path.contains("/..")) {
            return Err(format!("{path:?} is no absolute path"));
        }
        sandbox.read_only_paths = paths.iter().map(PathBuf::from).collect();
        Ok(())
    });
    section.text("groups", |word| {
        let known = ActionGroups::WORDS.iter().find(|(name, _)| *name == word);
        sandbox.groups = known.ok_or("is none of \"auto\", \"require\", \"none\"")?.1;
        Ok(())
    });
    let (mut memory, mut seconds, mut cpus) = (0, 0, 0);
    section.number("memory_bytes_max", 1, i64::MAX as u64, &mut memory);
    section.number("processes_max", 1, u64::from(u32::MAX), &mut sandbox.processes_max);
    section.number("cpu_seconds_max", 1, SECONDS_MAX, &mut seconds);
    section.number("cpus_max", 1, u64::from(u16::MAX), &mut cpus);
    sandbox.cpus_max = (cpus > 0).then_some(cpus);
    sandbox.memory_bytes_max = (memory > 0).then_some(memory);
    sandbox.cpu_max = (seconds > 0).then(|| Duration::from_secs(seconds));
}

fn compile(section: &mut Section<'_>, compile: &mut CompileSettings) {
    section.text("baseline", |word| {
        let known = Baseline::WORDS.iter().find(|(name, _)| *name == word);
        compile.baseline = known.ok_or("is none of \"toolchains\", \"all\", \"off\"")?.1;
        Ok(())
    });
    section.digests("trusted", &mut compile.trusted);
    section.digests("warm", &mut compile.warm);
    section.number("child_memory_bytes_max", 1, u64::MAX, &mut compile.child_memory_bytes_max);
    section.number("memory_bytes_max", 1, u64::MAX, &mut compile.memory_bytes_max);
    section.seconds("cpu_seconds_max", &mut compile.cpu_max);
    section.seconds("wall_seconds_max", &mut compile.wall_max);
    section.number("artifact_bytes_max", 1, u64::MAX, &mut compile.artifact_bytes_max);
    section.number("kept_bytes_max", 1, u64::MAX, &mut compile.kept_bytes_max);
}
