//! What a guest is started with: the input tree, arguments and environment.

use super::Guest;

/// What a guest is started with.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// The input tree; parents are made as needed.
    pub entries: Vec<(String, Entry)>,
    /// Path below the root of the tree.
    pub working_directory: String,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
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
