//! What a toolchain is made of, as a TOML file says it. All that is wrong in one is reported at once.

use std::fmt;
use std::str::FromStr;

use toml::Table;
use wardian_proto::{Digest, RelPath};

use crate::Toolchain;
use crate::toolchain::{self, Tool, is_own_property, is_tool_name, is_variable};

mod build;
mod keys;
mod source;

use build::read_build;
pub use build::{Build, Builder, FILE, MADE, STEM, Step};
use keys::{Keys, Problems};
pub use source::{Source, SourceError};
pub(crate) use source::{is_version, is_word};

/// A toolchain: where its package comes from and what of it goes where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Manifest {
    /// Name of the toolchain: lower-case letters, digits and `._+-`.
    pub name: String,
    /// Version of the toolchain: what people ask for. That of its package may be another.
    pub version: String,
    /// One line for people.
    pub description: String,
    /// SPDX expression for what is imported.
    pub license: String,
    /// Where the package comes from.
    pub source: Source,
    /// SHA-256 of the package file, as lower-case hex; `None` for a folder only.
    pub sha256: Option<String>,
    /// What is done to the package before its files are taken.
    pub build: Option<Build>,
    /// Where the tree is in the input root of an action.
    pub mount: RelPath,
    /// What the modules need beyond the first version of WebAssembly; for people.
    pub needs: Vec<String>,
    /// The WebAssembly modules.
    pub modules: Vec<Module>,
    /// The archives to unpack beside them.
    pub unpack: Vec<Unpack>,
    /// The files and folders to take as they are.
    pub take: Vec<Take>,
    /// What argv[0] may name.
    pub tools: Vec<Tool>,
    /// Environment of every tool.
    pub environment: Vec<(String, String)>,
    /// Platform properties of every tool: its limits and its clock.
    pub properties: Vec<(String, String)>,
    /// A small action that shows that it works.
    pub smoke: Option<Smoke>,
}

/// A module of a toolchain, which may stand for several programs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Module {
    /// Its path inside the package.
    pub file: RelPath,
    /// Every path that it gets in the imported tree.
    pub paths: Vec<RelPath>,
}

/// A tar archive inside of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unpack {
    /// Its path inside the package.
    pub archive: RelPath,
    /// The folder of the imported tree that its files go to.
    pub into: RelPath,
}

/// A file of a package, or a folder with everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Take {
    /// Its path inside the package.
    pub from: RelPath,
    /// Its path in the imported tree.
    pub into: RelPath,
}

/// A small action that a toolchain must do right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Smoke {
    /// The tool and its arguments.
    pub arguments: Vec<String>,
    /// Input files and what is in them.
    pub files: Vec<(RelPath, String)>,
    /// Output files and the SHA-256 that they must have; an empty one is not compared.
    pub outputs: Vec<(RelPath, String)>,
    /// What standard output must hold.
    pub stdout: Option<String>,
    /// The exit code; 0 unless something else is said.
    pub exit_code: i32,
}

/// One thing that is wrong in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, such as `unpack[0].into`; empty for the file as a whole.
    pub key: String,
    /// What is wrong there.
    pub why: String,
}

/// Everything that is wrong in a manifest; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestProblems(pub Vec<Problem>);

impl std::error::Error for ManifestProblems {}

impl fmt::Display for ManifestProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("toolchain manifest is wrong:")?;
        for Problem { key, why } in &self.0 {
            let colon = if key.is_empty() { "" } else { ": " };
            write!(f, "\n  {key}{colon}{why}")?;
        }
        Ok(())
    }
}

impl Manifest {
    /// Parses the text of a manifest.
    pub fn parse(text: &str) -> Result<Self, ManifestProblems> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            ManifestProblems(vec![Problem {
                key: String::new(),
                why: error.to_string().trim_end().to_owned(),
            }])
        })?;
        let mut problems = Problems::default();
        let manifest = read_manifest(Keys::new("", table), &mut problems);
        match manifest {
            Some(manifest) if problems.0.is_empty() => Ok(manifest),
            _ => Err(ManifestProblems(problems.0)),
        }
    }

    /// `NAME@VERSION`.
    pub fn label(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// What is registered once the tree is stored.
    pub fn toolchain(&self, tree: Digest, modules: Vec<Digest>) -> Toolchain {
        Toolchain {
            name: self.name.clone(),
            version: self.version.clone(),
            tree,
            mount: self.mount.clone(),
            tools: self.tools.clone(),
            environment: self.environment.clone(),
            properties: self.properties.clone(),
            modules,
            description: self.description.clone(),
            license: self.license.clone(),
            source: self.source.to_string(),
        }
    }
}

