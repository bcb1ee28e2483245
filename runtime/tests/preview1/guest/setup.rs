//! What a guest is started with: the input tree, arguments and environment.

use super::Guest;

/// What a guest is started with.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Trees at paths of the input tree that only our host has, and that cannot be changed.
    pub read_only: Vec<(String, Vec<(String, Entry)>)>,
    /// What our host allows.
    pub limits: Limits,
    /// The input tree; parents are made as needed.
    pub entries: Vec<(String, Entry)>,
    /// Path below the root of the tree.
    pub working_directory: String,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
}

/// What our host allows a guest; wasmtime-wasi has no such limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub handles_max: usize,
    pub bytes_max: u64,
    pub files_max: usize,
    pub path_depth_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { handles_max: 1000, bytes_max: 1 << 30, files_max: 1000, path_depth_max: 1000 }
    }
}

/// One entry of the input tree.
#[derive(Clone, Debug)]
pub enum Entry {
    File(Vec<u8>),
    Symlink(String),
    Directory,
}

impl Guest {
    pub fn file(&mut self, path: &str, content: impl AsRef<[u8]>) {
        self.setup.entries.push((path.into(), Entry::File(content.as_ref().to_vec())));
    }

    pub fn symlink(&mut self, path: &str, target: &str) {
        self.setup.entries.push((path.into(), Entry::Symlink(target.into())));
    }

    pub fn directory(&mut self, path: &str) {
        self.setup.entries.push((path.into(), Entry::Directory));
    }

    pub fn working_directory(&mut self, path: &str) {
        self.setup.working_directory = path.into();
    }

    pub fn arguments(&mut self, arguments: &[&str]) {
        self.setup.arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
    }

    pub fn environment(&mut self, variables: &[(&str, &str)]) {
        self.setup.environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    }

    /// Files of a tree at this path that cannot be changed.
    pub fn read_only(&mut self, path: &str, files: &[(&str, &str)]) {
        let entry = |(name, content): &(&str, &str)| ((*name).into(), Entry::File((*content).into()));
        self.setup.read_only.push((path.into(), files.iter().map(entry).collect()));
    }

    pub fn limits(&mut self, change: impl FnOnce(&mut Limits)) {
        change(&mut self.setup.limits);
    }

    /// The case does not run on wasmtime-wasi, for this reason.
    pub fn only_ours(&mut self, why: &'static str) {
        self.only_ours = Some(why);
    }

    /// Standard error must be this in the end.
    pub fn stderr_is(&mut self, text: &'static str) {
        self.stderr = Some(text);
    }

    /// The case needs standard output for itself.
    pub fn report_to_stderr(&mut self) {
        self.report_to_stderr = true;
    }
}
