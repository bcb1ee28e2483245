//! `fd_read` and `fd_pread`.

use super::prelude::*;

const FIRST_BUFFER_ONLY: &str =
    "it fills the first buffer that is not empty and leaves the rest to another call";

cases! {
    fn several_buffers_are_filled_in_order(g) {
        g.file("a", "hello world");
        let a = g.open(path_open(ROOT, "a"));
        g.gives(fd_read(a, &[2, 0, 3, 1]), "hello ").wasmtime(gives("he"), FIRST_BUFFER_ONLY);
        g.gives(fd_pread(a, &[3, 20], 6), "world").wasmtime(gives("wor"), FIRST_BUFFER_ONLY);
    }

    fn no_buffers_and_empty_buffers_read_nothing(g) {
        g.file("a", "hello");
        let a = g.open(path_open(ROOT, "a"));
        g.gives(fd_read(a, &[]), "");
        g.gives(fd_read(a, &[0, 0]), "");
        g.gives(fd_read(a, &[0, 0, 9]), "hello");
        g.gives(fd_pread(a, &[0, 2], 1), "el");
    }

    fn a_buffer_is_filled_as_far_as_there_is_something(g) {
        g.file("a", "hello");
        let a = g.open(path_open(ROOT, "a"));
        g.gives(fd_read(a, &[3]), "hel");
        g.gives(fd_read(a, &[3]), "lo");
        g.gives(fd_read(a, &[3]), "");
    }

    fn a_large_file_is_read_whole(g) {
        let content: String = (0..20_000).map(|line| format!("{line:08}\n")).collect();
        g.file("a", &content);
        let a = g.open(path_open(ROOT, "a"));
        g.gives(fd_read(a, &[180_000]), content.as_str());
        g.gives(fd_pread(a, &[9], 9 * 19_999), "00019999\n");
        g.gives(fd_tell(a), 180_000);
    }

    fn pread_leaves_the_offset_alone(g) {
        g.file("a", "hello world");
        let a = g.open(path_open(ROOT, "a"));
        g.gives(fd_read(a, &[2]), "he");
        g.gives(fd_pread(a, &[5], 6), "world");
        g.gives(fd_tell(a), 2);
        g.gives(fd_read(a, &[3]), "llo");
    }

    fn pread_behind_the_end_is_empty(g) {
        g.file("a", "hello");
        let a = g.open(path_open(ROOT, "a"));
        g.gives(fd_pread(a, &[5], 5), "");
        g.gives(fd_pread(a, &[5], 1 << 40), "");
        g.gives(fd_pread(a, &[5], i64::MAX as u64), "").wasmtime(anything(), "the file system says so");
    }

    fn pread_at_a_negative_offset_is_invalid(g) {
        g.file("a", "hello");
        let a = g.open(path_open(ROOT, "a"));
        g.fails_with_one_of(fd_pread(a, &[5], u64::MAX), &[INVAL, OVERFLOW])
            .wasmtime(anything(), "the file system says so");
        g.gives(fd_read(a, &[9]), "hello");
    }

    fn a_directory_is_not_read(g) {
        g.directory("d");
        let d = g.open(path_open(ROOT, "d"));
        g.fails_with_one_of(fd_read(d, &[5]), &[ISDIR, BADF]);
        g.fails_with_one_of(fd_pread(d, &[5], 0), &[ISDIR, BADF]);
        g.fails_with_one_of(fd_read(ROOT, &[5]), &[ISDIR, BADF]);
    }

    fn bad_descriptors_are_not_read(g) {
        g.fails(fd_read(NO_FD, &[5]), BADF);
        g.fails(fd_pread(NO_FD, &[5], 0), BADF);
        g.fails(fd_read(STDOUT, &[5]), BADF);
        g.fails(fd_read(Fd::Number(u32::MAX), &[5]), BADF);
    }

    fn standard_input_is_empty(g) {
        g.gives(fd_read(STDIN, &[5]), "");
        g.gives(fd_read(STDIN, &[5]), "");
        g.fails(fd_pread(STDIN, &[5], 0), SPIPE);
    }

    fn what_is_written_is_read_through_another_descriptor(g) {
        g.file("a", "hello");
        let reader = g.open(path_open(ROOT, "a"));
        g.gives(fd_read(reader, &[2]), "he");
        let writer = g.open(path_open(ROOT, "a").write_only());
        g.gives(fd_write(writer, &["HELLO WORLD"]), 11);
        g.gives(fd_read(reader, &[20]), "LLO WORLD");
    }

    fn reading_to_the_end_and_on_after_it_grew(g) {
        g.file("a", "one");
        let reader = g.open(path_open(ROOT, "a"));
        g.gives(fd_read(reader, &[9]), "one");
        g.gives(fd_read(reader, &[9]), "");
        let writer = g.open(path_open(ROOT, "a").append().write_only());
        g.gives(fd_write(writer, &["two"]), 3);
        g.gives(fd_read(reader, &[9]), "two");
    }

    fn parts_of_a_file_that_was_written_in_parts(g) {
        g.file("a", "0123456789");
        let a = g.open(path_open(ROOT, "a").read_write());
        g.gives(fd_pwrite(a, &["AB"], 2), 2);
        g.gives(fd_pwrite(a, &["CD"], 6), 2);
        g.gives(fd_pread(a, &[4], 1), "1AB4");
        g.gives(fd_pread(a, &[6], 5), "5CD89");
        g.gives(fd_read(a, &[20]), "01AB45CD89");
    }
}
