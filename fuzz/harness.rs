//! What the fuzz targets of all crates have in common. Each crate's `fuzzing` module has this file as a module.

/// One thing that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of the libFuzzer target.
    pub name: &'static str,
    /// Panics when the input is not treated as it should be.
    pub run: fn(&[u8]),
    /// Good inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many inputs `cargo test` tries: what takes about two seconds.
    pub inputs: u32,
}

/// Runs the target of this name. Panics when there is none.
pub(super) fn run_of(targets: &[Target], name: &str, input: &[u8]) {
    let target = targets.iter().find(|target| target.name == name);
    (target.expect("a target of this name").run)(input);
}

/// Changes made to a good input, at the most.
#[cfg(test)]
const CHANGES_MAX: u64 = 6;

/// Length of the inputs that are made.
#[cfg(test)]
const INPUT_BYTES_MAX: usize = 4096;

/// One input in so many is not made of a good one.
#[cfg(test)]
const RANDOM_ONE_IN: u64 = 16;

/// Tries good inputs and saved ones, and inputs made from these, on each target.
#[cfg(test)]
pub(crate) fn try_all(targets: &[Target]) {
    let mut random = Random(0);
    for target in targets {
        let seeds = [(target.seeds)(), saved(target.name)].concat();
        seeds.iter().for_each(|seed| (target.run)(seed));
        for _ in 0..target.inputs {
            let input = random.input(&seeds);
            // What went wrong is the panic; this says with which input.
            let outcome = std::panic::catch_unwind(|| (target.run)(&input));
            assert!(outcome.is_ok(), "{} with input {input:02x?}", target.name);
        }
    }
}

/// Inputs that a fuzzer found to be unlike others, in `fuzz/saved/TARGET`.
#[cfg(test)]
fn saved(target: &str) -> Vec<Vec<u8>> {
    let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let folder = crates.map(|folder| folder.join("fuzz/saved").join(target)).find(|folder| folder.is_dir());
    let entries = folder.into_iter().flat_map(|folder| std::fs::read_dir(folder).expect("it is a folder"));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path).expect("it can be read")).collect()
}

/// Holds the targets of a crate against those of libFuzzer, which stand below the crate's name.
#[cfg(test)]
pub(crate) fn assert_listed(krate: &str, targets: &[Target]) {
    let manifest = include_str!("Cargo.toml");
    let (_, section) = manifest.split_once(&format!("\n# Targets of {krate}\n")).expect("the crate is there");
    let section = section.split("\n# Targets of ").next().unwrap_or_default();
    let names = section.split("[[bin]]\nname = \"").skip(1).filter_map(|bin| bin.split('"').next());
    assert_eq!(names.collect::<Vec<_>>(), targets.iter().map(|target| target.name).collect::<Vec<_>>());
}

/// SplitMix64, which is the same everywhere.
#[cfg(test)]
struct Random(u64);

#[cfg(test)]
impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in a range, its end included.
    fn between(&mut self, from: usize, to: usize) -> usize {
        from + (self.next() % (to - from + 1) as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn input(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        if self.next().is_multiple_of(RANDOM_ONE_IN) {
            return (0..self.between(0, 300)).map(|_| self.byte()).collect();
        }
        let mut input = seeds[self.between(0, seeds.len() - 1)].clone();
        for _ in 0..=self.next() % CHANGES_MAX {
            self.change(&mut input, seeds);
        }
        input
    }

    /// Makes one of the changes that fuzzers make.
    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.between(0, input.len());
        let to = self.between(at, input.len());
        match self.between(0, 6) {
            0 if at < input.len() => input[at] ^= 1 << self.between(0, 7),
            1 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff, b'/', b'.'][self.between(0, 6)],
            2 => input.insert(at, self.byte()),
            3 => drop(input.drain(at..to)),
            4 => input.truncate(at),
            5 => input.extend_from_within(at..to),
            _ => {
                let other = &seeds[self.between(0, seeds.len() - 1)];
                let from = self.between(0, other.len());
                input.splice(at..to, other[from..].iter().copied());
            }
        }
        input.truncate(INPUT_BYTES_MAX);
    }
}
