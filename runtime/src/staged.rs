//! The private folder of one action, gone when the action is.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::Failure;

/// Directories deep that removal looks for locked ones; no path that an action can make is deeper.
const DEPTH_MAX: usize = 4096;

/// A folder for a staged input root. Dropping it removes everything below, off the async threads.
pub(crate) struct Staged(Option<TempDir>);

impl Staged {
    /// Makes an empty folder below `parent`.
    pub(crate) fn new(parent: &Path) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("action-").tempdir_in(parent);
        folder.map(|folder| Self(Some(folder))).map_err(Failure::io("make folder for input root"))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.as_ref().expect("only taken when dropped").path()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let Some(folder) = self.0.take() else { return };
        // Removing a large tree takes a while; the client need not wait for it.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || remove(folder))),
            Err(_) => remove(folder),
        }
    }
}

fn remove(folder: TempDir) {
    let path = folder.path().to_owned();
    if folder.close().is_ok() {
        return;
    }
    // An action may have taken the rights to its own directories away.
    unlock(&path);
    if let Err(error) = fs::remove_dir_all(&path) {
        tracing::warn!(path = %path.display(), %error, "staged input root could not be removed");
    }
}

fn unlock(root: &Path) {
    let mut pending: Vec<(PathBuf, usize)> = vec![(root.to_owned(), 0)];
    while let Some((path, depth)) = pending.pop() {
        // Errors show in the removal that follows.
        let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o700));
        let Ok(entries) = fs::read_dir(&path) else { continue };
        let folders = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        if depth < DEPTH_MAX {
            pending.extend(folders.map(|entry| (entry.path(), depth + 1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_directories_are_removed_too() {
        let parent = tempfile::tempdir().unwrap();
        let staged = Staged::new(parent.path()).unwrap();
        let locked = staged.path().join("a/b");
        fs::create_dir_all(&locked).unwrap();
        fs::write(locked.join("f"), b"1").unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
        drop(staged);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
