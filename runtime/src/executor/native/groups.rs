//! Control groups (version 2): what an action may use as a whole, and what it did use.
//!
//! A worker makes a group of its own, named after its folder, and below it one for each action. Where:
//!
//! - below the group that the worker is in, when that was given to it (a service with `Delegate=yes`) and the worker is
//!   alone there: then the worker moves into a group beside its actions', because a group with limits below it may hold
//!   no processes;
//! - below the root of all groups, when the worker is in that one, which may hold both.
//!
//! An action's processes are one group further down than its limits: whatever they do in namespaces of their own, the
//! uppermost group that they can ever see is that one, and the limits are above it.
//!
//! Never outside of the worker's own group: what bounds the worker bounds its actions.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use wardian_proto::wardian::NativeUsage;

use crate::Failure;

/// What limits need.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];

/// The group that a worker moves into, beside those of its actions.
const WORKER: &str = "wardian-worker";

/// The group that holds the processes of an action, below the one that holds its limits.
const INSIDE: &str = "in";

/// Groups below that of an action: the one that holds its processes. It can make none itself.
const BELOW_MAX: u32 = 1;

/// How long the processes of a group may take to be gone once they were killed.
const EMPTY_TIME_MAX: Duration = Duration::from_secs(5);

/// How often it is looked whether they are.
const EMPTY_LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// How often it is tried to move what the worker has started out of its way.
const MOVES_MAX: usize = 10;

/// Groups that an earlier process may have left and that could not be removed.
const TAKEN_NAMES_MAX: usize = 1000;

/// The period of `cpu.max` in microseconds.
const PERIOD_MICROSECONDS: u64 = 100_000;

/// Limits of an action as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupLimits {
    pub(super) memory_bytes_max: Option<u64>,
    /// The sandbox's own included.
    pub(super) processes_max: u64,
    pub(super) cpus_max: Option<u64>,
}

/// A place where the worker can make groups.
#[derive(Debug)]
pub(super) struct Groups {
    folder: PathBuf,
    has_cpu: bool,
    made: AtomicU64,
}

impl Groups {
    /// Finds such a place and makes it ready. `name` is the same for every process that has the worker's folder, and no
    /// other's; `note` is a file in which the place is kept, for the next process to find what this one leaves.
    fn find(name: &str, note: &Path) -> anyhow::Result<Arc<Self>> {
        sweep_noted(name, note);
        let (own, mount) = own_group(
            &fs::read_to_string("/proc/self/cgroup")?,
            &fs::read_to_string("/proc/self/mountinfo")?,
        )?;
        let offered = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
        let base = base(&own, &mount, &offered)?;
        let folder = base.join(name);
        sweep(&folder);
        fs::create_dir_all(&folder).map_err(|error| naming("make", &folder, &error))?;
        fs::write(note, folder.as_os_str().as_bytes())?;
        enable(&folder, &CONTROLLERS)?;
        let has_cpu = enable(&folder, &["cpu"]).is_ok();
        Ok(Arc::new(Self { folder, has_cpu, made: AtomicU64::new(0) }))
    }

    /// The same for a worker with that folder of staged input roots.
    pub(super) fn find_for(staged: &Path) -> anyhow::Result<Arc<Self>> {
        let folder = staged.parent().unwrap_or(staged);
        let hash = hex::encode(Sha256::digest(folder.as_os_str().as_bytes()));
        Self::find(&format!("wardian-{}", &hash[..16]), &folder.join("control-group"))
    }

    /// Makes a group with limits, for one action.
    pub(super) fn make(self: &Arc<Self>, limits: &GroupLimits) -> io::Result<Group> {
        for _ in 0..TAKEN_NAMES_MAX {
            let number = self.made.fetch_add(1, Ordering::Relaxed);
            let path = self.folder.join(format!("action-{number}"));
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(naming("make", &path, &error)),
            }
            // Whatever comes next, dropping it removes the folder.
            let group = Group { path, limits: *limits, _place: Arc::clone(self) };
            limit(&group.path, limits)?;
            let inside = group.path.join(INSIDE);
            fs::create_dir(&inside).map_err(|error| naming("make", &inside, &error))?;
            return Ok(group);
        }
        Err(io::Error::other(format!("{} is full of what was left behind", self.folder.display())))
    }

    /// Whether a group can be held to a number of processors.
    pub(super) fn has_cpu(&self) -> bool {
        self.has_cpu
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        // All groups of actions hold this: they are gone, or could not be removed.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// The group of one action. Dropping it ends what is in it and removes it, off the async threads.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
    limits: GroupLimits,
    _place: Arc<Groups>,
}

