//! Which files of an input tree are fetched ahead, and in which order.

use std::collections::HashSet;

use wardian_proto::Digest;

use super::known::Paths;

/// A file of an input tree that is not near.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) path: String,
    pub(super) digest: Digest,
}

/// What may be fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) bytes: u64,
    pub(super) files: usize,
}

/// What is fetched.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub(super) chosen: Vec<Digest>,
    pub(super) bytes: u64,
}

/// Chooses everything when there is room for it. Else, what the tool has read before at the same paths; for a tool that
/// nothing is known of, the smallest files. Files at known paths come first, small ones before large ones.
pub(super) fn choose(mut files: Vec<Candidate>, known: Option<&Paths>, room: Room) -> Choice {
    let mut seen = HashSet::new();
    files.retain(|file| seen.insert(file.digest));
    let is_known = |file: &Candidate| known.is_some_and(|paths| paths.contains(&*file.path));
    let bytes = files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.digest.size()));
    if (bytes > room.bytes || files.len() > room.files) && known.is_some() {
        files.retain(is_known);
    }
    files.sort_by_cached_key(|file| (!is_known(file), file.digest.size()));
    let mut choice = Choice::default();
    for file in files.into_iter().take(room.files) {
        if choice.bytes + file.digest.size() <= room.bytes {
            choice.bytes += file.digest.size();
            choice.chosen.push(file.digest);
        }
    }
    choice
}

#[cfg(test)]
mod tests {
    use wardian_proto::DigestFunction;

    use super::*;

    fn file(path: &str, size: usize) -> Candidate {
        let mut content = path.as_bytes().to_vec();
        content.resize(size, 0);
        Candidate { path: path.into(), digest: DigestFunction::Sha256.digest(&content) }
    }

    #[track_caller]
    fn check(known: Option<&[&str]>, room: Room, expected: &[&str]) {
        let files = vec![file("large", 90), file("b", 20), file("a", 10), file("c", 30), file("a", 10)];
        let known = known.map(|paths| paths.iter().map(|path| (*path).into()).collect::<Paths>());
        let choice = choose(files.clone(), known.as_ref(), room);
        let path = |digest: &Digest| &*files.iter().find(|file| file.digest == *digest).unwrap().path;
        assert_eq!(choice.chosen.iter().map(path).collect::<Vec<_>>(), expected);
        assert_eq!(choice.bytes, choice.chosen.iter().map(Digest::size).sum::<u64>());
    }

    #[test]
    fn a_tree_that_fits_is_fetched_whole_what_is_known_first() {
        let room = Room { bytes: 150, files: 4 };
        check(None, room, &["a", "b", "c", "large"]);
        check(Some(&["c", "elsewhere"]), room, &["c", "a", "b", "large"]);
    }

    #[test]
    fn of_a_larger_one_only_what_is_likely() {
        let room = Room { bytes: 100, files: 4 };
        check(None, room, &["a", "b", "c"]);
        check(Some(&["c", "large"]), room, &["c"]);
        check(Some(&["large", "elsewhere"]), room, &["large"]);
        check(Some(&[]), room, &[]);
        check(None, Room { files: 2, bytes: 1000 }, &["a", "b"]);
        check(None, Room { files: 100, bytes: 0 }, &[]);
    }
}
