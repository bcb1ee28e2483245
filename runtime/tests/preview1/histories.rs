//! Long random histories on both hosts: call by call, they come to the same.
//!
//! What may rightly differ is left out of the comparison ([`Seen`]) or not asked for: slashes behind names,
//! absolute targets, several buffers at once.

use std::fmt;

use crate::guest::call::*;
use crate::guest::check::{FILETYPE, NLINK, Outs, SIZE};
use crate::guest::functions::*;
use crate::guest::types::*;
use crate::guest::{Ended, Guest, StepId};
use crate::hosts;

const CALLS: usize = 150;
const NAMES: [&str; 11] = ["a", "b", "l", "d", "d/a", "d/b", "d/l", "d/e", "d/e/a", "d/e/../a", "l/a"];
const TARGETS: [&str; 7] = ["a", "d", "../a", "l", "e", "d/e", "."];
const TEXTS: [&str; 4] = ["x", "hello", "0123456789", ""];
/// Around the ends of small files and of the pages that a large one is kept in.
const OFFSETS: [u64; 8] = [0, 1, 3, 10, 4_095, 65_535, 65_537, 140_000];
const HANDLES: usize = 4;

/// Numbers that look random and are the same every time (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// Writes a history down.
fn history(seed: u64) -> (Guest, Vec<StepId>) {
    let mut g = Guest::default();
    let large: String = (0..20_000).map(|line| format!("{line:06}\n")).collect();
    g.file("a", &large);
    g.file("b", "small");
    g.file("d/a", "below");
    g.directory("d/e");
    g.symlink("l", "d");
    let mut chance = Chance(seed);
    let mut handles = [NO_FD; HANDLES];
    let mut steps: Vec<_> = (0..CALLS).flat_map(|_| call(&mut g, &mut chance, &mut handles)).collect();
    steps.extend(inspection(&mut g));
    (g, steps)
}

/// One call, chosen by chance; the handles are files that were opened.
fn call(g: &mut Guest, chance: &mut Chance, handles: &mut [Fd; HANDLES]) -> Vec<StepId> {
    let (name, other) = (chance.one_of(&NAMES), chance.one_of(&NAMES));
    let (text, offset) = (chance.one_of(&TEXTS), chance.one_of(&OFFSETS));
    let slot = chance.below(HANDLES);
    let fd = handles[slot];
    let step = match chance.below(22) {
        0..=4 => {
            // What a handle was before stays open: without names too.
            let step = g.attempt(opening(chance, name));
            handles[slot] = g.opened(step);
            step
        }
        5 | 6 => g.attempt(fd_read(fd, &[chance.one_of(&[1, 7, 5000])])),
        7 => g.attempt(fd_pread(fd, &[20], offset)),
        8 | 9 => g.attempt(fd_write(fd, &[text])),
        10 => g.attempt(fd_pwrite(fd, &[text], offset)),
        11 => g.attempt(fd_seek(fd, offset as i64 - 5, chance.below(3) as u32)),
        12 => g.attempt(fd_filestat_set_size(fd, offset)),
        13 => g.attempt(fd_filestat_get(fd)),
        14 => g.attempt(path_create_directory(ROOT, name)),
        15 => g.attempt(path_remove_directory(ROOT, name)),
        16 => g.attempt(path_unlink_file(ROOT, name)),
        17 | 18 => g.attempt(path_rename(ROOT, name, ROOT, other)),
        19 => g.attempt(path_link(ROOT, name, ROOT, other)),
        20 => g.attempt(path_symlink(chance.one_of(&TARGETS), ROOT, name)),
        _ => g.attempt(path_filestat_get(ROOT, name)),
    };
    vec![step]
}

fn opening(chance: &mut Chance, name: &str) -> Call {
    let call = path_open(ROOT, name).oflags(chance.one_of(&[0, CREAT, CREAT | EXCL, TRUNC, CREAT | TRUNC]));
    let call = if chance.below(4) == 0 { call.append() } else { call };
    let call = if chance.below(4) == 0 { call.nofollow() } else { call };
    call.read_write()
}