impl Group {
    /// The file that a process joins by.
    pub(super) fn door(&self) -> PathBuf {
        self.path.join(INSIDE).join("cgroup.procs")
    }

    /// Ends all that is in it.
    pub(super) fn kill(&self) {
        kill(&self.path);
    }

    /// What was used so far.
    pub(super) fn account(&self) -> Account {
        Account::read(&self.path)
    }

    /// What is wrong, when the kernel ended the action for lack of memory.
    pub(super) fn out_of_memory(&self, account: &Account) -> Option<Failure> {
        out_of_memory(account, self.limits.memory_bytes_max)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        let place = Arc::clone(&self._place);
        let remove = move || {
            empty_and_remove(&path, Instant::now() + EMPTY_TIME_MAX);
            drop(place);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// What an action used, as its group counted it. What the kernel does not count is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    memory_bytes_peak: Option<u64>,
    user: Option<Duration>,
    system: Option<Duration>,
    /// How often its own limit was reached and nothing could be freed.
    limit_reached: u64,
    /// Processes that the kernel ended for lack of memory, here or on the machine.
    killed: u64,
    /// How often a process could not be started.
    processes_refused: u64,
}

impl Account {
    fn read(group: &Path) -> Self {
        let text = |name: &str| fs::read_to_string(group.join(name)).unwrap_or_default();
        let (memory, cpu, pids) = (text("memory.events"), text("cpu.stat"), text("pids.events"));
        let time = |key: &str| value(&cpu, key).map(Duration::from_micros);
        Self {
            memory_bytes_peak: text("memory.peak").trim().parse().ok(),
            user: time("user_usec"),
            system: time("system_usec"),
            limit_reached: value(&memory, "oom").unwrap_or(0),
            killed: value(&memory, "oom_kill").unwrap_or(0),
            processes_refused: value(&pids, "max").unwrap_or(0),
        }
    }

    /// The same as a message beside the result.
    pub(super) fn to_wire(&self) -> NativeUsage {
        let time = |time: Option<Duration>| time.and_then(|time| time.try_into().ok());
        NativeUsage {
            memory_bytes_peak: self.memory_bytes_peak,
            user_time: time(self.user),
            system_time: time(self.system),
            ..NativeUsage::default()
        }
    }

    /// What whoever started the action should know when it failed.
    pub(super) fn remark(&self) -> Option<String> {
        (self.processes_refused > 0).then(|| {
            format!(
                "processes could not be started for worker.sandbox.processes_max (refused {} times)",
                self.processes_refused
            )
        })
    }
}

fn out_of_memory(account: &Account, limit: Option<u64>) -> Option<Failure> {
    if account.killed == 0 {
        return None;
    }
    let peak = account.memory_bytes_peak.map_or_else(
        || "the kernel does not say how much it had".to_owned(),
        |peak| format!("at most it had {peak} bytes"),
    );
    Some(Failure::ResourceExhausted(match limit.filter(|_| account.limit_reached > 0) {
        Some(limit) => format!(
            "the action ran out of memory: worker.sandbox.memory_bytes_max allows it {limit} bytes, and {peak}"
        ),
        None => format!(
            "the worker's machine, or what the worker itself may use of it, ran out of memory, and the kernel ended the \
             action; {peak}"
        ),
    }))
}

/// The value of a key in a file of lines `KEY VALUE`.
fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The folders of the group that this process is in, and of the uppermost one that is seen here: from the group's name,
/// and where the hierarchy is mounted.
fn own_group(cgroup: &str, mountinfo: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
    let name = cgroup.lines().find_map(|line| line.strip_prefix("0::"));
    let name = name.ok_or_else(|| anyhow::anyhow!("this system has no control groups of version 2"))?;
    let mount = mountinfo.lines().find_map(|line| {
        // 36 25 0:30 /ROOT /MOUNT rw,... - cgroup2 cgroup2 rw
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(3);
        (right.split(' ').next()? == "cgroup2").then_some((fields.next()?, fields.next()?))
    });
    let (root, mount) =
        mount.ok_or_else(|| anyhow::anyhow!("control groups of version 2 are not mounted"))?;
    let below = Path::new(name).strip_prefix(root);
    let below = below.map_err(|_| anyhow::anyhow!("the worker's control group {name} is not mounted"))?;
    Ok((Path::new(mount).join(below), mount.into()))
}

/// The folder below which groups with limits can be made, made ready for it.
fn base(own: &Path, mount: &Path, offered: &str) -> anyhow::Result<PathBuf> {
    let has_all =
        |text: &str| CONTROLLERS.iter().all(|name| text.split_whitespace().any(|word| word == *name));
    // Where an earlier worker moved this process.
    if own.ends_with(WORKER)
        && let Some(parent) = own.parent()
        && has_all(&fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default())
    {
        return Ok(parent.to_owned());
    }
    anyhow::ensure!(
        has_all(offered),
        "the control group {} has no controllers {} (it has {:?})",
        own.display(),
        CONTROLLERS.join(" and "),
        offered.trim()
    );
    // Only the root of all has no type. It alone may hold processes beside groups with limits.
    if own.join("cgroup.type").exists() {
        anyhow::ensure!(
            is_given(own, mount),
            "the control group {} was not given to the worker (Delegate=yes of systemd does)",
            own.display()
        );
        anyhow::ensure!(
            others_in(own)?.is_empty(),
            "the control group {} holds other processes beside the worker",
            own.display()
        );
        move_aside(own)?;
    }
    enable(own, &CONTROLLERS)?;
    let _ = enable(own, &["cpu"]);
    Ok(own.to_owned())
}

/// Whether a group is the worker's to divide: it is marked so, all that a container sees, or another user may write to it
/// only because somebody gave it away.
fn is_given(group: &Path, mount: &Path) -> bool {
    let is_marked = |name: &str| {
        let mut value = [0; 8];
        rustix::fs::getxattr(group, name, &mut value).is_ok_and(|length| &value[..length] == b"1")
    };
    group == mount
        || !rustix::process::geteuid().is_root()
        || ["user.delegate", "trusted.delegate"].into_iter().any(is_marked)
}

fn processes_in(group: &Path) -> io::Result<Vec<u32>> {
    let file = group.join("cgroup.procs");
    let text = fs::read_to_string(&file).map_err(|error| naming("read", &file, &error))?;
    Ok(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// Processes of a group that are neither this one nor its children.
fn others_in(group: &Path) -> io::Result<Vec<u32>> {
    let own = std::process::id();
    let is_ours = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        // One that is gone by now is in nobody's way; 0 stands for one that cannot be seen from here.
        pid == own || pid != 0 && parent.is_none_or(|parent| parent.trim() == own.to_string())
    };
    Ok(processes_in(group)?.into_iter().filter(|pid| !is_ours(*pid)).collect())
}

/// Moves this process and its children into a group below their own.
fn move_aside(own: &Path) -> anyhow::Result<()> {
    let aside = own.join(WORKER);
    match fs::create_dir(&aside) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(naming("make", &aside, &error).into());
        }
        _ => {}
    }
    let door = aside.join("cgroup.procs");
    for _ in 0..MOVES_MAX {
        let left = processes_in(own)?;
        if left.is_empty() {
            return Ok(());
        }
        for pid in left {
            if let Err(error) = fs::write(&door, pid.to_string())
                && pid == std::process::id()
            {
                return Err(naming("move the worker into", &aside, &error).into());
            }
        }
    }
    anyhow::bail!("{} does not get empty", own.display())
}

/// Lets groups below this one have limits.
fn enable(group: &Path, controllers: &[&str]) -> io::Result<()> {
    let file = group.join("cgroup.subtree_control");
    let words: Vec<String> = controllers.iter().map(|name| format!("+{name}")).collect();
    fs::write(&file, words.join(" ")).map_err(|error| naming("write", &file, &error))
}

fn limit(group: &Path, limits: &GroupLimits) -> io::Result<()> {
    let write = |name: &str, text: String| {
        let file = group.join(name);
        fs::write(&file, text).map_err(|error| naming("write", &file, &error))
    };
    // One process less is not what a build expects: all or none.
    write("memory.oom.group", "1".into())?;
    write("cgroup.max.descendants", BELOW_MAX.to_string())?;
    if let Some(bytes) = limits.memory_bytes_max {
        write("memory.max", bytes.to_string())?;
        // Without swap there is no such file.
        if group.join("memory.swap.max").exists() {
            write("memory.swap.max", "0".into())?;
        }
    }
    write("pids.max", limits.processes_max.to_string())?;
    if let Some(cpus) = limits.cpus_max {
        write("cpu.max", format!("{} {PERIOD_MICROSECONDS}", cpus.saturating_mul(PERIOD_MICROSECONDS)))?;
    }
    Ok(())
}

/// Removes what an earlier process left where it noted that it makes groups.
fn sweep_noted(name: &str, note: &Path) {
    let Ok(noted) = fs::read(note) else { return };
    let noted = Path::new(std::ffi::OsStr::from_bytes(&noted));
    // Only what such a process made: the note is a file like any other.
    if noted.is_absolute() && noted.ends_with(name) && noted.join("cgroup.procs").exists() {
        sweep(noted);
        let _ = fs::remove_dir(noted);
    }
}

fn sweep(folder: &Path) {
    let deadline = Instant::now() + EMPTY_TIME_MAX;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().as_bytes().starts_with(b"action-") {
            kill(&entry.path());
            empty_and_remove(&entry.path(), deadline);
        }
    }
}

