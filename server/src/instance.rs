//! The instances that are served, and what each offers.

use toml::{Table, Value};
use wardian_proto::{DigestFunction, DigestFunctions, InstanceName};
use wardian_runtime::action::is_wasm_by_platform;
use wardian_scheduler::{Platform, TenantPolicy, WEIGHT_MAX};

/// One instance: a name that clients send, with an action cache of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The name in requests.
    pub name: InstanceName,
    /// The digest functions it takes, the preferred one first.
    pub digest_functions: DigestFunctions,
    /// What it may have of the queue and the workers.
    pub share: TenantPolicy,
    /// Platform properties that its actions have unless they name one themselves.
    pub properties: Vec<(String, String)>,
    /// Where its native actions may run.
    pub native: NativeActions,
}

/// Where actions of an instance may run that are not WebAssembly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NativeActions {
    /// On every worker that runs such.
    #[default]
    Any,
    /// Only on workers that run them in sandboxes.
    Sandboxed,
}

impl NativeActions {
    const WORDS: [(&str, Self); 2] = [("any", Self::Any), ("sandboxed", Self::Sandboxed)];
}

impl Instance {
    /// An instance that shares the workers evenly with others.
    pub fn new(name: InstanceName, digest_functions: DigestFunctions) -> Self {
        Self {
            name,
            digest_functions,
            share: TenantPolicy::default(),
            native: NativeActions::Any,
            properties: Vec::new(),
        }
    }

    /// Whether an action with that platform may only go to a worker with sandboxes. What the platform does not say
    /// to be WebAssembly counts as native here: nobody has looked at the tool yet.
    pub(crate) fn demands_sandbox(&self, platform: &Platform) -> bool {
        self.native == NativeActions::Sandboxed && is_wasm_by_platform(platform) != Some(true)
    }

    /// What a worker must offer for an action with that platform.
    pub(crate) fn placed(&self, platform: Platform) -> Platform {
        if !self.demands_sandbox(&platform) || platform.iter().any(|property| property == SANDBOX) {
            return platform;
        }
        platform.with(SANDBOX.0, SANDBOX.1)
    }
}

/// What workers offer that run native actions in sandboxes.
const SANDBOX: (&str, &str) = ("sandbox", "namespaces");

/// What a table of an instance may say.
const TABLE_KEYS: &[&str] = &[
    "name",
    "digest_functions",
    "weight",
    "running_max",
    "queued_max",
    "memory_bytes_max",
    "operations_max",
    "properties",
    "native",
];

/// Reads `instances`: names, or tables of a name and what is different there.
pub(crate) fn parse_instances(items: &[Value], shared: &DigestFunctions) -> Result<Vec<Instance>, String> {
    let instances: Vec<Instance> =
        items.iter().map(|item| parse_instance(item, shared)).collect::<Result<_, _>>()?;
    if instances.is_empty() {
        return Err("names no instance, so nobody could call".into());
    }
    for (at, instance) in instances.iter().enumerate() {
        if instances[..at].iter().any(|earlier| earlier.name == instance.name) {
            return Err(format!("names {:?} twice", instance.name));
        }
    }
    Ok(instances)
}

fn parse_instance(item: &Value, shared: &DigestFunctions) -> Result<Instance, String> {
    match item {
        Value::String(name) => Ok(Instance::new(parse_name(name)?, shared.clone())),
        Value::Table(table) => parse_table(table, shared),
        _ => Err(format!("must be a list of names, or of tables with {}", TABLE_KEYS.join(", "))),
    }
}

fn parse_table(table: &Table, shared: &DigestFunctions) -> Result<Instance, String> {
    if let Some(key) = table.keys().find(|key| !TABLE_KEYS.contains(&key.as_str())) {
        return Err(format!("unknown key {key:?}; known here: {}", TABLE_KEYS.join(", ")));
    }
    let name = table.get("name").and_then(Value::as_str).ok_or("a table without a `name`")?;
    let digest_functions = match texts(table, "digest_functions")? {
        None => shared.clone(),
        Some(names) => parse_functions(&names)?,
    };
    let properties = parse_properties(&texts(table, "properties")?.unwrap_or_default())?;
    if properties.iter().any(|(name, _)| name == wardian_toolchains::PROPERTY) {
        return Err("an action must name its toolchains itself".into());
    }
    let native = match table.get("native") {
        None => NativeActions::Any,
        Some(word) => {
            let known = NativeActions::WORDS.iter().find(|(name, _)| word.as_str() == Some(name));
            known.ok_or("native must be \"any\" or \"sandboxed\"")?.1
        }
    };
    Ok(Instance { name: parse_name(name)?, digest_functions, share: parse_share(table)?, native, properties })
}

fn texts(table: &Table, key: &str) -> Result<Option<Vec<String>>, String> {
    let Some(value) = table.get(key) else { return Ok(None) };
    let items = value.as_array().map_or(&[][..], Vec::as_slice);
    let texts: Option<Vec<_>> = items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
    let texts = texts.filter(|_| value.is_array());
    texts.map(Some).ok_or_else(|| format!("{key} must be a list of texts"))
}

/// Reads platform properties, each `NAME=VALUE`.
pub(crate) fn parse_properties(entries: &[String]) -> Result<Vec<(String, String)>, String> {
    let split = |entry: &String| match entry.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{entry:?} is not NAME=VALUE")),
    };
    entries.iter().map(split).collect()
}

