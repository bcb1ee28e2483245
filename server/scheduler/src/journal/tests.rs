//! What comes back after the process that wrote it.

use wardian_proto::{DigestFunction, InstanceName, reapi, rpc};
use wardian_store::action_cache::ActionCache;
use wardian_store::backend::MemoryStore;

use super::database::{COMPACT_BYTES_MIN, OPERATION};
use super::*;
use crate::job::Invocation;
use crate::platform::tests::platform;
use crate::{LocalQueue, Offer, SchedulerLimits, SubmitError, Tenants, WorkQueue as _};

fn job(name: &str) -> Job {
    Job {
        instance: InstanceName::parse("main").unwrap(),
        action: DigestFunction::Sha1.digest(name.as_bytes()),
        requested: DigestFunction::Sha1.digest(b"what the client sent"),
        platform: platform(&[("OSFamily", "linux"), ("pool", "a"), ("pool", "b")]),
        priority: -3,
        do_not_cache: true,
        invocation: Invocation::from_client("build 7", ""),
        memory_bytes: 12,
    }
}

fn live(name: &OperationName, run: u64) -> Change {
    let queued_at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(7);
    Change::Live {
        name: name.clone(),
        run: RunId(run),
        queued_at,
        priority: job("x").priority,
        job: Arc::new(job("x")),
    }
}

fn names() -> [OperationName; 3] {
    [(); 3].map(|()| OperationName::new(&InstanceName::parse("main").unwrap()))
}

#[tokio::test]
async fn operations_come_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let [waiting, ended, gone] = names();
    let (journal, left) = Journal::open(folder.path()).unwrap();
    assert!(left.live.is_empty() && left.ended.is_empty());
    let (epoch, first) = (journal.epoch(), journal.first_run());
    journal.note([live(&ended, first + 1), live(&waiting, first + 2), live(&gone, first + 3)]);
    let response = reapi::ExecuteResponse { message: "done".into(), ..Default::default() };
    let noted = journal.note([
        Change::Ended { name: ended.clone(), job: Arc::new(job("x")), response: Arc::new(response.clone()) },
        Change::Forgotten(gone),
    ]);
    journal.kept(noted).await.unwrap();
    drop(journal);

    let (journal, left) = Journal::open(folder.path()).unwrap();
    assert_eq!(journal.epoch(), epoch);
    assert!(journal.first_run() > first + 3, "no run of this process is called like one of the last");
    let [back] = &left.live[..] else { panic!("{left:?}") };
    assert_eq!((&back.name, back.run), (&waiting, RunId(first + 2)));
    assert_eq!(format!("{:?}", back.job), format!("{:?}", job("x")));
    let [back] = &left.ended[..] else { panic!("{left:?}") };
    assert_eq!((&back.name, &back.response), (&ended, &response));
}

#[tokio::test]
async fn what_was_removed_takes_no_room_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let mut database = Database::open(folder.path()).unwrap();
    database.db.insert(EPOCH_KEY, &7u64.to_be_bytes()).unwrap();
    for number in 0..2000u32 {
        let mut bytes = vec![0; 64 << 10];
        bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at as u32 ^ number) as u8);
        database.db.insert([&[OPERATION][..], &number.to_be_bytes()].concat(), bytes).unwrap();
    }
    database.db.flush().unwrap();
    for number in 0..2000u32 {
        database.db.remove([&[OPERATION][..], &number.to_be_bytes()].concat()).unwrap();
    }
    database.db.flush().unwrap();
    assert!(database.db.size_on_disk().unwrap() > COMPACT_BYTES_MIN);
    database.compact_if_large().unwrap();
    assert!(database.db.size_on_disk().unwrap() < COMPACT_BYTES_MIN);
    database.db.insert("after", "x").unwrap();
    database.db.flush().unwrap();
    drop(database);
    let database = Database::open(folder.path()).unwrap();
    assert_eq!(database.number(EPOCH_KEY).unwrap(), Some(7));
    assert!(database.db.contains_key("after").unwrap());
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("journal");
    let (journal, _) = Journal::open(&place).unwrap();
    let [name, other, _] = names();
    journal.kept(journal.note([live(&name, 1)])).await.unwrap();
    // Waiting for what was kept already does not wait for more.
    journal.kept(0).await.unwrap();
    journal.kept(journal.note([live(&other, 2)])).await.unwrap();
    drop(journal);
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::write(&place, "no folder").unwrap();
    assert!(Journal::open(&place).is_err());
}

