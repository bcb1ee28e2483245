//! `path_create_directory`, `path_remove_directory` and `path_unlink_file`.

use super::prelude::*;

cases! {
    fn a_directory_is_made_and_removed(g) {
        g.ok(path_create_directory(ROOT, "d"));
        g.ok(path_create_directory(ROOT, "d/e"));
        g.gives(path_filestat_get(ROOT, "d/e"), filestat(filetype::DIRECTORY));
        g.lists("d", &["e"]);
        g.ok(path_remove_directory(ROOT, "d/e"));
        g.ok(path_remove_directory(ROOT, "d"));
        g.absent("d");
    }

    fn an_existing_name_is_not_made_again(g) {
        g.file("a", "content");
        g.directory("d");
        g.symlink("to-d", "d");
        g.symlink("dangling", "nowhere");
        for name in ["a", "d", "to-d", "dangling", ".", "d/", "d/."] {
            g.fails(path_create_directory(ROOT, name), EXIST);
        }
        g.absent("nowhere");
    }

    fn where_no_directory_is_made(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.fails(path_create_directory(ROOT, "x/d"), NOENT);
        g.fails(path_create_directory(ROOT, "a/d"), NOTDIR);
        g.fails(path_create_directory(ROOT, ""), NOENT);
        g.fails(path_create_directory(NO_FD, "d"), BADF);
        g.fails_with_one_of(path_create_directory(a, "d"), &[NOTDIR, BADF]);
    }

    fn a_slash_behind_a_new_directory_is_fine(g) {
        g.ok(path_create_directory(ROOT, "d/"));
        g.ok(path_create_directory(ROOT, "d/e//"));
        g.lists("d", &["e"]);
        g.ok(path_remove_directory(ROOT, "d/e/"))
            .wasmtime(fails(INVAL), "it refuses a slash behind a directory");
    }

    fn a_directory_is_made_behind_a_link(g) {
        g.directory("d");
        g.symlink("link", "d");
        g.ok(path_create_directory(ROOT, "link/e"));
        g.lists("d", &["e"]);
    }

    fn a_full_directory_is_not_removed(g) {
        g.file("d/a", "content");
        g.directory("e/x");
        g.fails(path_remove_directory(ROOT, "d"), NOTEMPTY);
        g.fails(path_remove_directory(ROOT, "e"), NOTEMPTY);
        g.holds("d/a", "content");
    }

    fn an_emptied_input_directory_is_removed(g) {
        g.file("d/a", "content");
        g.file("d/b", "content");
        g.ok(path_unlink_file(ROOT, "d/a"));
        g.fails(path_remove_directory(ROOT, "d"), NOTEMPTY);
        g.ok(path_unlink_file(ROOT, "d/b"));
        g.ok(path_remove_directory(ROOT, "d"));
        g.absent("d");
        g.absent("d/a");
    }

    fn what_was_removed_does_not_come_back(g) {
        g.file("d/a", "content");
        g.file("d/e/b", "content");
        g.ok(path_unlink_file(ROOT, "d/a"));
        g.ok(path_unlink_file(ROOT, "d/e/b"));
        g.ok(path_remove_directory(ROOT, "d/e"));
        g.ok(path_remove_directory(ROOT, "d"));
        g.ok(path_create_directory(ROOT, "d"));
        g.lists("d", &[]);
        g.ok(path_create_directory(ROOT, "d/e"));
        g.lists("d/e", &[]);
        g.write_file("d/a", "new");
        g.holds("d/a", "new");
    }

    fn what_is_no_directory_is_not_removed_as_one(g) {
        g.file("a", "content");
        g.directory("d");
        g.symlink("link", "d");
        g.fails(path_remove_directory(ROOT, "a"), NOTDIR);
        g.fails(path_remove_directory(ROOT, "link"), NOTDIR);
        g.fails(path_remove_directory(ROOT, "x"), NOENT);
        g.fails(path_remove_directory(ROOT, "x/y"), NOENT);
        g.fails(path_remove_directory(ROOT, "a/y"), NOTDIR);
        g.fails(path_remove_directory(ROOT, ""), NOENT);
        g.fails(path_remove_directory(NO_FD, "d"), BADF);
    }

    fn dots_are_not_removed(g) {
        g.directory("d/e");
        let refused = [INVAL, BUSY, NOTEMPTY, PERM, NOTCAPABLE];
        g.fails_with_one_of(path_remove_directory(ROOT, "."), &refused);
        g.fails_with_one_of(path_remove_directory(ROOT, "d/e/."), &refused);
        g.fails_with_one_of(path_remove_directory(ROOT, "d/e/.."), &refused);
        g.fails_with_one_of(path_remove_directory(CWD, "."), &refused);
        g.lists("d", &["e"]);
    }

    fn a_file_is_unlinked(g) {
        g.file("a", "content");
        g.file("d/b", "content");
        g.ok(path_unlink_file(ROOT, "a"));
        g.absent("a");
        g.fails(path_unlink_file(ROOT, "a"), NOENT);
        let d = g.open(path_open(ROOT, "d"));
        g.ok(path_unlink_file(d, "b"));
        g.lists("d", &[]);
    }

    fn a_link_itself_is_unlinked(g) {
        g.file("a", "content");
        g.directory("d");
        g.symlink("to-a", "a");
        g.symlink("to-d", "d");
        g.symlink("dangling", "nowhere");
        for name in ["to-a", "to-d", "dangling"] {
            g.ok(path_unlink_file(ROOT, name));
            g.absent(name);
        }
        g.holds("a", "content");
        g.lists("d", &[]);
    }

    fn what_is_not_unlinked(g) {
        g.file("a", "content");
        g.directory("d");
        g.symlink("link", "d");
        let a = g.open(path_open(ROOT, "a"));
        g.fails_with_one_of(path_unlink_file(ROOT, "d"), &[ISDIR, PERM]);
        g.fails_with_one_of(path_unlink_file(ROOT, "d/"), &[ISDIR, PERM, NOTDIR]);
        g.fails_with_one_of(path_unlink_file(ROOT, "."), &[ISDIR, PERM, INVAL]);
        g.fails(path_unlink_file(ROOT, "a/"), NOTDIR);
        g.fails_with_one_of(path_unlink_file(ROOT, "link/"), &[NOTDIR, ISDIR, PERM]);
        g.fails(path_unlink_file(ROOT, "x"), NOENT);
        g.fails(path_unlink_file(ROOT, "x/y"), NOENT);
        g.fails(path_unlink_file(ROOT, "a/y"), NOTDIR);
        g.fails(path_unlink_file(ROOT, ""), NOENT);
        g.fails(path_unlink_file(NO_FD, "a"), BADF);
        g.fails_with_one_of(path_unlink_file(a, "b"), &[NOTDIR, BADF]);
        g.holds("a", "content");
    }

    fn an_open_file_lives_on_without_a_name(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a").read_write());
        g.ok(path_unlink_file(ROOT, "a"));
        g.gives(fd_read(a, &[3]), "con");
        g.gives(fd_write(a, &["TENT"]), 4);
        g.gives(fd_pread(a, &[20], 0), "conTENT");
        g.ok(fd_filestat_set_size(a, 3));
        g.gives(fd_filestat_get(a), filestat(filetype::REGULAR_FILE).size(3).nlink(0));
        g.write_file("a", "another");
        g.gives(fd_pread(a, &[20], 0), "con");
        g.holds("a", "another");
        g.ok(fd_close(a));
        g.holds("a", "another");
    }

    fn an_input_that_was_never_read_lives_on_too(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.ok(path_unlink_file(ROOT, "a"));
        g.gives(fd_read(a, &[20]), "content");
    }

    fn nothing_is_made_in_a_removed_directory(g) {
        g.directory("d");
        let d = g.open(path_open(ROOT, "d"));
        g.ok(path_remove_directory(ROOT, "d"));
        g.fails(path_open(d, "a").creat().write_only(), NOENT);
        g.fails(path_create_directory(d, "e"), NOENT);
        g.fails(path_symlink("x", d, "l"), NOENT);
        g.ok(path_create_directory(ROOT, "d"));
        g.fails(path_open(d, "a").creat().write_only(), NOENT);
        g.lists("d", &[]);
    }

    fn names_of_every_kind_follow_each_other(g) {
        g.ok(path_create_directory(ROOT, "n"));
        g.ok(path_remove_directory(ROOT, "n"));
        g.write_file("n", "file");
        g.ok(path_unlink_file(ROOT, "n"));
        g.ok(path_symlink("elsewhere", ROOT, "n"));
        g.ok(path_unlink_file(ROOT, "n"));
        g.ok(path_create_directory(ROOT, "n"));
        g.lists("n", &[]);
    }
}
