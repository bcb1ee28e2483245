//! An Action with its Command and input tree, made in a line or two.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use wardian_proto::{Digest, DigestFunction, RelPath, reapi};
use wardian_store::tree_builder::TreeBuilder;

use crate::{digest, guest};

/// An action under construction. What there is no method for is set in the messages themselves.
#[derive(Clone, Debug, Default)]
pub struct TestAction {
    /// The Command.
    pub command: reapi::Command,
    /// The Action; both digests in it are filled in by [`build`](Self::build).
    pub action: reapi::Action,
    entries: Vec<(RelPath, Entry)>,
}

#[derive(Clone, Debug)]
enum Entry {
    File(Bytes, bool),
    Symlink(String),
    Directory,
    Graft(Digest),
}

/// An action as the CAS holds it.
#[derive(Clone, Debug)]
pub struct Built {
    /// Digest of the Action.
    pub action: Digest,
    /// Digest of the Command.
    pub command: Digest,
    /// Digest of the root Directory.
    pub input_root: Digest,
    /// Everything to upload: Action, Command, Directories, files.
    pub blobs: Vec<(Digest, Bytes)>,
}

impl TestAction {
    /// An action that runs a command.
    pub fn new(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
        Self { command: reapi::Command { arguments, ..Default::default() }, ..Default::default() }
    }

    /// A native action that runs a shell script; `$1` and the following are `arguments`.
    pub fn sh(script: &str, arguments: &[&Path]) -> Self {
        let mut action = Self::new(&["sh", "-euc", script, "sh"]);
        let text = |path: &&Path| path.to_str().expect("test paths are UTF-8").to_owned();
        action.command.arguments.extend(arguments.iter().map(text));
        action
    }

    /// An action that runs a guest as `bin/tool`, with `OSFamily=wasi`.
    pub fn wasm(name: &str, arguments: &[&str]) -> Self {
        Self::wasm_tool(guest(name), arguments)
    }

    /// An action that runs a module or component at hand as `bin/tool`, with `OSFamily=wasi`.
    pub fn wasm_tool(tool: Bytes, arguments: &[&str]) -> Self {
        let arguments = [&["bin/tool"], arguments].concat();
        Self::new(&arguments).executable("bin/tool", tool).platform(&[("OSFamily", "wasi")])
    }

    fn entry(mut self, path: &str, entry: Entry) -> Self {
        self.entries.push((RelPath::parse(path).expect("a plain path"), entry));
        self
    }

    /// Adds an input file.
    pub fn file(self, path: &str, content: impl Into<Bytes>) -> Self {
        self.entry(path, Entry::File(content.into(), false))
    }

    /// Adds an input file with its execute bit set.
    pub fn executable(self, path: &str, content: impl Into<Bytes>) -> Self {
        self.entry(path, Entry::File(content.into(), true))
    }

    /// Adds an input symlink.
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, Entry::Symlink(target.into()))
    }

    /// Adds an input directory, which may stay empty.
    pub fn directory(self, path: &str) -> Self {
        self.entry(path, Entry::Directory)
    }

    /// Adds a directory tree that the server has already.
    pub fn graft(self, path: &str, root: Digest) -> Self {
        self.entry(path, Entry::Graft(root))
    }

    /// Adds to `output_paths`.
    pub fn outputs(mut self, paths: &[&str]) -> Self {
        self.command.output_paths.extend(paths.iter().map(|p| (*p).to_owned()));
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        let (name, value) = (name.into(), value.into());
        self.command.environment_variables.push(reapi::command::EnvironmentVariable { name, value });
        self
    }

    /// Sets the working directory.
    pub fn working_directory(mut self, path: &str) -> Self {
        self.command.working_directory = path.into();
        self
    }

    /// Sets the Action's platform.
    pub fn platform(mut self, properties: &[(&str, &str)]) -> Self {
        self.action.platform = Some(platform(properties));
        self
    }

    /// Sets the timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.action.timeout = Some(timeout.try_into().expect("a short time"));
        self
    }

    /// Makes it neither cached nor joined.
    pub fn do_not_cache(mut self) -> Self {
        self.action.do_not_cache = true;
        self
    }

    /// Makes the blobs.
    pub fn build(mut self) -> Built {
        let mut tree = TreeBuilder::new();
        let mut blobs = Vec::new();
        for (path, entry) in self.entries {
            let added = match entry {
                Entry::File(content, is_executable) => {
                    let digest = digest(&content);
                    blobs.push((digest, content));
                    tree.file(&path, digest, is_executable)
                }
                Entry::Symlink(target) => tree.symlink(&path, &target),
                Entry::Directory => tree.directory(&path),
                Entry::Graft(root) => tree.graft(&path, root),
            };
            added.expect("entries do not clash");
        }
        let tree = tree.build(DigestFunction::Sha256);
        blobs.extend(tree.directories);
        if self.action.input_root_digest.is_none() {
            self.action.input_root_digest = Some(tree.root.to_wire());
        }
        let input_root = tree.root;
        let mut encode = |bytes: Vec<u8>| {
            let (digest, bytes) = (digest(&bytes), Bytes::from(bytes));
            blobs.push((digest, bytes));
            digest
        };
        let command = encode(self.command.encode_to_vec());
        if self.action.command_digest.is_none() {
            self.action.command_digest = Some(command.to_wire());
        }
        let action = encode(self.action.encode_to_vec());
        Built { action, command, input_root, blobs }
    }
}

impl Built {
    /// The request that executes it.
    pub fn request(&self) -> reapi::ExecuteRequest {
        reapi::ExecuteRequest { action_digest: Some(self.action.to_wire()), ..Default::default() }
    }
}

/// A platform of these properties.
fn platform(properties: &[(&str, &str)]) -> reapi::Platform {
    let property = |(name, value): &(&str, &str)| reapi::platform::Property {
        name: (*name).to_owned(),
        value: (*value).to_owned(),
    };
    reapi::Platform { properties: properties.iter().map(property).collect() }
}
