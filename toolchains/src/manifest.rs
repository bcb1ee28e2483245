//! What a toolchain is made of, as a TOML file says it. All that is wrong in one is reported at once.

use std::fmt;
use std::str::FromStr;

use toml::{Table, Value};
use wardian_proto::RelPath;

/// A toolchain: where its package comes from and what of it goes where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Manifest {
    /// Name of the toolchain: lower-case letters, digits and `._+-`.
    pub name: String,
    /// Version of the toolchain, the same as its package's.
    pub version: String,
    /// SPDX expression for what is imported.
    pub license: String,
    /// Where the package comes from.
    pub source: Source,
    /// SHA-256 of the package file, as lower-case hex.
    pub sha256: String,
    /// The WebAssembly module.
    pub module: Module,
    /// The archives to unpack beside it.
    pub unpack: Vec<Unpack>,
}

/// The module of a toolchain, which may stand for several programs.
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

/// Where a package comes from. Always one exact version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Source {
    Npm { package: String, version: String },
}

/// Why a source was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum SourceError {
    #[error("{0:?} is no source; write it as npm:PACKAGE@VERSION")]
    Syntax(String),
    #[error("sources of kind {0:?} are not supported yet; npm is the only one")]
    Kind(String),
    #[error("{0:?} is no npm package name")]
    Package(String),
    #[error("{0:?} is not one exact version, such as 1.2.3")]
    Version(String),
}

impl Source {
    /// The package and version in the words of the source's own client.
    pub fn spec(&self) -> String {
        match self {
            Self::Npm { package, version } => format!("{package}@{version}"),
        }
    }

    fn version(&self) -> &str {
        match self {
            Self::Npm { version, .. } => version,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Npm { .. } => write!(f, "npm:{}", self.spec()),
        }
    }
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let syntax = || SourceError::Syntax(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(syntax)?;
        if kind != "npm" {
            return Err(SourceError::Kind(kind.to_owned()));
        }
        // From the right: the name itself may begin with an @.
        let (package, version) = rest.rsplit_once('@').ok_or_else(syntax)?;
        let unscoped = package.strip_prefix('@').map_or(Some(package), |scoped| {
            scoped.split_once('/').filter(|(scope, _)| is_word(scope)).map(|(_, name)| name)
        });
        if !unscoped.is_some_and(is_word) {
            return Err(SourceError::Package(package.to_owned()));
        }
        if !is_exact_version(version) {
            return Err(SourceError::Version(version.to_owned()));
        }
        Ok(Self::Npm { package: package.to_owned(), version: version.to_owned() })
    }
}

/// Lower-case letters, digits and `._+-`, beginning with a letter or digit: safe in file names and on
/// command lines.
fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(plain) && text.chars().all(|c| plain(c) || "._+-".contains(c))
}

/// `1.2.3`, perhaps with more behind a `-` or `+`; no range and no tag.
fn is_exact_version(text: &str) -> bool {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    core.split('.').count() == 3
        && core.split('.').all(number)
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c))
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
}

fn read_manifest(mut keys: Keys, problems: &mut Problems) -> Option<Manifest> {
    let name = keys.text("name", problems, |text| match is_word(text) {
        true => Ok(text.to_owned()),
        false => Err("use lower-case letters, digits and ._+-".to_owned()),
    });
    let version = keys.text("version", problems, |text| match is_exact_version(text) {
        true => Ok(text.to_owned()),
        false => Err(SourceError::Version(text.to_owned()).to_string()),
    });
    let license = keys.text("license", problems, |text| match text.trim().is_empty() {
        true => Err("name the licence as an SPDX expression".to_owned()),
        false => Ok(text.to_owned()),
    });
    let source: Option<Source> = keys.text("source", problems, parsed);
    let sha256 = keys.text("sha256", problems, |text| {
        let hex = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hex { Ok(text.to_owned()) } else { Err("expected 64 lower-case hex digits".to_owned()) }
    });
    let module = keys.table("module", problems).and_then(|keys| read_module(keys, problems));
    let unpack: Vec<_> =
        keys.tables("unpack", problems).into_iter().map(|keys| read_unpack(keys, problems)).collect();
    keys.finish(problems);

    if let (Some(version), Some(source)) = (&version, &source)
        && version != source.version()
    {
        problems.add("version", format!("the source has version {}", source.version()));
    }
    for (at, item) in unpack.iter().enumerate() {
        let Some(item) = item else { continue };
        let earlier = unpack[..at].iter().flatten().any(|other| other.archive == item.archive);
        if earlier || module.as_ref().is_some_and(|module| module.file == item.archive) {
            problems.add(&format!("unpack[{at}].archive"), "this file is used already".to_owned());
        }
    }
    Some(Manifest {
        name: name?,
        version: version?,
        license: license?,
        source: source?,
        sha256: sha256?,
        module: module?,
        unpack: unpack.into_iter().collect::<Option<_>>()?,
    })
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

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, key: &str, why: String) {
        self.0.push(Problem { key: key.to_owned(), why });
    }
}

/// A table whose keys are taken out one by one; what is left over was not expected.
struct Keys {
    prefix: String,
    table: Table,
}

impl Keys {
    fn new(prefix: &str, table: Table) -> Self {
        Self { prefix: prefix.to_owned(), table }
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn text<T>(
        &mut self,
        key: &str,
        problems: &mut Problems,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let outcome = match self.table.remove(key) {
            None => Err("is missing".to_owned()),
            Some(Value::String(text)) => parse(&text),
            Some(other) => Err(format!("expected a string, found {}", other.type_str())),
        };
        outcome.map_err(|why| problems.add(&self.key(key), why)).ok()
    }

    fn texts<T>(
        &mut self,
        key: &str,
        problems: &mut Problems,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let items = match self.table.remove(key) {
            Some(Value::Array(items)) => items,
            None => {
                problems.add(&self.key(key), "is missing".to_owned());
                return None;
            }
            Some(other) => {
                problems.add(&self.key(key), format!("expected a list, found {}", other.type_str()));
                return None;
            }
        };
        // Each item is looked at, also behind a bad one.
        let mut parsed = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let outcome = item.as_str().ok_or_else(|| "expected a string".to_owned()).and_then(&parse);
            parsed.push(outcome.map_err(|why| problems.add(&self.key(&format!("{key}[{at}]")), why)).ok());
        }
        parsed.into_iter().collect()
    }

    fn table(&mut self, key: &str, problems: &mut Problems) -> Option<Keys> {
        match self.table.remove(key) {
            Some(Value::Table(table)) => return Some(Self::new(&format!("{}.", self.key(key)), table)),
            None => problems.add(&self.key(key), "is missing".to_owned()),
            Some(other) => {
                problems.add(&self.key(key), format!("expected a table, found {}", other.type_str()))
            }
        }
        None
    }

    /// A list of tables that may be absent.
    fn tables(&mut self, key: &str, problems: &mut Problems) -> Vec<Keys> {
        let items = match self.table.remove(key) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                problems.add(&self.key(key), format!("expected tables, found {}", other.type_str()));
                return Vec::new();
            }
        };
        let mut tables = Vec::new();
        for (at, item) in items.into_iter().enumerate() {
            let key = self.key(&format!("{key}[{at}]"));
            match item {
                Value::Table(table) => tables.push(Self::new(&format!("{key}."), table)),
                other => problems.add(&key, format!("expected a table, found {}", other.type_str())),
            }
        }
        tables
    }

    fn finish(self, problems: &mut Problems) {
        for key in self.table.keys() {
            problems.add(&self.key(key), "is no key of a manifest".to_owned());
        }
    }
}