fn read_manifest(mut keys: Keys, problems: &mut Problems) -> Option<Manifest> {
    let name = keys.text("name", problems, |text| match is_word(text) {
        true => Ok(text.to_owned()),
        false => Err("use lower-case letters, digits and ._+-".to_owned()),
    });
    let version = keys.text("version", problems, |text| match is_version(text) {
        true => Ok(text.to_owned()),
        false => Err(SourceError::Version(text.to_owned()).to_string()),
    });
    let description = keys.optional("description", problems, |text| Ok(text.to_owned()));
    let license = keys.text("license", problems, |text| match text.trim().is_empty() {
        true => Err("name the licence as an SPDX expression".to_owned()),
        false => Ok(text.to_owned()),
    });
    let source: Option<Source> = keys.text("source", problems, parsed);
    let sha256 = match &source {
        Some(Source::Dir { .. }) => {
            keys.optional("sha256", problems, |_| Err::<String, _>("a folder has none".to_owned()))
        }
        _ => keys.text("sha256", problems, sha256_hex),
    };
    let build = keys.optional_table("build", problems).and_then(|keys| read_build(keys, problems));
    if let (Some(_), Some(Source::Dir { .. })) = (&build, &source) {
        problems.add("build", "is for packages that are fetched, which a folder is not".to_owned());
    }
    let mount = keys.optional("mount", problems, below_root);
    keys.optional("wasi", problems, |text| match text {
        "preview1" => Ok(()),
        other => Err(format!("{other:?} is not known; only preview1 is")),
    });
    let needs = keys.optional_texts("needs", problems, |text| Ok(text.to_owned()));
    let modules: Vec<_> =
        keys.tables("module", problems).into_iter().map(|keys| read_module(keys, problems)).collect();
    let unpack: Vec<_> =
        keys.tables("unpack", problems).into_iter().map(|keys| read_unpack(keys, problems)).collect();
    let take: Vec<_> =
        keys.tables("take", problems).into_iter().map(|keys| read_take(keys, problems)).collect();
    let tools: Vec<_> =
        keys.tables("tool", problems).into_iter().map(|keys| read_tool(keys, problems)).collect();
    let no_nul = |value: &str| value.contains('\0').then(|| "holds a NUL byte".to_owned());
    let environment = keys.pairs("environment", problems, |name, value| match is_variable(name) {
        true => no_nul(value),
        false => Some("is no name of a variable".to_owned()),
    });
    let properties = keys.pairs("properties", problems, |name, _| match is_own_property(name) {
        true => None,
        false => Some("is not one of wasi-* and wasm-*".to_owned()),
    });
    let smoke = keys.optional_table("smoke", problems).and_then(|keys| read_smoke(keys, problems));
    keys.finish(problems);

    if modules.is_empty() {
        problems.add("module", "name at least one".to_owned());
    }
    for (at, item) in unpack.iter().enumerate() {
        let Some(item) = item else { continue };
        let earlier = unpack[..at].iter().flatten().any(|other| other.archive == item.archive);
        if earlier || modules.iter().flatten().any(|module| module.file == item.archive) {
            problems.add(&format!("unpack[{at}].archive"), "this file is used already".to_owned());
        }
    }
    let modules: Vec<Module> = modules.into_iter().collect::<Option<_>>()?;
    let tools = tools_of(tools.into_iter().collect::<Option<_>>()?, &modules, problems);
    if let Some(smoke) = &smoke
        && !tools.iter().any(|tool| tool.name == smoke.arguments[0])
    {
        problems.add("smoke.arguments[0]", format!("{:?} is none of the tools", smoke.arguments[0]));
    }
    let name = name?;
    Some(Manifest {
        mount: mount.unwrap_or_else(|| toolchain::default_mount(&name)),
        name,
        version: version?,
        description: description.unwrap_or_default(),
        license: license?,
        source: source?,
        sha256,
        build,
        needs,
        modules,
        unpack: unpack.into_iter().collect::<Option<_>>()?,
        take: take.into_iter().collect::<Option<_>>()?,
        tools,
        environment,
        properties,
        smoke,
    })
}

