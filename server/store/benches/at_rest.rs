//! What large blobs would take on the disk if they were kept compressed, or as chunks that are kept once.
//! `cargo bench -p wardian-store --bench at_rest FILE...`; the files stand for blobs, stored in this order. Prints a table,
//! checks nothing.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use wardian_proto::DigestFunction;
use wardian_store::chunking::{Chunker, Chunking, FastCdc, RepMaxCdc};

/// The level that the server sends blobs with.
const ZSTD_LEVEL: i32 = 3;

const MIB: f64 = 1024.0 * 1024.0;

fn main() {
    // Cargo passes `--bench`.
    let files: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let mut cuts = [
        Cuts::new("FastCDC 2020", Chunking::FastCdc2020(FastCdc::RECOMMENDED)),
        Cuts::new("RepMaxCDC", Chunking::RepMaxCdc(RepMaxCdc::RECOMMENDED)),
    ];
    println!(
        "| blob | MiB | zstd | encode MiB/s | decode MiB/s | new chunks, {} | {} |",
        cuts[0].name, cuts[1].name
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    for file in &files {
        let data = std::fs::read(file).expect("the file can be read");
        let size = data.len() as f64;
        let (encoded, encoding) = timed(|| zstd::bulk::compress(&data, ZSTD_LEVEL).expect("in memory"));
        let (_, decoding) = timed(|| zstd::bulk::decompress(&encoded, data.len()).expect("just encoded"));
        let rate = |time: Duration| size / MIB / time.as_secs_f64();
        let [fast, rep_max] = cuts.each_mut().map(|cuts| cuts.add(&data) as f64 / size * 100.0);
        println!(
            "| {} | {:.1} | {:.0} % | {:.0} | {:.0} | {fast:.0} % | {rep_max:.0} % |",
            Path::new(file).file_name().unwrap_or_default().display(),
            size / MIB,
            encoded.len() as f64 / size * 100.0,
            rate(encoding),
            rate(decoding),
        );
    }
    for cuts in cuts {
        println!(
            "{}: {} chunks, {:.1} MiB/s to cut and hash",
            cuts.name,
            cuts.seen.len(),
            cuts.bytes as f64 / MIB / cuts.time.as_secs_f64()
        );
    }
}

/// Chunks that were seen so far.
struct Cuts {
    name: &'static str,
    chunking: Chunking,
    seen: HashSet<String>,
    bytes: usize,
    time: Duration,
}

impl Cuts {
    fn new(name: &'static str, chunking: Chunking) -> Self {
        Self { name, chunking, seen: HashSet::new(), bytes: 0, time: Duration::ZERO }
    }

    /// Cuts a blob and returns the bytes of the chunks that no earlier one had.
    fn add(&mut self, data: &[u8]) -> usize {
        let (chunks, time) = timed(|| {
            let mut chunker = Chunker::new(self.chunking);
            chunker.add(data);
            std::iter::from_fn(|| chunker.next_at_end())
                .map(|chunk| (DigestFunction::Sha256.digest(&chunk).to_string(), chunk.len()))
                .collect::<Vec<_>>()
        });
        self.time += time;
        self.bytes += data.len();
        chunks.into_iter().filter(|(digest, _)| self.seen.insert(digest.clone())).map(|(_, size)| size).sum()
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let made = work();
    (made, start.elapsed())
}
