//! The private folder of one action, gone when the action is.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::Failure;

/// A folder for a staged input root. Dropping it removes everything below, off the async threads.
pub(crate) struct Staged {
    path: PathBuf,
}

impl Staged {
    /// Makes an empty folder below `parent`.
    pub(crate) fn new(parent: &Path) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("action-").tempdir_in(parent);
        let path = folder.map(tempfile::TempDir::keep).map_err(Failure::io("make folder for input root"))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        // Removing a large tree takes a while; the client need not wait for it.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || remove(path))),
            Err(_) => remove(path),
        }
    }
}

/// Makes the folder of staged input roots, without what an earlier process left in it.
pub(crate) fn prepare(parent: &Path) -> io::Result<()> {
    fs::create_dir_all(parent)?;
    for entry in fs::read_dir(parent)? {
        remove(entry?.path());
    }
    Ok(())
}

fn remove(path: PathBuf) {
    if let Err(error) = remove_tree(path.clone()) {
        tracing::warn!(path = %path.display(), %error, "staged input root could not be removed");
    }
}

/// Removes a directory and all below it, however deep and whatever its modes.
///
/// An action may nest directories deeper than a path can name or a stack can follow, and take away its own
/// rights. So each directory is first moved up beside the folder itself: no recursion, short paths.
fn remove_tree(folder: PathBuf) -> io::Result<()> {
    let parent = folder.parent().unwrap_or(Path::new(".")).to_owned();
    let mut pending = vec![folder];
    while let Some(directory) = pending.pop() {
        unlock(&directory)?;
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                fs::remove_file(entry.path())?;
                continue;
            }
            // Moving a directory changes its `..`, for which it must be writable itself.
            unlock(&entry.path())?;
            let moved = parent.join(format!("trash-{}", uuid::Uuid::new_v4().simple()));
            fs::rename(entry.path(), &moved)?;
            pending.push(moved);
        }
        fs::remove_dir(&directory)?;
    }
    Ok(())
}

fn unlock(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
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

    #[test]
    fn chains_deeper_than_any_path_are_removed_without_recursion() {
        let parent = tempfile::tempdir().unwrap();
        let staged = Staged::new(parent.path()).unwrap();
        // Built from the inside out, by moving what is there into a new directory.
        let (inner, outer) = (parent.path().join("inner"), parent.path().join("outer"));
        fs::create_dir(&inner).unwrap();
        for _ in 0..6_000 {
            fs::create_dir(&outer).unwrap();
            fs::rename(&inner, outer.join("d")).unwrap();
            fs::rename(&outer, &inner).unwrap();
        }
        fs::rename(&inner, staged.path().join("d")).unwrap();
        drop(staged);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
