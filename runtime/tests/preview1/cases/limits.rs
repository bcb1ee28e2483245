//! What a guest is told when it is at a limit of our host, and that it can go on.

use super::prelude::*;

const NO_LIMITS: &str = "it has no such limits";
const NO_GRAFTS: &str = "it has no trees that cannot be changed";

cases! {
    fn descriptors_are_limited(g) {
        g.only_ours(NO_LIMITS);
        g.limits(|limits| limits.handles_max = 7);
        g.file("a", "content");
        let one = g.open(path_open(ROOT, "a"));
        g.open(path_open(ROOT, "a"));
        g.fails(path_open(ROOT, "a"), MFILE);
        g.fails(path_open(ROOT, ".").directory(), MFILE);
        g.fails(path_open(ROOT, "new").creat().write_only(), MFILE);
        g.ok(fd_close(one));
        let again = g.open(path_open(ROOT, "a"));
        g.gives(fd_read(again, &[9]), "content");
    }

    fn bytes_are_limited(g) {
        g.only_ours(NO_LIMITS);
        g.limits(|limits| limits.bytes_max = 200_000);
        let half = "x".repeat(100_000);
        let a = g.open(path_open(ROOT, "a").creat().read_write());
        g.gives(fd_write(a, &[&half]), 100_000);
        let before = g.ok(fd_write(a, &["y"])).id();
        g.attempt(fd_write(a, &[&half]));
        g.fails(fd_write(a, &[&half]), NOSPC);
        g.compare("the byte was written", [before], |[before]| before.last() == 1);
        // What is given back can be used again.
        g.ok(fd_filestat_set_size(a, 0));
        g.gives(fd_pwrite(a, &[&half], 0), 100_000);
    }

    fn removed_files_give_their_bytes_back(g) {
        g.only_ours(NO_LIMITS);
        g.limits(|limits| limits.bytes_max = 200_000);
        let most = "x".repeat(150_000);
        for _ in 0..5 {
            g.write_file("a", &most);
            g.ok(path_unlink_file(ROOT, "a"));
        }
        for _ in 0..5 {
            g.write_file("a", &most);
        }
    }

    fn holes_cost_nothing(g) {
        g.only_ours(NO_LIMITS);
        g.limits(|limits| limits.bytes_max = 200_000);
        let a = g.open(path_open(ROOT, "a").creat().read_write());
        g.ok(fd_filestat_set_size(a, 1 << 30));
        g.gives(fd_pread(a, &[3], 1 << 29), "\0\0\0");
        g.gives(fd_pwrite(a, &["x"], 1 << 29), 1);
        g.gives(fd_pread(a, &[3], (1 << 29) - 1), "\0x\0");
    }

    fn files_are_limited(g) {
        g.only_ours(NO_LIMITS);
        g.limits(|limits| limits.files_max = 3);
        g.file("input", "content");
        g.write_file("a", "");
        g.ok(path_create_directory(ROOT, "d"));
        g.ok(path_symlink("a", ROOT, "l"));
        g.fails(path_open(ROOT, "b").creat().write_only(), NOSPC);
        g.fails(path_create_directory(ROOT, "e"), NOSPC);
        g.fails(path_symlink("a", ROOT, "m"), NOSPC);
        g.fails(path_link(ROOT, "a", ROOT, "h"), NOSPC);
        g.ok(path_unlink_file(ROOT, "l"));
        g.write_file("b", "");
        g.lists(".", &["a", "b", "d", "input"]);
    }

    fn depth_is_limited(g) {
        g.only_ours(NO_LIMITS);
        g.limits(|limits| limits.path_depth_max = 4);
        for path in ["a", "a/b", "a/b/c"] {
            g.ok(path_create_directory(ROOT, path));
        }
        g.attempt(path_create_directory(ROOT, "a/b/c/d"));
        g.fails(path_create_directory(ROOT, "a/b/c/d/e"), NAMETOOLONG);
        g.ok(path_create_directory(ROOT, "x"));
        g.ok(path_create_directory(ROOT, "x/y"));
        g.ok(path_create_directory(ROOT, "x/y/z"));
        g.fails(path_rename(ROOT, "x", ROOT, "a/b/x"), NAMETOOLONG);
        g.lists("x", &["y"]);
    }

    fn a_tree_that_cannot_be_changed_is_read(g) {
        g.only_ours(NO_GRAFTS);
        g.read_only("tools", &[("bin/cc", "compiler"), ("lib/a", "library")]);
        g.holds("tools/bin/cc", "compiler");
        g.lists("tools", &["bin", "lib"]);
        g.gives(path_filestat_get(ROOT, "tools/bin/cc"), filestat(filetype::REGULAR_FILE).size(8));
        g.ok(path_symlink("tools/bin/cc", ROOT, "cc"));
        g.holds("cc", "compiler");
    }

    fn a_tree_that_cannot_be_changed_is_not(g) {
        g.only_ours(NO_GRAFTS);
        g.read_only("tools", &[("bin/cc", "compiler")]);
        g.file("mine", "mine");
        g.directory("d");
        let refused = [ROFS, ACCES, PERM, XDEV, BUSY, NOTEMPTY, NOTCAPABLE];
        for call in [
            path_open(ROOT, "tools/bin/cc").write_only(),
            path_open(ROOT, "tools/bin/cc").read_write(),
            path_open(ROOT, "tools/bin/cc").trunc(),
            path_open(ROOT, "tools/bin/cc").trunc().write_only(),
            path_open(ROOT, "tools/bin/cc").append().write_only(),
            path_open(ROOT, "tools/bin/cc").creat().trunc().write_only(),
            path_open(ROOT, "tools/new").creat().write_only(),
            path_open(ROOT, "tools/new").creat(),
            path_create_directory(ROOT, "tools/new"),
            path_symlink("x", ROOT, "tools/new"),
            path_link(ROOT, "mine", ROOT, "tools/new"),
            path_rename(ROOT, "mine", ROOT, "tools/new"),
            path_rename(ROOT, "mine", ROOT, "tools/bin/cc"),
            path_unlink_file(ROOT, "tools/bin/cc"),
            path_remove_directory(ROOT, "tools/bin"),
            path_remove_directory(ROOT, "tools"),
            path_filestat_set_times(ROOT, "tools/bin/cc", 1, 1, MTIM | ATIM),
            // Out of the tree, to where it could be changed.
            path_link(ROOT, "tools/bin/cc", ROOT, "cc"),
            path_rename(ROOT, "tools/bin/cc", ROOT, "cc"),
            path_rename(ROOT, "tools/bin", ROOT, "bin"),
            path_rename(ROOT, "tools", ROOT, "other"),
            path_rename(ROOT, "d", ROOT, "tools"),
        ] {
            g.fails_with_one_of(call, &refused);
        }
        g.holds("tools/bin/cc", "compiler");
        g.lists(".", &["d", "mine", "tools"]);
    }

    fn a_descriptor_of_what_cannot_be_changed_changes_nothing(g) {
        g.only_ours(NO_GRAFTS);
        g.read_only("tools", &[("cc", "compiler")]);
        let cc = g.open(path_open(ROOT, "tools/cc"));
        let refused = [ROFS, ACCES, PERM, BADF, INVAL, NOTCAPABLE];
        g.fails_with_one_of(fd_write(cc, &["x"]), &refused);
        g.fails_with_one_of(fd_pwrite(cc, &["x"], 0), &refused);
        g.fails_with_one_of(fd_filestat_set_size(cc, 0), &refused);
        g.fails_with_one_of(fd_allocate(cc, 0, 100), &refused);
        g.fails_with_one_of(fd_filestat_set_times(cc, 1, 1, MTIM), &refused);
        g.ok(fd_fdstat_set_flags(cc, APPEND));
        g.fails_with_one_of(fd_write(cc, &["x"]), &refused);
        g.holds("tools/cc", "compiler");
    }

    fn a_directory_above_what_cannot_be_changed_stays(g) {
        g.only_ours(NO_GRAFTS);
        g.read_only("usr/tools", &[("cc", "compiler")]);
        g.fails(path_remove_directory(ROOT, "usr"), NOTEMPTY);
        g.write_file("usr/mine", "mine");
        g.ok(path_rename(ROOT, "usr", ROOT, "moved"));
        g.holds("moved/tools/cc", "compiler");
        g.fails_with_one_of(path_unlink_file(ROOT, "moved/tools/cc"), &[ROFS, ACCES, PERM, NOTCAPABLE]);
    }
}
