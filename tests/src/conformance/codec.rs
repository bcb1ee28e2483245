//! Encodings by the formats' own libraries, whole blobs at a time.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use wardian_proto::Compressor;

/// Encodes a blob.
pub(super) fn encode(compressor: Compressor, data: &[u8]) -> Bytes {
    const IN_MEMORY: &str = "memory takes everything";
    let encoded = match compressor {
        Compressor::Identity => data.to_vec(),
        Compressor::Zstd => zstd::encode_all(data, 1).expect(IN_MEMORY),
        Compressor::Deflate => {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(data).expect(IN_MEMORY);
            encoder.finish().expect(IN_MEMORY)
        }
        Compressor::Brotli => {
            let mut encoded = Vec::new();
            brotli::CompressorWriter::new(&mut encoded, 4096, 3, 20).write_all(data).expect(IN_MEMORY);
            encoded
        }
    };
    encoded.into()
}

/// Decodes what a server sent.
pub(super) fn decode(compressor: Compressor, data: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut decoded = Vec::new();
    match compressor {
        Compressor::Identity => decoded.extend_from_slice(data),
        Compressor::Zstd => decoded = zstd::decode_all(data)?,
        Compressor::Deflate => {
            flate2::read::DeflateDecoder::new(data).read_to_end(&mut decoded)?;
        }
        Compressor::Brotli => {
            brotli::Decompressor::new(data, 4096).read_to_end(&mut decoded)?;
        }
    }
    Ok(decoded)
}
