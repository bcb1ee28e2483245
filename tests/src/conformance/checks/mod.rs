//! The checks, one file for each area.

use futures::future::BoxFuture;

use super::{Subject, Verdict};

mod action_cache;
mod asset_fetch;
mod assets;
mod byte_stream_names;
mod byte_stream_read;
mod byte_stream_write;
mod capabilities;
mod cas;
mod chunks;
mod commands;
mod digest;
mod execution;
mod execution_faults;
mod general;
mod inputs;
mod logs;
mod operations;
mod output_trees;
mod outputs;
mod platform;
mod run_metadata;
mod tree;

/// Something that is tried on a server.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// What is tried, in words; begins with the first of its requirements.
    pub name: &'static str,
    /// The requirements it proves.
    pub ids: &'static [&'static str],
    /// Tries it.
    pub run: for<'a> fn(&'a Subject) -> BoxFuture<'a, Verdict>,
    /// Whether it is only about choices of ours, and says nothing about another server.
    pub own: bool,
    /// Why it is known to fail here, if it is.
    pub known_failure: Option<&'static str>,
}

impl Check {
    /// It is only about choices of ours.
    const fn own(self) -> Self {
        Self { own: true, ..self }
    }

    /// It is known to fail. A check that may fail is never left out: it says so on the page.
    #[allow(dead_code, reason = "unused while nothing is known to fail")]
    const fn known_failure(self, why: &'static str) -> Self {
        Self { known_failure: Some(why), ..self }
    }
}

/// A check made of an `async fn(&Subject) -> Verdict`, whose name it takes, and the requirements that it proves.
macro_rules! check {
    ($function:ident: $($id:literal),+) => {
        $crate::conformance::Check {
            name: stringify!($function),
            ids: &[$($id),+],
            run: |subject| Box::pin($function(subject)),
            own: false,
            known_failure: None,
        }
    };
}

use check;

/// All checks, in the order of the page.
pub fn checks() -> Vec<Check> {
    [
        general::CHECKS,
        digest::CHECKS,
        cas::CHECKS,
        tree::CHECKS,
        byte_stream_names::CHECKS,
        byte_stream_read::CHECKS,
        byte_stream_write::CHECKS,
        chunks::CHECKS,
        action_cache::CHECKS,
        execution::CHECKS,
        execution_faults::CHECKS,
        inputs::CHECKS,
        commands::CHECKS,
        outputs::CHECKS,
        output_trees::CHECKS,
        run_metadata::CHECKS,
        operations::CHECKS,
        capabilities::CHECKS,
        platform::CHECKS,
        assets::CHECKS,
        asset_fetch::CHECKS,
        logs::CHECKS,
    ]
    .concat()
}
