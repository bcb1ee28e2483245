//! A disk that is smaller than the store's capacity: uploads are refused, and nothing is lost.
//!
//! The disk is a tmpfs, which only root may mount. Without the permission the test says so and proves nothing.

use std::path::Path;
use std::process::{Command, Stdio};

use rand::RngExt as _;
use tempfile::TempDir;
use tonic::Code;
use wardian_store::{BlobStore as _, StoreError, Upload};
use wardian_tests::{Blob, Random, ServerProcess, digest, random, soon};

use crate::SERVER;

const DISK_MIB: u32 = 96;
const SETTINGS: &str = "[store]\ncapacity_bytes = 1073741824\n";

/// A file of somebody else's, and how large it is.
const BALLAST: &str = "ballast";
const BALLAST_BYTES: usize = 32 << 20;

/// Uploads after the first one that was refused.
const UPLOADS_WHEN_FULL: u32 = 200;

/// A file system of its own. It is unmounted when this is dropped.
pub(crate) struct Disk(TempDir);

impl Disk {
    /// `None` when mounting is not permitted.
    pub(crate) fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder to mount on");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={DISK_MIB}m"), "wardian-test"]).arg(folder.path());
        let status = mount.stderr(Stdio::null()).status().ok()?;
        status.success().then_some(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the server that had files open there is gone, or goes with the test.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// What is left of a disk.
pub(crate) fn free_bytes(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).expect("the disk is mounted");
    stat.f_bavail * stat.f_frsize
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_uploads_and_loses_nothing() {
    let Some(disk) = Disk::mount() else {
        eprintln!(
            "\n*** NOT TESTED: a full disk. Mounting a tmpfs is not permitted here; run this as root.\n"
        );
        return;
    };
    let ballast = disk.path().join(BALLAST);
    std::fs::write(&ballast, vec![1; BALLAST_BYTES]).expect("there is room at first");
    let server = start(&disk);
    let mut client = Client { random: random(1), stored: Vec::new() };

    while client.upload(&server).await {}
    for _ in 0..UPLOADS_WHEN_FULL {
        client.upload(&server).await;
    }
    client.check(&server).await;

    std::fs::remove_file(ballast).expect("the ballast can be removed");
    soon("an upload where there is room again", async { while !client.upload(&server).await {} }).await;
    for _ in 0..10 {
        assert!(client.upload(&server).await, "there is room");
    }
    client.check(&server).await;

    drop(server);
    let server = start(&disk);
    client.check(&server).await;
    assert!(client.upload(&server).await, "there is room");
}

fn start(disk: &Disk) -> ServerProcess {
    ServerProcess::start(Path::new(SERVER), disk.path(), SETTINGS).expect("the server starts")
}

struct Client {
    random: Random,
    /// Blobs whose upload was acknowledged.
    stored: Vec<Blob>,
}

impl Client {
    /// Uploads a small or a large blob; false when there was no room.
    async fn upload(&mut self, server: &ServerProcess) -> bool {
        let sizes = if self.random.random() { 1..=64 << 10 } else { 300 << 10..=2 << 20 };
        let blob = Blob::random(&mut self.random, sizes);
        let store = server.store(256 << 10).await;
        match store.put(Upload::bytes(blob.digest, blob.data.clone())).await {
            Ok(()) => {
                self.stored.push(blob);
                true
            }
            Err(StoreError::Remote(status)) if status.code() == Code::ResourceExhausted => false,
            Err(error) => panic!("a full disk is told as {error}"),
        }
    }

    /// Checks that everything that was acknowledged is there.
    async fn check(&self, server: &ServerProcess) {
        let store = server.store(256 << 10).await;
        for blob in &self.stored {
            let bytes = store.get(&blob.digest, u64::MAX).await.expect("what was acknowledged is there");
            assert_eq!(digest(&bytes), blob.digest, "wrong bytes");
        }
    }
}
