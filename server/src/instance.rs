//! The instances that are served, and what each offers.

use toml::{Table, Value};
use wardian_proto::{DigestFunction, DigestFunctions, InstanceName};

/// One instance: a name that clients send, with an action cache of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The name in requests.
    pub name: InstanceName,
    /// The digest functions it takes, the preferred one first.
    pub digest_functions: DigestFunctions,
}

/// Reads `instances`: names, or tables of a name and digest functions of its own.
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
        Value::String(name) => Ok(Instance { name: parse_name(name)?, digest_functions: shared.clone() }),
        Value::Table(table) => parse_table(table, shared),
        _ => Err("must be a list of names, or of tables with `name` and `digest_functions`".into()),
    }
}

fn parse_table(table: &Table, shared: &DigestFunctions) -> Result<Instance, String> {
    if let Some(key) = table.keys().find(|key| !["name", "digest_functions"].contains(&key.as_str())) {
        return Err(format!("unknown key {key:?}; known here: name, digest_functions"));
    }
    let name = table.get("name").and_then(Value::as_str).ok_or("a table without a `name`")?;
    let digest_functions = match table.get("digest_functions") {
        None => shared.clone(),
        Some(Value::Array(names)) => {
            let names = names.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
            parse_functions(&names.ok_or("digest_functions must be a list of texts")?)?
        }
        Some(_) => return Err("digest_functions must be a list of texts".into()),
    };
    Ok(Instance { name: parse_name(name)?, digest_functions })
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
    fn mistakes_are_named() {
        for (text, word) in [
            ("[]", "no instance"),
            (r#"["a", "a"]"#, "twice"),
            ("[5]", "list of names"),
            (r#"["a/blobs"]"#, "reserve"),
            (r#"[{ digest_functions = ["SHA1"] }]"#, "without a `name`"),
            (r#"[{ name = "a", digest_functions = "SHA1" }]"#, "list of texts"),
            (r#"[{ name = "a", digest_functions = [] }]"#, "names no digest function"),
            (r#"[{ name = "a", digest_functions = ["MD5", "MURMUR3"] }]"#, "tells them apart"),
            (r#"[{ name = "a", digest_functions = ["VSO"] }]"#, "no digest function"),
            (r#"[{ name = "a", colour = "green" }]"#, "unknown key"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
