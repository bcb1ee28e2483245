//! Every function of WASI preview 1, case by case, on every host that there is.
//!
//! A case is a few lines in the language of [`guest`]. It runs over wasmtime-wasi as a second opinion, so that
//! a case that is wrong itself is noticed. After each, what lies outside of the guest's tree is looked at.

#![allow(unreachable_pub, reason = "a test binary has no outside; `pub` is for its other modules")]

/// Writes cases down: each becomes a test, and all of them the list `CASES` of the module.
macro_rules! cases {
    ($(fn $name:ident($guest:ident) $script:block)*) => {
        pub(crate) const CASES: &[crate::Case] = &[$(crate::Case {
            name: concat!(module_path!(), "::", stringify!($name)),
            script: |$guest: &mut crate::guest::Guest| $script,
        }),*];
        tests! { 0; $($name)* }
    };
}

/// Makes a test of each case, by its place in the list.
macro_rules! tests {
    ($index:expr;) => {};
    ($index:expr; $name:ident $($rest:ident)*) => {
        #[test]
        fn $name() {
            CASES[$index].run();
        }
        tests! { $index + 1; $($rest)* }
    };
}

mod cases;
mod coverage;
mod escapes;
mod guest;
mod histories;
mod hosts;
mod language;

use guest::Guest;

/// A case: its name, and what it does.
pub struct Case {
    name: &'static str,
    script: fn(&mut Guest),
}

impl Case {
    fn guest(&self) -> Guest {
        let mut guest = Guest::default();
        (self.script)(&mut guest);
        guest
    }

    /// Runs it on all hosts.
    fn run(&self) {
        let complaints = hosts::complaints(&self.guest());
        assert!(complaints.is_empty(), "{}:\n  {}\n", self.name, complaints.join("\n  "));
    }
}
