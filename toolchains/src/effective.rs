//! What an action that names toolchains really runs: an ordinary Action with their trees in its input root.
//!
//! The digest of that action is the key of everything: its result is cached under it, and equal ones in flight
//! share a run. Since the trees are in it, the result of another tree is never found under it.

use bytes::Bytes;
use prost::Message as _;
use std::sync::Arc;
use wardian_proto::{Digest, Directory, RelPath, reapi};
use wardian_store::{BlobStore, StoreError};

use crate::Toolchain;
use crate::toolchain::MOUNT;

/// The platform property that names a toolchain.
pub const PROPERTY: &str = "toolchain";

/// Toolchains that one action may name.
pub const TOOLCHAINS_PER_ACTION_MAX: usize = 8;

/// An action as it is run.
#[derive(Clone, Debug)]
pub struct Effective {
    /// Its digest.
    pub digest: Digest,
    /// The Action itself.
    pub action: reapi::Action,
    /// What has to be stored before it can run: Action, Command and the Directories that are new.
    pub blobs: Vec<(Digest, Bytes)>,
}

/// Why an action cannot use its toolchains.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum EffectiveError {
    #[error("platform has OSFamily={0}, but the tools of a toolchain run as OSFamily=wasi")]
    OsFamily(String),
    #[error("toolchain {label} goes to {mount}, but the input root has {found} there")]
    Collision { label: String, mount: String, found: &'static str },
    #[error("{tool:?} is no tool of toolchain {labels}; tools: {tools}")]
    Tool { tool: String, labels: String, tools: String },
    #[error("the action has no arguments: there is nothing to run")]
    NoArguments,
    #[error("blob {0} of the input root is missing")]
    Missing(Digest),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The values of the property in a platform.
pub fn asked(platform: Option<&reapi::Platform>) -> impl Iterator<Item = &str> {
    let properties = platform.map_or(&[][..], |platform| &platform.properties);
    properties.iter().filter(|property| property.name == PROPERTY).map(|property| property.value.as_str())
}

/// Makes the action that is really run. `action` and `command` are as the client sent them, `root` is the input
/// root that they name.
pub async fn effective(
    blobs: &dyn BlobStore,
    directory_bytes_max: u64,
    (action, mut command, root): (&reapi::Action, reapi::Command, Digest),
    toolchains: &[Arc<Toolchain>],
) -> Result<Effective, EffectiveError> {
    #[allow(deprecated)]
    let platform = action.platform.clone().or(command.platform.take()).unwrap_or_default();
    let platform = effective_platform(platform, toolchains)?;
    call_tool(&mut command, toolchains)?;
    #[allow(deprecated)]
    {
        command.platform = None;
    }
    let mut made = Vec::new();
    let mut root = root;
    for (at, toolchain) in toolchains.iter().enumerate() {
        let same = |other: &&Arc<Toolchain>| other.tree == toolchain.tree && other.mount == toolchain.mount;
        if toolchains[..at].iter().any(|other| same(&other)) {
            continue;
        }
        let mut graft = Graft { blobs, directory_bytes_max, toolchain, made: &mut made };
        root = graft.at(root).await?;
    }
    let function = root.function();
    let mut encode = |bytes: Vec<u8>| {
        let digest = function.digest(&bytes);
        made.push((digest, Bytes::from(bytes)));
        digest
    };
    let command = encode(command.encode_to_vec());
    let action = reapi::Action {
        command_digest: Some(command.to_wire()),
        input_root_digest: Some(root.to_wire()),
        platform: Some(platform),
        ..action.clone()
    };
    let digest = encode(action.encode_to_vec());
    Ok(Effective { digest, action, blobs: made })
}

fn effective_platform(
    mut platform: reapi::Platform,
    toolchains: &[Arc<Toolchain>],
) -> Result<reapi::Platform, EffectiveError> {
    let properties = &mut platform.properties;
    properties.retain(|property| property.name != PROPERTY);
    let family = properties.iter().find(|property| property.name == "OSFamily");
    match family.map(|family| family.value.to_lowercase()) {
        Some(family) if family != "wasi" => return Err(EffectiveError::OsFamily(family)),
        Some(_) => {}
        None => properties.push(property("OSFamily", "wasi")),
    }
    for (name, value) in toolchains.iter().flat_map(|toolchain| &toolchain.properties) {
        if !properties.iter().any(|property| property.name == *name) {
            properties.push(property(name, value));
        }
    }
    properties.sort_by(|a, b| (&a.name, &a.value).cmp(&(&b.name, &b.value)));
    Ok(platform)
}

fn property(name: &str, value: &str) -> reapi::platform::Property {
    reapi::platform::Property { name: name.to_owned(), value: value.to_owned() }
}

/// Replaces argv[0] by the tool's place in the input root, and adds what the tool is always given.
fn call_tool(command: &mut reapi::Command, toolchains: &[Arc<Toolchain>]) -> Result<(), EffectiveError> {
    let name = command.arguments.first().ok_or(EffectiveError::NoArguments)?;
    // With a slash it is a path, as always.
    if !name.contains('/') {
        let found = toolchains.iter().find_map(|toolchain| Some((toolchain, toolchain.tool(name)?)));
        let Some((toolchain, tool)) = found else {
            let labels: Vec<String> = toolchains.iter().map(|toolchain| toolchain.label()).collect();
            let tools = toolchains.iter().flat_map(|toolchain| &toolchain.tools);
            let tools: Vec<&str> = tools.map(|tool| tool.name.as_str()).collect();
            return Err(EffectiveError::Tool {
                tool: name.clone(),
                labels: labels.join(", "),
                tools: tools.join(", "),
            });
        };
        let mount = toolchain.mount_path();
        let path = format!("{mount}/{}", tool.path.as_str());
        let leading = tool.arguments.iter().map(|argument| argument.replace(MOUNT, &mount));
        command.arguments.splice(..1, [path].into_iter().chain(leading));
    }
    for toolchain in toolchains {
        let mount = toolchain.mount_path();
        for (name, value) in &toolchain.environment {
            if !command.environment_variables.iter().any(|variable| variable.name == *name) {
                let (name, value) = (name.clone(), value.replace(MOUNT, &mount));
                command.environment_variables.push(reapi::command::EnvironmentVariable { name, value });
            }
        }
    }
    command.environment_variables.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(())
}

/// Puts a toolchain's tree into an input root.
struct Graft<'a> {
    blobs: &'a dyn BlobStore,
    directory_bytes_max: u64,
    toolchain: &'a Toolchain,
    made: &'a mut Vec<(Digest, Bytes)>,
}

