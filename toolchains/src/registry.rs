//! The toolchains that a server knows by name. Their trees are pinned for as long as they are registered.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use prost::Message as _;
use tokio::sync::watch;
use wardian_proto::{Digest, wardian};
use wardian_store::tree_pins::{PinnedTree, TreePin, TreePins};
use wardian_store::{RecordStore, StoreError, Table};

use crate::Toolchain;
use crate::manifest::{is_version, is_word};

/// Toolchains that may be registered at once.
pub const TOOLCHAINS_MAX: usize = 128;

/// How long a call waits until it is known what is registered.
const READY_WAIT_MAX: Duration = Duration::from_secs(30);

/// Registered toolchains that an error names.
const NAMED_MAX: usize = 16;

/// All toolchains are one record, so that each change is one write.
const KEY: &[u8] = b"registered";

/// The toolchains of a server.
pub struct Registry {
    records: Arc<dyn RecordStore>,
    pins: Arc<TreePins>,
    /// Told of every module that may run before it is optimized.
    trust: Box<dyn Fn(Digest) + Send + Sync>,
    entries: RwLock<Entries>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
    loaded: watch::Sender<bool>,
}

/// By name and version.
type Entries = BTreeMap<(String, String), Entry>;

#[derive(Clone)]
struct Entry {
    toolchain: Arc<Toolchain>,
    /// `None` when something of the tree is not stored.
    pin: Option<Arc<PinnedTree>>,
}

/// Why a name leads to no toolchain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ResolveError {
    #[error("{0:?} names no toolchain; write it as NAME or NAME@VERSION")]
    Malformed(String),
    #[error("toolchain {asked} is not registered here; registered: {registered}")]
    Unknown { asked: String, registered: String },
    #[error("toolchain {0} is registered, but not all of its tree is stored; add it again")]
    Incomplete(String),
}

