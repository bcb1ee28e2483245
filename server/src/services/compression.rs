//! Encodings of blobs on the wire: zstd (RFC 8878), raw DEFLATE (RFC 1951) and Brotli (RFC 7932).
//!
//! Blobs are stored as they are. What is sent is encoded as it passes, what is received is decoded as it passes,
//! and no more of it than the digest says: memory is bounded by one buffer and the encoding's window.

use std::pin::Pin;

use async_compression::Level;
use async_compression::tokio::bufread::{
    BrotliDecoder, BrotliEncoder, DeflateDecoder, DeflateEncoder, ZstdDecoder, ZstdEncoder,
};
use async_compression::zstd::DParameter;
use bytes::{Bytes, BytesMut};
use futures::Stream;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _};
use tokio_util::io::StreamReader;
use wardian_proto::{Compressor, reapi};
use wardian_store::StoreError;

/// What Capabilities announce, the best first.
pub(super) const SUPPORTED: &[Compressor] = &[Compressor::Zstd, Compressor::Deflate, Compressor::Brotli];

/// Bytes decoded or encoded at a time.
const PIECE_BYTES: usize = 64 << 10;

/// The largest zstd window that a stream may ask for: 2^23 bytes, which every decoder must support.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Levels at which encoding keeps up with a network.
const ZSTD_LEVEL: Level = Level::Precise(3);
const DEFLATE_LEVEL: Level = Level::Precise(4);
const BROTLI_LEVEL: Level = Level::Precise(4);

/// Smaller blobs of a batch are sent as they are.
const BATCH_COMPRESSED_BYTES_MIN: usize = 512;

/// The wire's number of a compressor.
pub(super) fn wire(compressor: Compressor) -> reapi::compressor::Value {
    use reapi::compressor::Value;
    match compressor {
        Compressor::Identity => Value::Identity,
        Compressor::Zstd => Value::Zstd,
        Compressor::Deflate => Value::Deflate,
        Compressor::Brotli => Value::Brotli,
    }
}

/// The compressor that a number on the wire stands for.
pub(super) fn from_wire(value: i32) -> Option<Compressor> {
    [Compressor::Identity].iter().chain(SUPPORTED).copied().find(|c| wire(*c) as i32 == value)
}

/// Pieces of bytes on their way.
type Pieces = BoxStream<'static, Result<Bytes, StoreError>>;

type Reader = Pin<Box<dyn AsyncRead + Send>>;

fn reader(
    pieces: impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static,
) -> impl AsyncBufRead + Send + 'static {
    // The error comes out again in `told`.
    StreamReader::new(pieces.map_err(std::io::Error::other).boxed())
}

/// Tells a failure of the source from bytes that are not what they claim to be.
fn told(compressor: Compressor, error: std::io::Error) -> StoreError {
    error.downcast::<StoreError>().unwrap_or_else(|error| {
        let text = format!("the data is no valid {} stream: {error}", compressor.name());
        StoreError::Source(tonic::Status::invalid_argument(text))
    })
}

/// Encodes a blob as it passes.
pub(super) fn compress(compressor: Compressor, pieces: Pieces) -> Pieces {
    let encoder: Reader = match compressor {
        Compressor::Identity => return pieces,
        Compressor::Zstd => Box::pin(ZstdEncoder::with_quality(reader(pieces), ZSTD_LEVEL)),
        Compressor::Deflate => Box::pin(DeflateEncoder::with_quality(reader(pieces), DEFLATE_LEVEL)),
        Compressor::Brotli => Box::pin(BrotliEncoder::with_quality(reader(pieces), BROTLI_LEVEL)),
    };
    read_all(compressor, encoder)
}

/// Decodes a blob as it passes. Whoever reads must stop when there is more than the digest says.
pub(super) fn decompress(
    compressor: Compressor,
    pieces: impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static,
) -> Pieces {
    match compressor {
        Compressor::Identity => pieces.boxed(),
        Compressor::Zstd => {
            let window = DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX);
            let mut decoder = ZstdDecoder::with_params(reader(pieces), &[window]);
            // The format allows frames one after another, and some encoders write them.
            decoder.multiple_members(true);
            read_all(compressor, Box::pin(decoder))
        }
        Compressor::Deflate => read_to_one_end(compressor, DeflateDecoder::new(reader(pieces))),
        Compressor::Brotli => read_to_one_end(compressor, BrotliDecoder::new(reader(pieces))),
    }
}

/// Reads to the end, piece by piece.
fn read_all(compressor: Compressor, reader: Reader) -> Pieces {
    futures::stream::try_unfold(reader, move |mut reader| async move {
        let piece = read_piece(&mut reader).await.map_err(|error| told(compressor, error))?;
        Ok((!piece.is_empty()).then_some((piece, reader)))
    })
    .boxed()
}

/// Decoders that hold what they decode.
trait Inner: AsyncRead + Unpin + Send + 'static {
    type Source: AsyncBufRead + Unpin + Send;

    fn source(&mut self) -> &mut Self::Source;
}

