//! Where the files of a toolchain come from. Always one exact version.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a package comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Source {
    /// What `npm pack` writes: a tar archive, compressed.
    Npm { package: String, version: String },
    /// What `pip download` writes: a wheel.
    Pypi { package: String, version: String },
    /// What cargo keeps of a crate: a tar archive, compressed.
    Crate { package: String, version: String },
    /// A folder beside the manifest.
    Dir { path: PathBuf },
}

/// Why a source was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum SourceError {
    #[error(
        "{0:?} is no source; write npm:PACKAGE@VERSION, pypi:PACKAGE==VERSION, crate:NAME@VERSION or dir:FOLDER"
    )]
    Syntax(String),
    #[error("sources of kind {0:?} are not known; there are npm, pypi, crate and dir")]
    Kind(String),
    #[error("{0:?} is no package name")]
    Package(String),
    #[error("{0:?} is not one exact version, such as 1.2.3")]
    Version(String),
    #[error("{0:?} is no folder beside the manifest: write it relative and without ..")]
    Folder(String),
}

impl Source {
    /// The package and version in the words of the source's own client.
    pub fn spec(&self) -> String {
        match self {
            Self::Npm { package, version } | Self::Crate { package, version } => {
                format!("{package}@{version}")
            }
            Self::Pypi { package, version } => format!("{package}=={version}"),
            Self::Dir { path } => path.display().to_string(),
        }
    }

    /// How the name of a package file ends.
    pub(crate) fn extension(&self) -> &'static str {
        match self {
            Self::Npm { .. } => "tgz",
            Self::Pypi { .. } => "whl",
            Self::Crate { .. } => "crate",
            Self::Dir { .. } => "",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Npm { .. } => "npm",
            Self::Pypi { .. } => "pypi",
            Self::Crate { .. } => "crate",
            Self::Dir { .. } => "dir",
        };
        write!(f, "{kind}:{}", self.spec())
    }
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let syntax = || SourceError::Syntax(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(syntax)?;
        match kind {
            "npm" => {
                // From the right: the name itself may begin with an @.
                let (package, version) = rest.rsplit_once('@').ok_or_else(syntax)?;
                let unscoped = package.strip_prefix('@').map_or(Some(package), |scoped| {
                    scoped.split_once('/').filter(|(scope, _)| is_word(scope)).map(|(_, name)| name)
                });
                let (package, version) = checked(package, unscoped, version, is_semver)?;
                Ok(Self::Npm { package, version })
            }
            "pypi" => {
                let (package, version) = rest.split_once("==").ok_or_else(syntax)?;
                let lower = package.to_ascii_lowercase();
                let (_, version) = checked(package, Some(&lower), version, is_version)?;
                Ok(Self::Pypi { package: package.to_owned(), version })
            }
            "crate" => {
                let (package, version) = rest.split_once('@').ok_or_else(syntax)?;
                let (package, version) = checked(package, Some(package), version, is_semver)?;
                Ok(Self::Crate { package, version })
            }
            "dir" => {
                let path = wardian_proto::RelPath::parse(rest.strip_prefix("./").unwrap_or(rest));
                let path = path.map_err(|_| SourceError::Folder(rest.to_owned()))?;
                Ok(Self::Dir { path: path.as_str().into() })
            }
            _ => Err(SourceError::Kind(kind.to_owned())),
        }
    }
}

fn checked(
    package: &str,
    word: Option<&str>,
    version: &str,
    is_one: impl Fn(&str) -> bool,
) -> Result<(String, String), SourceError> {
    if !word.is_some_and(is_word) {
        return Err(SourceError::Package(package.to_owned()));
    }
    if !is_one(version) {
        return Err(SourceError::Version(version.to_owned()));
    }
    Ok((package.to_owned(), version.to_owned()))
}

/// Lower-case letters, digits and `._+-`, beginning with a letter or digit: safe in file names and on
/// command lines.
pub(crate) fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 128 && text.starts_with(plain) && text.chars().all(|c| plain(c) || "._+-".contains(c))
}

/// A digit, then letters, digits and `._+-`; no range and no tag. Also the beginning of one.
pub(crate) fn is_version(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    text.len() <= 128 && text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(plain)
}

/// `1.2.3`, perhaps with more behind a `-` or `+`.
fn is_semver(text: &str) -> bool {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    core.split('.').count() == 3 && core.split('.').all(number) && is_version(text)
}
