//! The one table that a run prints, as Markdown.

use std::fmt;
use std::process::Command;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use wardian_tests::Memory;

use crate::bench::{Line, Sample};

/// The lines measured so far.
pub(crate) struct Results {
    peers: Vec<&'static str>,
    table: Table,
}

/// The medians of one server's samples for one line.
#[derive(Clone, Copy)]
pub(crate) struct Cell {
    per_second: f64,
    /// Microseconds of the server's processor time for each unit.
    processor_micros: f64,
}

impl Cell {
    pub(crate) fn of(samples: &[Sample]) -> Self {
        let median_of = |value: fn(&Sample) -> f64| median(samples.iter().map(value).collect());
        Self {
            per_second: median_of(|s| s.amount / s.took.as_secs_f64()),
            processor_micros: median_of(|s| s.processor_time.as_secs_f64() * 1e6 / s.amount),
        }
    }
}

impl Results {
    pub(crate) fn new(peers: Vec<&'static str>) -> Self {
        let mut header = vec!["line".to_owned(), "unit".to_owned()];
        header.extend(peers.iter().map(|peer| (*peer).to_owned()));
        if peers.len() > 1 {
            header.push("ratio".into());
        }
        header.push("aim".into());
        header.extend(peers.iter().map(|peer| format!("{peer} CPU µs/unit")));
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN).set_header(header);
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        Self { peers, table }
    }

    /// Adds the cells of a line, one for each server.
    pub(crate) fn add_line(&mut self, line: &Line, cells: Vec<Cell>) {
        let rates: Vec<_> = cells.iter().map(|cell| cell.per_second).collect();
        let mut row = vec![line.name.clone(), format!("{}/s", line.unit)];
        row.extend(rates.iter().map(|rate| number(*rate)));
        row.extend(self.ratio(&rates));
        row.push(format!("{} x", line.aim));
        row.extend(cells.iter().map(|cell| number(cell.processor_micros)));
        self.table.add_row(row);
    }

    /// Adds what each server holds in memory.
    pub(crate) fn add_memory(&mut self, name: &str, memory: &[Memory], aim_mib: u64) {
        let mib: Vec<_> = memory.iter().map(|memory| memory.resident as f64 / f64::from(1 << 20)).collect();
        let mut row = vec![name.to_owned(), "MiB".into()];
        row.extend(mib.iter().map(|mib| number(*mib)));
        row.extend(self.ratio(&mib));
        row.push(format!("< {aim_mib}"));
        self.table.add_row(row);
    }

    fn ratio(&self, values: &[f64]) -> Option<String> {
        (self.peers.len() > 1).then(|| format!("{:.2}", values[0] / values[1]))
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table.fmt(f)
    }
}

/// What was measured and where: commit, processor, cores.
pub(crate) fn machine(rounds: u32) -> String {
    let commit = Command::new("git").args(["describe", "--always", "--dirty"]).output().ok();
    let commit = commit.filter(|output| output.status.success()).map(|output| output.stdout);
    let commit = commit.map_or("unknown".into(), |text| String::from_utf8_lossy(&text).trim().to_owned());
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("Commit {commit}, {cores} cores of {model}, medians of {rounds} rounds.")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values[values.len() / 2];
    let lower = values[(values.len() - 1) / 2];
    f64::midpoint(lower, upper)
}

/// Three digits, or all that are before the point.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