/// The tools that are named, and else one for each path of a module.
fn tools_of(named: Vec<Tool>, modules: &[Module], problems: &mut Problems) -> Vec<Tool> {
    for (at, tool) in named.iter().enumerate() {
        if named[..at].iter().any(|other| other.name == tool.name) {
            problems.add(&format!("tool[{at}].name"), format!("{} is named already", tool.name));
        }
        if !modules.iter().any(|module| module.paths.contains(&tool.path)) {
            problems.add(&format!("tool[{at}].path"), format!("{} is no path of a module", tool.path));
        }
    }
    if !named.is_empty() {
        return named;
    }
    let mut tools: Vec<Tool> = Vec::new();
    for path in modules.iter().flat_map(|module| &module.paths) {
        let name = path.file_name().unwrap_or_default().to_owned();
        if tools.iter().any(|tool| tool.name == name) || !is_tool_name(&name) {
            problems.add("tool", format!("{path} needs a name of its own; name the tools"));
        }
        tools.push(Tool { name, path: path.clone(), arguments: Vec::new() });
    }
    tools
}

fn read_module(mut keys: Keys, problems: &mut Problems) -> Option<Module> {
    let file = keys.text("file", problems, below_root);
    let paths = keys.texts("paths", problems, below_root);
    if let Some(paths) = &paths {
        if paths.is_empty() {
            problems.add(&keys.key("paths"), "name at least one path".to_owned());
        }
        for (at, path) in paths.iter().enumerate().filter(|(at, path)| paths[..*at].contains(path)) {
            problems.add(&keys.key(&format!("paths[{at}]")), format!("{path} is named already"));
        }
    }
    keys.finish(problems);
    Some(Module { file: file?, paths: paths? })
}

fn read_unpack(mut keys: Keys, problems: &mut Problems) -> Option<Unpack> {
    let archive = keys.text("archive", problems, below_root);
    let into = keys.text("into", problems, parsed_path);
    keys.finish(problems);
    Some(Unpack { archive: archive?, into: into? })
}

fn read_take(mut keys: Keys, problems: &mut Problems) -> Option<Take> {
    let from = keys.text("from", problems, below_root);
    let into = keys.text("into", problems, parsed_path);
    keys.finish(problems);
    Some(Take { from: from?, into: into? })
}

fn read_tool(mut keys: Keys, problems: &mut Problems) -> Option<Tool> {
    let name = keys.text("name", problems, |text| match is_tool_name(text) {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is no name of a program")),
    });
    let path = keys.text("path", problems, below_root);
    let arguments = keys.optional_texts("arguments", problems, argument);
    keys.finish(problems);
    Some(Tool { name: name?, path: path?, arguments })
}

fn read_smoke(mut keys: Keys, problems: &mut Problems) -> Option<Smoke> {
    let arguments = keys.texts("arguments", problems, argument);
    let paths = |keys: &mut Keys, key: &str, problems: &mut Problems, hash: bool| {
        let pairs = keys.pairs(key, problems, |name, value| match below_root(name) {
            Err(why) => Some(why),
            Ok(_) if hash && !value.is_empty() => sha256_hex(value).err(),
            Ok(_) => None,
        });
        let path = |text: &str| RelPath::parse(text).expect("checked above");
        pairs.into_iter().map(|(name, value)| (path(&name), value)).collect::<Vec<_>>()
    };
    let files = paths(&mut keys, "files", problems, false);
    let outputs = paths(&mut keys, "outputs", problems, true);
    let stdout = keys.optional("stdout", problems, |text| Ok(text.to_owned()));
    let exit_code = keys.number("exit_code", problems).unwrap_or(0);
    let exit_code = i32::try_from(exit_code).ok().filter(|code| (0..=255).contains(code));
    if exit_code.is_none() {
        problems.add(&keys.key("exit_code"), "is not between 0 and 255".to_owned());
    }
    if arguments.as_ref().is_some_and(Vec::is_empty) {
        problems.add(&keys.key("arguments"), "name a tool".to_owned());
    }
    keys.finish(problems);
    let arguments = arguments.filter(|arguments| !arguments.is_empty())?;
    Some(Smoke { arguments, files, outputs, stdout, exit_code: exit_code? })
}

fn argument(text: &str) -> Result<String, String> {
    if text.contains('\0') { Err("holds a NUL byte".to_owned()) } else { Ok(text.to_owned()) }
}

fn sha256_hex(text: &str) -> Result<String, String> {
    let hex = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if hex { Ok(text.to_owned()) } else { Err("expected 64 lower-case hex digits".to_owned()) }
}

fn parsed<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn parsed_path(text: &str) -> Result<RelPath, String> {
    RelPath::parse(text).map_err(|error| error.to_string())
}

fn below_root(text: &str) -> Result<RelPath, String> {
    match parsed_path(text)? {
        path if path.is_root() => Err("the path is empty".to_owned()),
        path => Ok(path),
    }
}
