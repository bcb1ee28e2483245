//! One folder on disk: sled for small blobs and records, one file each for larger blobs.
//!
//! Layout below the folder that [`SledStore::open`] is given:
//!
//! ```text
//! db/                          sled: trees `blobs` and one per record table
//! blobs/sha256/ab/abcd..-123   a blob of more than INLINE_BYTES_MAX bytes, named by hash and size
//! incoming/                    uploads that are not verified yet; emptied when the store opens
//! ```
//!
//! A file gets its final name only after its bytes were verified, so a blob that can be seen is whole.
//! Nothing is ever evicted.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use wardian_proto::Digest;

use crate::blob_store::{blocking, distinct_non_empty};
use crate::{
    BlobStore, BlobStream, ByteRange, READ_CHUNK_BYTES, RecordStore, Step, StoreError, Table, Upload,
    Verified,
};

/// Blobs up to this size are values in sled; larger ones are files.
const INLINE_BYTES_MAX: u64 = 16 * 1024;

/// How often sled writes its log to the disk, in milliseconds.
const SLED_FLUSH_MS: u64 = 200;

/// How long to wait for another process to let go of the folder, and how often to look.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(3);
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Memory that sled may use for its page cache.
const SLED_CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// A store in one folder.
#[derive(Clone)]
pub struct SledStore {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    database: sled::Db,
    blobs: sled::Tree,
}

impl SledStore {
    /// Opens the store in `folder`, making it when it is not there. Fails when another process has it open.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let incoming = folder.join("incoming");
        fs::create_dir_all(folder.join("blobs")).map_err(StoreError::io("create store folder"))?;
        let database = open_database(&folder.join("db"))?;
        // After the lock that sled takes: what another process uploads must not be swept away.
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("empty folder of unfinished uploads")(error));
            }
            _ => fs::create_dir_all(&incoming).map_err(StoreError::io("create upload folder"))?,
        }
        let blobs = database.open_tree("blobs")?;
        Ok(Self { shared: Arc::new(Shared { folder: folder.to_owned(), database, blobs }) })
    }

    /// Writes everything that was acknowledged to the disk.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.shared.database.flush_async().await?;
        Ok(())
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || work(&shared)).await
    }

    /// Streams an upload into a file of its own and publishes it.
    async fn put_file(&self, mut upload: Upload) -> Result<(), StoreError> {
        let mut incoming = self.run(Incoming::create).await?;
        loop {
            match upload.next().await? {
                Step::Data(piece) => {
                    incoming = blocking(move || {
                        incoming.file.write_all(&piece).map_err(StoreError::io("write upload"))?;
                        Ok(incoming)
                    })
                    .await?;
                }
                Step::Done(verified) => {
                    return self.run(move |shared| incoming.publish(shared, &verified)).await;
                }
            }
        }
    }
}

/// Opens sled, waiting a moment for a process that is just ending to let go of its lock.
fn open_database(path: &Path) -> Result<sled::Db, StoreError> {
    let config =
        sled::Config::new().path(path).flush_every_ms(Some(SLED_FLUSH_MS)).cache_capacity(SLED_CACHE_BYTES);
    let started = Instant::now();
    loop {
        match config.open() {
            Err(sled::Error::Io(error))
                if error.to_string().contains("acquire lock") && started.elapsed() < LOCK_WAIT_MAX =>
            {
                std::thread::sleep(LOCK_RETRY);
            }
            opened => return Ok(opened?),
        }
    }
}

impl Shared {
    fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hash = digest.hash_hex();
        let mut path = self.folder.join("blobs");
        path.push(digest.function().name());
        path.push(&hash[..2]);
        path.push(format!("{hash}-{}", digest.size()));
        path
    }

    fn contains(&self, digest: &Digest) -> Result<bool, StoreError> {
        if digest.size() <= INLINE_BYTES_MAX {
            return Ok(self.blobs.contains_key(blob_key(digest))?);
        }
        match fs::metadata(self.blob_path(digest)) {
            Ok(metadata) => Ok(metadata.len() == digest.size()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("look up blob file")(error)),
        }
    }

    fn get_inline(&self, digest: &Digest) -> Result<Bytes, StoreError> {
        if digest.is_empty_blob() {
            return Ok(Bytes::new());
        }
        let value = self.blobs.get(blob_key(digest))?.ok_or(StoreError::NotFound(*digest))?;
        Ok(Bytes::copy_from_slice(&value))
    }

    fn open_file(&self, digest: &Digest) -> Result<File, StoreError> {
        let file = File::open(self.blob_path(digest)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => StoreError::NotFound(*digest),
            _ => StoreError::io("open blob file")(error),
        })?;
        // A power failure may have cut it short: then it is not there, and will be uploaded again.
        let size = file.metadata().map_err(StoreError::io("look up blob file"))?.len();
        if size == digest.size() { Ok(file) } else { Err(StoreError::NotFound(*digest)) }
    }

    fn get(&self, digest: &Digest) -> Result<Bytes, StoreError> {
        if digest.size() <= INLINE_BYTES_MAX {
            return self.get_inline(digest);
        }
        let mut file = self.open_file(digest)?;
        let mut data = Vec::with_capacity(usize::try_from(digest.size()).unwrap_or(0));
        file.read_to_end(&mut data).map_err(StoreError::io("read blob file"))?;
        Ok(data.into())
    }

    fn put_inline(&self, verified: &Verified, data: &Bytes) -> Result<(), StoreError> {
        self.blobs.insert(blob_key(&verified.digest()), data.as_ref())?;
        Ok(())
    }

    fn tree(&self, table: Table) -> Result<sled::Tree, StoreError> {
        Ok(self.database.open_tree(table.name())?)
    }
}

