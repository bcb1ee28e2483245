//! What a WebAssembly action used and looked at, as `wardian action show` tells it.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use wardian_proto::reapi;
use wardian_proto::wardian::{NativeUsage, ObservedInput, WasmAudit, WasmUsage};

use super::format;

/// Lines that are shown of what was looked at.
const OBSERVED_LINES_MAX: usize = 40;

/// The message among the auxiliary metadata of a result.
pub(super) fn of(metadata: &reapi::ExecutedActionMetadata) -> Option<WasmUsage> {
    find(metadata, "/wardian.v1.WasmUsage")
}

/// How a native action was run, and what it used, where its worker counted it.
pub(super) fn native_of(metadata: &reapi::ExecutedActionMetadata) -> Option<NativeUsage> {
    find(metadata, "/wardian.v1.NativeUsage")
}

fn time(wire: Option<prost_types::Duration>) -> Duration {
    wire.and_then(|time| Duration::try_from(time).ok()).unwrap_or_default()
}

pub(super) fn write_native(text: &mut String, usage: &NativeUsage) -> std::fmt::Result {
    if !usage.sandbox.is_empty() {
        writeln!(text, "  box    {}", format::plain(&usage.sandbox))?;
    }
    if usage.user_time.is_none() && usage.memory_bytes_peak.is_none() {
        return Ok(());
    }
    let (user, system) = (time(usage.user_time), time(usage.system_time));
    let peak = usage.memory_bytes_peak.map(|peak| format!("{} of memory, ", format::size(peak)));
    let (user, system) = (format::duration(user), format::duration(system));
    writeln!(text, "  used   {}{user} user and {system} system time", peak.unwrap_or_default())
}

pub(super) fn native_json(usage: &NativeUsage) -> Value {
    json!({
        "sandbox": usage.sandbox,
        "memory_bytes_peak": usage.memory_bytes_peak,
        "user_seconds": usage.user_time.map(|used| time(Some(used)).as_secs_f64()),
        "system_seconds": usage.system_time.map(|used| time(Some(used)).as_secs_f64()),
    })
}

/// What came of further runs, when the action asked for them.
pub(super) fn audit_of(metadata: &reapi::ExecutedActionMetadata) -> Option<WasmAudit> {
    find(metadata, "/wardian.v1.WasmAudit")
}

fn find<M: prost::Message + Default>(metadata: &reapi::ExecutedActionMetadata, name: &str) -> Option<M> {
    let found = metadata.auxiliary_metadata.iter().find(|any| any.type_url.ends_with(name));
    found.and_then(|any| M::decode(&*any.value).ok())
}

pub(super) fn write_audit(text: &mut String, audit: &WasmAudit) -> std::fmt::Result {
    for run in &audit.runs {
        let tier = format::plain(&run.tier);
        match (run.not_run.as_str(), run.differences_count) {
            ("", 0) => writeln!(text, "  audit  {tier}: the same")?,
            ("", count) => writeln!(text, "  audit  {tier}: {count} differ")?,
            (why, _) => writeln!(text, "  audit  {tier}: not run: {}", format::plain(why))?,
        }
        for difference in &run.differences {
            let word = |value: &str| if value.is_empty() { "none".to_owned() } else { format::plain(value) };
            let (first, second) = (word(&difference.in_result), word(&difference.in_run));
            writeln!(text, "    {}: {first}, then {second}", format::plain(&difference.what))?;
        }
    }
    Ok(())
}

pub(super) fn audit_json(audit: &WasmAudit) -> Value {
    let difference = |d: &wardian_proto::wardian::WasmAuditDifference| json!({"what": d.what, "in_result": d.in_result, "in_run": d.in_run});
    let run = |run: &wardian_proto::wardian::WasmAuditRun| {
        json!({
            "tier": run.tier,
            "not_run": (!run.not_run.is_empty()).then_some(&run.not_run),
            "differences_count": run.differences_count,
            "differences": run.differences.iter().map(difference).collect::<Vec<_>>(),
        })
    };
    audit.runs.iter().map(run).collect()
}

pub(super) fn write(text: &mut String, usage: &WasmUsage) -> std::fmt::Result {
    let size = format::size;
    write!(text, "  guest  {} of memory", size(usage.memory_bytes_peak))?;
    if let Some(time) = usage.guest_time.and_then(|time| std::time::Duration::try_from(time).ok()) {
        write!(text, ", {}", format::duration(time))?;
    }
    if let Some(fuel) = usage.fuel_used {
        write!(text, ", fuel {fuel}")?;
    }
    writeln!(text, ", compiled by {}", format::plain(&usage.compiler))?;
    writeln!(
        text,
        "  files  read {} of {} inputs, wrote {} to {}",
        size(usage.bytes_read),
        usage.files_read,
        size(usage.bytes_written),
        usage.files_written
    )?;
    if let Some(hit) = &usage.limit_hit {
        let (name, used, allowed) = (format::plain(&hit.name), hit.used, hit.allowed);
        writeln!(text, "  limit  {name}: had {used} and asked for more than {allowed}")?;
    }
    writeln!(text, "  looked at {} inputs and names", usage.observed_count)?;
    if let Some(digest) = &usage.observed_digest {
        writeln!(text, "    named in blob {}/{}", format::plain(&digest.hash), digest.size_bytes)?;
    }
    let mut lines = Vec::new();
    usage.observed.iter().for_each(|root| collect(root, "", &mut lines));
    for line in lines.iter().take(OBSERVED_LINES_MAX) {
        writeln!(text, "    {line}")?;
    }
    if lines.len() > OBSERVED_LINES_MAX {
        writeln!(text, "    and {} more", lines.len() - OBSERVED_LINES_MAX)?;
    }
    Ok(())
}

