//! What actions ask for and what workers offer.

use std::collections::BTreeMap;
use std::fmt;

use wardian_proto::reapi;

/// Most properties that one platform may have.
const PROPERTIES_MAX: usize = 64;

/// The properties an action asks for. A name may occur several times; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Platform(Vec<(String, String)>);

/// Why a platform was refused (INVALID_ARGUMENT).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PlatformError {
    #[error("platform has {0} properties; limit is {PROPERTIES_MAX}")]
    TooMany(usize),
    #[error("platform has a property without a name")]
    EmptyName,
    #[error("platform asks for OSFamily={0} and for OSFamily={1}; nothing is both")]
    TwoFamilies(String, String),
}

/// The standard property that has one value. Workers that run several kinds of commands offer several.
const OS_FAMILY: &str = "OSFamily";

impl Platform {
    /// Reads the wire form. `OSFamily` is compared in lower case: clients also send `Linux`.
    pub fn from_wire(wire: Option<&reapi::Platform>) -> Result<Self, PlatformError> {
        let properties = wire.map_or(&[][..], |p| &p.properties);
        if properties.len() > PROPERTIES_MAX {
            return Err(PlatformError::TooMany(properties.len()));
        }
        let parse = |property: &reapi::platform::Property| {
            if property.name.is_empty() {
                return Err(PlatformError::EmptyName);
            }
            let lower = property.name == OS_FAMILY;
            let value = if lower { property.value.to_lowercase() } else { property.value.clone() };
            Ok((property.name.clone(), value))
        };
        let parsed = Self(properties.iter().map(parse).collect::<Result<_, _>>()?);
        match parsed.two_families() {
            Some((first, second)) => Err(PlatformError::TwoFamilies(first.into(), second.into())),
            None => Ok(parsed),
        }
    }

    fn two_families(&self) -> Option<(&str, &str)> {
        let mut families = self.iter().filter(|(name, _)| *name == OS_FAMILY).map(|(_, value)| value);
        let first = families.next()?;
        Some((first, families.find(|value| *value != first)?))
    }

    /// Properties that were read from the wire once.
    pub(crate) fn from_pairs(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }

    /// The same with one more property that must hold.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Every property, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The properties that say how a WebAssembly command is run, and nothing about where: `wasi-*`, `wasm-*`.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter(|(name, _)| is_setting(name))
    }

    /// The properties that some workers satisfy and others do not, in one order.
    pub(crate) fn demands(&self) -> Self {
        let mut demands: Vec<_> = self.0.iter().filter(|(name, _)| !is_setting(name)).cloned().collect();
        demands.sort();
        Self(demands)
    }

    /// The first value of a property.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}

/// Whether a property is read by the executor of WebAssembly, so that every worker satisfies it.
fn is_setting(name: &str) -> bool {
    name.starts_with("wasi-") || name.starts_with("wasm-")
}

/// What a worker is and can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The worker's name, as results carry it.
    pub name: String,
    /// Property values it satisfies, by name.
    pub properties: BTreeMap<String, Vec<String>>,
    /// Actions it runs at once.
    pub slots: usize,
    /// Memory it has for them, in bytes; actions that say how much they need are given out accordingly.
    pub memory_bytes: Option<u64>,
    /// Actions it takes beside those it runs, to begin them as soon as it can. Of use to workers elsewhere only.
    pub ahead: usize,
}

impl Offer {
    /// The first property of `platform` that this worker does not satisfy.
    fn lacks<'a>(&self, platform: &'a Platform) -> Option<(&'a str, &'a str)> {
        platform.iter().filter(|(name, _)| !is_setting(name)).find(|(name, value)| {
            !self.properties.get(*name).is_some_and(|offered| offered.iter().any(|v| v == value))
        })
    }

    /// Whether this worker may run actions with that platform.
    pub fn satisfies(&self, platform: &Platform) -> bool {
        self.lacks(platform).is_none()
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.name)?;
        for (i, (name, values)) in self.properties.iter().enumerate() {
            write!(f, "{}{name}={}", if i > 0 { ", " } else { "" }, values.join("|"))?;
        }
        f.write_str(")")
    }
}