/// Why the registered toolchains were not changed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RegistryError {
    #[error(
        "toolchain {label} is registered with tree {registered}; the same version with tree {offered} is refused. \
         Give it another version, or remove the registered one first"
    )]
    Changed { label: String, registered: Digest, offered: Digest },
    #[error("{} blob(s) of the tree of toolchain {label} are not stored, such as {}", .missing.len(), .missing[0])]
    Missing { label: String, missing: Vec<Digest> },
    #[error("{TOOLCHAINS_MAX} toolchains are registered already; limit is {TOOLCHAINS_MAX}")]
    TooMany,
    #[error("toolchain {asked} is not registered here; registered: {registered}")]
    Unknown { asked: String, registered: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Registry {
    /// A registry of which nothing is known before [`load`](Self::load). `trust` is told of each module.
    pub fn new(
        records: Arc<dyn RecordStore>,
        pins: Arc<TreePins>,
        trust: impl Fn(Digest) + Send + Sync + 'static,
    ) -> Self {
        Self {
            records,
            pins,
            trust: Box::new(trust),
            entries: RwLock::default(),
            changing: tokio::sync::Mutex::default(),
            loaded: watch::Sender::new(false),
        }
    }

    /// Reads what is registered and pins it. Until then nobody is answered: a store that was torn may need a
    /// while to know, and the server does not wait for that.
    pub async fn load(&self) -> Result<(), StoreError> {
        let _one = self.changing.lock().await;
        let mut entries = Entries::new();
        if let Some(bytes) = self.records.get(Table::Toolchains, KEY).await? {
            let damaged = |what: String| StoreError::Damaged(format!("registered toolchains: {what}"));
            let list = wardian::ListToolchainsResponse::decode(bytes).map_err(|e| damaged(e.to_string()))?;
            for wire in list.toolchains {
                let toolchain = Arc::new(Toolchain::from_wire(wire).map_err(|e| damaged(e.to_string()))?);
                let pin = match self.pins.pin(toolchain.tree).await {
                    Ok(TreePin::Pinned(pin)) => Some(pin),
                    Ok(TreePin::Missing(_)) => None,
                    // Over a limit that was lowered since: the others can be used, and this one be removed.
                    Err(
                        StoreError::TreeLimit { .. }
                        | StoreError::TooManyPins(_)
                        | StoreError::TooLarge { .. }
                        | StoreError::Directory { .. },
                    ) => None,
                    Err(error) => return Err(error),
                };
                toolchain.modules.iter().for_each(|module| (self.trust)(*module));
                entries.insert(key(&toolchain), Entry { toolchain, pin });
            }
        }
        *self.entries.write().unwrap_or_else(PoisonError::into_inner) = entries;
        self.loaded.send_replace(true);
        Ok(())
    }

    /// Waits until it is known what is registered.
    pub async fn ready(&self) -> Result<(), StoreError> {
        if *self.loaded.borrow() {
            return Ok(());
        }
        let mut loaded = self.loaded.subscribe();
        match tokio::time::timeout(READY_WAIT_MAX, loaded.wait_for(|loaded| *loaded)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(StoreError::Indexing),
        }
    }

    /// Whether nothing is registered.
    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    /// Every toolchain, sorted by its label.
    pub fn list(&self) -> Vec<Arc<Toolchain>> {
        let mut toolchains: Vec<_> = self.read().values().map(|entry| Arc::clone(&entry.toolchain)).collect();
        // Not quite the order of the map: a name may hold what sorts before an @.
        toolchains.sort_by_key(|toolchain| toolchain.label());
        toolchains
    }

    /// Finds the toolchain that NAME or NAME@VERSION means. The beginning of a version means the newest that
    /// begins so.
    pub fn resolve(&self, text: &str) -> Result<Arc<Toolchain>, ResolveError> {
        let (name, version) = text.split_once('@').map_or((text, None), |(name, v)| (name, Some(v)));
        if !is_word(name) || version.is_some_and(|version| !is_version(version)) {
            return Err(ResolveError::Malformed(text.chars().take(200).collect()));
        }
        let entries = self.read();
        let fits = |(key, entry): (&(String, String), &Entry)| {
            let fits = key.0 == name && version.is_none_or(|asked| begins_with(&key.1, asked));
            fits.then(|| entry.clone())
        };
        let whole = version.and_then(|version| entries.get(&(name.to_owned(), version.to_owned())).cloned());
        let newest = || {
            let fitting = entries.iter().filter_map(fits);
            fitting.max_by(|a, b| compare_versions(&a.toolchain.version, &b.toolchain.version))
        };
        match whole.or_else(newest) {
            None => Err(ResolveError::Unknown { asked: text.to_owned(), registered: registered(&entries) }),
            Some(Entry { toolchain, pin: None }) => Err(ResolveError::Incomplete(toolchain.label())),
            Some(Entry { toolchain, pin: Some(_) }) => Ok(toolchain),
        }
    }

    /// Registers a toolchain whose tree is stored. The same again changes nothing.
    pub async fn put(&self, toolchain: Toolchain) -> Result<Arc<Toolchain>, RegistryError> {
        self.ready().await?;
        let _one = self.changing.lock().await;
        let mut entries = self.read().clone();
        let (key, label) = (key(&toolchain), toolchain.label());
        match entries.get(&key) {
            Some(Entry { toolchain: old, .. }) if old.tree != toolchain.tree => {
                let (registered, offered) = (old.tree, toolchain.tree);
                return Err(RegistryError::Changed { label, registered, offered });
            }
            None if entries.len() >= TOOLCHAINS_MAX => return Err(RegistryError::TooMany),
            _ => {}
        }
        let pin = match self.pins.pin(toolchain.tree).await? {
            TreePin::Pinned(pin) => pin,
            TreePin::Missing(missing) => return Err(RegistryError::Missing { label, missing }),
        };
        let toolchain = Arc::new(toolchain);
        entries.insert(key, Entry { toolchain: Arc::clone(&toolchain), pin: Some(pin) });
        self.store(entries).await?;
        toolchain.modules.iter().for_each(|module| (self.trust)(*module));
        Ok(toolchain)
    }

    /// Forgets a toolchain.
    pub async fn remove(&self, name: &str, version: &str) -> Result<(), RegistryError> {
        self.ready().await?;
        let _one = self.changing.lock().await;
        let mut entries = self.read().clone();
        if entries.remove(&(name.to_owned(), version.to_owned())).is_none() {
            let asked = format!("{name}@{version}").chars().take(200).collect();
            return Err(RegistryError::Unknown { asked, registered: registered(&entries) });
        }
        Ok(self.store(entries).await?)
    }

    /// Keeps the record itself from being evicted: a store drops what nobody looked at for long.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let _one = self.changing.lock().await;
        let entries = self.read().clone();
        if entries.is_empty() || self.records.get(Table::Toolchains, KEY).await?.is_some() {
            return Ok(());
        }
        self.store(entries).await
    }

    async fn store(&self, entries: Entries) -> Result<(), StoreError> {
        let toolchains = entries.values().map(|entry| entry.toolchain.to_wire()).collect();
        let list = wardian::ListToolchainsResponse { toolchains, ..Default::default() };
        self.records.put(Table::Toolchains, KEY, list.encode_to_vec().into()).await?;
        *self.entries.write().unwrap_or_else(PoisonError::into_inner) = entries;
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(toolchain: &Toolchain) -> (String, String) {
    (toolchain.name.clone(), toolchain.version.clone())
}

fn registered(entries: &Entries) -> String {
    let mut labels: Vec<String> =
        entries.values().take(NAMED_MAX).map(|entry| entry.toolchain.label()).collect();
    if entries.len() > NAMED_MAX {
        labels.push("...".to_owned());
    }
    if labels.is_empty() { "none".to_owned() } else { labels.join(", ") }
}

/// Whether a version is another one or goes on behind it: 22.1 begins with 22, and 220 does not.
pub(crate) fn begins_with(version: &str, beginning: &str) -> bool {
    let rest = version.strip_prefix(beginning);
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
}

/// Numbers by value, everything else as text; a version without a pre-release is newer than with one.
fn compare_versions(a: &str, b: &str) -> Ordering {
    let release = |version: &str| version.split(['-', '+']).next().unwrap_or_default().to_owned();
    let parts = |version: &str| -> Vec<(u64, String)> {
        let part = |text: &str| text.parse().map_or((0, text.to_owned()), |number| (number, String::new()));
        version.split(['.', '-', '+', '_']).map(part).collect()
    };
    let newer = |version: &str| !version.contains('-');
    parts(&release(a))
        .cmp(&parts(&release(b)))
        .then_with(|| newer(a).cmp(&newer(b)))
        .then_with(|| parts(a).cmp(&parts(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_begin_at_their_joints() {
        for (version, beginning, expected) in [
            ("22.0.0-git2", "22", true),
            ("22.0.0-git2", "22.0.0", true),
            ("220.0", "22", false),
            ("22.0", "22.0.0", false),
            ("22", "22", true),
        ] {
            assert_eq!(begins_with(version, beginning), expected, "{version} {beginning}");
        }
    }

    #[test]
    fn newer_versions_come_later() {
        let sorted = ["1.0.0-rc1", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "2"];
        for pair in sorted.windows(2) {
            assert_eq!(compare_versions(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
    }
}
