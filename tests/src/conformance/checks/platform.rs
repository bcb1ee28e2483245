//! Platform properties: what must match, and what can match nothing.

use std::time::Duration;

use tonic::Code;

use super::super::outcome::ensure;
use super::super::runs::{Fault, within};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};
use crate::TestAction;

pub(super) const CHECKS: &[Check] = &[
    check!(plt_02_a_family_that_there_is_not_matches_nothing: "PLT-02"),
    check!(plt_02_nothing_is_of_two_families: "PLT-02"),
    check!(plt_02_webassembly_is_a_family: "PLT-02", "PLT-03").own(),
    check!(plt_03_every_isa_must_match: "PLT-03"),
    check!(plt_03_families_and_sets_of_instructions_fit_together: "PLT-03").own(),
];

/// How long a server may look for a worker that there is not, until that counts as none.
const LOOKED_FOR: Duration = Duration::from_secs(15);

/// What became of an action that asks for something.
enum Came {
    /// It was run.
    Ran,
    /// It was refused.
    Refused(Fault),
    /// It waits for a worker.
    Waits,
}

impl Subject {
    /// An action that asks for these properties, beside those that every action must have.
    fn asking(&self, properties: &[(&str, &str)]) -> TestAction {
        self.script("echo \"$1\"").platform(&self.platform_and(properties))
    }

    async fn ask(&self, action: TestAction) -> Result<Came, Stop> {
        let built = self.upload(action).await?;
        match within(LOOKED_FOR, self.attempt(self.request(&built))).await {
            None => Ok(Came::Waits),
            Some(outcome) => Ok(outcome?.map_or_else(Came::Refused, |_| Came::Ran)),
        }
    }

    /// What asks for this must not be run. A server that looks at no such property is not tried.
    async fn matches_nothing(&self, properties: &[(&str, &str)], code: Code) -> Verdict {
        match self.ask(self.asking(properties)).await? {
            Came::Refused(fault) if self.is_own() => fault.must_be(code, &format!("{properties:?}")),
            Came::Waits if self.is_own() => Err(Stop::failed(format!("{properties:?} waits"))),
            Came::Refused(_) | Came::Waits => Ok(()),
            Came::Ran => Err(Stop::failed(format!("{properties:?} was run, though nothing is that"))),
        }
    }

    /// Skips the check where any value of a property will do: only the names are standard, not that they count.
    async fn looks_at(&self, name: &str) -> Verdict {
        let value = self.fresh_name();
        match self.ask(self.asking(&[(name, &value)])).await? {
            Came::Ran if !self.is_own() => Err(Stop::skipped(format!("any {name} will do: {value} was run"))),
            _ => Ok(()),
        }
    }
}

async fn plt_02_a_family_that_there_is_not_matches_nothing(subject: &Subject) -> Verdict {
    subject.looks_at("OSFamily").await?;
    let nowhere = subject.fresh_name();
    subject.matches_nothing(&[("OSFamily", &nowhere)], Code::FailedPrecondition).await
}

async fn plt_02_nothing_is_of_two_families(subject: &Subject) -> Verdict {
    subject.looks_at("OSFamily").await?;
    // Also where workers offer both.
    subject.matches_nothing(&[("OSFamily", "linux"), ("OSFamily", "wasi")], Code::InvalidArgument).await
}

async fn plt_02_webassembly_is_a_family(subject: &Subject) -> Verdict {
    for properties in [&[("OSFamily", "wasi")][..], &[("ISA", "wasm32"), ("OSFamily", "wasi")]] {
        let action = TestAction::wasm("hello", &[&subject.fresh_name()]);
        let action = action.platform(properties).digest_function(subject.function());
        let came = subject.ask(action).await?;
        ensure!(matches!(came, Came::Ran), "a WebAssembly module with {properties:?} was not run");
    }
    Ok(())
}

async fn plt_03_every_isa_must_match(subject: &Subject) -> Verdict {
    subject.looks_at("ISA").await?;
    let nowhere = subject.fresh_name();
    subject.matches_nothing(&[("ISA", &nowhere)], Code::FailedPrecondition).await?;
    // One that there may be does not make up for one that there is not.
    for base in ["x86-64", "arm-a64"] {
        subject.matches_nothing(&[("ISA", base), ("ISA", &nowhere)], Code::FailedPrecondition).await?;
    }
    Ok(())
}

async fn plt_03_families_and_sets_of_instructions_fit_together(subject: &Subject) -> Verdict {
    for other in ["x86-64", "arm-a64"] {
        for properties in [
            &[("ISA", other), ("OSFamily", "wasi")][..],
            &[("ISA", other), ("ISA", "wasm32"), ("OSFamily", "wasi")],
        ] {
            subject.matches_nothing(properties, Code::FailedPrecondition).await?;
        }
    }
    Ok(())
}