/// An upload's file while nobody else can see it; removed when dropped before it is published.
struct Incoming {
    file: File,
    path: Option<PathBuf>,
}

impl Incoming {
    fn create(shared: &Shared) -> Result<Self, StoreError> {
        let path = shared.folder.join("incoming").join(uuid::Uuid::new_v4().simple().to_string());
        let file = File::create_new(&path).map_err(StoreError::io("create upload file"))?;
        Ok(Self { file, path: Some(path) })
    }

    fn publish(mut self, shared: &Shared, verified: &Verified) -> Result<(), StoreError> {
        let target = shared.blob_path(&verified.digest());
        let parent = target.parent().expect("blob paths have a parent");
        fs::create_dir_all(parent).map_err(StoreError::io("create blob folder"))?;
        let path = self.path.as_ref().expect("set until published");
        fs::rename(path, &target).map_err(StoreError::io("publish upload"))?;
        self.path = None;
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            // A leftover is swept when the store opens; there is nobody to tell here.
            let _ = fs::remove_file(path);
        }
    }
}

/// Key of a blob in sled: function, hash, size, so that a wrong size is another blob.
fn blob_key(digest: &Digest) -> Vec<u8> {
    let mut key = Vec::with_capacity(64);
    key.push(u8::try_from(digest.function().wire() as i32).expect("enum values are below 256"));
    key.extend_from_slice(digest.hash());
    key.extend_from_slice(&digest.size().to_be_bytes());
    key
}

