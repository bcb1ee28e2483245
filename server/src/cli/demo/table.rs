//! The rounds of a demo side by side, and whether they agree.

use anyhow::ensure;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, LineStyle, Table};

use super::super::format;
use super::job::Ran;

/// The steps of one round.
pub(super) struct Round {
    pub(super) name: &'static str,
    pub(super) steps: Vec<Ran>,
}

/// The same steps several times.
pub(super) struct Rounds(pub(super) Vec<Round>);

impl Rounds {
    /// Returns a table with a line for each step.
    pub(super) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
        let rounds = self.0.iter().map(|round| round.name);
        table.set_header(["step", "action", "where"].into_iter().chain(rounds).chain(["output"]));
        for (at, step) in self.0[0].steps.iter().enumerate() {
            let mut row = vec![step.title.clone(), format::short(&step.action), format::plain(&step.worker)];
            row.extend(self.0.iter().map(|round| how(&round.steps[at])));
            row.push(format::short(&step.output));
            table.add_row(row);
        }
        for at in 0..self.0.len() {
            if let Some(column) = table.column_mut(3 + at) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string()
    }

    /// Says what the comparison of all outputs came to. Fails when they differ.
    pub(super) fn verdict(&self) -> anyhow::Result<String> {
        let (first, others) = self.0.split_first().expect("there is a first round");
        for other in others {
            for (a, b) in first.steps.iter().zip(&other.steps) {
                let equal = (a.action, a.output, &a.stdout) == (b.action, b.output, &b.stdout);
                let (title, name) = (&a.title, other.name);
                ensure!(equal, "{title}: round {name:?} gave {} and not {}", b.output, a.output);
            }
        }
        // By action: a run that was interrupted may have left a part of the first round in a kept store.
        let actions = || self.0.iter().flat_map(|round| &round.steps);
        let cached = actions().filter(|step| step.cached).count();
        let (rounds, executed) = (self.0.len(), actions().count() - cached);
        Ok(format!(
            "Every output is the same to the byte in all {rounds} rounds: the digests are equal. \
             Actions executed: {executed}, from the cache: {cached}.\n"
        ))
    }
}

fn how(step: &Ran) -> String {
    let how = if step.cached { "cached" } else { "executed" };
    format!("{how} {:>7}", format::duration(step.time))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::DIGEST_FUNCTION;

    fn step(output: &str, cached: bool) -> Ran {
        Ran {
            title: "link".to_owned(),
            action: DIGEST_FUNCTION.digest(b"action"),
            worker: "local/wasm".to_owned(),
            time: Duration::from_millis(if cached { 3 } else { 41_000 }),
            cached,
            output: DIGEST_FUNCTION.digest(output.as_bytes()),
            stdout: bytes::Bytes::new(),
        }
    }

    fn rounds(second: &str) -> Rounds {
        let round = |name, step| Round { name, steps: vec![step] };
        Rounds(vec![round("first time", step("same", false)), round("again", step(second, true))])
    }

    #[test]
    fn the_table_says_what_was_executed_and_what_was_cached() {
        let table = rounds("same").table();
        assert!(table.contains("executed  41.0 s") && table.contains("cached  3.0 ms"), "{table}");
        assert!(!table.contains('\u{1b}'));
    }

    #[test]
    fn rounds_that_differ_are_an_error() {
        assert!(rounds("same").verdict().unwrap().ends_with("Actions executed: 1, from the cache: 1.\n"));
        let error = rounds("other").verdict().unwrap_err().to_string();
        assert!(error.starts_with("link: round \"again\" gave"), "{error}");
    }
}
