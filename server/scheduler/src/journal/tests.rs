//! What comes back after the process that wrote it.

use wardian_proto::{DigestFunction, InstanceName};

use super::*;
use crate::job::Invocation;
use crate::platform::tests::platform;

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
    Change::Live { name: name.clone(), run: RunId(run), queued_at, job: Arc::new(job("x")) }
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
    let error = Journal::open(folder.path()).err().unwrap();
    assert_eq!(error, JournalError::InUse(folder.path().join("db")));
    drop(journal);
    assert!(Journal::open(folder.path()).is_ok());
}
