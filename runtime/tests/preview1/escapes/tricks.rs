//! Renames, links, descriptors and cookies that try to leave, and writes that try to reach what is shared.

use super::prelude::*;

cases! {
    fn renamed_to_the_parent(g) {
        g.file("a", "content");
        g.file("d/a", "content");
        for name in ["../planted", "d/../../planted", "/planted", "../inside"] {
            g.fails_with_one_of(path_rename(ROOT, "a", ROOT, name), NO);
            g.fails_with_one_of(path_rename(ROOT, "d", ROOT, name), NO);
        }
        g.holds("a", "content");
        g.holds("d/a", "content");
    }

    fn renamed_over_the_canary(g) {
        g.file("a", "content");
        g.fails_with_one_of(path_rename(ROOT, "a", ROOT, "../canary"), NO);
        g.fails_with_one_of(path_rename(ROOT, "a", ROOT, format!("{OUTSIDE}/canary")), NO);
    }

    fn taken_from_the_parent(g) {
        g.fails_with_one_of(path_rename(ROOT, "../canary", ROOT, "taken"), NO);
        g.fails_with_one_of(path_link(ROOT, "../canary", ROOT, "taken"), NO);
        g.fails_with_one_of(path_link(ROOT, "../canary", ROOT, "taken").follow(), NO);
        g.absent("taken");
    }

    fn the_tree_renamed_below_itself(g) {
        g.directory("d");
        for name in [".", "./", "d/.."] {
            g.fails_with_one_of(path_rename(ROOT, name, ROOT, "d/tree"), &[&[NOTEMPTY], NO].concat());
        }
        g.lists(".", &["d"]);
    }

    fn a_directory_raised_while_it_is_open(g) {
        g.directory("d/e/f");
        let f = g.open(path_open(ROOT, "d/e/f"));
        g.ok(path_rename(ROOT, "d/e/f", ROOT, "f"));
        // From here `..` is the root now, and above it is nothing.
        leads_nowhere(g, f, "../../canary");
        leads_nowhere(g, f, "../../../canary");
    }

    fn a_directory_lowered_while_it_is_open(g) {
        g.directory("d/e");
        g.directory("f");
        let f = g.open(path_open(ROOT, "f"));
        g.ok(path_rename(ROOT, "f", ROOT, "d/e/f"));
        leads_nowhere(g, f, "../../../../canary");
    }

    fn a_directory_that_is_gone(g) {
        g.directory("d/e");
        let e = g.open(path_open(ROOT, "d/e"));
        g.ok(path_remove_directory(ROOT, "d/e"));
        g.ok(path_remove_directory(ROOT, "d"));
        leads_nowhere(g, e, "../../../canary");
        g.fails_with_one_of(path_open(e, "../.."), NO);
    }

    fn the_root_removed(g) {
        g.fails_with_one_of(path_remove_directory(ROOT, "."), NO);
        g.fails_with_one_of(path_remove_directory(CWD, "."), NO);
        g.fails_with_one_of(path_remove_directory(ROOT, "../inside"), NO);
        g.fails_with_one_of(path_unlink_file(ROOT, "."), NO);
        g.write_file("a", "still there");
        g.holds("a", "still there");
    }

    fn the_working_directory_moved_up(g) {
        g.working_directory("w/x");
        g.file("w/x/a", "content");
        g.ok(path_rename(ROOT, "w/x", ROOT, "x"));
        leads_nowhere(g, CWD, "../../canary");
    }

    fn descriptors_that_nobody_gave(g) {
        for number in (5..40).chain([255, 256, 1023, 1024, 65_535, 1 << 30, u32::MAX - 1, u32::MAX]) {
            g.fails(path_open(Fd::Number(number), "canary"), BADF);
            g.fails(fd_read(Fd::Number(number), &[64]), BADF);
            g.fails(fd_readdir(Fd::Number(number), 64, 0), BADF);
            g.fails(fd_filestat_get(Fd::Number(number)), BADF);
        }
    }

    fn streams_used_as_directories(g) {
        for stream in [STDIN, STDOUT, STDERR] {
            leads_nowhere(g, stream, "canary");
        }
    }

    fn a_directory_in_the_place_of_a_preopen(g) {
        g.directory("d");
        let d = g.open(path_open(ROOT, "d"));
        g.ok(fd_renumber(d, CWD));
        leads_nowhere(g, CWD, "../../canary");
    }

    fn one_preopen_in_the_place_of_the_other(g) {
        g.working_directory("w");
        g.ok(fd_renumber(ROOT, CWD));
        g.fails_with_one_of(path_open(CWD, "../canary"), NO);
        g.fails(path_open(ROOT, "w"), BADF);
        g.open(path_open(CWD, "w"));
    }

    fn preopens_in_the_place_of_streams(g) {
        g.ok(fd_renumber(CWD, STDIN));
        g.fails_with_one_of(path_open(STDIN, "../canary"), NO);
        g.ok(fd_renumber(STDIN, STDERR));
        g.fails_with_one_of(path_open(STDERR, "../canary"), NO);
        g.fails(fd_write(STDERR, &["x"]), BADF).wasmtime(anything(), "a directory is not written either way");
    }

    fn all_closed_and_opened_anew(g) {
        for fd in [STDIN, STDERR, ROOT, CWD] {
            g.ok(fd_close(fd));
        }
        for number in [0, 2, 3, 4, 5, 6] {
            g.fails(path_open(Fd::Number(number), "canary"), BADF);
            g.fails(path_open(Fd::Number(number), "."), BADF);
        }
    }

    fn cookies_that_nobody_gave(g) {
        g.file("a", "content");
        for cookie in [3, 4, 100, 1 << 31, 1 << 32, 1 << 62, i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX]
        {
            g.gives(
                fd_readdir(ROOT, 512, cookie),
                entries_where("entries of the tree", |entries| {
                    entries.iter().all(|entry| [".", "..", "a"].contains(&&*entry.name))
                }),
            );
        }
    }

    fn the_parent_in_a_listing_of_the_root(g) {
        g.gives(fd_readdir(ROOT, 4096, 0), names(&[".", ".."]));
    }

    fn the_canary_under_other_cases(g) {
        g.file("canary", CANARY.to_uppercase());
        for name in ["../CANARY", "../Canary", "..//cANARY"] {
            shows_nothing(g, ROOT, name);
        }
        g.absent("CANARY");
    }

    fn the_environment_of_the_worker(g) {
        g.gives(environ_sizes_get(), numbers([0, 0]));
        g.gives(args_sizes_get(), numbers([0, 0]));
    }

    fn an_input_that_is_written_in_every_way(g) {
        // On our host the blob behind it is looked at afterwards.
        for name in ["a", "b", "c", "d", "e", "f"] {
            g.file(name, "shared by everybody");
        }
        g.write_file("a", "x");
        let b = g.open(path_open(ROOT, "b").append().write_only());
        g.gives(fd_write(b, &["x"]), 1);
        let c = g.open(path_open(ROOT, "c").write_only());
        g.ok(fd_filestat_set_size(c, 3));
        g.ok(path_link(ROOT, "d", ROOT, "other"));
        let other = g.open(path_open(ROOT, "other").write_only());
        g.gives(fd_pwrite(other, &["x"], 3), 1);
        g.ok(path_rename(ROOT, "e", ROOT, "renamed"));
        g.write_file("renamed", "x");
        g.holds("d", "shaxed by everybody");
        g.holds("f", "shared by everybody");
    }

    fn the_end_of_memory_and_of_files(g) {
        // Reads that would reach behind a file's bytes, were a length not checked.
        g.file("a", "short");
        let a = g.open(path_open(ROOT, "a"));
        g.gives(fd_pread(a, &[4096], 4), "t");
        g.gives(fd_pread(a, &[4096], 5), "");
        g.gives(fd_pread(a, &[4096], (1 << 62) - 1), "");
        g.gives(fd_seek(a, (1 << 62) - 1, whence::SET), (1 << 62) - 1);
        g.gives(fd_read(a, &[4096]), "");
    }
}
