//! One case of the corpus: a small action with a toolchain, and the digests that must come of it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use toml::{Table, Value};
use wardian_proto::RelPath;
use wardian_toolchains::Smoke;

/// An action and what must come of it.
#[derive(Debug)]
pub(super) struct Case {
    /// `FOLDER/FILE` of the case, without `.toml`.
    pub(super) name: String,
    /// The toolchain by name; without one the command is a module among its inputs.
    pub(super) toolchain: Option<String>,
    pub(super) arguments: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    /// Input files and what is in them.
    pub(super) files: BTreeMap<RelPath, String>,
    /// Input files that other cases make: `CASE: PATH`.
    pub(super) inputs: BTreeMap<RelPath, (String, RelPath)>,
    pub(super) exit_code: i32,
    pub(super) expected: Expected,
}

/// SHA-256 of what an action printed and made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) stdout: String,
    pub(super) outputs: BTreeMap<RelPath, String>,
}

impl Expected {
    /// Says what is different; nothing when all is the same.
    pub(super) fn difference(&self, found: &Self) -> Option<String> {
        if self.stdout != found.stdout {
            return Some(format!("standard output is {}, not {}", found.stdout, self.stdout));
        }
        let different = |(path, digest): &(&RelPath, &String)| found.outputs.get(*path) != Some(*digest);
        let (path, digest) = self.outputs.iter().find(different)?;
        Some(format!("{path} is {}, not {digest}", found.outputs.get(path).map_or("absent", String::as_str)))
    }
}

impl Case {
    /// Reads a case. What is wrong names the key.
    pub(super) fn read(corpus: &Path, file: &Path) -> anyhow::Result<Self> {
        let name = file.strip_prefix(corpus)?.with_extension("").display().to_string();
        let text = std::fs::read_to_string(file)?;
        Self::parse(name.clone(), &text).with_context(|| format!("{name}.toml"))
    }

    fn parse(name: String, text: &str) -> anyhow::Result<Self> {
        let mut table: Table = text.parse()?;
        let toolchain = table.remove("toolchain").map(string).transpose().context("toolchain")?;
        let arguments = match table.remove("arguments") {
            Some(Value::Array(items)) => items.into_iter().map(string).collect::<Result<_, _>>()?,
            _ => bail!("arguments: must be a list of texts"),
        };
        let exit_code = match table.remove("exit_code") {
            None => 0,
            Some(Value::Integer(code)) => i32::try_from(code)?,
            Some(_) => bail!("exit_code: must be a number"),
        };
        let stdout = table.remove("stdout").map(string).transpose().context("stdout")?.unwrap_or_default();
        let inputs = texts(&mut table, "inputs")?.into_iter().map(|(path, from)| {
            let (case, made) = from.split_once(": ").context("inputs: write them as CASE: PATH")?;
            anyhow::Ok((path, (case.to_owned(), RelPath::parse(made)?)))
        });
        let environment = match table.remove("environment") {
            None => BTreeMap::new(),
            Some(Value::Table(inner)) => {
                let variable = |(name, value)| anyhow::Ok((name, string(value)?));
                inner.into_iter().map(variable).collect::<Result<_, _>>().context("environment")?
            }
            Some(_) => bail!("environment: must be names with texts"),
        };
        let case = Self {
            name,
            environment,
            toolchain,
            arguments,
            files: texts(&mut table, "files")?,
            inputs: inputs.collect::<Result<_, _>>()?,
            exit_code,
            expected: Expected { stdout, outputs: texts(&mut table, "outputs")? },
        };
        ensure!(table.is_empty(), "unknown key {}", table.keys().next().expect("not empty"));
        Ok(case)
    }

    /// The smoke test of a toolchain as a case.
    pub(super) fn of_smoke(toolchain: &str, smoke: &Smoke) -> Self {
        Self {
            name: format!("{toolchain}/smoke"),
            toolchain: Some(toolchain.to_owned()),
            arguments: smoke.arguments.clone(),
            environment: BTreeMap::new(),
            files: smoke.files.iter().cloned().collect(),
            inputs: BTreeMap::new(),
            exit_code: smoke.exit_code,
            expected: Expected { stdout: String::new(), outputs: smoke.outputs.iter().cloned().collect() },
        }
    }

    /// The text of a case with other digests in it. Only what stands after `=` in lines of digests is replaced.
    pub(super) fn with_digests(&self, text: &str, found: &Expected) -> String {
        let mut lines = Vec::new();
        for line in text.lines() {
            let key = line.split_once(" = ").map(|(key, _)| key);
            let output = self.expected.outputs.keys().find(|p| key == Some(&format!("outputs.\"{p}\"")));
            lines.push(match (key, output) {
                (Some("stdout"), _) => format!("stdout = \"{}\"", found.stdout),
                (_, Some(path)) => {
                    let digest = found.outputs.get(path).map_or("", String::as_str);
                    format!("outputs.\"{path}\" = \"{digest}\"")
                }
                _ => line.to_owned(),
            });
        }
        lines.join("\n") + "\n"
    }
}

fn string(value: Value) -> anyhow::Result<String> {
    match value {
        Value::String(text) => Ok(text),
        other => bail!("{other} is no text"),
    }
}

fn texts(table: &mut Table, key: &str) -> anyhow::Result<BTreeMap<RelPath, String>> {
    let inner = match table.remove(key) {
        None => return Ok(BTreeMap::new()),
        Some(Value::Table(inner)) => inner,
        Some(_) => bail!("{key}: must be paths with texts"),
    };
    let pair = |(path, value): (String, Value)| anyhow::Ok((RelPath::parse(&path)?, string(value)?));
    inner.into_iter().map(pair).collect::<Result<_, _>>().with_context(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
toolchain = "clang"
arguments = ["clang", "-c", "a.c"]
environment.LANG = "C"
stdout = ""
files."a.c" = "int a;"
inputs."x/b.h" = "clang/other: b.h"
outputs."a.o" = "old"
"#;

    #[test]
    fn a_case_is_read_and_blessed() {
        let case = Case::parse("clang/a".into(), TEXT).unwrap();
        assert_eq!((case.arguments.len(), case.environment["LANG"].as_str()), (3, "C"));
        assert_eq!(case.inputs.values().next().unwrap().0, "clang/other");
        let mut found = case.expected.clone();
        found.outputs.values_mut().for_each(|digest| *digest = "new".into());
        found.stdout = "said".into();
        let blessed = case.with_digests(TEXT.trim_start(), &found);
        assert_eq!(Case::parse("clang/a".into(), &blessed).unwrap().expected, found);
        assert!(blessed.contains("files.\"a.c\" = \"int a;\""));
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, word) in [
            ("\"clang/other: b.h\"", "\"b.h\"", "CASE: PATH"),
            ("stdout", "stdin", "unknown key stdin"),
            ("\"x/b.h\"", "\"../b.h\"", "inputs"),
            ("arguments", "argument", "arguments"),
        ] {
            let error = Case::parse("c".into(), &TEXT.replace(from, to)).unwrap_err();
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
    }
}
