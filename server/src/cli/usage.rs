//! What a WebAssembly action used and looked at, as `wardian action show` tells it.

use std::fmt::Write as _;

use prost::Message as _;
use serde_json::{Value, json};
use wardian_proto::reapi;
use wardian_proto::wardian::{ObservedInput, WasmUsage};

use super::format;

/// Lines that are shown of what was looked at.
const OBSERVED_LINES_MAX: usize = 40;

/// The message among the auxiliary metadata of a result.
pub(super) fn of(metadata: &reapi::ExecutedActionMetadata) -> Option<WasmUsage> {
    let found =
        metadata.auxiliary_metadata.iter().find(|any| any.type_url.ends_with("/wardian.v1.WasmUsage"));
    found.and_then(|any| WasmUsage::decode(&*any.value).ok())
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
        "observed": lines,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
