//! Which program argv[0] names.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Where bare names are looked up when the Command sets no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Finds the program that a name means: absolute, relative to the working directory, or on `path`. Says why there is
/// none.
pub(super) fn find(name: &str, path: Option<&str>, working_directory: &Path) -> Result<PathBuf, String> {
    if name.contains('/') {
        // Joining an absolute path gives that path.
        let path = working_directory.join(name);
        return if path.is_file() { Ok(path) } else { Err("it is no file".into()) };
    }
    let path = path.unwrap_or(DEFAULT_PATH);
    for folder in path.split(':') {
        let candidate = working_directory.join(folder).join(name);
        if is_executable(&candidate) {
            return Ok(candidate);
        }
    }
    let hint = if working_directory.join(name).is_file() {
        format!("; for the file of the input root write ./{name}")
    } else {
        String::new()
    };
    Err(format!("it is not on PATH {path:?}{hint}"))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
