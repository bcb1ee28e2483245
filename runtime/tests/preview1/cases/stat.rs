//! What is told about files, and times that are set.

use super::prelude::*;

const SECOND: u64 = 1_000_000_000;

cases! {
    fn of_a_file(g) {
        g.file("a", "content");
        let file = || filestat(filetype::REGULAR_FILE).size(7).nlink(1);
        g.gives(path_filestat_get(ROOT, "a"), file());
        g.gives(path_filestat_get(ROOT, "a").nofollow(), file());
        let a = g.open(path_open(ROOT, "a"));
        g.gives(fd_filestat_get(a), file());
    }

    fn of_a_directory(g) {
        g.file("d/a", "content");
        let d = g.open(path_open(ROOT, "d"));
        g.gives(path_filestat_get(ROOT, "d"), filestat(filetype::DIRECTORY));
        g.gives(path_filestat_get(ROOT, "."), filestat(filetype::DIRECTORY));
        g.gives(path_filestat_get(d, "."), filestat(filetype::DIRECTORY));
        g.gives(fd_filestat_get(d), filestat(filetype::DIRECTORY));
        g.gives(fd_filestat_get(ROOT), filestat(filetype::DIRECTORY));
    }

    fn of_a_link_and_of_what_it_names(g) {
        g.file("a", "content");
        g.symlink("link", "a");
        g.symlink("to-d", "d");
        g.directory("d");
        g.gives(path_filestat_get(ROOT, "link"), filestat(filetype::REGULAR_FILE).size(7));
        g.gives(path_filestat_get(ROOT, "link").nofollow(), filestat(filetype::SYMBOLIC_LINK).size(1));
        g.gives(path_filestat_get(ROOT, "to-d"), filestat(filetype::DIRECTORY));
        g.gives(path_filestat_get(ROOT, "to-d/.").nofollow(), filestat(filetype::DIRECTORY))
            .wasmtime(anything(), "it ignores `/.` behind a name that is not followed");
    }

    fn of_what_is_not_there(g) {
        g.file("a", "content");
        g.symlink("dangling", "nowhere");
        g.symlink("loop", "loop");
        g.fails(path_filestat_get(ROOT, "x"), NOENT);
        g.fails(path_filestat_get(ROOT, "x/y"), NOENT);
        g.fails(path_filestat_get(ROOT, "a/y"), NOTDIR);
        g.fails(path_filestat_get(ROOT, ""), NOENT);
        g.fails(path_filestat_get(ROOT, "dangling"), NOENT);
        g.fails(path_filestat_get(ROOT, "loop"), LOOP);
        g.fails(path_filestat_get(NO_FD, "a"), BADF);
        g.fails(fd_filestat_get(NO_FD), BADF);
        let a = g.open(path_open(ROOT, "a"));
        g.fails_with_one_of(path_filestat_get(a, "a"), &[NOTDIR, BADF]);
    }

    fn of_the_standard_streams(g) {
        for stream in [STDIN, STDOUT, STDERR] {
            g.gives(fd_filestat_get(stream), Fields::default().field(SIZE, 0));
        }
    }

    fn the_size_follows_what_is_written(g) {
        let a = g.open(path_open(ROOT, "a").creat().write_only());
        g.gives(fd_filestat_get(a), filestat(filetype::REGULAR_FILE).size(0));
        g.gives(fd_write(a, &["content"]), 7);
        g.gives(fd_filestat_get(a), filestat(filetype::REGULAR_FILE).size(7));
        g.gives(fd_pwrite(a, &["x"], 99), 1);
        g.gives(path_filestat_get(ROOT, "a"), filestat(filetype::REGULAR_FILE).size(100));
    }

    fn one_file_has_one_inode(g) {
        g.file("a", "content");
        g.symlink("link", "a");
        let a = g.open(path_open(ROOT, "a"));
        let by_path = g.ok(path_filestat_get(ROOT, "a")).id();
        let by_fd = g.ok(fd_filestat_get(a)).id();
        let by_link = g.ok(path_filestat_get(ROOT, "link")).id();
        g.ok(path_link(ROOT, "a", ROOT, "hard"));
        let by_hard_link = g.ok(path_filestat_get(ROOT, "hard")).id();
        g.ok(path_rename(ROOT, "a", ROOT, "b"));
        let renamed = g.ok(path_filestat_get(ROOT, "b")).id();
        let all = [by_path, by_fd, by_link, by_hard_link, renamed];
        g.compare("all have one inode and device", all, |all| {
            all.iter()
                .all(|stat| (stat.field(INO), stat.field(DEV)) == (all[0].field(INO), all[0].field(DEV)))
        });
    }

    fn an_inode_stays_when_a_file_is_written(g) {
        g.file("a", "content");
        let before = g.ok(path_filestat_get(ROOT, "a")).id();
        g.write_file("a", "other");
        let after = g.ok(path_filestat_get(ROOT, "a")).id();
        g.compare("the inode stays", [before, after], |[before, after]| {
            before.field(INO) == after.field(INO)
        });
    }

    fn files_have_inodes_of_their_own(g) {
        // The first two are one blob, the directories one Directory.
        g.file("a", "same");
        g.file("b", "same");
        g.file("d/x", "same");
        g.file("e/x", "same");
        let paths = [".", "a", "b", "d", "e", "d/x", "e/x"];
        let all = paths.map(|path| g.ok(path_filestat_get(ROOT, path)).id());
        g.compare("no two inodes are equal", all, |all| {
            let inodes: std::collections::BTreeSet<_> = all.iter().map(|stat| stat.field(INO)).collect();
            inodes.len() == all.len()
        });
    }

    fn both_preopens_are_one_directory(g) {
        let root = g.ok(fd_filestat_get(ROOT)).id();
        let dot = g.ok(fd_filestat_get(CWD)).id();
        let by_path = g.ok(path_filestat_get(CWD, ".")).id();
        g.compare("all are the root", [root, dot, by_path], |all| {
            all.iter().all(|stat| stat.field(INO) == all[0].field(INO))
        });
    }

    fn times_are_set_by_path(g) {
        g.file("a", "content");
        g.ok(path_filestat_set_times(ROOT, "a", 5 * SECOND, 7 * SECOND, ATIM | MTIM));
        let times = |atim, mtim| filestat(filetype::REGULAR_FILE).field(ATIME, atim).field(MTIME, mtim);
        g.gives(path_filestat_get(ROOT, "a"), times(5 * SECOND, 7 * SECOND));
        g.ok(path_filestat_set_times(ROOT, "a", 1, 9 * SECOND, MTIM));
        g.gives(path_filestat_get(ROOT, "a"), times(5 * SECOND, 9 * SECOND));
        g.ok(path_filestat_set_times(ROOT, "a", 3 * SECOND, 1, ATIM));
        g.gives(path_filestat_get(ROOT, "a"), times(3 * SECOND, 9 * SECOND));
        g.ok(path_filestat_set_times(ROOT, "a", 1, 1, 0));
        g.gives(path_filestat_get(ROOT, "a"), times(3 * SECOND, 9 * SECOND));
    }

    fn times_are_set_by_descriptor(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a").read_write());
        g.ok(fd_filestat_set_times(a, 5 * SECOND, 7 * SECOND, ATIM | MTIM));
        let times =
            filestat(filetype::REGULAR_FILE).field(ATIME, 5 * SECOND).field(MTIME, 7 * SECOND).size(7);
        g.gives(path_filestat_get(ROOT, "a"), times);
        g.holds("a", "content");
    }

    fn times_of_a_directory_are_set(g) {
        g.directory("d");
        g.ok(path_filestat_set_times(ROOT, "d", 0, 7 * SECOND, MTIM));
        g.gives(path_filestat_get(ROOT, "d"), filestat(filetype::DIRECTORY).field(MTIME, 7 * SECOND));
        let d = g.open(path_open(ROOT, "d"));
        g.ok(fd_filestat_set_times(d, 0, 8 * SECOND, MTIM));
        g.gives(path_filestat_get(ROOT, "d"), filestat(filetype::DIRECTORY).field(MTIME, 8 * SECOND));
    }

    fn times_keep_their_nanoseconds(g) {
        g.file("a", "content");
        g.ok(path_filestat_set_times(ROOT, "a", 0, SECOND + 123_456_789, MTIM));
        g.gives(
            path_filestat_get(ROOT, "a"),
            filestat(filetype::REGULAR_FILE).field(MTIME, SECOND + 123_456_789),
        );
    }

    fn times_are_set_to_now(g) {
        g.file("a", "content");
        g.ok(path_filestat_set_times(ROOT, "a", SECOND, SECOND, ATIM | MTIM));
        g.ok(path_filestat_set_times(ROOT, "a", 0, 0, ATIM_NOW | MTIM_NOW));
        let stat = g.ok(path_filestat_get(ROOT, "a")).id();
        g.compare("neither is what it was", [stat], |[stat]| {
            stat.field(ATIME) != SECOND && stat.field(MTIME) != SECOND
        });
    }

    fn a_time_is_not_both_set_and_now(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a").read_write());
        g.fails(path_filestat_set_times(ROOT, "a", 1, 1, ATIM | ATIM_NOW), INVAL);
        g.fails(path_filestat_set_times(ROOT, "a", 1, 1, MTIM | MTIM_NOW), INVAL);
        g.fails(fd_filestat_set_times(a, 1, 1, ATIM | ATIM_NOW), INVAL);
        g.fails(fd_filestat_set_times(a, 1, 1, MTIM | MTIM_NOW), INVAL);
    }

    fn times_of_a_link_itself_are_set(g) {
        g.file("a", "content");
        g.symlink("link", "a");
        g.ok(path_filestat_set_times(ROOT, "a", 0, 4 * SECOND, MTIM));
        g.ok(path_filestat_set_times(ROOT, "link", 0, 5 * SECOND, MTIM).nofollow());
        g.gives(path_filestat_get(ROOT, "a"), filestat(filetype::REGULAR_FILE).field(MTIME, 4 * SECOND));
        g.gives(
            path_filestat_get(ROOT, "link").nofollow(),
            filestat(filetype::SYMBOLIC_LINK).field(MTIME, 5 * SECOND),
        );
        g.ok(path_filestat_set_times(ROOT, "link", 0, 6 * SECOND, MTIM));
        g.gives(path_filestat_get(ROOT, "a"), filestat(filetype::REGULAR_FILE).field(MTIME, 6 * SECOND));
    }

    fn whose_times_are_not_set(g) {
        g.file("a", "content");
        g.fails(path_filestat_set_times(ROOT, "x", 1, 1, MTIM), NOENT);
        g.fails(path_filestat_set_times(ROOT, "a/x", 1, 1, MTIM), NOTDIR);
        g.fails(path_filestat_set_times(ROOT, "", 1, 1, MTIM), NOENT);
        g.fails(path_filestat_set_times(NO_FD, "a", 1, 1, MTIM), BADF);
        g.fails(fd_filestat_set_times(NO_FD, 1, 1, MTIM), BADF);
        g.fails_with_one_of(fd_filestat_set_times(STDIN, 1, 1, MTIM), &[BADF, INVAL]);
    }

    fn a_time_flag_that_does_not_exist_is_a_trap(g) {
        g.traps(fd_filestat_set_times(ROOT, 1, 1, 1 << 4));
    }
}