/// A platform that no worker can ever serve (FAILED_PRECONDITION).
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Unsatisfiable {
    #[error("there is no worker")]
    NoWorkers,
    #[error("no worker satisfies platform property {name}={value}; workers: {workers}")]
    Property { name: String, value: String, workers: String },
}

/// Workers named in an error message, at the most.
const WORKERS_NAMED_MAX: usize = 8;

/// Says why none of these workers can serve a platform; `None` when one can.
pub fn unsatisfiable<'a>(
    platform: &Platform,
    workers: impl Iterator<Item = &'a Offer> + Clone,
) -> Option<Unsatisfiable> {
    if workers.clone().any(|worker| worker.satisfies(platform)) {
        return None;
    }
    // The most telling property: one that not a single worker has, else whatever the last one lacks.
    let lacking = platform
        .iter()
        .find(|p| workers.clone().all(|w| w.lacks(&Platform(vec![(p.0.into(), p.1.into())])).is_some()))
        .or_else(|| workers.clone().filter_map(|w| w.lacks(platform)).last());
    let Some((name, value)) = lacking.filter(|_| workers.clone().next().is_some()) else {
        return Some(Unsatisfiable::NoWorkers);
    };
    let workers: Vec<String> = workers.take(WORKERS_NAMED_MAX).map(ToString::to_string).collect();
    Some(Unsatisfiable::Property { name: name.into(), value: value.into(), workers: workers.join("; ") })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn platform(properties: &[(&str, &str)]) -> Platform {
        Platform(properties.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    pub(crate) fn offer(properties: &[(&str, &[&str])]) -> Offer {
        let owned = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect();
        Offer {
            name: "w".into(),
            properties: properties.iter().map(|(n, v)| ((*n).to_owned(), owned(v))).collect(),
            slots: 1,
            memory_bytes: None,
            ahead: 0,
        }
    }

    #[test]
    fn all_properties_must_hold() {
        let worker = offer(&[("OSFamily", &["linux", "wasi"]), ("ISA", &["x86-64", "x86-avx2"])]);
        for (asked, expected) in [
            (&[][..], true),
            (&[("OSFamily", "wasi")], true),
            (&[("ISA", "x86-64"), ("ISA", "x86-avx2")], true),
            (&[("ISA", "x86-64"), ("ISA", "arm-neon")], false),
            (&[("pool", "gpu")], false),
        ] {
            assert_eq!(worker.satisfies(&platform(asked)), expected, "{asked:?}");
        }
    }

    #[test]
    fn the_refusal_names_property_and_workers() {
        let workers = [offer(&[("OSFamily", &["linux"])]), offer(&[("OSFamily", &["wasi"])])];
        let asked = platform(&[("OSFamily", "linux"), ("pool", "gpu")]);
        let why = unsatisfiable(&asked, workers.iter()).unwrap().to_string();
        assert!(why.contains("pool=gpu") && why.contains("OSFamily=wasi"), "{why}");
        assert_eq!(unsatisfiable(&asked, [].iter()), Some(Unsatisfiable::NoWorkers));
        assert_eq!(unsatisfiable(&platform(&[]), workers.iter()), None);
    }

    #[test]
    fn os_family_is_lower_case_and_limits_hold() {
        let property =
            |name: &str, value: &str| reapi::platform::Property { name: name.into(), value: value.into() };
        let wire = reapi::Platform { properties: vec![property("OSFamily", "Linux"), property("ISA", "X")] };
        let parsed = Platform::from_wire(Some(&wire)).unwrap();
        assert_eq!((parsed.get("OSFamily"), parsed.get("ISA")), (Some("linux"), Some("X")));
        let families = |values: [&str; 2]| {
            let properties = values.map(|value| property("OSFamily", value)).to_vec();
            Platform::from_wire(Some(&reapi::Platform { properties }))
        };
        assert!(families(["linux", "Linux"]).is_ok());
        let both = PlatformError::TwoFamilies("linux".into(), "wasi".into());
        assert_eq!(families(["linux", "wasi"]), Err(both));
        let many = reapi::Platform { properties: vec![property("a", "b"); 65] };
        assert_eq!(Platform::from_wire(Some(&many)), Err(PlatformError::TooMany(65)));
    }
}
