//! `fd_write`, `fd_pwrite`, and what else changes or settles the bytes of a file.

use super::prelude::*;

const FIRST_BUFFER_ONLY: &str =
    "it writes the first buffer that is not empty and leaves the rest to another call";
const NO_ALLOCATE: &str = "it has no fd_allocate";

cases! {
    fn several_buffers_are_written_in_order(g) {
        g.only_ours(FIRST_BUFFER_ONLY);
        let a = g.open(path_open(ROOT, "a").creat().write_only());
        g.gives(fd_write(a, &["he", "", "llo", " "]), 6);
        g.gives(fd_pwrite(a, &["wor", "ld"], 6), 5);
        g.holds("a", "hello world");
    }

    fn writing_nothing_is_fine(g) {
        g.file("a", "hello");
        let a = g.open(path_open(ROOT, "a").write_only());
        g.gives(fd_write(a, &[]), 0);
        g.gives(fd_write(a, &["", ""]), 0);
        g.gives(fd_pwrite(a, &[], 100), 0);
        g.gives(fd_tell(a), 0);
        g.holds("a", "hello");
    }

    fn writing_goes_on_where_it_stopped(g) {
        let a = g.open(path_open(ROOT, "a").creat().read_write());
        g.gives(fd_write(a, &["one"]), 3);
        g.gives(fd_write(a, &["two"]), 3);
        g.gives(fd_read(a, &[9]), "");
        g.holds("a", "onetwo");
    }

    fn the_middle_of_a_file_is_overwritten(g) {
        g.file("a", "0123456789");
        let a = g.open(path_open(ROOT, "a").read_write());
        g.gives(fd_seek(a, 4, whence::SET), 4);
        g.gives(fd_write(a, &["xy"]), 2);
        g.gives(fd_read(a, &[2]), "67");
        g.holds("a", "0123xy6789");
    }

    fn a_gap_is_filled_with_zeros(g) {
        g.file("a", "ab");
        let a = g.open(path_open(ROOT, "a").write_only());
        g.gives(fd_seek(a, 5, whence::SET), 5);
        g.gives(fd_write(a, &["cd"]), 2);
        g.gives(fd_pwrite(a, &["ef"], 9), 2);
        g.holds("a", "ab\0\0\0cd\0\0ef");
    }

    fn pwrite_leaves_the_offset_alone(g) {
        g.file("a", "0123456789");
        let a = g.open(path_open(ROOT, "a").read_write());
        g.gives(fd_read(a, &[2]), "01");
        g.gives(fd_pwrite(a, &["xy"], 8), 2);
        g.gives(fd_tell(a), 2);
        g.gives(fd_read(a, &[9]), "234567xy");
    }

    fn append_writes_at_the_end_wherever_the_offset_is(g) {
        g.file("a", "one");
        let a = g.open(path_open(ROOT, "a").append().read_write());
        g.gives(fd_write(a, &["two"]), 3);
        g.gives(fd_tell(a), 6);
        g.gives(fd_seek(a, 0, whence::SET), 0);
        g.gives(fd_write(a, &["three"]), 5);
        g.gives(fd_tell(a), 11);
        g.gives(fd_pread(a, &[20], 0), "onetwothree");
    }

    fn two_that_append_do_not_overwrite_each_other(g) {
        let one = g.open(path_open(ROOT, "a").creat().append().write_only());
        let two = g.open(path_open(ROOT, "a").append().write_only());
        for _ in 0..2 {
            g.gives(fd_write(one, &["1"]), 1);
            g.gives(fd_write(two, &["2"]), 1);
        }
        g.holds("a", "1212");
    }

    fn append_is_switched_on_and_off(g) {
        g.file("a", "0123");
        let a = g.open(path_open(ROOT, "a").write_only());
        g.ok(fd_fdstat_set_flags(a, APPEND));
        g.gives(fd_write(a, &["4"]), 1);
        g.ok(fd_fdstat_set_flags(a, 0));
        g.gives(fd_seek(a, 0, whence::SET), 0);
        g.gives(fd_write(a, &["x"]), 1);
        g.holds("a", "x1234");
    }

    fn trunc_and_append_start_anew(g) {
        g.file("a", "old");
        let a = g.open(path_open(ROOT, "a").trunc().append().write_only());
        g.gives(fd_write(a, &["n"]), 1);
        g.gives(fd_write(a, &["ew"]), 2);
        g.holds("a", "new");
    }

    fn a_large_file_is_written_whole(g) {
        let content: String = (0..20_000).map(|line| format!("{line:08}\n")).collect();
        let a = g.open(path_open(ROOT, "a").creat().write_only());
        g.gives(fd_write(a, &[&content]), 180_000);
        g.holds("a", &content);
    }

    fn standard_streams_are_written(g) {
        g.stderr_is("one two");
        g.gives(fd_write(STDERR, &["one"]), 3);
        g.gives(fd_write(STDERR, &[]), 0);
        g.gives(fd_write(STDERR, &[" two"]), 4);
        g.fails(fd_pwrite(STDERR, &["x"], 0), SPIPE);
    }

    fn what_cannot_be_written(g) {
        g.directory("d");
        let d = g.open(path_open(ROOT, "d"));
        g.fails_with_one_of(fd_write(d, &["x"]), &[BADF, ISDIR]);
        g.fails_with_one_of(fd_pwrite(d, &["x"], 0), &[BADF, ISDIR]);
        g.fails(fd_write(STDIN, &["x"]), BADF);
        g.fails(fd_write(NO_FD, &["x"]), BADF);
        g.fails(fd_pwrite(NO_FD, &["x"], 0), BADF);
    }

    fn pwrite_far_beyond_any_file_is_refused(g) {
        g.file("a", "hello");
        let a = g.open(path_open(ROOT, "a").write_only());
        g.fails_with_one_of(fd_pwrite(a, &["x"], u64::MAX), &[INVAL, FBIG, OVERFLOW]);
        g.fails_with_one_of(fd_pwrite(a, &["x"], i64::MAX as u64), &[INVAL, FBIG, OVERFLOW]);
        g.holds("a", "hello");
    }

    fn set_size_shrinks_and_grows(g) {
        g.file("a", "0123456789");
        let a = g.open(path_open(ROOT, "a").read_write());
        g.ok(fd_filestat_set_size(a, 4));
        g.holds("a", "0123");
        g.ok(fd_filestat_set_size(a, 6));
        g.holds("a", "0123\0\0");
        g.ok(fd_filestat_set_size(a, 6));
        g.ok(fd_filestat_set_size(a, 0));
        g.ok(fd_filestat_set_size(a, 3));
        g.holds("a", "\0\0\0");
        g.gives(fd_filestat_get(a), filestat(filetype::REGULAR_FILE).size(3));
    }

    fn set_size_does_not_move_the_offset(g) {
        g.file("a", "0123456789");
        let a = g.open(path_open(ROOT, "a").read_write());
        g.gives(fd_seek(a, 8, whence::SET), 8);
        g.ok(fd_filestat_set_size(a, 4));
        g.gives(fd_tell(a), 8);
        g.gives(fd_read(a, &[4]), "");
        g.gives(fd_write(a, &["x"]), 1);
        g.holds("a", "0123\0\0\0\0x");
    }

    fn set_size_is_refused(g) {
        g.file("a", "hello");
        g.directory("d");
        let d = g.open(path_open(ROOT, "d"));
        let reader = g.open(path_open(ROOT, "a"));
        let writer = g.open(path_open(ROOT, "a").write_only());
        g.fails_with_one_of(fd_filestat_set_size(reader, 1), &[INVAL, BADF, NOTCAPABLE]);
        g.fails_with_one_of(fd_filestat_set_size(d, 1), &[BADF, ISDIR, INVAL]);
        g.fails_with_one_of(fd_filestat_set_size(writer, u64::MAX), &[INVAL, FBIG]);
        g.fails_with_one_of(fd_filestat_set_size(writer, 1 << 63), &[INVAL, FBIG]);
        g.fails_with_one_of(fd_filestat_set_size(STDOUT, 1), &[INVAL, BADF]);
        g.fails(fd_filestat_set_size(NO_FD, 1), BADF);
        g.holds("a", "hello");
    }

    fn allocate_grows_and_never_shrinks(g) {
        g.only_ours(NO_ALLOCATE);
        g.file("a", "hello");
        let a = g.open(path_open(ROOT, "a").read_write());
        g.ok(fd_allocate(a, 0, 3));
        g.holds("a", "hello");
        g.ok(fd_allocate(a, 4, 4));
        g.holds("a", "hello\0\0\0");
    }

    fn allocate_is_refused(g) {
        g.file("a", "hello");
        g.directory("d");
        let d = g.open(path_open(ROOT, "d"));
        let reader = g.open(path_open(ROOT, "a"));
        let writer = g.open(path_open(ROOT, "a").write_only());
        let far = [FBIG, INVAL, OVERFLOW];
        g.fails_with_one_of(fd_allocate(reader, 0, 9), &[BADF, NOTCAPABLE])
            .wasmtime(fails(NOTSUP), NO_ALLOCATE);
        g.fails(fd_allocate(writer, 0, 0), INVAL).wasmtime(fails(NOTSUP), NO_ALLOCATE);
        g.fails_with_one_of(fd_allocate(writer, u64::MAX, 2), &far).wasmtime(fails(NOTSUP), NO_ALLOCATE);
        g.fails_with_one_of(fd_allocate(d, 0, 9), &[BADF, ISDIR, NODEV]);
        g.fails_with_one_of(fd_allocate(STDOUT, 0, 9), &[BADF, SPIPE, NODEV]);
        g.fails(fd_allocate(NO_FD, 0, 9), BADF);
    }

    fn advice_is_taken(g) {
        g.file("a", "hello");
        let a = g.open(path_open(ROOT, "a"));
        for advice in 0..=5 {
            g.ok(fd_advise(a, 0, 5, advice));
        }
        g.ok(fd_advise(a, 100, 0, 0));
        g.gives(fd_read(a, &[9]), "hello");
    }

    fn advice_is_refused(g) {
        g.directory("d");
        let d = g.open(path_open(ROOT, "d"));
        g.fails(fd_advise(NO_FD, 0, 5, 0), BADF);
        g.fails_with_one_of(fd_advise(d, 0, 5, 0), &[BADF, ISDIR]);
        g.fails_with_one_of(fd_advise(STDIN, 0, 5, 0), &[BADF, SPIPE]);
    }

    fn advice_that_does_not_exist_is_a_trap(g) {
        g.file("a", "hello");
        let a = g.open(path_open(ROOT, "a"));
        g.traps(fd_advise(a, 0, 5, 6));
    }

    fn files_are_synced(g) {
        g.file("a", "hello");
        let a = g.open(path_open(ROOT, "a").write_only());
        g.gives(fd_write(a, &["J"]), 1);
        g.ok(fd_sync(a));
        g.ok(fd_datasync(a));
        g.holds("a", "Jello");
    }

    fn syncing_is_refused(g) {
        g.fails(fd_sync(NO_FD), BADF);
        g.fails(fd_datasync(NO_FD), BADF);
        g.fails_with_one_of(fd_sync(STDOUT), &[BADF, INVAL]);
        g.fails_with_one_of(fd_datasync(STDIN), &[BADF, INVAL]);
    }

    fn an_input_that_is_written_is_a_copy(g) {
        // Two names for one blob.
        g.file("a", "the same");
        g.file("b", "the same");
        let a = g.open(path_open(ROOT, "a").write_only());
        g.gives(fd_write(a, &["NOT"]), 3);
        g.holds("a", "NOT same");
        g.holds("b", "the same");
    }
}
