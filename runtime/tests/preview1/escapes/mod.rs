//! Guests and trees that try to leave. Whatever a call returns, the canaries outside are looked at after
//! every case; here nothing may succeed either.

mod links;
mod paths;
mod tricks;

use crate::Case;

/// What an escape may say beside what every case may.
mod prelude {
    pub(super) use crate::cases::prelude::*;
    pub(super) use crate::guest::Guest;
    pub(super) use crate::hosts::{CANARY, OUTSIDE};

    /// The ways to say no to a path that leads out.
    pub(super) const NO: &[Errno] = &[
        NOTCAPABLE,
        PERM,
        ACCES,
        NOENT,
        NOTDIR,
        ISDIR,
        INVAL,
        ILSEQ,
        LOOP,
        BUSY,
        EXIST,
        XDEV,
        BADF,
        NAMETOOLONG,
    ];

    /// Tries everything with a path below a descriptor; nothing succeeds.
    pub(super) fn leads_nowhere(g: &mut Guest, from: Fd, path: impl AsRef<[u8]>) {
        let path = path.as_ref();
        // For what needs a file or directory of the guest's own.
        let mine = g.try_open(path_open(ROOT, ".").directory());
        g.write_file("mine", "mine");
        for call in [
            path_open(from, path),
            path_open(from, path).directory(),
            path_open(from, path).nofollow().read_write(),
            path_open(from, path).creat().trunc().write_only(),
            path_filestat_get(from, path),
            path_filestat_get(from, path).nofollow(),
            path_filestat_set_times(from, path, 0, 0, MTIM),
            path_readlink(from, path, 64),
            path_link(from, path, mine, "taken"),
            path_link(mine, "mine", from, path),
            path_rename(from, path, mine, "taken"),
            path_rename(mine, "mine", from, path),
            path_symlink("mine", from, path),
            path_create_directory(from, path),
            path_unlink_file(from, path),
            path_remove_directory(from, path),
        ] {
            g.fails_with_one_of(call, NO);
        }
        g.holds("mine", "mine");
    }

    /// Tries to read, write and make something through a path that may exist as long as it leads nowhere.
    pub(super) fn shows_nothing(g: &mut Guest, from: Fd, path: &str) {
        g.fails_with_one_of(path_open(from, path), NO);
        g.fails_with_one_of(path_open(from, path).write_only(), NO);
        g.fails_with_one_of(path_open(from, path).trunc().write_only(), NO);
        g.fails_with_one_of(path_filestat_get(from, path), NO);
        let listing = g.try_open(path_open(from, path).directory());
        g.fails(fd_readdir(listing, 512, 0), BADF);
    }
}

/// All themes.
pub const THEMES: &[&[Case]] = &[links::CASES, paths::CASES, paths::NAMES, tricks::CASES];
