//! What descriptors are and can do, and what they are renumbered to.

use super::prelude::*;

const RIGHTS_STAY: &str = "its descriptors have fixed rights";

cases! {
    fn of_a_file(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        let reads = fdstat(filetype::REGULAR_FILE)
            .flags(0)
            .has_rights(rights::FD_READ | rights::FD_SEEK | rights::FD_TELL);
        g.gives(fd_fdstat_get(a), reads.lacks_rights(rights::FD_WRITE));
        let a = g.open(path_open(ROOT, "a").write_only());
        g.gives(
            fd_fdstat_get(a),
            fdstat(filetype::REGULAR_FILE).has_rights(rights::FD_WRITE).lacks_rights(rights::FD_READ),
        );
        let a = g.open(path_open(ROOT, "a").read_write());
        g.gives(
            fd_fdstat_get(a),
            fdstat(filetype::REGULAR_FILE).has_rights(rights::FD_WRITE | rights::FD_READ),
        );
    }

    fn of_directories(g) {
        g.directory("d");
        let d = g.open(path_open(ROOT, "d"));
        let directory = || fdstat(filetype::DIRECTORY).flags(0).lacks_rights(rights::FD_SEEK);
        g.gives(fd_fdstat_get(d), directory().has_rights(rights::PATH_OPEN | rights::FD_READDIR));
        g.gives(fd_fdstat_get(ROOT), directory().has_rights(rights::PATH_OPEN | rights::FD_READDIR));
        g.gives(fd_fdstat_get(CWD), directory().has_rights(rights::PATH_OPEN | rights::FD_READDIR));
    }

    fn of_the_standard_streams(g) {
        // Neither files nor terminals: a C library buffers them by blocks or lines accordingly.
        let not_seekable = |rights| {
            Fields::default().flags(0).has_rights(rights).lacks_rights(rights::FD_SEEK | rights::FD_TELL)
        };
        g.gives(fd_fdstat_get(STDIN), not_seekable(rights::FD_READ));
        g.gives(fd_fdstat_get(STDOUT), not_seekable(rights::FD_WRITE));
        g.gives(fd_fdstat_get(STDERR), not_seekable(rights::FD_WRITE));
        g.fails(fd_fdstat_get(NO_FD), BADF);
    }

    fn flags_are_those_it_was_opened_with(g) {
        g.file("a", "content");
        for flags in [APPEND, NONBLOCK, APPEND | NONBLOCK] {
            let a = g.open(path_open(ROOT, "a").fdflags(flags).read_write());
            g.gives(fd_fdstat_get(a), fdstat(filetype::REGULAR_FILE).flags(flags));
        }
    }

    fn synchronous_files_are_files(g) {
        g.only_ours("it refuses synchronous files");
        let a = g.open(path_open(ROOT, "a").creat().synchronous().read_write());
        g.gives(fd_write(a, &["content"]), 7);
        g.holds("a", "content");
    }

    fn flags_are_set(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a").read_write());
        for flags in [APPEND, NONBLOCK, APPEND | NONBLOCK, 0] {
            g.ok(fd_fdstat_set_flags(a, flags));
            g.gives(fd_fdstat_get(a), fdstat(filetype::REGULAR_FILE).flags(flags));
        }
    }

    fn whose_flags_are_not_set(g) {
        g.fails(fd_fdstat_set_flags(NO_FD, 0), BADF);
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a").read_write());
        for flags in [DSYNC, RSYNC, SYNC] {
            g.fails_with_one_of(fd_fdstat_set_flags(a, flags), &[INVAL, NOTSUP]);
        }
    }

    fn a_flag_that_does_not_exist_is_a_trap(g) {
        g.traps(fd_fdstat_set_flags(STDOUT, 1 << 6));
    }

    fn rights_are_given_up(g) {
        g.only_ours(RIGHTS_STAY);
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a").read_write());
        g.ok(fd_fdstat_set_rights(a, rights::FD_READ | rights::FD_SEEK, 0));
        g.gives(
            fd_fdstat_get(a),
            fdstat(filetype::REGULAR_FILE).has_rights(rights::FD_READ).lacks_rights(rights::FD_WRITE),
        );
        g.gives(fd_read(a, &[3]), "con");
        g.fails_with_one_of(fd_write(a, &["x"]), &[BADF, NOTCAPABLE]);
        g.fails(fd_fdstat_set_rights(a, rights::READ_WRITE, 0), NOTCAPABLE);
        g.holds("a", "content");
    }

    fn whose_rights_are_not_set(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.fails(fd_fdstat_set_rights(NO_FD, 0, 0), BADF);
        g.fails(fd_fdstat_set_rights(a, rights::READ_WRITE, rights::READ_WRITE), NOTCAPABLE)
            .wasmtime(fails(NOTSUP), RIGHTS_STAY);
    }

    fn a_descriptor_takes_the_place_of_another(g) {
        g.file("a", "from a");
        g.file("b", "from b");
        let a = g.open(path_open(ROOT, "a"));
        let b = g.open(path_open(ROOT, "b"));
        g.gives(fd_read(a, &[5]), "from ");
        g.ok(fd_renumber(a, b));
        g.fails(fd_read(a, &[9]), BADF);
        g.gives(fd_tell(b), 5);
        g.gives(fd_read(b, &[9]), "a");
        g.ok(fd_close(b));
        g.fails(fd_close(b), BADF);
    }

    fn onto_itself_changes_nothing(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.ok(fd_renumber(a, a));
        g.gives(fd_read(a, &[9]), "content");
    }

    fn only_open_descriptors_are_renumbered(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.fails(fd_renumber(a, NO_FD), BADF);
        g.fails(fd_renumber(NO_FD, a), BADF);
        g.fails(fd_renumber(NO_FD, NO_FD), BADF);
        g.gives(fd_read(a, &[9]), "content");
    }

    fn a_stream_takes_the_place_of_a_file_and_back(g) {
        g.stderr_is("to the stream");
        let a = g.open(path_open(ROOT, "a").creat().write_only());
        g.ok(fd_renumber(STDERR, a));
        g.gives(fd_write(a, &["to the stream"]), 13);
        g.fails(fd_write(STDERR, &["lost"]), BADF);
        g.holds("a", "");
    }

    fn standard_output_is_redirected(g) {
        g.report_to_stderr();
        let a = g.open(path_open(ROOT, "a").creat().write_only());
        g.ok(fd_renumber(a, STDOUT));
        g.gives(fd_write(STDOUT, &["to the file"]), 11);
        g.holds("a", "to the file");
    }

    fn standard_streams_are_closed(g) {
        g.report_to_stderr();
        g.ok(fd_close(STDIN));
        g.ok(fd_close(STDOUT));
        g.fails(fd_write(STDOUT, &["x"]), BADF);
        g.fails(fd_read(STDIN, &[1]), BADF);
        g.file("a", "content");
        g.holds("a", "content");
    }

    fn a_number_that_was_closed_is_given_again(g) {
        g.file("a", "content");
        let one = g.open(path_open(ROOT, "a"));
        g.ok(fd_close(one));
        let two = g.open(path_open(ROOT, "a"));
        g.gives(fd_read(two, &[9]), "content");
        g.gives(fd_read(one, &[9]), "");
    }

    fn preopens_have_names(g) {
        g.directory("w");
        g.working_directory("w");
        g.gives(fd_prestat_get(ROOT), prestat(1));
        g.gives(fd_prestat_get(CWD), prestat(1));
        g.gives(fd_prestat_dir_name(ROOT, 1), "/");
        g.gives(fd_prestat_dir_name(CWD, 1), ".");
    }

    fn a_name_needs_room(g) {
        g.fails(fd_prestat_dir_name(ROOT, 0), NAMETOOLONG);
        let id = g.ok(fd_prestat_dir_name(ROOT, 8)).id();
        g.compare("only the name is written", [id], |[name]| {
            name.filled().is_ok_and(|bytes| bytes[0] == b'/' && bytes[2..].iter().all(|byte| *byte == 0xaa))
        });
    }

    fn only_preopens_have_names(g) {
        g.file("a", "content");
        g.directory("d");
        let a = g.open(path_open(ROOT, "a"));
        let d = g.open(path_open(ROOT, "d"));
        for fd in [STDIN, STDOUT, STDERR, a, d, NO_FD] {
            g.fails(fd_prestat_get(fd), BADF);
            g.fails_with_one_of(fd_prestat_dir_name(fd, 16), &[BADF, NOTDIR]);
        }
        // Where a C library stops to look for preopens.
        g.fails(fd_prestat_get(Fd::Number(99)), BADF);
    }

    fn a_closed_preopen_leads_nowhere(g) {
        g.file("a", "content");
        g.ok(fd_close(ROOT));
        g.fails(fd_prestat_get(ROOT), BADF);
        g.fails(path_open(ROOT, "a"), BADF);
        let a = g.open(path_open(CWD, "a"));
        g.gives(fd_read(a, &[9]), "content");
    }

    fn a_preopen_is_replaced(g) {
        g.file("a", "outer");
        g.file("d/a", "inner");
        let d = g.open(path_open(ROOT, "d"));
        g.ok(fd_renumber(d, CWD));
        let a = g.open(path_open(CWD, "a"));
        g.gives(fd_read(a, &[9]), "inner");
        g.fails(fd_prestat_get(CWD), BADF);
    }
}