/// One line for each input of which more was seen than that it is there.
fn collect(observed: &ObservedInput, parent: &str, lines: &mut Vec<String>) {
    let path = match (parent, observed.name.as_str()) {
        ("", name) => name.to_owned(),
        (parent, name) => format!("{parent}/{name}"),
    };
    let read: u64 = observed.ranges.chunks(2).filter_map(|range| range.get(1)).sum();
    let mut seen = Vec::new();
    if read > 0 {
        seen.push(format!("read {} of {}", read, observed.size_bytes));
    }
    for (was_seen, what) in
        [(observed.stat, "stat"), (observed.listed, "listed"), (observed.target, "followed")]
    {
        if was_seen {
            seen.push(what.to_owned());
        }
    }
    if !observed.absent.is_empty() {
        seen.push(format!("not there: {}", observed.absent.join(", ")));
    }
    if !seen.is_empty() {
        let shown = if path.is_empty() { "." } else { &path };
        lines.push(format::plain(&format!("{shown}  {}", seen.join(", "))));
    }
    observed.children.iter().for_each(|child| collect(child, &path, lines));
}

pub(super) fn json(usage: &WasmUsage) -> Value {
    let time = usage.guest_time.and_then(|time| std::time::Duration::try_from(time).ok());
    let mut lines = Vec::new();
    usage.observed.iter().for_each(|root| collect(root, "", &mut lines));
    json!({
        "compiler": usage.compiler,
        "guest_ms": time.map(|time| time.as_secs_f64() * 1e3),
        "memory_bytes_peak": usage.memory_bytes_peak,
        "fuel_used": usage.fuel_used,
        "bytes_read": usage.bytes_read,
        "bytes_written": usage.bytes_written,
        "files_read": usage.files_read,
        "files_written": usage.files_written,
        "workspace_bytes_peak": usage.workspace_bytes_peak,
        "limit_hit": usage.limit_hit.as_ref().map(|hit| json!({
            "name": hit.name, "used": hit.used, "allowed": hit.allowed,
        })),
        "observed_count": usage.observed_count,
        "observed_digest": usage.observed_digest.as_ref().map(|d| format!("{}/{}", d.hash, d.size_bytes)),
        "observed": lines,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_is_told_run_by_run() {
        use wardian_proto::wardian::{WasmAuditDifference, WasmAuditRun};
        let differs =
            WasmAuditDifference { what: "file a".into(), in_run: "h/1".into(), ..Default::default() };
        let run = |tier: &str| WasmAuditRun { tier: tier.into(), ..Default::default() };
        let audit = WasmAudit {
            runs: vec![
                run("metered"),
                WasmAuditRun { differences: vec![differs], differences_count: 1, ..run("baseline") },
                WasmAuditRun { not_run: "no".into(), ..run("optimized") },
            ],
            ..Default::default()
        };
        let metadata = reapi::ExecutedActionMetadata {
            auxiliary_metadata: vec![wardian_proto::pack_any("wardian.v1.WasmAudit", &audit)],
            ..Default::default()
        };
        assert_eq!(of(&metadata), None);
        let audit = audit_of(&metadata).unwrap();
        let mut text = String::new();
        write_audit(&mut text, &audit).unwrap();
        let expected = [
            "  audit  metered: the same",
            "  audit  baseline: 1 differ",
            "    file a: none, then h/1",
            "  audit  optimized: not run: no",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        assert_eq!(audit_json(&audit)[1]["differences"][0]["what"], "file a");
    }

    #[test]
    fn what_was_seen_is_told_by_path() {
        let file = ObservedInput {
            name: "f.c".into(),
            size_bytes: 100,
            stat: true,
            ranges: vec![0, 40, 60, 10],
            ..Default::default()
        };
        let below = ObservedInput {
            name: "src".into(),
            absent: vec!["g.c".into()],
            children: vec![file],
            ..Default::default()
        };
        let root = ObservedInput { listed: true, children: vec![below], ..Default::default() };
        let mut lines = Vec::new();
        collect(&root, "", &mut lines);
        assert_eq!(lines, [".  listed", "src  not there: g.c", "src/f.c  read 50 of 100, stat"]);
    }
}
