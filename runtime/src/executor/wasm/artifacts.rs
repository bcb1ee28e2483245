//! Compiled modules on the disk: a private folder, bounded, the ones used longest ago go first.
//!
//! Compiled code is trusted code. It is only ever read from this folder, where only this module writes, and
//! nothing that came from a client or from the CAS gets in. That holds as long as actions are WebAssembly: a
//! native action runs as the worker's own user and, until it is sandboxed, can write wherever the worker can.
//!
//! A file's name says everything about it: module, tier, engine, and a checksum of its content. It gets that
//! name only once it is on the disk whole, and the checksum is compared when a worker first loads it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use anyhow::Context as _;
use tempfile::NamedTempFile;
use wardian_proto::Digest;

use super::engines::Tier;

/// Ending of what is being written.
const UNFINISHED: &str = ".tmp";

/// How much of a file is read at a time to compute its checksum.
const READ_BYTES: usize = 256 << 10;

/// The folder of compiled modules.
pub(super) struct Artifacts {
    folder: PathBuf,
    kept_bytes_max: u64,
    index: Mutex<HashMap<Key, Artifact>>,
}

/// What was compiled, and to what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Name of the digest function, and the hash.
    function: String,
    hash: String,
    tier: Tier,
    /// Engine, settings, target and processor.
    engine: String,
}

impl Key {
    pub(super) fn new(module: &Digest, tier: Tier, engine: &str) -> Self {
        let function = module.function().name().to_owned();
        Self { function, hash: module.hash_hex(), tier, engine: engine.to_owned() }
    }
}

#[derive(Clone, Debug)]
struct Artifact {
    bytes: u64,
    checksum: u32,
    used: SystemTime,
    /// Whether the checksum was compared since this worker started.
    verified: bool,
}

impl Artifacts {
    /// Opens the folder. What was cut short, and what no engine of `engines` can load, is removed.
    pub(super) fn open(
        folder: &Path,
        kept_bytes_max: u64,
        engines: &[(Tier, String)],
    ) -> anyhow::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder).context("create folder of compiled modules")?;
        // It may have been there, with other rights. Fails when it is somebody else's.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
            .context("make the folder of compiled modules private")?;
        let mut index = HashMap::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let known = parse(&entry.file_name().to_string_lossy()).filter(|(key, _)| {
                engines.iter().any(|(tier, engine)| (key.tier, &key.engine) == (*tier, engine))
            });
            let Some((key, checksum)) = known else {
                fs::remove_file(entry.path())?;
                continue;
            };
            let data = entry.metadata()?;
            let used = data.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            index.insert(key, Artifact { bytes: data.len(), checksum, used, verified: false });
        }
        let artifacts = Self { folder: folder.to_owned(), kept_bytes_max, index: Mutex::new(index) };
        artifacts.make_room(&mut artifacts.lock());
        Ok(artifacts)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Artifact>> {
        self.index.lock().expect("no code that holds this lock panics")
    }

    fn path(&self, key: &Key, checksum: u32) -> PathBuf {
        let Key { function, hash, tier, engine } = key;
        self.folder.join(format!("{function}-{hash}-{tier}-{engine}-{checksum:08x}.cwasm"))
    }

    /// Whether there is machine code for this.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.lock().contains_key(key)
    }

    /// Returns the file of machine code, if it is there and as it was written.
    pub(super) fn find(&self, key: &Key) -> Option<PathBuf> {
        let artifact = self.lock().get(key).cloned()?;
        let path = self.path(key, artifact.checksum);
        let intact = artifact.verified || checksum(&path).is_ok_and(|found| found == artifact.checksum);
        if !intact {
            tracing::warn!(path = %path.display(), "compiled module is damaged and is compiled again");
            self.remove(key);
            return None;
        }
        let used = SystemTime::now();
        // Remembered for the next start; whether that works matters little.
        let _ = File::open(&path).and_then(|file| file.set_modified(used));
        if let Some(artifact) = self.lock().get_mut(key) {
            (artifact.used, artifact.verified) = (used, true);
        }
        Some(path)
    }

    /// A new file in the folder. It disappears unless it is [kept](Self::keep).
    pub(super) fn begin(&self) -> io::Result<NamedTempFile> {
        tempfile::Builder::new().suffix(UNFINISHED).tempfile_in(&self.folder)
    }

    /// Gives a written file its name, and makes room for it.
    pub(super) fn keep(&self, key: &Key, file: NamedTempFile) -> io::Result<()> {
        // Machine code that was cut short by a power failure must never get the final name.
        file.as_file().sync_all()?;
        let checksum = checksum(file.path())?;
        let bytes = file.as_file().metadata()?.len();
        file.persist(self.path(key, checksum))?;
        let mut index = self.lock();
        let artifact = Artifact { bytes, checksum, used: SystemTime::now(), verified: true };
        if let Some(old) = index.insert(key.clone(), artifact).filter(|old| old.checksum != checksum) {
            discard(&self.path(key, old.checksum));
        }
        self.make_room(&mut index);
        Ok(())
    }

    /// Forgets machine code that is damaged or not needed any more.
    pub(super) fn remove(&self, key: &Key) {
        if let Some(artifact) = self.lock().remove(key) {
            discard(&self.path(key, artifact.checksum));
        }
    }

    /// Removes what was used longest ago. What is loaded stays usable until it is dropped.
    fn make_room(&self, index: &mut HashMap<Key, Artifact>) {
        let mut bytes: u64 = index.values().map(|artifact| artifact.bytes).sum();
        while bytes > self.kept_bytes_max {
            let oldest = index.iter().min_by_key(|(_, artifact)| artifact.used).map(|(key, _)| key.clone());
            let oldest = oldest.expect("there are bytes, so there is an artifact");
            let artifact = index.remove(&oldest).expect("found above");
            discard(&self.path(&oldest, artifact.checksum));
            bytes -= artifact.bytes;
        }
    }
}

fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), "compiled module could not be removed: {error}");
    }
}

/// The inverse of [`Artifacts::path`].
fn parse(name: &str) -> Option<(Key, u32)> {
    let parts: Vec<&str> = name.strip_suffix(".cwasm")?.split('-').collect();
    let [function, hash, tier, engine, checksum] = parts[..] else { return None };
    let (function, hash, engine) = (function.into(), hash.into(), engine.into());
    let key = Key { function, hash, tier: tier.parse().ok()?, engine };
    Some((key, u32::from_str_radix(checksum, 16).ok()?))
}

fn checksum(path: &Path) -> io::Result<u32> {
    let mut file = File::open(path)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use wardian_proto::DigestFunction;

    use super::*;

    fn key(name: &str) -> Key {
        Key::new(&DigestFunction::Sha256.digest(name.as_bytes()), Tier::Optimized, "e1")
    }

    fn open(folder: &Path, bytes_max: u64) -> Artifacts {
        Artifacts::open(folder, bytes_max, &[(Tier::Optimized, "e1".into())]).unwrap()
    }

    fn keep(artifacts: &Artifacts, name: &str, content: &[u8]) {
        let mut file = artifacts.begin().unwrap();
        file.write_all(content).unwrap();
        artifacts.keep(&key(name), file).unwrap();
    }

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn what_was_kept_is_found_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = open(folder.path(), 100);
        assert_eq!(artifacts.find(&key("a")), None);
        keep(&artifacts, "a", b"code");
        for artifacts in [artifacts, open(folder.path(), 100)] {
            assert!(artifacts.has(&key("a")) && !artifacts.has(&key("b")));
            assert_eq!(fs::read(artifacts.find(&key("a")).unwrap()).unwrap(), b"code");
        }
        assert_eq!(folder.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn the_oldest_go_when_there_is_no_room() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = open(folder.path(), 10);
        keep(&artifacts, "a", b"aaaa");
        keep(&artifacts, "b", b"bbbb");
        artifacts.find(&key("a")).unwrap();
        keep(&artifacts, "c", b"cccc");
        assert!(artifacts.has(&key("a")) && !artifacts.has(&key("b")) && artifacts.has(&key("c")));
        assert_eq!(files(folder.path()), 2);
        // What is larger than all there may be is not kept either.
        keep(&artifacts, "d", b"dddddddddddd");
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn what_is_damaged_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        keep(&open(folder.path(), 100), "a", b"code");
        let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        for torn in [&b"cod"[..], b"cope", b"code "] {
            fs::write(&file, torn).unwrap();
            assert_eq!(open(folder.path(), 100).find(&key("a")), None);
            assert!(!file.exists());
        }
    }

    #[test]
    fn leftovers_and_code_of_other_engines_go_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = open(folder.path(), 100);
        keep(&artifacts, "a", b"code");
        artifacts.begin().unwrap().keep().unwrap();
        fs::write(folder.path().join("note"), "?").unwrap();
        assert_eq!(files(folder.path()), 3);
        open(folder.path(), 100);
        assert_eq!(files(folder.path()), 1);
        Artifacts::open(folder.path(), 100, &[(Tier::Optimized, "e2".into())]).unwrap();
        assert_eq!(files(folder.path()), 0);
    }
}
