//! `path_rename`: everything onto everything.

use super::prelude::*;

cases! {
    fn a_file_gets_another_name(g) {
        g.file("a", "content");
        g.directory("d");
        g.ok(path_rename(ROOT, "a", ROOT, "b"));
        g.absent("a");
        g.holds("b", "content");
        g.ok(path_rename(ROOT, "b", ROOT, "d/c"));
        g.absent("b");
        g.holds("d/c", "content");
    }

    fn a_file_replaces_a_file(g) {
        g.file("a", "new");
        g.file("b", "old content");
        g.ok(path_rename(ROOT, "a", ROOT, "b"));
        g.absent("a");
        g.holds("b", "new");
        g.gives(path_filestat_get(ROOT, "b"), filestat(filetype::REGULAR_FILE).size(3).nlink(1));
    }

    fn between_two_directories(g) {
        g.file("d/a", "content");
        g.directory("e");
        let d = g.open(path_open(ROOT, "d"));
        let e = g.open(path_open(ROOT, "e"));
        g.ok(path_rename(d, "a", e, "b"));
        g.holds("e/b", "content");
        g.lists("d", &[]);
    }

    fn onto_itself_changes_nothing(g) {
        g.file("a", "content");
        g.file("d/x", "below");
        g.ok(path_rename(ROOT, "a", ROOT, "a"));
        g.ok(path_rename(ROOT, "a", ROOT, "./a"));
        g.ok(path_rename(ROOT, "d", ROOT, "d"));
        g.holds("a", "content");
        g.holds("d/x", "below");
    }

    fn onto_another_name_of_the_same_file_changes_nothing(g) {
        g.file("a", "content");
        g.ok(path_link(ROOT, "a", ROOT, "b"));
        g.ok(path_rename(ROOT, "a", ROOT, "b"));
        g.holds("a", "content");
        g.holds("b", "content");
    }

    fn what_is_not_there_is_noent(g) {
        g.file("a", "content");
        g.fails(path_rename(ROOT, "x", ROOT, "y"), NOENT);
        g.fails(path_rename(ROOT, "x", ROOT, "a"), NOENT);
        g.fails(path_rename(ROOT, "a", ROOT, "x/a"), NOENT);
        g.fails(path_rename(ROOT, "x/a", ROOT, "b"), NOENT);
        g.holds("a", "content");
    }

    fn a_directory_moves_with_everything_in_it(g) {
        g.file("d/a", "one");
        g.file("d/e/b", "two");
        g.directory("x");
        g.write_file("d/new", "three");
        g.ok(path_rename(ROOT, "d", ROOT, "x/y"));
        g.absent("d");
        g.holds("x/y/a", "one");
        g.holds("x/y/e/b", "two");
        g.holds("x/y/new", "three");
    }

    fn a_directory_replaces_an_empty_directory(g) {
        g.file("d/a", "content");
        g.directory("e");
        g.ok(path_rename(ROOT, "d", ROOT, "e"));
        g.absent("d");
        g.lists("e", &["a"]);
    }

    fn a_directory_replaces_one_that_was_emptied(g) {
        g.file("d/a", "content");
        g.file("e/old", "old");
        g.ok(path_unlink_file(ROOT, "e/old"));
        g.ok(path_rename(ROOT, "d", ROOT, "e"));
        g.lists("e", &["a"]);
        g.absent("e/old");
    }

    fn a_directory_does_not_replace_a_full_one(g) {
        g.file("d/a", "content");
        g.file("e/b", "content");
        g.fails_with_one_of(path_rename(ROOT, "d", ROOT, "e"), &[NOTEMPTY, EXIST]);
        g.lists("d", &["a"]);
        g.lists("e", &["b"]);
    }

    fn files_and_directories_do_not_replace_each_other(g) {
        g.file("a", "content");
        g.directory("d");
        g.fails(path_rename(ROOT, "a", ROOT, "d"), ISDIR);
        g.fails(path_rename(ROOT, "d", ROOT, "a"), NOTDIR);
        g.holds("a", "content");
        g.lists("d", &[]);
    }

    fn a_directory_does_not_go_into_itself(g) {
        g.directory("d/e");
        g.fails(path_rename(ROOT, "d", ROOT, "d/x"), INVAL);
        g.fails(path_rename(ROOT, "d", ROOT, "d/e/x"), INVAL);
        g.fails(path_rename(ROOT, "d", ROOT, "d/e"), INVAL);
        let d = g.open(path_open(ROOT, "d"));
        g.fails(path_rename(ROOT, "d", d, "x"), INVAL);
        g.lists("d", &["e"]);
    }

    fn a_directory_does_not_replace_its_parent(g) {
        g.file("d/e/a", "content");
        g.fails_with_one_of(path_rename(ROOT, "d/e", ROOT, "d"), &[NOTEMPTY, EXIST]);
        g.holds("d/e/a", "content");
    }

    fn a_link_itself_is_renamed(g) {
        g.file("a", "content");
        g.symlink("link", "a");
        g.symlink("dangling", "nowhere");
        g.ok(path_rename(ROOT, "link", ROOT, "b"));
        g.ok(path_rename(ROOT, "dangling", ROOT, "c"));
        g.gives(path_readlink(ROOT, "b", 16), "a");
        g.gives(path_readlink(ROOT, "c", 16), "nowhere");
        g.holds("a", "content");
    }

    fn a_link_itself_is_replaced(g) {
        g.file("a", "new");
        g.file("target", "old");
        g.symlink("link", "target");
        g.symlink("to-d", "d");
        g.directory("d");
        g.ok(path_rename(ROOT, "a", ROOT, "link"));
        g.holds("link", "new");
        g.holds("target", "old");
        g.ok(path_rename(ROOT, "target", ROOT, "to-d"));
        g.holds("to-d", "old");
        g.lists("d", &[]);
    }

    fn an_open_file_keeps_its_descriptor(g) {
        g.file("a", "content");
        g.file("b", "replaced");
        let a = g.open(path_open(ROOT, "a").read_write());
        let b = g.open(path_open(ROOT, "b"));
        g.ok(path_rename(ROOT, "a", ROOT, "b"));
        g.gives(fd_write(a, &["KON"]), 3);
        g.gives(fd_read(b, &[20]), "replaced");
        g.holds("b", "KONtent");
    }

    fn an_open_directory_keeps_its_descriptor(g) {
        g.file("d/a", "content");
        let d = g.open(path_open(ROOT, "d"));
        g.ok(path_rename(ROOT, "d", ROOT, "e"));
        let a = g.open(path_open(d, "a"));
        g.gives(fd_read(a, &[9]), "content");
        g.open(path_open(d, "b").creat().write_only());
        g.lists("e", &["a", "b"]);
    }

    fn dots_are_not_renamed(g) {
        g.directory("d/e");
        g.directory("x");
        let refused = [BUSY, INVAL, NOTEMPTY, EXIST, PERM, NOTCAPABLE];
        g.fails_with_one_of(path_rename(ROOT, ".", ROOT, "x"), &refused);
        g.fails_with_one_of(path_rename(ROOT, "d/.", ROOT, "x"), &refused);
        g.fails_with_one_of(path_rename(ROOT, "d/e/..", ROOT, "x"), &refused);
        g.fails_with_one_of(path_rename(ROOT, "d", ROOT, "x/."), &refused);
        g.fails_with_one_of(path_rename(ROOT, "d", ROOT, "x/.."), &refused);
        g.fails_with_one_of(path_rename(ROOT, "d", ROOT, "."), &refused);
        g.lists(".", &["d", "x"]);
    }

    fn a_slash_behind_a_name_wants_a_directory(g) {
        g.file("a", "content");
        g.file("d/x", "content");
        g.fails(path_rename(ROOT, "a/", ROOT, "b"), NOTDIR);
        g.fails_with_one_of(path_rename(ROOT, "a", ROOT, "b/"), &[NOTDIR, NOENT]);
        g.ok(path_rename(ROOT, "d/", ROOT, "e/"));
        g.holds("a", "content");
        g.holds("e/x", "content");
    }

    fn what_was_renamed_away_does_not_come_back(g) {
        g.file("d/a", "content");
        g.file("d/b", "content");
        g.ok(path_rename(ROOT, "d", ROOT, "e"));
        g.ok(path_create_directory(ROOT, "d"));
        g.lists("d", &[]);
        g.absent("d/a");
        g.lists("e", &["a", "b"]);
    }

    fn two_names_are_swapped_through_a_third(g) {
        g.file("a/x", "from a");
        g.file("b/x", "from b");
        g.ok(path_rename(ROOT, "a", ROOT, "t"));
        g.ok(path_rename(ROOT, "b", ROOT, "a"));
        g.ok(path_rename(ROOT, "t", ROOT, "b"));
        g.holds("a/x", "from b");
        g.holds("b/x", "from a");
    }

    fn bad_descriptors_are_refused(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.fails(path_rename(NO_FD, "a", ROOT, "b"), BADF);
        g.fails(path_rename(ROOT, "a", NO_FD, "b"), BADF);
        g.fails_with_one_of(path_rename(a, "a", ROOT, "b"), &[NOTDIR, BADF]);
        g.fails_with_one_of(path_rename(ROOT, "a", STDOUT, "b"), &[NOTDIR, BADF]);
        g.holds("a", "content");
    }
}
