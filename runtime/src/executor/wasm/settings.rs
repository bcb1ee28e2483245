//! What an action's platform says about its guest: the properties `wasi-*` and `wasm-*`.

use std::fmt::Display;

use wardian_scheduler::Platform;

use super::engines::Tier;
use crate::wasi::{ClockPolicy, RandomPolicy};
use crate::{Failure, Limits};

/// How one guest is run.
#[derive(Clone, Debug)]
pub struct WasmSettings {
    pub(crate) clock: ClockPolicy,
    pub(crate) random: RandomPolicy,
    /// Fuel that it may use; `None` when it is not counted.
    pub(crate) fuel: Option<u64>,
    /// The machine code to run, if any will not do: an audit compares them, and only one counts fuel.
    pub(crate) tier: Option<Tier>,
    /// How many more times to run it, and to compare what comes out.
    pub(crate) audit_runs: u64,
    /// Whether an action that calls Bazel's script for tests is run as the test program itself.
    pub(crate) is_bazel_test: bool,
    /// The worker's limits, some of them tighter.
    pub(crate) limits: Limits,
}

impl WasmSettings {
    /// Reads the properties. One that is not known, or that asks for more than `limits` allow, is refused.
    pub(crate) fn parse(platform: &Platform, limits: &Limits) -> Result<Self, Failure> {
        let (clock, random) = (ClockPolicy::default(), RandomPolicy::default());
        let limits = limits.clone();
        let mut settings =
            Self { clock, random, fuel: None, tier: None, audit_runs: 0, is_bazel_test: false, limits };
        for (name, value) in platform.settings() {
            settings.set(name, value)?;
        }
        if settings.fuel.is_some() && *settings.tier.get_or_insert(Tier::Metered) != Tier::Metered {
            return Err(Failure::InvalidArgument(
                "platform property wasm-fuel needs wasm-tier=metered, or none: other machine code does not count".into(),
            ));
        }
        Ok(settings)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        let property = Property { name, value };
        let limits = &mut self.limits;
        match name {
            "wasi-clock" => {
                let choices = [("fixed", ClockPolicy::Fixed), ("real", ClockPolicy::Real)];
                self.clock = property.choice(choices)?;
            }
            "wasi-random" => {
                let choices = [("action", RandomPolicy::Action), ("system", RandomPolicy::System)];
                self.random = property.choice(choices)?;
            }
            "wasi-audit" => {
                let mut runs = limits.wasm_audit_runs_max;
                property.tighten("wasm_audit_runs_max", &mut runs)?;
                self.audit_runs = runs;
            }
            "wasi-test" => self.is_bazel_test = property.choice([("bazel", true)])?,
            "wasm-tier" => self.tier = Some(value.parse().map_err(|why: String| property.refuse(why))?),
            "wasm-fuel" => self.fuel = Some(property.number()?),
            "wasm-memory" => property.tighten("wasm_memory_bytes_max", &mut limits.wasm_memory_bytes_max)?,
            "wasm-table-elements" => {
                property.tighten("wasm_table_elements_max", &mut limits.wasm_table_elements_max)?;
            }
            "wasm-stdout-bytes" => property.tighten("stdout_bytes_max", &mut limits.stdout_bytes_max)?,
            "wasm-open-files" => property.tighten("wasm_handles_max", &mut limits.wasm_handles_max)?,
            "wasm-workspace-bytes" => {
                property.tighten("wasm_workspace_bytes_max", &mut limits.wasm_workspace_bytes_max)?;
            }
            "wasm-workspace-files" => {
                property.tighten("wasm_workspace_files_max", &mut limits.wasm_workspace_files_max)?;
            }
            "wasm-path-depth" => {
                property.tighten("wasm_path_depth_max", &mut limits.wasm_path_depth_max)?;
            }
            _ => return Err(property.refuse("is not known to this server")),
        }
        Ok(())
    }
}

/// One property of a platform.
struct Property<'a> {
    name: &'a str,
    value: &'a str,
}