#[async_trait]
impl BlobStore for SledStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let asked = distinct_non_empty(digests);
        self.run(move |shared| {
            let mut missing = Vec::new();
            for digest in asked {
                if !shared.contains(&digest)? {
                    missing.push(digest);
                }
            }
            Ok(missing)
        })
        .await
    }

    async fn put(&self, upload: Upload) -> Result<(), StoreError> {
        if upload.digest().size() > INLINE_BYTES_MAX {
            return self.put_file(upload).await;
        }
        let (verified, data) = upload.into_bytes().await?;
        self.run(move |shared| shared.put_inline(&verified, &data)).await
    }

    async fn put_batch(&self, uploads: Vec<Upload>) -> Vec<Result<(), StoreError>> {
        let mut outcomes = Vec::with_capacity(uploads.len());
        let mut batch = sled::Batch::default();
        for upload in uploads {
            if upload.digest().size() > INLINE_BYTES_MAX {
                outcomes.push(self.put_file(upload).await);
                continue;
            }
            outcomes.push(upload.into_bytes().await.map(|(verified, data)| {
                batch.insert(blob_key(&verified.digest()), data.as_ref());
            }));
        }
        // One write for all that are small; when it fails, none of them is stored.
        if let Err(error) = self.run(move |shared| Ok(shared.blobs.apply_batch(batch)?)).await {
            let text = error.to_string();
            let failed = |_: Result<(), StoreError>| Err(StoreError::Damaged(text.clone()));
            return outcomes.into_iter().map(failed).collect();
        }
        outcomes
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, StoreError> {
        let (offset, length) = range.within(digest)?;
        let digest = *digest;
        if digest.size() <= INLINE_BYTES_MAX {
            let data = self.run(move |shared| shared.get_inline(&digest)).await?;
            let start = usize::try_from(offset).expect("inline blobs are small");
            let part = data.slice(start..start + usize::try_from(length).expect("inline blobs are small"));
            return Ok(futures::stream::iter((!part.is_empty()).then_some(Ok(part))).boxed());
        }
        let file = self
            .run(move |shared| {
                let mut file = shared.open_file(&digest)?;
                file.seek(SeekFrom::Start(offset)).map_err(StoreError::io("seek in blob file"))?;
                Ok(file)
            })
            .await?;
        Ok(file_pieces(file, digest, length))
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, StoreError>> {
        let asked = digests.to_vec();
        let count = asked.len();
        let read = self.run(move |shared| Ok(asked.iter().map(|d| shared.get(d)).collect::<Vec<_>>())).await;
        match read {
            Ok(outcomes) => outcomes,
            Err(error) => {
                let text = error.to_string();
                (0..count).map(|_| Err(StoreError::Damaged(text.clone()))).collect()
            }
        }
    }

    async fn copy_to(&self, digest: &Digest, mut file: File) -> Result<(), StoreError> {
        let digest = *digest;
        self.run(move |shared| {
            let write = StoreError::io("write blob to file");
            if digest.size() <= INLINE_BYTES_MAX {
                return file.write_all(&shared.get_inline(&digest)?).map_err(write);
            }
            // On Linux this is copy_file_range: the kernel copies, or shares blocks where it can.
            let copied = std::io::copy(&mut shared.open_file(&digest)?, &mut file).map_err(write)?;
            whole(&digest, copied)
        })
        .await
    }
}

fn whole(digest: &Digest, bytes: u64) -> Result<(), StoreError> {
    if bytes == digest.size() {
        return Ok(());
    }
    Err(StoreError::Damaged(format!("file of blob {digest} holds {bytes} bytes")))
}

/// Reads `length` bytes from the file's position, one piece for each poll.
fn file_pieces(file: File, digest: Digest, length: u64) -> BlobStream {
    futures::stream::try_unfold((file, length), move |(mut file, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        blocking(move || {
            let size = READ_CHUNK_BYTES.min(usize::try_from(left).unwrap_or(READ_CHUNK_BYTES));
            let mut piece = vec![0; size];
            file.read_exact(&mut piece)
                .map_err(|_| StoreError::Damaged(format!("file of blob {digest} is too short")))?;
            Ok(Some((Bytes::from(piece), (file, left - size as u64))))
        })
        .await
    })
    .boxed()
}

#[async_trait]
impl RecordStore for SledStore {
    async fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let key = key.to_vec();
        self.run(move |shared| Ok(shared.tree(table)?.get(key)?.map(|v| Bytes::copy_from_slice(&v)))).await
    }

    async fn put(&self, table: Table, key: &[u8], value: Bytes) -> Result<(), StoreError> {
        let key = key.to_vec();
        self.run(move |shared| {
            shared.tree(table)?.insert(key, value.as_ref())?;
            Ok(())
        })
        .await
    }

    async fn delete(&self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        let key = key.to_vec();
        self.run(move |shared| {
            shared.tree(table)?.remove(key)?;
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use wardian_proto::DigestFunction;

    use super::*;

    #[tokio::test]
    async fn blobs_and_records_survive_a_reopen_and_unfinished_uploads_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let small = Bytes::from_static(b"small");
        let large = Bytes::from(vec![7; 100_000]);
        let digests = [&small, &large].map(|b| DigestFunction::Sha256.digest(b));
        {
            let store = SledStore::open(folder.path()).unwrap();
            for (digest, data) in digests.iter().zip([&small, &large]) {
                BlobStore::put(&store, Upload::bytes(*digest, data.clone())).await.unwrap();
            }
            RecordStore::put(&store, Table::ActionCache, b"k", Bytes::from_static(b"v")).await.unwrap();
            fs::write(folder.path().join("incoming/leftover"), b"torn").unwrap();
            store.flush().await.unwrap();
        }
        let store = SledStore::open(folder.path()).unwrap();
        assert_eq!(store.find_missing(&digests).await.unwrap(), []);
        assert_eq!(BlobStore::get(&store, &digests[1], 200_000).await.unwrap(), large);
        let value = RecordStore::get(&store, Table::ActionCache, b"k").await.unwrap();
        assert_eq!(value.as_deref(), Some(&b"v"[..]));
        assert_eq!(fs::read_dir(folder.path().join("incoming")).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_is_open_once_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = SledStore::open(folder.path()).unwrap();
        assert!(SledStore::open(folder.path()).is_err());
        let second = std::thread::scope(|scope| {
            let second = scope.spawn(|| SledStore::open(folder.path()));
            drop(first);
            second.join().unwrap()
        });
        assert!(second.is_ok(), "the second waits for the first to let go");
    }

    #[tokio::test]
    async fn a_truncated_file_is_missing_not_served() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        let data = vec![1; 50_000];
        let digest = DigestFunction::Sha256.digest(&data);
        BlobStore::put(&store, Upload::bytes(digest, data)).await.unwrap();
        File::options().write(true).open(store.shared.blob_path(&digest)).unwrap().set_len(10).unwrap();
        assert_eq!(store.find_missing(&[digest]).await.unwrap(), [digest]);
        assert!(matches!(store.get_batch(&[digest]).await[0], Err(StoreError::NotFound(_))));
        assert!(matches!(store.read(&digest, ByteRange::default()).await, Err(StoreError::NotFound(_))));
    }
}
