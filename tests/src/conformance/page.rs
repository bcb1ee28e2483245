//! docs/conformance.md, written from the tables.

use std::fmt::Write as _;

use super::{Area, Check, Row, areas, checks};

/// The whole page.
pub fn page() -> String {
    let checks = checks();
    let mut page = String::from(INTRODUCTION);
    overview(&mut page, &checks);
    for area in areas() {
        table(&mut page, area, &checks);
    }
    page
}

const INTRODUCTION: &str = "\
# Conformance

Every requirement of the APIs that Wardian serves, in our own words: Remote Execution v2 up to 2.12, Remote Asset v1,
LogStream v1, ByteStream and Operations as those use them. This page is written from the tables in
`tests/src/conformance`; a test compares the two.

    cargo run --release -p wardian-tests --bin conformance -- --page > docs/conformance.md

Each check is a test of every build, against a server started for it. The same checks can be pointed at any server; those
of our own choices are left out where the server is another:

    cargo run --release -p wardian-tests --bin conformance -- --server HOST:PORT

Levels: *must* and *stated* bind a server, *should* does unless there is a reason, *may* frees it, *client* is a duty of
clients, *gap* is where the API is silent and *field* what others do without its saying so. \"Ours\" is what Wardian does where
the API leaves it open. A requirement that has no check says why; *open* are those whose check is still to be written.

";

fn of_row<'a>(row: &Row, checks: &'a [Check]) -> Vec<&'a Check> {
    checks.iter().filter(|check| check.ids.contains(&row.id)).collect()
}

fn overview(page: &mut String, checks: &[Check]) {
    page.push_str("| Area | | Requirements | with a check | that bind | with a check | with a reason instead | open |\n");
    page.push_str("|---|---|--:|--:|--:|--:|--:|--:|\n");
    let mut sums = [0; 6];
    for area in areas() {
        let is_checked = |row: &&Row| !of_row(row, checks).is_empty();
        let binding = || area.rows.iter().filter(|row| row.level.binds());
        let counts = [
            area.rows.len(),
            area.rows.iter().filter(is_checked).count(),
            binding().count(),
            binding().filter(is_checked).count(),
            binding().filter(|row| row.has_reason()).count(),
            binding().filter(|row| row.is_open()).count(),
        ];
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
        let _ = writeln!(page, "| {} | {} |{}", area.prefix, area.title, cells(counts));
    }
    let _ = writeln!(page, "| | all |{}", cells(sums));
    let known = checks.iter().filter(|check| check.known_failure.is_some()).count();
    let _ = writeln!(page, "\n{} checks; {known} of them are known to fail.", checks.len());
}

fn cells(counts: [usize; 6]) -> String {
    counts.map(|count| format!(" {count} |")).concat()
}

fn table(page: &mut String, area: &Area, checks: &[Check]) {
    let _ = writeln!(page, "\n## {}: {}\n", area.prefix, area.title);
    page.push_str("| | Level | Requirement | Checks |\n|---|---|---|---|\n");
    for row in area.rows {
        let choice = row.choice.map(|choice| format!(". *Ours:* {choice}")).unwrap_or_default();
        let names = of_row(row, checks).into_iter().map(|check| match check.known_failure {
            None => format!("`{}`", check.name),
            Some(why) => format!("`{}` **fails**: {why}", check.name),
        });
        let proof = match row.without {
            Some(why) => format!("none: {why}"),
            None => names.collect::<Vec<_>>().join("<br>"),
        };
        let _ = writeln!(page, "| {} | {} | {}{choice} | {proof} |", row.id, row.level.word(), row.text);
    }
}
