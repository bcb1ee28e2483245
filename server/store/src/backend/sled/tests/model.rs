//! The engine against a plain map, with everything that may happen to a store in random order.

use std::collections::BTreeMap;

use super::*;

/// Numbers that a seed decides.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 8) % bound
    }
}

/// What must be true of a blob that was put.
struct Known {
    digest: Digest,
    size: usize,
    /// How many segments had been dropped when it was last known to be there.
    drops: u64,
}

struct Model {
    folder: tempfile::TempDir,
    store: SledStore,
    random: Random,
    blobs: BTreeMap<u64, Known>,
    /// The value that a key has unless it was evicted, and how many segments had been dropped then.
    values: HashMap<u8, (Option<u64>, u64)>,
    pins: Vec<(Pin, Vec<Digest>)>,
    next_seed: u64,
    /// Segments dropped in this life of the store, and in those before.
    drops_before: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let (blobs, values, pins) = (BTreeMap::new(), HashMap::new(), Vec::new());
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        Self { folder, store, random, blobs, values, pins, next_seed: seed << 32, drops_before: 0 }
    }

    fn drops(&self) -> u64 {
        self.drops_before + self.store.stats().segments_dropped
    }

    async fn step(&mut self) {
        match self.random.below(1000) {
            0..400 => self.put_new().await,
            400..480 => self.put_batch().await,
            480..560 => self.put_again().await,
            560..700 => self.ask().await,
            700..800 => self.put_value().await,
            800..920 => self.get_value().await,
            920..960 => self.pin().await,
            960..985 => drop(self.pins.pop()),
            985..989 => self.reopen(),
            989..994 => self.kill(),
            994..997 => self.lose_index(false),
            _ => self.lose_index(true),
        }
        let bytes = allocated_below(self.folder.path());
        assert!(bytes <= CAPACITY, "{bytes}: {:?}", self.store.stats());
    }

    fn size(&mut self) -> usize {
        let most = match self.random.below(20) {
            0..14 => 5000,
            14..18 => 200_000,
            _ => 1_500_000,
        };
        1 + self.random.below(most) as usize
    }

    fn new_blob(&mut self) -> (u64, Digest, Bytes) {
        let size = self.size();
        self.next_seed += 1;
        let (digest, data) = blob(self.next_seed, size);
        (self.next_seed, digest, data)
    }

    fn is_stored(&mut self, seed: u64, digest: Digest) {
        let known = Known { digest, size: digest.size() as usize, drops: self.drops() };
        self.blobs.insert(seed, known);
    }

    async fn put_new(&mut self) {
        let (seed, digest, data) = self.new_blob();
        match BlobStore::put(&self.store, Upload::bytes(digest, data)).await {
            Ok(()) => self.is_stored(seed, digest),
            Err(StoreError::NoSpace(_)) => self.pins.clear(),
            Err(other) => panic!("{other}"),
        }
    }

    async fn put_batch(&mut self) {
        let blobs: Vec<_> = (0..1 + self.random.below(30)).map(|_| self.new_blob()).collect();
        let uploads = blobs.iter().map(|(_, digest, data)| Upload::bytes(*digest, data.clone())).collect();
        let before = self.drops();
        let outcomes = self.store.put_batch(uploads).await;
        for ((seed, digest, _), outcome) in blobs.into_iter().zip(outcomes) {
            match outcome {
                // The batch itself may have evicted its first blobs.
                Ok(()) if self.drops() == before => self.is_stored(seed, digest),
                Ok(()) | Err(StoreError::NoSpace(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }

    fn any(&mut self) -> Option<u64> {
        let last = *self.blobs.keys().next_back()?;
        let first = *self.blobs.keys().next()?;
        let from = first + self.random.below(last - first + 1);
        self.blobs.range(from..).next().map(|(seed, _)| *seed)
    }

    async fn put_again(&mut self) {
        let Some(seed) = self.any() else { return };
        let (digest, data) = blob(seed, self.blobs[&seed].size);
        match BlobStore::put(&self.store, Upload::bytes(digest, data)).await {
            Ok(()) => self.is_stored(seed, digest),
            Err(StoreError::NoSpace(_)) => self.pins.clear(),
            Err(other) => panic!("{other}"),
        }
    }

    async fn ask(&mut self) {
        let Some(seed) = self.any() else { return };
        let (digest, known) = (self.blobs[&seed].digest, self.blobs[&seed].drops);
        if self.store.find_missing(&[digest]).await.unwrap().is_empty() {
            all_read(&self.store, &[digest]).await;
            self.is_stored(seed, digest);
        } else {
            assert!(known < self.drops(), "blob {seed} is missing though nothing was dropped");
            self.blobs.remove(&seed);
        }
    }

    async fn put_value(&mut self) {
        let key = self.random.below(40) as u8;
        let value = (self.random.below(5) > 0).then(|| self.random.next());
        let outcome = match value {
            Some(value) => {
                let bytes = value.to_le_bytes().repeat(1 + self.random.below(200) as usize);
                RecordStore::put(&self.store, Table::ActionCache, &[key], bytes.into()).await
            }
            None => RecordStore::delete(&self.store, Table::ActionCache, &[key]).await,
        };
        match outcome {
            Ok(()) => drop(self.values.insert(key, (value, self.drops()))),
            Err(StoreError::NoSpace(_)) => self.pins.clear(),
            Err(other) => panic!("{other}"),
        }
    }

    async fn get_value(&mut self) {
        let key = self.random.below(40) as u8;
        let (expected, known) = self.values.get(&key).copied().unwrap_or((None, u64::MAX));
        let read = RecordStore::get(&self.store, Table::ActionCache, &[key]).await.unwrap();
        match read.map(|bytes| u64::from_le_bytes(bytes[..8].try_into().unwrap())) {
            None if expected.is_some() => assert!(known < self.drops(), "value {key} is missing"),
            read => assert_eq!(read, expected, "value {key}"),
        }
    }

    async fn pin(&mut self) {
        let seeds: Vec<_> = (0..5).filter_map(|_| self.any()).collect();
        let digests: Vec<_> = seeds.iter().map(|seed| self.blobs[seed].digest).collect();
        let (pin, missing) = self.store.pin(&digests).await.unwrap();
        let held: Vec<_> = digests.into_iter().filter(|digest| !missing.contains(digest)).collect();
        self.pins.push((pin, held));
        let held: Vec<_> = self.pins.iter().flat_map(|(_, held)| held).copied().collect();
        all_read(&self.store, &held).await;
    }

    fn reopen(&mut self) {
        self.close();
        self.store = open(self.folder.path());
    }

    fn close(&mut self) {
        self.drops_before = self.drops();
        self.pins.clear();
        // Held open by nothing else than the model.
        let spare = tempfile::tempdir().unwrap();
        self.store = open(spare.path());
    }

    fn kill(&mut self) {
        let copy = tempfile::tempdir().unwrap();
        killed_copy(self.folder.path(), copy.path());
        self.drops_before = self.drops();
        self.pins.clear();
        self.store = open(copy.path());
        self.folder = copy;
    }

    fn lose_index(&mut self, all: bool) {
        self.close();
        let index = self.folder.path().join("index");
        let mut parts: Vec<_> = fs::read_dir(&index).unwrap().map(|part| part.unwrap().path()).collect();
        parts.sort();
        let lost = self.random.below(parts.len().max(1) as u64) as usize;
        for (place, part) in parts.iter().enumerate() {
            if all || place == lost {
                fs::remove_dir_all(part).unwrap();
            }
        }
        // Values older than a gap are given up by a rebuild, and none but the newest is ever served.
        for (_, drops) in self.values.values_mut() {
            *drops = 0;
        }
        self.store = open(self.folder.path());
    }
}

async fn run(seed: u64, steps: u64) {
    let mut model = Model::new(seed);
    for _ in 0..steps {
        model.step().await;
    }
    model.store.indexed(|_, _| ()).await;
    assert_eq!(model.store.check(|_, _| ()).await.unwrap().damage, Vec::<String>::new());
    assert!(model.drops() > 0, "nothing was ever evicted");
}

/// `WARDIAN_MODEL_SEEDS=n` tries more.
#[tokio::test]
async fn any_order_of_events_keeps_every_promise() {
    let seeds = std::env::var("WARDIAN_MODEL_SEEDS").map_or(4, |seeds| seeds.parse().unwrap());
    for seed in 1..=seeds {
        println!("seed {seed}");
        run(seed, 1200).await;
    }
}
