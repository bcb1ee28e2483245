//! A registered toolchain: a tree of files in the CAS and the programs in it, as it goes over the wire.

use std::collections::BTreeSet;
use std::fmt;

use wardian_proto::{Digest, DigestFunction, RelPath, reapi, wardian};

use crate::manifest::{is_version, is_word};

/// Programs of one toolchain.
pub const TOOLS_MAX: usize = 256;

/// Arguments that one program is always given, variables, properties and modules of one toolchain.
const PARTS_MAX: usize = 256;

/// Bytes of one toolchain's record.
pub const RECORD_BYTES_MAX: usize = 64 << 10;

/// What stands for the absolute path of the tree in arguments and variables.
pub const MOUNT: &str = "{mount}";

/// A toolchain that can be used by name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub struct Toolchain {
    pub name: String,
    pub version: String,
    /// The root Directory of its tree.
    pub tree: Digest,
    /// Where the tree is in an input root.
    pub mount: RelPath,
    pub tools: Vec<Tool>,
    pub environment: Vec<(String, String)>,
    pub properties: Vec<(String, String)>,
    pub modules: Vec<Digest>,
    pub description: String,
    pub license: String,
    pub source: String,
}

/// A program of a toolchain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// What argv[0] says.
    pub name: String,
    /// The file in the toolchain's tree.
    pub path: RelPath,
    /// What comes before the arguments of the Command.
    pub arguments: Vec<String>,
}

/// Why a message is no toolchain (INVALID_ARGUMENT).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("toolchain {key}: {why}")]
pub struct BadToolchain {
    /// The field.
    pub key: String,
    /// What is wrong with it.
    pub why: String,
}

fn bad(key: impl Into<String>, why: impl fmt::Display) -> BadToolchain {
    BadToolchain { key: key.into(), why: why.to_string() }
}

/// Where a toolchain is mounted that does not say so itself.
pub(crate) fn default_mount(name: &str) -> RelPath {
    RelPath::parse(&format!("opt/wardian/{name}")).expect("names of toolchains are plain")
}

/// Whether a name can be a program's: what a shell would look for on PATH.
pub(crate) fn is_tool_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c))
        && !text.starts_with(['.', '-'])
}

/// Whether a platform property may be a toolchain's.
pub(crate) fn is_own_property(name: &str) -> bool {
    name.starts_with("wasi-") || name.starts_with("wasm-")
}

/// Whether this can be the name of a variable.
pub(crate) fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

impl Toolchain {
    /// `NAME@VERSION`.
    pub fn label(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// The absolute path of the tree as the tools see it.
    pub fn mount_path(&self) -> String {
        format!("/{}", self.mount.as_str())
    }

    /// Finds a program.
    pub fn tool(&self, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.name == name)
    }

    /// Reads a message.
    pub fn from_wire(wire: wardian::Toolchain) -> Result<Self, BadToolchain> {
        let bytes = prost::Message::encoded_len(&wire);
        if bytes > RECORD_BYTES_MAX {
            return Err(bad("record", format_args!("has {bytes} bytes; limit is {RECORD_BYTES_MAX}")));
        }
        if !is_word(&wire.name) {
            return Err(bad(
                "name",
                format_args!("{:?} is not lower-case letters, digits and ._+-", wire.name),
            ));
        }
        if !is_version(&wire.version) {
            return Err(bad("version", format_args!("{:?} is no version", wire.version)));
        }
        let tree =
            Digest::from_wire(DigestFunction::Sha256, wire.tree.as_ref()).map_err(|e| bad("tree", e))?;
        let mount = RelPath::parse(&wire.mount).map_err(|e| bad("mount", e))?;
        if mount.is_root() {
            return Err(bad("mount", "is empty"));
        }
        count("tools", wire.tools.len(), TOOLS_MAX)?;
        let mut names = BTreeSet::new();
        let mut tools = Vec::new();
        for tool in wire.tools {
            if !is_tool_name(&tool.name) || !names.insert(tool.name.clone()) {
                return Err(bad(
                    "tools",
                    format_args!("{:?} is no name of a program, or is there twice", tool.name),
                ));
            }
            let key = format!("tools.{}", tool.name);
            count(&key, tool.arguments.len(), PARTS_MAX)?;
            if tool.arguments.iter().any(|argument| argument.contains('\0')) {
                return Err(bad(key, "an argument holds a NUL byte"));
            }
            let path = RelPath::parse(&tool.path).map_err(|e| bad(&key, e))?;
            if path.is_root() {
                return Err(bad(key, "has no path"));
            }
            tools.push(Tool { name: tool.name, path, arguments: tool.arguments });
        }
        count("environment", wire.environment.len(), PARTS_MAX)?;
        let environment: Vec<_> = wire.environment.into_iter().map(|v| (v.name, v.value)).collect();
        if environment.iter().any(|(name, value)| !is_variable(name) || value.contains('\0')) {
            return Err(bad("environment", "a name is no variable, or a value holds a NUL byte"));
        }
        count("properties", wire.properties.len(), PARTS_MAX)?;
        let properties: Vec<_> = wire.properties.into_iter().map(|p| (p.name, p.value)).collect();
        if let Some((name, _)) = properties.iter().find(|(name, _)| !is_own_property(name)) {
            return Err(bad("properties", format_args!("{name:?} is not one of wasi-* and wasm-*")));
        }
        count("modules", wire.modules.len(), PARTS_MAX)?;
        let module = |wire| Digest::from_wire(DigestFunction::Sha256, Some(wire));
        let modules =
            wire.modules.iter().map(module).collect::<Result<_, _>>().map_err(|e| bad("modules", e))?;
        Ok(Self {
            name: wire.name,
            version: wire.version,
            tree,
            mount,
            tools,
            environment,
            properties,
            modules,
            description: wire.description,
            license: wire.license,
            source: wire.source,
        })
    }

    /// Writes the message.
    pub fn to_wire(&self) -> wardian::Toolchain {
        let variable = |(name, value): &(String, String)| reapi::command::EnvironmentVariable {
            name: name.clone(),
            value: value.clone(),
        };
        let property = |(name, value): &(String, String)| reapi::platform::Property {
            name: name.clone(),
            value: value.clone(),
        };
        let tool = |tool: &Tool| wardian::Tool {
            name: tool.name.clone(),
            path: tool.path.as_str().to_owned(),
            arguments: tool.arguments.clone(),
        };
        wardian::Toolchain {
            name: self.name.clone(),
            version: self.version.clone(),
            tree: Some(self.tree.to_wire()),
            mount: self.mount.as_str().to_owned(),
            tools: self.tools.iter().map(tool).collect(),
            environment: self.environment.iter().map(variable).collect(),
            properties: self.properties.iter().map(property).collect(),
            modules: self.modules.iter().map(Digest::to_wire).collect(),
            description: self.description.clone(),
            license: self.license.clone(),
            source: self.source.clone(),
        }
    }
}

fn count(key: &str, count: usize, limit: usize) -> Result<(), BadToolchain> {
    if count > limit { Err(bad(key, format_args!("has {count} parts; limit is {limit}"))) } else { Ok(()) }
}
