//! How a package is built into a toolchain, where it does not bring the modules itself.

use wardian_proto::RelPath;

use super::keys::{Keys, Problems};
use super::{argument, below_root, is_version, is_word, parsed_path, sha256_hex};
use crate::toolchain::is_variable;

/// Steps of one recipe.
const STEPS_MAX: usize = 64;

/// Stands for the file of an action, in a step with `each`.
pub const FILE: &str = "{file}";

/// Stands for the file's name without its extension.
pub const STEM: &str = "{stem}";

/// As a whole argument: the outputs of all steps before, one argument each.
pub const MADE: &str = "{made}";

/// What is done to a package before its files are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Build {
    /// SHA-256 of the archive of what is built, as lower-case hex: the same on every machine.
    pub sha256: String,
    /// Who does it.
    pub builder: Builder,
    /// Files that are put beside those of the package.
    pub files: Vec<(RelPath, String)>,
    /// Environment of every step.
    pub environment: Vec<(String, String)>,
    /// What is done, one after the other.
    pub steps: Vec<Step>,
}

/// Who builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Builder {
    /// Another toolchain, NAME@VERSION: each step is one or several actions on the server.
    Toolchain(String),
    /// Programs of the package itself, which run on this machine and are not confined.
    Native {
        /// The machines that they are made for, as Rust calls them: `linux-x86_64`.
        machine: String,
    },
}

/// One step of a recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// What people are told.
    pub name: String,
    /// The folder of the package in which it runs; for actions it is their input root.
    pub folder: RelPath,
    /// One action for each file of the folder whose name ends so.
    pub each: Option<String>,
    /// The program and its arguments.
    pub arguments: Vec<String>,
    /// What an action makes, below `folder`.
    pub outputs: Vec<String>,
    /// Where the standard output of a program of the package goes.
    pub stdout: Option<RelPath>,
    /// Environment of this step.
    pub environment: Vec<(String, String)>,
}

impl Build {
    /// Whether code of the package runs on this machine.
    pub fn is_native(&self) -> bool {
        matches!(self.builder, Builder::Native { .. })
    }
}

pub(super) fn read_build(mut keys: Keys, problems: &mut Problems) -> Option<Build> {
    let sha256 = keys.text("sha256", problems, sha256_hex);
    let toolchain = keys.optional("toolchain", problems, |text| match text.split_once('@') {
        Some((name, version)) if is_word(name) && is_version(version) => Ok(text.to_owned()),
        _ => Err("write it as NAME@VERSION: what it makes depends on it".to_owned()),
    });
    let machine = keys.optional("native", problems, |text| match text.split_once('-') {
        Some((os, architecture)) if is_word(os) && is_word(architecture) => Ok(text.to_owned()),
        _ => Err("name the machine that it runs on, such as linux-x86_64".to_owned()),
    });
    let builder = match (toolchain, machine) {
        (Some(toolchain), None) => Some(Builder::Toolchain(toolchain)),
        (None, Some(machine)) => Some(Builder::Native { machine }),
        _ => {
            problems.add(keys.key("").trim_end_matches('.'), "name either toolchain or native".to_owned());
            None
        }
    };
    let files = keys.pairs("files", problems, |name, _| below_root(name).err());
    let files = files.into_iter().map(|(path, text)| (below_root(&path).expect("checked above"), text));
    let files = files.collect();
    let environment = variables(&mut keys, problems);
    let native = matches!(builder, Some(Builder::Native { .. }));
    let count = keys.count("step");
    if !(1..=STEPS_MAX).contains(&count) {
        problems.add(&keys.key("step"), format!("expected between 1 and {STEPS_MAX}, found {count}"));
    }
    let steps: Vec<_> =
        keys.tables("step", problems).into_iter().map(|keys| read_step(keys, native, problems)).collect();
    keys.finish(problems);
    let steps = steps.into_iter().collect::<Option<_>>()?;
    Some(Build { sha256: sha256?, builder: builder?, files, environment, steps })
}

fn read_step(mut keys: Keys, native: bool, problems: &mut Problems) -> Option<Step> {
    let name = keys.text("name", problems, |text| match text.chars().any(char::is_control) {
        true => Err("holds a control character".to_owned()),
        false => Ok(text.to_owned()),
    });
    let folder = keys.optional("folder", problems, parsed_path).unwrap_or_default();
    let each = keys.optional("each", problems, |text| match text.strip_prefix('*') {
        Some(end) if !end.is_empty() && !end.contains(['*', '/']) => Ok(end.to_owned()),
        _ => Err("write it as *.EXTENSION".to_owned()),
    });
    let arguments = keys.texts("arguments", problems, argument);
    let outputs = keys.optional_texts("outputs", problems, argument);
    let stdout = keys.optional("stdout", problems, below_root);
    let environment = variables(&mut keys, problems);
    match arguments.as_deref().and_then(<[_]>::first) {
        None => problems.add(&keys.key("arguments"), "name a program".to_owned()),
        // There is nothing on PATH: what runs is what the package was pinned to.
        Some(program) if native && below_root(program).is_err() => {
            problems.add(&keys.key("arguments[0]"), "is no path of a program in the package".to_owned());
        }
        Some(_) => {}
    }
    let misplaced = if native {
        [("each", each.is_some()), ("outputs", !outputs.is_empty())]
    } else {
        if outputs.is_empty() {
            problems.add(&keys.key("outputs"), "name what the action makes".to_owned());
        }
        [("stdout", stdout.is_some()), ("", false)]
    };
    for (key, _) in misplaced.iter().filter(|(_, there)| *there) {
        let kind = if native { "toolchain" } else { "native" };
        problems.add(&keys.key(key), format!("is for builds with `{kind}`"));
    }
    keys.finish(problems);
    Some(Step { name: name?, folder, each, arguments: arguments?, outputs, stdout, environment })
}

fn variables(keys: &mut Keys, problems: &mut Problems) -> Vec<(String, String)> {
    keys.pairs("environment", problems, |name, value| {
        let good = is_variable(name) && !value.contains('\0');
        (!good).then(|| "is no name of a variable, or its value holds a NUL byte".to_owned())
    })
}