impl<R: AsyncBufRead + Unpin + Send + 'static> Inner for DeflateDecoder<R> {
    type Source = R;

    fn source(&mut self) -> &mut R {
        self.get_mut()
    }
}

impl<R: AsyncBufRead + Unpin + Send + 'static> Inner for BrotliDecoder<R> {
    type Source = R;

    fn source(&mut self) -> &mut R {
        self.get_mut()
    }
}

/// Reads a format that says itself where it ends; nothing may follow.
fn read_to_one_end(compressor: Compressor, decoder: impl Inner) -> Pieces {
    futures::stream::try_unfold(decoder, move |mut decoder| async move {
        let piece = read_piece(&mut decoder).await.map_err(|error| told(compressor, error))?;
        if !piece.is_empty() {
            return Ok(Some((piece, decoder)));
        }
        let rest = decoder.source().fill_buf().await.map_err(|error| told(compressor, error))?;
        if rest.is_empty() {
            return Ok(None);
        }
        Err(told(compressor, std::io::Error::other("bytes follow its end")))
    })
    .boxed()
}

async fn read_piece(reader: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Bytes> {
    let mut piece = BytesMut::with_capacity(PIECE_BYTES);
    while piece.len() < PIECE_BYTES && reader.read_buf(&mut piece).await? > 0 {}
    Ok(piece.freeze())
}

/// Encodes a small blob for a batch; `None` when that makes it no smaller.
pub(super) async fn compress_small(compressor: Compressor, data: &Bytes) -> Option<Bytes> {
    if compressor == Compressor::Identity || data.len() < BATCH_COMPRESSED_BYTES_MIN {
        return None;
    }
    let source = futures::stream::iter([Ok(data.clone())]).boxed();
    let encoded = wardian_store::collect(compress(compressor, source)).await.ok()?;
    (encoded.len() < data.len()).then_some(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(data: &[u8], size: usize) -> Pieces {
        let pieces: Vec<_> = data.chunks(size).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        futures::stream::iter(pieces).boxed()
    }

    async fn decoded(compressor: Compressor, data: &[u8]) -> Result<Bytes, StoreError> {
        wardian_store::collect(decompress(compressor, pieces(data, 1000))).await
    }

    async fn encoded(compressor: Compressor, data: &[u8]) -> Vec<u8> {
        wardian_store::collect(compress(compressor, pieces(data, 7777))).await.unwrap().to_vec()
    }

    #[track_caller]
    fn is_refused(outcome: Result<Bytes, StoreError>) {
        let StoreError::Source(status) = outcome.unwrap_err() else { panic!("another error") };
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    }

    #[tokio::test]
    async fn what_is_encoded_is_decoded() {
        let data: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
        for data in [&data[..], b"", b"x"] {
            for &compressor in SUPPORTED {
                let bytes = encoded(compressor, data).await;
                assert!(
                    data.len() < 1000 || bytes.len() < data.len() / 10,
                    "{compressor:?}: {}",
                    bytes.len()
                );
                assert!(decoded(compressor, &bytes).await.unwrap() == data, "{compressor:?}");
            }
        }
    }

    #[tokio::test]
    async fn cut_foreign_and_longer_streams_are_refused() {
        let data = [7_u8; 100_000];
        for &compressor in SUPPORTED {
            let whole = encoded(compressor, &data).await;
            is_refused(decoded(compressor, &whole[..whole.len() - 1]).await);
            is_refused(decoded(compressor, &[&whole[..], b"more"].concat()).await);
            is_refused(decoded(compressor, b"\xff\xfe\xfd plain text that is no stream at all").await);
        }
    }

    #[tokio::test]
    async fn frames_of_zstd_may_follow_each_other() {
        let two =
            [encoded(Compressor::Zstd, b"one ").await, encoded(Compressor::Zstd, b"two").await].concat();
        assert_eq!(decoded(Compressor::Zstd, &two).await.unwrap(), &b"one two"[..]);
    }

    #[tokio::test]
    async fn a_window_beyond_the_limit_is_refused() {
        // A frame header without content size whose window descriptor asks for 2^31 bytes.
        let header = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 1, 0, 0];
        is_refused(decoded(Compressor::Zstd, &header).await);
    }

    #[tokio::test]
    async fn a_failure_of_the_source_stays_what_it_is() {
        let failing = futures::stream::iter([Err(StoreError::NoSpace("full"))]);
        let outcome = wardian_store::collect(decompress(Compressor::Zstd, failing)).await;
        assert!(matches!(outcome, Err(StoreError::NoSpace("full"))));
    }

    #[test]
    fn numbers_of_the_wire_are_told_apart() {
        for &compressor in SUPPORTED {
            assert_eq!(from_wire(wire(compressor) as i32), Some(compressor));
        }
        assert_eq!(from_wire(0), Some(Compressor::Identity));
        assert_eq!(from_wire(99), None);
    }
}
