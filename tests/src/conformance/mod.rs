//! The conformance suite: every requirement of the APIs, and the checks that prove them over gRPC alone.
//!
//! [`rows`] is the table of all requirements, in our own words. [`checks`] are the functions that try a server, one
//! file for each area; each names the rows that it proves. A check knows nothing but its [`Subject`], so that
//! any server can be the subject: the one in this build (`tests/tests/conformance`), or one at an address
//! (`src/bin/conformance.rs`). docs/conformance.md is written from both tables by [`page`].

mod actions;
mod calls;
mod checks;
mod codec;
mod origin;
mod outcome;
pub mod page;
mod report;
mod rows;
mod run;
mod runs;
mod subject;

pub use checks::{Check, checks};
pub use outcome::{Failure, Outcome, Stop, Verdict};
pub use report::{Report, Tried};
pub use rows::{Area, Level, Row, areas};
pub use run::try_check;
pub use subject::{Ownership, Subject};

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_row_has_a_check_or_says_why_not() {
        let proven: HashSet<&str> = checks().iter().flat_map(|check| check.ids).copied().collect();
        for row in areas().iter().flat_map(|area| area.rows) {
            match (proven.contains(row.id), row.without) {
                (false, None) => panic!("{}: there is neither a check nor a reason", row.id),
                (true, Some(why)) => panic!("{}: there is a check, so it is not {why:?}", row.id),
                _ => {}
            }
        }
    }

    #[test]
    fn ids_and_names_are_what_they_should_be() {
        let ids: Vec<&str> = areas().iter().flat_map(|area| area.rows).map(|row| row.id).collect();
        let distinct: HashSet<&str> = ids.iter().copied().collect();
        assert_eq!((ids.len(), distinct.len()), (248, 248));
        let mut names = HashSet::new();
        for check in checks() {
            assert!(names.insert(check.name), "{}: twice", check.name);
            assert!(check.ids.iter().all(|id| distinct.contains(id)), "{}: {:?}", check.name, check.ids);
            let prefix = format!("{}_", check.ids[0].to_lowercase().replace('-', "_"));
            assert!(check.name.starts_with(&prefix), "{} proves {} first", check.name, check.ids[0]);
        }
    }

    #[test]
    fn the_page_is_written_from_the_tables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance.md");
        let page = std::fs::read_to_string(path).unwrap_or_default();
        let hint = "cargo run --release -p wardian-tests --bin conformance -- --page > docs/conformance.md";
        assert!(page == page::page(), "docs/conformance.md is out of date: {hint}");
    }
}
