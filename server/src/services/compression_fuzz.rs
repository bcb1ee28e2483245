//! What fuzzers do with compressed bytes.

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::runtime::Runtime;
use wardian_proto::Compressor;
use wardian_store::StoreError;

use super::compression::{SUPPORTED, compress, decompress};

/// A stream is read no further, as an upload is read no further than its digest says.
const DECODED_BYTES_MAX: usize = 1 << 20;

/// What one piece of what was decoded may have.
const PIECE_BYTES_MAX: usize = 128 << 10;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be made"));

/// The compressor, the size of the pieces that come in, and a stream. It is decoded to the same bytes in whatever pieces it comes,
/// a little at a time; these are encoded to what is decoded to them; what is no stream is the client's fault.
pub(crate) fn stream(input: &[u8]) {
    let [compressor, piece, data @ ..] = input else { return };
    let compressor = SUPPORTED[usize::from(*compressor) % SUPPORTED.len()];
    RUNTIME.block_on(async {
        let in_pieces = decoded(compressor, data, usize::from(*piece) + 1).await;
        let at_once = decoded(compressor, data, usize::MAX).await;
        match (in_pieces, at_once) {
            (Ok(Some(one)), Ok(Some(other))) => {
                assert!(one == other, "pieces do not matter");
                let source = futures::stream::iter([Ok(one.clone())]).boxed();
                let encoded: Vec<Bytes> =
                    compress(compressor, source).try_collect().await.expect("anything can be encoded");
                let again =
                    decoded(compressor, &encoded.concat(), usize::MAX).await.expect("it was just encoded");
                assert!(again == Some(one), "{compressor:?} keeps what it encodes");
            }
            (Ok(None), Ok(None)) => {}
            (Err(one), Err(other)) => [one, other].into_iter().for_each(assert_is_refused),
            (one, other) => panic!("pieces matter: {} and {}", one.is_ok(), other.is_ok()),
        }
    });
}

/// All that a stream holds; `None` when that is more than is read.
async fn decoded(compressor: Compressor, data: &[u8], piece: usize) -> Result<Option<Bytes>, StoreError> {
    let pieces: Vec<_> = data.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let mut decoding = decompress(compressor, futures::stream::iter(pieces));
    let mut found = BytesMut::new();
    while let Some(piece) = decoding.try_next().await? {
        assert!(!piece.is_empty() && piece.len() <= PIECE_BYTES_MAX);
        found.extend_from_slice(&piece);
        if found.len() > DECODED_BYTES_MAX {
            return Ok(None);
        }
    }
    Ok(Some(found.freeze()))
}

fn assert_is_refused(error: StoreError) {
    let StoreError::Source(status) = error else { panic!("another error: {error}") };
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
}

/// Good streams of each compressor.
pub(crate) fn streams() -> Vec<Vec<u8>> {
    let noise = (0..500_u32).map(|at| at.wrapping_mul(0x9e37_79b9).to_be_bytes()[0]);
    let blobs = [Vec::new(), b"hello, hello, hello".to_vec(), noise.collect(), vec![7; 100_000]];
    let encoded = |at: usize, blob: &Vec<u8>| {
        let source = futures::stream::iter([Ok(Bytes::copy_from_slice(blob))]).boxed();
        let pieces: Vec<Bytes> =
            RUNTIME.block_on(compress(SUPPORTED[at], source).try_collect()).expect("anything can be encoded");
        [&[u8::try_from(at).expect("there are few"), 10][..], &pieces.concat()].concat()
    };
    (0..SUPPORTED.len()).flat_map(|at| blobs.iter().map(move |blob| encoded(at, blob))).collect()
}
