//! One fetch: from the first origin that has the content, through a private file, into the store.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::time::{Instant, SystemTime};

use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::ReaderStream;
use wardian_proto::{Digest, DigestFunction};
use wardian_store::{READ_CHUNK_BYTES, StoreError, Table, Upload};

use super::{Answer, Asset, AssetsInner, FetchError, Kind, Wanted, archive, is_of_the_content, record};

impl AssetsInner {
    /// Tries the URIs in order. The last one's error is the answer when none has the content.
    pub(super) async fn fetch(&self, wanted: Wanted) -> Answer {
        let time = self.limits.fetch_time_max;
        let Ok(_turn) = tokio::time::timeout(time, self.turns.acquire()).await else {
            let text = format!("{} fetches go on (limit assets.fetches_max)", self.limits.fetches_max);
            return (wanted.uris[0].clone(), Err(FetchError::Exhausted(text)));
        };
        let (since, started) = (SystemTime::now(), Instant::now());
        let mut failed = (wanted.uris[0].clone(), FetchError::NotFound("no URI".into()));
        for (index, uri) in wanted.uris.iter().enumerate() {
            let left = time.saturating_sub(started.elapsed());
            let fetched = tokio::time::timeout(left, self.fetch_from(&wanted, index, uri)).await;
            let late = || FetchError::TimedOut(format!("not done within {} s", time.as_secs()));
            match fetched.unwrap_or_else(|_| Err(late())) {
                Ok(digest) => return (uri.clone(), Ok(self.remember(&wanted, uri, digest, since).await)),
                Err(error) => {
                    // What is wrong here is wrong for every mirror.
                    let is_own = matches!(error, FetchError::Store(_));
                    failed = (uri.clone(), error);
                    if is_own {
                        break;
                    }
                }
            }
        }
        (failed.0, Err(failed.1))
    }

    async fn remember(&self, wanted: &Wanted, uri: &str, digest: Digest, since: SystemTime) -> Asset {
        let asset = Asset {
            digest,
            since,
            expires_at: None,
            qualifiers: wanted.qualifiers.to_wire(),
            references_blobs: vec![],
            references_directories: vec![],
        };
        // What was given to somebody with a header is not for everybody, unless they know its checksum.
        if !wanted.qualifiers.has_secrets() || !wanted.qualifiers.checksums.is_empty() {
            let key = record::key(wanted, uri);
            if let Err(error) = self.records.put(Table::Assets, &key, asset.encode()).await {
                // The content is there all the same; the next who asks has it fetched again.
                tracing::warn!(%digest, %error, "a fetched asset is not remembered");
            }
        }
        asset
    }

    async fn fetch_from(&self, wanted: &Wanted, index: usize, uri: &str) -> Result<Digest, FetchError> {
        let file = self.spool(wanted, index, uri).await?;
        match wanted.kind {
            Kind::Blob => self.store_file(wanted.function, file).await,
            Kind::Directory => {
                let directory = wanted.qualifiers.directory.clone();
                let root = archive::store(&self.blobs, wanted.function, file, directory, self.folder.clone())
                    .await?;
                self.check_tree(root).await?;
                Ok(root)
            }
        }
    }

    /// Refuses a tree that is larger than what is served, and one of which parts went while it was stored.
    async fn check_tree(&self, root: Digest) -> Result<(), FetchError> {
        match self.missing_of_tree(root).await {
            Ok(missing) if missing.is_empty() => Ok(()),
            Ok(missing) => {
                let text = format!("{} blobs of the tree did not stay in the store", missing.len());
                Err(FetchError::Store(tonic::Status::resource_exhausted(text)))
            }
            Err(error) if is_of_the_content(&error) => Err(FetchError::Exhausted(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// Brings content into a nameless file, and compares it with the checksums.
    async fn spool(&self, wanted: &Wanted, index: usize, uri: &str) -> Result<File, FetchError> {
        let mut content = self.origins.get(uri, &wanted.qualifiers.headers_for(index, uri)).await?;
        let file = tempfile::tempfile_in(&self.folder).map_err(|error| spool_failed(&error))?;
        let mut file = tokio::fs::File::from_std(file);
        let checksums = &wanted.qualifiers.checksums;
        let mut hashers: Vec<_> = checksums.iter().map(|checksum| checksum.hasher()).collect();
        let mut bytes: u64 = 0;
        while let Some(piece) = content.next().await? {
            bytes += piece.len() as u64;
            let max = self.limits.content_bytes_max;
            if bytes > max {
                let text = format!("the content has more than {max} bytes (limit assets.content_bytes_max)");
                return Err(FetchError::Exhausted(text));
            }
            hashers.iter_mut().for_each(|hasher| hasher.update(&piece));
            file.write_all(&piece).await.map_err(|error| spool_failed(&error))?;
        }
        file.flush().await.map_err(|error| spool_failed(&error))?;
        if !checksums.is_empty() && !checksums.iter().zip(hashers).any(|(checksum, h)| checksum.is_of(h)) {
            return Err(FetchError::Aborted(format!("the {bytes} bytes fetched match no checksum")));
        }
        let mut file = file.into_std().await;
        file.rewind().map_err(|error| spool_failed(&error))?;
        Ok(file)
    }

    async fn store_file(&self, function: DigestFunction, file: File) -> Result<Digest, FetchError> {
        let (digest, file) = blocking(move || hash(function, file)).await?;
        if !self.blobs.find_missing(&[digest]).await?.is_empty() {
            self.blobs.put(Upload::stream(digest, pieces(file))).await?;
        }
        Ok(digest)
    }
}

/// Runs blocking work on the pool made for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|join| std::panic::resume_unwind(join.into_panic()))
}

/// The digest of a file. The whole size must be known before: one function begins with it.
fn hash(function: DigestFunction, mut file: File) -> Result<(Digest, File), FetchError> {
    let mut hash = || {
        let mut hasher = function.hasher(file.metadata()?.len());
        let mut buffer = vec![0; READ_CHUNK_BYTES];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        file.rewind()?;
        Ok(hasher.finish())
    };
    let digest = hash().map_err(|error: std::io::Error| spool_failed(&error))?;
    Ok((digest, file))
}

/// The bytes of a file, from its beginning.
pub(super) fn pieces(
    file: File,
) -> impl futures::Stream<Item = Result<bytes::Bytes, StoreError>> + Send + 'static {
    let failed = |source| StoreError::Io { operation: "read fetched file", source };
    ReaderStream::with_capacity(tokio::fs::File::from_std(file), READ_CHUNK_BYTES)
        .map(move |piece| piece.map_err(failed))
}

pub(super) fn spool_failed(error: &std::io::Error) -> FetchError {
    let text = format!("fetched content cannot be kept in the data folder: {error}");
    FetchError::Store(match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            tonic::Status::resource_exhausted(text)
        }
        _ => tonic::Status::internal(text),
    })
}
