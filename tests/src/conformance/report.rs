//! What came of a run, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Check, Outcome};

/// One check that was tried.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The check.
    pub check: Check,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// All checks that were tried, in order.
#[derive(Clone, Debug, Default)]
pub struct Report(pub Vec<Tried>);

impl Tried {
    fn word(&self) -> &'static str {
        match &self.outcome {
            Outcome::Passed => "pass",
            Outcome::Skipped(_) => "skip",
            Outcome::Failed(_) => "FAIL",
        }
    }

    /// Whether it failed.
    pub fn has_failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(_))
    }

    /// One line for people: the outcome, the requirements, the name, and why.
    pub fn line(&self) -> String {
        let ids = self.check.ids.join(" ");
        let mut line = format!("{}  {ids:16} {}", self.word(), self.check.name);
        if let Some(reason) = self.reason() {
            let _ = write!(line, "\n      {reason}");
        }
        line
    }

    fn reason(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Passed => None,
            Outcome::Skipped(reason) | Outcome::Failed(reason) => Some(reason),
        }
    }
}

impl Report {
    /// How many checks passed, failed and were skipped.
    pub fn totals(&self) -> (usize, usize, usize) {
        let count = |word| self.0.iter().filter(|tried| tried.word() == word).count();
        (count("pass"), count("FAIL"), count("skip"))
    }

    /// Whether nothing failed.
    pub fn is_clean(&self) -> bool {
        self.totals().1 == 0
    }

    /// The requirements by what came of their checks: failed if one did, else passed if one did.
    fn requirements(&self) -> BTreeMap<&'static str, &'static str> {
        let mut by_id = BTreeMap::new();
        for tried in &self.0 {
            for id in tried.check.ids {
                let word = by_id.entry(*id).or_insert("skip");
                *word = match (*word, tried.word()) {
                    ("FAIL", _) | (_, "FAIL") => "FAIL",
                    ("pass", _) | (_, "pass") => "pass",
                    _ => "skip",
                };
            }
        }
        by_id
    }

    /// The last line for people.
    pub fn summary(&self) -> String {
        let (passed, failed, skipped) = self.totals();
        let ids = self.requirements();
        let count = |word| ids.values().filter(|found| **found == word).count();
        format!(
            "{} checks: {passed} passed, {failed} failed, {skipped} skipped\n\
             {} requirements: {} kept, {} not kept, {} not tried",
            self.0.len(),
            ids.len(),
            count("pass"),
            count("FAIL"),
            count("skip"),
        )
    }

    /// All of it for programs.
    pub fn json(&self) -> Value {
        let (passed, failed, skipped) = self.totals();
        let check = |tried: &Tried| {
            json!({
                "name": tried.check.name,
                "requirements": tried.check.ids,
                "outcome": tried.word().to_lowercase(),
                "reason": tried.reason(),
                "milliseconds": u64::try_from(tried.took.as_millis()).unwrap_or(u64::MAX),
            })
        };
        let requirements: BTreeMap<_, _> =
            self.requirements().into_iter().map(|(id, word)| (id, word.to_lowercase())).collect();
        json!({
            "checks": self.0.iter().map(check).collect::<Vec<_>>(),
            "requirements": requirements,
            "totals": { "passed": passed, "failed": failed, "skipped": skipped },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(name: &'static str, outcome: Outcome) -> Tried {
        let check = super::super::checks().into_iter().find(|check| check.name == name);
        Tried { check: check.expect("a check of this name"), outcome, took: Duration::ZERO }
    }

    #[test]
    fn a_requirement_with_one_failure_is_not_kept() {
        let name = "gen_05_metadata_of_a_request_change_nothing";
        let report = Report(vec![
            tried(name, Outcome::Passed),
            tried(name, Outcome::Failed("no".into())),
            tried(name, Outcome::Skipped("why".into())),
        ]);
        assert_eq!((report.totals(), report.is_clean()), ((1, 1, 1), false));
        assert_eq!(report.requirements()["GEN-05"], "FAIL");
        assert_eq!(report.json()["requirements"]["GEN-05"], "fail");
        assert!(report.summary().contains(": 0 kept, "), "{}", report.summary());
    }
}
