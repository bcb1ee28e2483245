//! What the cases cover: a table, and a test that no function is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use crate::guest::Outcome;
use crate::guest::functions::FUNCTIONS;
use crate::guest::types::Errno;
use crate::{Case, cases, escapes};

fn all() -> impl Iterator<Item = &'static Case> {
    cases::THEMES.iter().chain(escapes::THEMES).copied().flatten()
}

/// Functions with the outcomes that cases expect of them, and in how many calls.
fn table() -> BTreeMap<&'static str, BTreeMap<Outcome, usize>> {
    let mut table = BTreeMap::<_, BTreeMap<_, usize>>::new();
    for case in all() {
        for (function, outcome) in case.guest().covered() {
            *table.entry(function).or_default().entry(outcome).or_default() += 1;
        }
    }
    table
}

/// Run it with `--nocapture` to see the table.
#[test]
fn every_function_has_a_case() {
    let table = table();
    let escapes = escapes::THEMES.iter().copied().flatten().count();
    println!("{} cases, {escapes} of them escapes", all().count());
    for (function, outcomes) in &table {
        let shown: Vec<_> = outcomes.iter().map(|(outcome, count)| format!("{outcome} {count}")).collect();
        println!("{function:24} {}", shown.join(", "));
    }
    let missing: Vec<_> = FUNCTIONS.iter().map(|f| f.name).filter(|name| !table.contains_key(name)).collect();
    assert!(missing.is_empty(), "no case calls {missing:?}");
}

/// Where a function can fail, it does so in some case: success alone proves little.
#[test]
fn every_function_that_can_fail_does() {
    let never_fails = ["args_get", "args_sizes_get", "environ_get", "environ_sizes_get", "sched_yield"];
    let failing: BTreeSet<_> = table()
        .into_iter()
        .filter(|(_, outcomes)| outcomes.keys().any(|outcome| *outcome != Outcome::Errno(Errno::SUCCESS)))
        .map(|(function, _)| function)
        .collect();
    let names = FUNCTIONS.iter().map(|f| f.name).filter(|name| !never_fails.contains(name));
    let missing: Vec<_> = names.filter(|name| !failing.contains(name)).collect();
    assert!(missing.is_empty(), "no case in which these fail: {missing:?}");
}

/// Run it with `--nocapture` to see where wasmtime-wasi differs.
#[test]
fn differences_are_explained() {
    for case in all() {
        let guest = case.guest();
        let only = guest.only_ours.map(|why| ("only ours", why));
        for (what, why) in only.into_iter().chain(guest.differences()) {
            println!("{}: {what}: {why}", case.name);
            assert!(!why.is_empty(), "{} differs and does not say why", case.name);
        }
    }
}

#[test]
fn names_of_cases_are_unique() {
    let names: BTreeSet<_> = all().map(|case| case.name).collect();
    assert_eq!(names.len(), all().count());
}