#[tokio::test]
async fn a_journal_that_is_open_elsewhere_is_no_damaged_one() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(folder.path()).unwrap();
    // What looks like leftovers is what the first one is about to use: it writes its database anew, and its log.
    let (next, log) = (folder.path().join("next"), folder.path().join("log-7777777777777777"));
    std::fs::create_dir(&next).unwrap();
    std::fs::write(&log, "").unwrap();
    let error = Journal::open(folder.path()).err().unwrap();
    assert_eq!(error, JournalError::InUse(folder.path().to_owned()));
    assert!(next.exists() && log.exists(), "the second one has touched nothing");
    journal.close();
    assert!(Journal::open(folder.path()).is_ok());
    assert!(!next.exists() && !log.exists());
}

/// Longer than any test: the database has nothing of a log before the journal is closed.
const NEVER: Duration = Duration::from_secs(3600);

/// What a process would find that is started now: a killed one leaves what is in the system's memory.
fn image(folder: &Path) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let to = to.join(path.file_name().unwrap());
            // What vanishes meanwhile is in the database.
            if path.is_dir() { copy(&path, &to) } else { drop(std::fs::copy(&path, &to)) }
        }
    }
    let image = tempfile::tempdir().unwrap();
    copy(folder, image.path());
    image
}

fn ended(name: &OperationName) -> Change {
    let response = reapi::ExecuteResponse { message: "done".into(), ..Default::default() };
    Change::Ended { name: name.clone(), job: Arc::new(job("x")), response: Arc::new(response) }
}

#[tokio::test]
async fn what_was_kept_survives_a_kill_before_the_database_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open_with(folder.path(), NEVER).unwrap();
    let [waiting, done, gone] = names();
    let changes = [live(&done, 1), live(&waiting, 2), live(&gone, 3), ended(&done), Change::Forgotten(gone)];
    journal.kept(journal.note(changes)).await.unwrap();
    let image = image(folder.path());
    let logs = log::files(image.path()).unwrap();
    assert_eq!(logs.len(), 1);
    for _ in 0..2 {
        let (_journal, left) = Journal::open(image.path()).unwrap();
        assert_eq!(left.live.iter().map(|live| &live.name).collect::<Vec<_>>(), [&waiting]);
        assert_eq!(left.ended.iter().map(|ended| &ended.name).collect::<Vec<_>>(), [&done]);
        assert!(log::files(image.path()).unwrap().is_empty(), "the database has it all");
    }
}

#[tokio::test]
async fn a_log_that_comes_back_after_it_was_brought_in_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open_with(folder.path(), NEVER).unwrap();
    let [name, ..] = names();
    journal.kept(journal.note([live(&name, 1)])).await.unwrap();
    let (_, path) = log::files(folder.path()).unwrap().remove(0);
    let bytes = std::fs::read(&path).unwrap();
    drop(journal);
    let (journal, _) = Journal::open_with(folder.path(), NEVER).unwrap();
    journal.kept(journal.note([ended(&name)])).await.unwrap();
    drop(journal);
    std::fs::write(&path, bytes).unwrap();
    let (_, left) = Journal::open(folder.path()).unwrap();
    assert!(left.live.is_empty() && left.ended.len() == 1, "{left:?}");
}

#[tokio::test]
async fn the_torn_end_of_a_log_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open_with(folder.path(), NEVER).unwrap();
    let [first, second, _] = names();
    journal.kept(journal.note([live(&first, 1)])).await.unwrap();
    journal.kept(journal.note([live(&second, 2)])).await.unwrap();
    let image = image(folder.path());
    let (_, path) = log::files(image.path()).unwrap().remove(0);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let (journal, left) = Journal::open(image.path()).unwrap();
    assert_eq!(left.live.iter().map(|live| &live.name).collect::<Vec<_>>(), [&first]);
    // And it goes on.
    journal.kept(journal.note([live(&second, 2)])).await.unwrap();
    drop(journal);
    assert_eq!(Journal::open(image.path()).unwrap().1.live.len(), 2);
}