fn parse_share(table: &Table) -> Result<TenantPolicy, String> {
    let number = |key: &str, max: u64| match table.get(key).map(Value::as_integer) {
        None => Ok(None),
        Some(number) => {
            let number = number.and_then(|n| u64::try_from(n).ok()).filter(|n| (1..=max).contains(n));
            number.map(Some).ok_or_else(|| format!("{key} must be a whole number between 1 and {max}"))
        }
    };
    let count = |key: &str| Ok::<_, String>(number(key, u64::from(u32::MAX))?.map(|count| count as usize));
    let weight = number("weight", u64::from(WEIGHT_MAX))?.map_or(1, |weight| weight as u32);
    Ok(TenantPolicy {
        weight,
        running_max: count("running_max")?,
        queued_max: count("queued_max")?,
        memory_bytes_max: number("memory_bytes_max", i64::MAX as u64)?,
        operations_max: count("operations_max")?,
    })
}

fn parse_name(name: &str) -> Result<InstanceName, String> {
    InstanceName::parse(name).map_err(|error| error.to_string())
}

/// Reads digest functions by the names that the protocol gives them.
pub(crate) fn parse_functions(names: &[String]) -> Result<DigestFunctions, String> {
    let all = || {
        let names: Vec<&str> = DigestFunction::ALL.iter().map(|f| f.wire().as_str_name()).collect();
        names.join(", ")
    };
    let parse = |name: &String| {
        let found = DigestFunction::ALL.iter().find(|function| function.wire().as_str_name() == name);
        found.copied().ok_or_else(|| format!("{name:?} is no digest function; there are {}", all()))
    };
    let functions = names.iter().map(parse).collect::<Result<_, _>>()?;
    DigestFunctions::new(functions).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Instance>, String> {
        let table: Table = format!("instances = {text}").parse().unwrap();
        parse_instances(table["instances"].as_array().unwrap(), &DigestFunctions::collision_resistant())
    }

    #[test]
    fn an_instance_may_have_functions_of_its_own() {
        let instances = parse(r#"["", { name = "legacy", digest_functions = ["SHA1", "MD5"] }]"#).unwrap();
        assert_eq!(instances[0].digest_functions, DigestFunctions::collision_resistant());
        assert_eq!(instances[1].name.as_str(), "legacy");
        let functions: Vec<_> = instances[1].digest_functions.iter().collect();
        assert_eq!(functions, [DigestFunction::Sha1, DigestFunction::Md5]);
    }

    #[test]
    fn an_instance_may_have_a_share_of_its_own() {
        let instances = parse(
            r#"["", { name = "ci", weight = 5, running_max = 8, queued_max = 100, operations_max = 9 }]"#,
        )
        .unwrap();
        assert_eq!(instances[0].share, TenantPolicy::default());
        let expected = TenantPolicy {
            weight: 5,
            running_max: Some(8),
            queued_max: Some(100),
            memory_bytes_max: None,
            operations_max: Some(9),
        };
        assert_eq!(instances[1].share, expected);
    }

    #[test]
    fn an_instance_may_have_properties_for_its_actions() {
        let instances =
            parse(r#"["", { name = "system", properties = ["chroot-input-root=true", "a=b=c"] }]"#).unwrap();
        assert!(instances[0].properties.is_empty());
        let expected = [("chroot-input-root", "true"), ("a", "b=c")].map(|(n, v)| (n.into(), v.into()));
        assert_eq!(instances[1].properties, expected);
    }

    #[test]
    fn an_instance_may_want_native_actions_in_sandboxes() {
        let instances = parse(r#"["", { name = "ci", native = "sandboxed" }]"#).unwrap();
        assert_eq!(instances[1].native, NativeActions::Sandboxed);
        let none = Platform::default();
        assert!(!instances[0].demands_sandbox(&none));
        for (platform, demanded) in [
            (none.clone(), true),
            (none.clone().with("OSFamily", "linux"), true),
            (none.clone().with("OSFamily", "linux").with("ISA", "wasm32"), true),
            (none.clone().with("OSFamily", "wasi"), false),
            (none.with("ISA", "wasm32"), false),
        ] {
            assert_eq!(instances[1].demands_sandbox(&platform), demanded, "{platform:?}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("[]", "no instance"),
            (r#"["a", "a"]"#, "twice"),
            ("[5]", "list of names"),
            (r#"["a/blobs"]"#, "reserve"),
            (r#"[{ digest_functions = ["SHA1"] }]"#, "without a `name`"),
            (r#"[{ name = "a", digest_functions = "SHA1" }]"#, "list of texts"),
            (r#"[{ name = "a", properties = [5] }]"#, "properties must be a list of texts"),
            (r#"[{ name = "a", properties = ["chroot"] }]"#, "is not NAME=VALUE"),
            (r#"[{ name = "a", properties = ["toolchain=clang"] }]"#, "toolchains itself"),
            (r#"[{ name = "a", digest_functions = [] }]"#, "names no digest function"),
            (r#"[{ name = "a", digest_functions = ["MD5", "MURMUR3"] }]"#, "tells them apart"),
            (r#"[{ name = "a", digest_functions = ["VSO"] }]"#, "no digest function"),
            (r#"[{ name = "a", colour = "green" }]"#, "unknown key"),
            (r#"[{ name = "a", weight = 0 }]"#, "between 1 and 1000"),
            (r#"[{ name = "a", native = "never" }]"#, "native must be"),
            (r#"[{ name = "a", running_max = "many" }]"#, "running_max must be"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