/// Looks at everything there may be.
fn inspection(g: &mut Guest) -> Vec<StepId> {
    let mut steps = Vec::new();
    for directory in [".", "d", "d/e", "l"] {
        let fd = g.try_open(path_open(ROOT, directory).directory());
        steps.push(g.attempt(fd_readdir(fd, 2000, 0)));
    }
    for name in NAMES {
        steps.push(g.attempt(path_filestat_get(ROOT, name).nofollow()));
        steps.push(g.attempt(path_readlink(ROOT, name, 64)));
        let fd = g.try_open(path_open(ROOT, name));
        steps.push(g.attempt(fd_read(fd, &[3000])));
        steps.push(g.attempt(fd_pread(fd, &[300], 65_400)));
    }
    steps
}

/// What a call came to, as far as it has to be the same everywhere.
#[derive(PartialEq, Eq)]
struct Seen {
    errno: Errno,
    result: String,
}

impl Seen {
    fn new(call: &Call, errno: Errno, outs: Outs<'_>) -> Self {
        let name = call.function.name;
        let errno = match errno {
            // Where two paths are wrong, either may be found first.
            refusal if refusal != Errno::SUCCESS && ["path_link", "path_rename"].contains(&name) => {
                Errno::PERM
            }
            // What a descriptor is not good for is said in several words.
            Errno::ISDIR | Errno::INVAL if name.starts_with("fd_") => Errno::BADF,
            // So is the way out of the tree.
            Errno::NOTCAPABLE => Errno::PERM,
            other => other,
        };
        let result = match name {
            _ if errno != Errno::SUCCESS => String::new(),
            "path_filestat_get" | "fd_filestat_get" => attributes(outs),
            "fd_readdir" => {
                let mut names: Vec<_> =
                    outs.entries().unwrap_or_default().into_iter().map(|e| e.name).collect();
                names.sort();
                names.join(" ")
            }
            "fd_read" | "fd_pread" | "path_readlink" => {
                String::from_utf8_lossy(&outs.filled().unwrap_or_default()).into()
            }
            "fd_write" | "fd_pwrite" | "fd_seek" => outs.last().to_string(),
            _ => String::new(),
        };
        Self { errno, result }
    }
}

/// Size and number of names of a directory are a file system's own affair.
fn attributes(outs: Outs<'_>) -> String {
    match outs.field(FILETYPE) as u8 {
        filetype::DIRECTORY => "directory".into(),
        other => format!("type {other}, size {}, names {}", outs.field(SIZE), outs.field(NLINK)),
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.errno, self.result)
    }
}

#[track_caller]
fn comes_to_the_same(seed: u64) {
    let (guest, steps) = history(seed);
    let [wasmtime, ours] = hosts::on_both(&guest);
    let seen = |ended: &Ended| -> Vec<Seen> {
        steps.iter().map(|step| guest.result(*step, ended, Seen::new)).collect()
    };
    let (wasmtime, ours) = (seen(&wasmtime), seen(&ours));
    let Some(place) = (0..steps.len()).find(|place| wasmtime[*place] != ours[*place]) else { return };
    for (step, ours) in steps.iter().zip(&ours).take(place) {
        println!("{}: {ours}", guest.call(*step));
    }
    panic!(
        "seed {seed}, {}: wasmtime-wasi {}, ours {}",
        guest.call(steps[place]),
        wasmtime[place],
        ours[place]
    );
}

/// Many short tests, so that they run beside each other.
macro_rules! histories {
    ($($name:ident $seeds:expr;)*) => {
        $(#[test]
        fn $name() {
            $seeds.for_each(comes_to_the_same);
        })*
    };
}

histories! {
    come_to_the_same_1 0..25;
    come_to_the_same_2 25..50;
    come_to_the_same_3 50..75;
    come_to_the_same_4 75..100;
}