#[tokio::test]
async fn the_database_is_brought_up_to_date_by_and_by() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(folder.path()).unwrap();
    let [name, ..] = names();
    journal.kept(journal.note([live(&name, 1)])).await.unwrap();
    while journal.stats().flushes.count() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(log::files(folder.path()).unwrap().is_empty());
    assert_eq!((journal.stats().changes, journal.stats().pending), (1, 0));
    assert!(journal.stats().disk_bytes > 0);
}

#[tokio::test]
async fn a_name_that_nobody_has_is_not_noted() {
    let folder = tempfile::tempdir().unwrap();
    let queue = || {
        let store = Arc::new(MemoryStore::new(1 << 20));
        let journal = Journal::open(folder.path()).unwrap();
        let action_cache = ActionCache::new(store.clone(), store);
        LocalQueue::restarted(SchedulerLimits::default(), Tenants::default(), action_cache, journal).0
    };
    let first = queue();
    let offer = Offer { slots: 1, ..Offer::default() };
    let worker = first.register(offer).await;
    assert!(!first.delete(&OperationName::from_client(&"x".repeat(70_000))));
    let anywhere = Job { platform: platform(&[]), do_not_cache: false, ..job("x") };
    let urgent = Job { priority: anywhere.priority - 5, ..anywhere.clone() };
    let waits = first.submit(anywhere, None).unwrap();
    let joins = first.submit(urgent, None).unwrap();
    for operation in [&waits, &joins] {
        first.kept(operation).await.unwrap();
    }
    // What one worker could not do another one may.
    let run = first.next(worker).await.unwrap().run;
    let status = rpc::Status { code: rpc::Code::Unavailable.into(), ..Default::default() };
    let response = reapi::ExecuteResponse { status: Some(status), ..Default::default() };
    first.complete(worker, run, response).await;
    assert_eq!(first.next(worker).await.unwrap().run, run);
    first.close();
    drop(first);
    let second = queue();
    assert!(second.operation(&waits.name).is_some() && second.operation(&joins.name).is_some());
    let priority = second.priority_of(&waits.name);
    assert_eq!(priority, Some(job("x").priority - 5), "as urgent as it was");
}

#[tokio::test]
async fn nothing_is_taken_in_while_too_much_waits_to_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let store = std::sync::Arc::new(MemoryStore::new(1 << 20));
    let action_cache = ActionCache::new(store.clone(), store);
    let (limits, tenants) =
        (SchedulerLimits { worker_grace: NEVER, ..SchedulerLimits::default() }, Tenants::default());
    let (journal, left) = Journal::open(folder.path()).unwrap();
    // Nobody writes any more.
    journal.close();
    let name = &names()[0];
    journal.note((1..PENDING_CHANGES_MAX).map(|_| Change::Forgotten(name.clone())));
    let (queue, _) = LocalQueue::restarted(limits, tenants, action_cache, (journal, left));
    assert!(queue.submit(job("fits"), None).is_ok());
    let error = queue.submit(job("does not"), None).err().unwrap();
    assert_eq!(error, SubmitError::Journal(JournalError::Behind(PENDING_CHANGES_MAX)));
    assert!(error.to_string().contains("100000"), "{error}");
    assert_eq!(queue.load().queued_runs, 1, "what was refused is not there");
}

#[tokio::test]
async fn large_responses_that_wait_to_be_written_are_counted_by_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(folder.path()).unwrap();
    // Nobody writes any more.
    journal.close();
    let message = "x".repeat(PENDING_BYTES_MAX / 2);
    let response = Arc::new(reapi::ExecuteResponse { message, ..Default::default() });
    let name = &names()[0];
    let ended =
        || Change::Ended { name: name.clone(), job: Arc::new(job("x")), response: Arc::clone(&response) };
    journal.note([ended()]);
    assert_eq!(journal.has_room(), Ok(()));
    journal.note([ended()]);
    let Err(error @ JournalError::BehindBytes(bytes)) = journal.has_room() else { panic!("it has room") };
    assert!((PENDING_BYTES_MAX..PENDING_BYTES_MAX + 1024).contains(&bytes), "{error}");
    assert!(error.to_string().contains("268435456"), "{error}");
}

#[tokio::test]
async fn what_was_written_takes_no_room_among_what_waits() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(folder.path()).unwrap();
    journal.kept(journal.note([live(&names()[0], journal.first_run() + 1)])).await.unwrap();
    assert_eq!(journal.shared.lock().bytes, 0);
}