/// Ends all that is in a group. Kernels before 5.14 have no such file; the namespace of processes ends them there.
fn kill(group: &Path) {
    if let Ok(mut file) = fs::File::options().write(true).open(group.join("cgroup.kill")) {
        let _ = file.write_all(b"1");
    }
}

/// Ends what is in an action's group and removes it, as soon as all that is gone.
fn empty_and_remove(group: &Path, deadline: Instant) {
    let remove = || match fs::remove_dir(group.join(INSIDE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::remove_dir(group),
    };
    while let Err(error) = remove() {
        match error.kind() {
            io::ErrorKind::NotFound => return,
            io::ErrorKind::ResourceBusy if Instant::now() < deadline => {
                kill(group);
                std::thread::sleep(EMPTY_LOOK_INTERVAL);
            }
            _ => {
                tracing::warn!(group = %group.display(), %error, "control group could not be removed");
                return;
            }
        }
    }
}

fn naming(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As systemd mounts it, and as a container that sees a part of it does.
    const MOUNTS: &str = "24 1 0:22 / /proc rw - proc proc rw\n\
                          30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const PART: &str = "30 24 0:26 /box /sys/fs/cgroup rw - cgroup2 cgroup rw\n";

    #[test]
    fn the_group_of_a_process_is_found() {
        let found = |cgroup, mounts| own_group(cgroup, mounts).map_err(|error| error.to_string());
        let path = |text: &str| Ok((PathBuf::from(text), PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(found("0::/a.slice/b.service\n", MOUNTS), path("/sys/fs/cgroup/a.slice/b.service"));
        assert_eq!(found("0::/\n", MOUNTS), path("/sys/fs/cgroup"));
        assert_eq!(found("0::/box/in\n", PART), path("/sys/fs/cgroup/in"));
        // Both versions at once; then only the first; then what another container sees.
        assert_eq!(found("4:memory:/a\n0::/b\n", MOUNTS), path("/sys/fs/cgroup/b"));
        assert!(found("4:memory:/a\n", MOUNTS).unwrap_err().contains("version 2"));
        assert!(
            found("0::/\n", "24 1 0:22 / /proc rw - proc proc rw\n").unwrap_err().contains("not mounted")
        );
        assert!(found("0::/elsewhere\n", PART).unwrap_err().contains("not mounted"));
    }

    #[test]
    fn what_the_kernel_counts_is_read() {
        let group = tempfile::tempdir().unwrap();
        assert_eq!(Account::read(group.path()), Account::default());
        let file = |name: &str, text: &str| fs::write(group.path().join(name), text).unwrap();
        file("memory.events", "low 0\nhigh 0\nmax 12\noom 2\noom_kill 3\noom_group_kill 1\n");
        file("memory.peak", "67108864\n");
        file("cpu.stat", "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 0\n");
        file("pids.events", "max 7\n");
        let account = Account::read(group.path());
        let expected = Account {
            memory_bytes_peak: Some(64 << 20),
            user: Some(Duration::from_millis(1)),
            system: Some(Duration::from_micros(500)),
            limit_reached: 2,
            killed: 3,
            processes_refused: 7,
        };
        assert_eq!(account, expected);
        assert!(account.remark().unwrap().contains("refused 7 times"));
        assert_eq!(Account::default().remark(), None);
    }

    #[test]
    fn only_what_the_kernel_ended_ran_out_of_memory_and_whose_memory_is_told() {
        let account = |limit_reached, killed| Account {
            memory_bytes_peak: Some(77),
            limit_reached,
            killed,
            ..Account::default()
        };
        let text = |account, limit| out_of_memory(&account, limit).map(|failure| failure.to_string());
        assert_eq!(text(account(0, 0), Some(100)), None);
        // It was at the limit, and something gave way.
        assert_eq!(text(account(5, 0), Some(100)), None);
        let own = text(account(1, 1), Some(100)).unwrap();
        assert!(own.contains("memory_bytes_max") && own.contains("100") && own.contains("77"), "{own}");
        for machine in [text(account(0, 1), Some(100)).unwrap(), text(account(0, 1), None).unwrap()] {
            assert!(machine.contains("machine") && machine.contains("77"), "{machine}");
        }
    }

    #[test]
    fn limits_are_written_in_the_kernels_words() {
        let group = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(group.path().join(name)).ok();
        limit(group.path(), &GroupLimits { processes_max: 5, ..GroupLimits::default() }).unwrap();
        assert_eq!((read("pids.max").as_deref(), read("memory.max")), (Some("5"), None));
        fs::write(group.path().join("memory.swap.max"), "max").unwrap();
        let all = GroupLimits { memory_bytes_max: Some(4096), processes_max: 5, cpus_max: Some(2) };
        limit(group.path(), &all).unwrap();
        for (name, text) in [
            ("memory.oom.group", "1"),
            ("cgroup.max.descendants", "1"),
            ("memory.max", "4096"),
            ("memory.swap.max", "0"),
            ("cpu.max", "200000 100000"),
        ] {
            assert_eq!(read(name).as_deref(), Some(text), "{name}");
        }
    }

    #[test]
    fn a_note_leads_to_nothing_but_groups_of_that_name() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, note) = (folder.path().join("precious/action-1"), folder.path().join("note"));
        fs::create_dir_all(&kept).unwrap();
        for noted in [folder.path().join("precious"), "wardian-x".into(), PathBuf::new()] {
            fs::write(&note, noted.as_os_str().as_bytes()).unwrap();
            sweep_noted("wardian-x", &note);
            assert!(kept.exists());
        }
        let group = folder.path().join("wardian-x");
        fs::create_dir_all(group.join("action-3")).unwrap();
        fs::write(&note, group.as_os_str().as_bytes()).unwrap();
        // Not a group: no such file in it.
        sweep_noted("wardian-x", &note);
        assert!(group.join("action-3").exists());
        fs::write(group.join("cgroup.procs"), "").unwrap();
        sweep_noted("wardian-x", &note);
        assert!(!group.join("action-3").exists());
    }
}
