//! `path_link`, `path_symlink` and `path_readlink`.

use super::prelude::*;

const NO_FOLLOWING: &str = "it refuses to follow in path_link";
const ABSOLUTE: &str = "it refuses to make links that look absolute";

cases! {
    fn a_file_has_two_names(g) {
        g.file("a", "content");
        g.directory("d");
        g.ok(path_link(ROOT, "a", ROOT, "d/b"));
        g.gives(path_filestat_get(ROOT, "a"), filestat(filetype::REGULAR_FILE).nlink(2));
        g.write_file("d/b", "changed");
        g.holds("a", "changed");
        g.ok(path_unlink_file(ROOT, "a"));
        g.holds("d/b", "changed");
        g.gives(path_filestat_get(ROOT, "d/b"), filestat(filetype::REGULAR_FILE).nlink(1));
    }

    fn a_link_through_directory_descriptors(g) {
        g.file("d/a", "content");
        g.directory("e");
        let d = g.open(path_open(ROOT, "d"));
        let e = g.open(path_open(ROOT, "e"));
        g.ok(path_link(d, "a", e, "b"));
        g.holds("e/b", "content");
    }

    fn an_existing_name_is_not_replaced(g) {
        g.file("a", "content");
        g.file("b", "other");
        g.directory("d");
        g.symlink("dangling", "nowhere");
        g.fails(path_link(ROOT, "a", ROOT, "b"), EXIST);
        g.fails(path_link(ROOT, "a", ROOT, "a"), EXIST);
        g.fails(path_link(ROOT, "a", ROOT, "d"), EXIST);
        g.fails(path_link(ROOT, "a", ROOT, "dangling"), EXIST);
        g.holds("b", "other");
        g.absent("nowhere");
    }

    fn what_cannot_be_linked(g) {
        g.file("a", "content");
        g.directory("d");
        let a = g.open(path_open(ROOT, "a"));
        g.fails_with_one_of(path_link(ROOT, "d", ROOT, "e"), &[PERM, ISDIR]);
        g.fails(path_link(ROOT, "x", ROOT, "y"), NOENT);
        g.fails(path_link(ROOT, "a", ROOT, "x/y"), NOENT);
        g.fails(path_link(ROOT, "a/", ROOT, "y"), NOTDIR);
        g.fails_with_one_of(path_link(ROOT, "a", ROOT, "y/"), &[NOENT, NOTDIR]);
        g.fails(path_link(NO_FD, "a", ROOT, "y"), BADF);
        g.fails(path_link(ROOT, "a", NO_FD, "y"), BADF);
        g.fails_with_one_of(path_link(a, "a", ROOT, "y"), &[NOTDIR, BADF]);
        g.absent("y");
    }

    fn a_symlink_itself_is_linked(g) {
        g.file("a", "content");
        g.symlink("link", "a");
        g.ok(path_link(ROOT, "link", ROOT, "other"));
        g.gives(path_readlink(ROOT, "other", 16), "a");
    }

    fn following_links_what_the_symlink_names(g) {
        g.file("a", "content");
        g.symlink("link", "a");
        g.ok(path_link(ROOT, "link", ROOT, "other").follow()).wasmtime(fails(INVAL), NO_FOLLOWING);
        g.gives(path_filestat_get(ROOT, "a"), filestat(filetype::REGULAR_FILE).nlink(2))
            .wasmtime(anything(), NO_FOLLOWING);
        g.fails(path_readlink(ROOT, "other", 16), INVAL).wasmtime(fails(NOENT), NO_FOLLOWING);
    }

    fn a_file_that_is_open_and_unlinked_cannot_be_found(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.ok(path_link(ROOT, "a", ROOT, "b"));
        g.ok(path_unlink_file(ROOT, "a"));
        g.fails(path_link(ROOT, "a", ROOT, "c"), NOENT);
        g.gives(fd_filestat_get(a), filestat(filetype::REGULAR_FILE).nlink(1));
    }

    fn a_symlink_is_made_and_read(g) {
        g.file("a", "content");
        g.directory("d");
        g.ok(path_symlink("a", ROOT, "link"));
        g.ok(path_symlink("../a", ROOT, "d/up"));
        g.gives(path_readlink(ROOT, "link", 16), "a");
        g.gives(path_readlink(ROOT, "d/up", 16), "../a");
        g.holds("link", "content");
        g.holds("d/up", "content");
    }

    fn a_symlink_may_lead_nowhere(g) {
        g.ok(path_symlink("nowhere", ROOT, "link"));
        g.gives(path_readlink(ROOT, "link", 16), "nowhere");
        g.fails(path_open(ROOT, "link"), NOENT);
        g.fails(path_filestat_get(ROOT, "link"), NOENT);
        g.gives(path_filestat_get(ROOT, "link").nofollow(), filestat(filetype::SYMBOLIC_LINK).size(7));
    }

    fn a_symlink_to_a_directory_leads_through(g) {
        g.file("d/a", "content");
        g.ok(path_symlink("d", ROOT, "link"));
        g.holds("link/a", "content");
        g.lists("link", &["a"]);
        g.write_file("link/b", "new");
        g.holds("d/b", "new");
    }

    fn an_existing_name_is_no_symlink_afterwards(g) {
        g.file("a", "content");
        g.directory("d");
        g.symlink("link", "a");
        g.fails(path_symlink("x", ROOT, "a"), EXIST);
        g.fails(path_symlink("x", ROOT, "d"), EXIST);
        g.fails(path_symlink("x", ROOT, "link"), EXIST);
        g.gives(path_readlink(ROOT, "link", 16), "a");
        g.holds("a", "content");
    }

    fn what_cannot_be_a_symlink(g) {
        g.file("a", "content");
        g.fails(path_symlink("a", ROOT, "x/link"), NOENT);
        g.fails(path_symlink("a", ROOT, "a/link"), NOTDIR);
        g.fails(path_symlink("", ROOT, "link"), NOENT);
        g.fails(path_symlink("a", ROOT, ""), NOENT);
        g.fails_with_one_of(path_symlink("a", ROOT, "link/"), &[NOENT, NOTDIR]);
        g.fails(path_symlink("a", NO_FD, "link"), BADF);
        g.fails(path_symlink("x".repeat(5000), ROOT, "link"), NAMETOOLONG);
        g.absent("link");
    }

    fn an_absolute_symlink_starts_at_the_root_of_the_tree(g) {
        g.file("d/a", "content");
        g.working_directory("d");
        g.ok(path_symlink("/d/a", CWD, "link")).wasmtime(fails(PERM), ABSOLUTE);
        let fd = g.ok(path_open(CWD, "link")).wasmtime(fails(NOENT), ABSOLUTE).id();
        let _ = fd;
        g.gives(path_readlink(CWD, "link", 16), "/d/a").wasmtime(fails(NOENT), ABSOLUTE);
    }

    fn a_long_target_is_kept(g) {
        let target = ["component"; 80].join("/");
        g.ok(path_symlink(&target, ROOT, "link"));
        g.gives(path_readlink(ROOT, "link", 1000), target.as_str());
        g.fails(path_open(ROOT, "link"), NOENT);
    }

    fn a_small_buffer_gets_the_beginning(g) {
        g.symlink("link", "0123456789");
        g.gives(path_readlink(ROOT, "link", 4), "0123");
        g.gives(path_readlink(ROOT, "link", 1), "0");
        g.gives(path_readlink(ROOT, "link", 10), "0123456789");
        g.gives(path_readlink(ROOT, "link", 11), "0123456789");
    }

    fn only_symlinks_are_read(g) {
        g.file("a", "content");
        g.directory("d");
        g.symlink("to-d", "d");
        g.symlink("to-a", "a");
        g.fails(path_readlink(ROOT, "a", 16), INVAL);
        g.fails(path_readlink(ROOT, "d", 16), INVAL);
        g.fails(path_readlink(ROOT, "x", 16), NOENT);
        g.fails(path_readlink(ROOT, "x/y", 16), NOENT);
        g.fails(path_readlink(ROOT, "a/y", 16), NOTDIR);
        g.fails(path_readlink(ROOT, "", 16), NOENT);
        g.fails(path_readlink(ROOT, "to-d/", 16), INVAL);
        g.fails(path_readlink(ROOT, "to-a/", 16), NOTDIR);
        g.fails(path_readlink(NO_FD, "a", 16), BADF);
    }

    fn input_symlinks_stay_as_they_came(g) {
        g.symlink("a", "./x//y/../z");
        g.symlink("d/b", "../../..");
        g.gives(path_readlink(ROOT, "a", 32), "./x//y/../z");
        g.gives(path_readlink(ROOT, "d/b", 32), "../../..");
    }
}