impl Property<'_> {
    fn refuse(&self, why: impl Display) -> Failure {
        let Self { name, value } = self;
        Failure::InvalidArgument(format!("platform property {name}={value:?} {why}"))
    }

    fn choice<T: Copy, const N: usize>(&self, choices: [(&str, T); N]) -> Result<T, Failure> {
        let chosen = choices.iter().find(|(name, _)| *name == self.value);
        chosen.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.refuse(format_args!("is none of {}", names.join(", ")))
        })
    }

    fn number(&self) -> Result<u64, Failure> {
        self.value.parse().map_err(|_| self.refuse("is no whole number"))
    }

    /// Lowers a limit. A property never loosens what the worker's configuration says.
    fn tighten<T: Copy + Display + PartialOrd + TryFrom<u64>>(
        &self,
        limit_name: &str,
        limit: &mut T,
    ) -> Result<(), Failure> {
        let looser =
            |limit: T| self.refuse(format_args!("is looser than limit {limit_name}, which is {limit}"));
        let asked = T::try_from(self.number()?).map_err(|_| looser(*limit))?;
        if asked > *limit {
            return Err(looser(*limit));
        }
        *limit = asked;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wardian_proto::reapi;

    use super::*;

    fn parse(properties: &[(&str, &str)]) -> Result<WasmSettings, Failure> {
        let property = |(name, value): &(&str, &str)| reapi::platform::Property {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        };
        let wire = reapi::Platform { properties: properties.iter().map(property).collect() };
        WasmSettings::parse(&Platform::from_wire(Some(&wire)).unwrap(), &Limits::default())
    }

    #[test]
    fn properties_loosen_determinism_and_tighten_limits() {
        let plain = parse(&[("OSFamily", "wasi"), ("pool", "x")]).unwrap();
        assert_eq!((plain.clock, plain.random, plain.fuel), (ClockPolicy::Fixed, RandomPolicy::Action, None));
        let set = parse(&[
            ("wasi-clock", "real"),
            ("wasi-random", "system"),
            ("wasm-fuel", "1000"),
            ("wasm-memory", "65536"),
            ("wasm-table-elements", "1"),
            ("wasm-stdout-bytes", "2"),
            ("wasm-open-files", "3"),
            ("wasm-workspace-bytes", "4"),
            ("wasm-workspace-files", "5"),
            ("wasm-path-depth", "6"),
            ("wasi-audit", "2"),
        ])
        .unwrap();
        assert_eq!((set.clock, set.random, set.fuel), (ClockPolicy::Real, RandomPolicy::System, Some(1000)));
        assert_eq!((plain.audit_runs, set.audit_runs), (0, 2));
        let limits = set.limits;
        assert_eq!((limits.wasm_memory_bytes_max, limits.wasm_table_elements_max), (65_536, 1));
        assert_eq!((limits.stdout_bytes_max, limits.wasm_handles_max), (2, 3));
        assert_eq!((limits.wasm_workspace_bytes_max, limits.wasm_workspace_files_max), (4, 5));
        assert_eq!(limits.wasm_path_depth_max, 6);
    }

    #[test]
    fn what_is_unknown_or_looser_is_refused_by_name() {
        for (name, value, why) in [
            ("wasi-clocks", "real", "not known"),
            ("wasm-memory-bytes", "1", "not known"),
            ("wasi-clock", "fast", "fixed, real"),
            ("wasm-fuel", "-1", "whole number"),
            ("wasm-memory", "4294967297", "wasm_memory_bytes_max"),
            ("wasm-workspace-bytes", "18446744073709551615", "wasm_workspace_bytes_max"),
            ("wasm-open-files", "", "whole number"),
            ("wasi-audit", "1000", "wasm_audit_runs_max"),
            ("wasi-audit", "twice", "whole number"),
            ("wasi-test", "gradle", "bazel"),
        ] {
            let refusal = parse(&[(name, value)]).unwrap_err();
            assert!(matches!(refusal, Failure::InvalidArgument(_)), "{refusal:?}");
            let text = refusal.to_string();
            assert!(text.contains(name) && text.contains(why), "{text}");
        }
    }
}
