//! `path_open` and `fd_close`: every flag alone and with others.

use super::prelude::*;

cases! {
    fn a_file_is_opened_and_read(g) {
        g.file("a", "hello");
        let a = g.open(path_open(ROOT, "a"));
        g.gives(fd_read(a, &[9]), "hello");
        g.gives(fd_read(a, &[9]), "");
        g.ok(fd_close(a));
        g.fails(fd_close(a), BADF);
    }

    fn the_two_preopens_are_root_and_working_directory(g) {
        g.file("a", "root");
        g.file("w/a", "work");
        g.working_directory("w");
        let a = g.open(path_open(ROOT, "a"));
        g.gives(fd_read(a, &[9]), "root");
        let a = g.open(path_open(CWD, "a"));
        g.gives(fd_read(a, &[9]), "work");
    }

    fn what_is_not_there_is_noent(g) {
        g.directory("d");
        g.fails(path_open(ROOT, "a"), NOENT);
        g.fails(path_open(ROOT, "d/a"), NOENT);
        g.fails(path_open(ROOT, "x/a"), NOENT);
        g.fails(path_open(ROOT, "a").directory(), NOENT);
        g.fails(path_open(ROOT, "a").trunc().read_write(), NOENT);
        g.fails(path_open(ROOT, "x/a").creat().read_write(), NOENT);
    }

    fn creat_makes_an_empty_file(g) {
        g.directory("d");
        let a = g.open(path_open(ROOT, "d/a").creat().write_only());
        g.gives(fd_filestat_get(a), filestat(filetype::REGULAR_FILE).size(0).nlink(1));
        g.holds("d/a", "");
        g.lists("d", &["a"]);
    }

    fn creat_leaves_what_is_there(g) {
        g.file("a", "content");
        g.open(path_open(ROOT, "a").creat().read_write());
        g.holds("a", "content");
    }

    fn creat_for_reading_only_makes_a_file_too(g) {
        let a = g.open(path_open(ROOT, "a").creat());
        g.gives(fd_read(a, &[4]), "");
        g.holds("a", "");
    }

    fn creat_excl_is_for_new_names_only(g) {
        g.file("a", "content");
        g.directory("d");
        g.symlink("dangling", "nowhere");
        g.open(path_open(ROOT, "new").creat().excl().write_only());
        g.fails(path_open(ROOT, "new").creat().excl().write_only(), EXIST);
        g.fails(path_open(ROOT, "a").creat().excl().write_only(), EXIST);
        g.fails(path_open(ROOT, "a").creat().excl().trunc().write_only(), EXIST);
        g.fails(path_open(ROOT, "d").creat().excl().write_only(), EXIST);
        g.fails(path_open(ROOT, "dangling").creat().excl().write_only(), EXIST);
        g.holds("a", "content");
        g.absent("nowhere");
    }

    fn creat_follows_a_dangling_link(g) {
        g.symlink("link", "target");
        let fd = g.open(path_open(ROOT, "link").creat().write_only());
        g.gives(fd_write(fd, &["x"]), 1);
        g.holds("target", "x");
        g.gives(path_readlink(ROOT, "link", 16), "target");
    }

    fn creat_without_following_refuses_a_link(g) {
        g.symlink("link", "target");
        g.fails(path_open(ROOT, "link").creat().write_only().nofollow(), LOOP);
        g.absent("target");
    }

    fn creat_of_a_directory_is_isdir(g) {
        g.directory("d");
        g.fails(path_open(ROOT, "d").creat().write_only(), ISDIR);
    }

    fn creat_with_directory_is_invalid(g) {
        g.directory("d");
        g.fails(path_open(ROOT, "new").creat().directory(), INVAL);
        g.fails(path_open(ROOT, "d").creat().directory(), INVAL);
        g.absent("new");
    }

    fn trunc_empties(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a").trunc().read_write());
        g.gives(fd_read(a, &[9]), "");
        g.holds("a", "");
    }

    fn trunc_is_seen_by_other_descriptors(g) {
        g.file("a", "content");
        let before = g.open(path_open(ROOT, "a"));
        g.gives(fd_read(before, &[3]), "con");
        g.open(path_open(ROOT, "a").trunc().write_only());
        g.gives(fd_read(before, &[9]), "");
    }

    fn trunc_of_a_directory_is_isdir(g) {
        g.file("d/a", "content");
        g.fails(path_open(ROOT, "d").trunc().write_only(), ISDIR);
        g.holds("d/a", "content");
    }

    fn directory_wants_a_directory(g) {
        g.file("a", "content");
        g.directory("d");
        g.symlink("to-d", "d");
        g.symlink("to-a", "a");
        g.open(path_open(ROOT, "d").directory());
        g.open(path_open(ROOT, "to-d").directory());
        g.fails(path_open(ROOT, "a").directory(), NOTDIR);
        g.fails(path_open(ROOT, "to-a").directory(), NOTDIR);
        g.fails_with_one_of(path_open(ROOT, "to-d").directory().nofollow(), &[NOTDIR, LOOP]);
    }

    fn a_directory_opens_without_being_asked_for(g) {
        g.file("d/a", "content");
        let d = g.open(path_open(ROOT, "d"));
        let a = g.open(path_open(d, "a"));
        g.gives(fd_read(a, &[9]), "content");
    }

    fn a_directory_does_not_open_for_writing(g) {
        g.directory("d");
        g.fails(path_open(ROOT, "d").write_only(), ISDIR);
    }

    fn names_are_resolved_below_an_opened_directory(g) {
        g.file("a", "outer");
        g.file("d/a", "inner");
        g.file("d/e/a", "innermost");
        let d = g.open(path_open(ROOT, "d").directory());
        let a = g.open(path_open(d, "a"));
        g.gives(fd_read(a, &[9]), "inner");
        let e = g.open(path_open(d, "e").directory());
        let a = g.open(path_open(e, "a"));
        g.gives(fd_read(a, &[9]), "innermost");
    }

    fn links_are_followed_on_the_way(g) {
        g.file("x/y/a", "found");
        g.symlink("l", "x");
        g.symlink("x/m", "y");
        g.symlink("x/y/n", "a");
        let a = g.open(path_open(ROOT, "l/m/n"));
        g.gives(fd_read(a, &[9]), "found");
        g.fails(path_open(ROOT, "l/m/n").nofollow(), LOOP);
        let a = g.open(path_open(ROOT, "l/m/a").nofollow());
        g.gives(fd_read(a, &[9]), "found");
    }

    fn links_that_go_round_are_a_loop(g) {
        g.symlink("a", "b");
        g.symlink("b", "a");
        g.symlink("self", "self");
        g.symlink("deeper", "deeper/x");
        g.fails(path_open(ROOT, "a"), LOOP);
        g.fails(path_open(ROOT, "self"), LOOP);
        g.fails(path_open(ROOT, "self/x"), LOOP);
        g.fails(path_open(ROOT, "deeper"), LOOP);
        g.fails(path_open(ROOT, "a").creat().write_only(), LOOP);
    }

    fn a_long_chain_of_links_is_a_loop_and_a_short_one_is_not(g) {
        g.file("0", "end");
        for link in 1..=60 {
            g.symlink(&link.to_string(), &(link - 1).to_string());
        }
        let fd = g.open(path_open(ROOT, "30"));
        g.gives(fd_read(fd, &[9]), "end");
        g.fails(path_open(ROOT, "60"), LOOP);
    }

    fn a_file_on_the_way_is_notdir(g) {
        g.file("a", "content");
        g.fails(path_open(ROOT, "a/b"), NOTDIR);
        g.fails(path_open(ROOT, "a/b").creat().write_only(), NOTDIR);
        g.fails(path_open(ROOT, "a/.."), NOTDIR);
        g.fails(path_open(ROOT, "a/."), NOTDIR);
    }

    fn what_is_opened_from_must_be_a_directory(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.fails(path_open(a, "b"), NOTDIR);
        g.fails(path_open(NO_FD, "a"), BADF);
        g.fails_with_one_of(path_open(STDIN, "a"), &[NOTDIR, BADF]);
        g.fails_with_one_of(path_open(STDOUT, "a").creat().write_only(), &[NOTDIR, BADF]);
    }

    fn each_opening_has_an_offset_of_its_own(g) {
        g.file("a", "content");
        let one = g.open(path_open(ROOT, "a"));
        let two = g.open(path_open(ROOT, "a"));
        g.gives(fd_read(one, &[3]), "con");
        g.gives(fd_read(two, &[3]), "con");
        g.ok(fd_close(one));
        g.gives(fd_read(two, &[9]), "tent");
    }

    fn what_is_opened_for_reading_is_not_written(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.fails_with_one_of(fd_write(a, &["x"]), &[BADF, NOTCAPABLE]);
        g.fails_with_one_of(fd_pwrite(a, &["x"], 0), &[BADF, NOTCAPABLE]);
        g.holds("a", "content");
    }

    fn what_is_opened_for_writing_is_not_read(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a").write_only());
        g.fails_with_one_of(fd_read(a, &[9]), &[BADF, NOTCAPABLE]);
        g.fails_with_one_of(fd_pread(a, &[9], 0), &[BADF, NOTCAPABLE]);
        g.gives(fd_write(a, &["x"]), 1);
        g.holds("a", "xontent");
    }

    fn an_oflag_that_does_not_exist_is_a_trap(g) {
        g.traps(path_open(ROOT, "a").oflags(1 << 4));
    }

    fn an_fdflag_that_does_not_exist_is_a_trap(g) {
        g.traps(path_open(ROOT, "a").fdflags(1 << 5));
    }

    fn a_lookup_flag_that_does_not_exist_is_a_trap(g) {
        g.traps(path_open(ROOT, "a").with("lookupflags", 2));
    }

    fn a_right_that_does_not_exist_is_a_trap(g) {
        g.traps(path_open(ROOT, "a").with("BASE", 1 << 40));
    }

    fn closing_frees_nothing_else(g) {
        g.file("a", "content");
        let one = g.open(path_open(ROOT, "a"));
        let two = g.open(path_open(ROOT, "a"));
        g.ok(fd_close(one));
        g.fails(fd_read(one, &[1]), BADF);
        g.fails(fd_close(NO_FD), BADF);
        g.gives(fd_read(two, &[9]), "content");
    }

    fn hundreds_of_files_are_open_at_once(g) {
        g.file("a", "content");
        let fds: Vec<_> = (0..300).map(|_| g.open(path_open(ROOT, "a"))).collect();
        g.gives(fd_read(fds[0], &[9]), "content");
        g.gives(fd_read(fds[299], &[9]), "content");
        fds.into_iter().for_each(|fd| {
            g.ok(fd_close(fd));
        });
    }
}