impl Graft<'_> {
    /// Returns the root with the tree in it; the Directories on the way are new.
    async fn at(&mut self, root: Digest) -> Result<Digest, EffectiveError> {
        let mount = self.toolchain.mount.clone();
        let names: Vec<&str> = mount.segments().collect();
        let (last, above) = names.split_last().expect("a mount has a name");
        let mut levels = vec![self.read(&root).await?];
        for name in above {
            let level = levels.last().expect("begins with the root");
            self.refuse_other_than_directory(level, name)?;
            let next = match level.directories.iter().find(|directory| directory.name == *name) {
                Some(directory) => {
                    let digest = Digest::from_wire(root.function(), directory.digest.as_ref());
                    self.read(&digest.expect("the Directory was checked when it was read")).await?
                }
                None => reapi::Directory::default(),
            };
            levels.push(next);
        }
        let level = levels.last().expect("begins with the root");
        self.refuse_other_than_directory(level, last)?;
        if level.directories.iter().any(|directory| directory.name == *last) {
            return Err(self.collision("a directory"));
        }
        let (mut below, function) = (self.toolchain.tree, root.function());
        for (mut level, name) in levels.into_iter().zip(&names).rev() {
            level.directories.retain(|directory| directory.name != *name);
            let node = reapi::DirectoryNode { name: (*name).to_owned(), digest: Some(below.to_wire()) };
            level.directories.push(node);
            level.directories.sort_by(|a, b| a.name.cmp(&b.name));
            let bytes = Bytes::from(level.encode_to_vec());
            below = function.digest(&bytes);
            self.made.push((below, bytes));
        }
        Ok(below)
    }

    /// Reads a Directory, also one that was made for another toolchain a moment ago.
    async fn read(&self, digest: &Digest) -> Result<reapi::Directory, EffectiveError> {
        let made = self.made.iter().find(|(made, _)| made == digest).map(|(_, bytes)| bytes.clone());
        let bytes = match made {
            Some(bytes) => bytes,
            None if digest.is_empty_blob() => Bytes::new(),
            None => match self.blobs.get(digest, self.directory_bytes_max).await {
                Ok(bytes) => bytes,
                Err(StoreError::NotFound(digest)) => return Err(EffectiveError::Missing(digest)),
                Err(error) => return Err(error.into()),
            },
        };
        Directory::decode(digest.function(), &bytes)
            .map_err(|source| StoreError::Directory { digest: *digest, source })?;
        Ok(reapi::Directory::decode(bytes).expect("it was decoded a moment ago"))
    }

    fn refuse_other_than_directory(
        &self,
        level: &reapi::Directory,
        name: &str,
    ) -> Result<(), EffectiveError> {
        if level.files.iter().any(|file| file.name == name) {
            return Err(self.collision("a file"));
        }
        if level.symlinks.iter().any(|link| link.name == name) {
            return Err(self.collision("a symlink"));
        }
        Ok(())
    }

    fn collision(&self, found: &'static str) -> EffectiveError {
        let mount: &RelPath = &self.toolchain.mount;
        EffectiveError::Collision { label: self.toolchain.label(), mount: mount.to_string(), found }
    }
}
