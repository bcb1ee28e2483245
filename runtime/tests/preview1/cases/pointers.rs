//! Pointers and lengths that lead out of memory, or nearly.
//!
//! The definition of preview 1 wants a trap for each; what a host must not do is read or write elsewhere. What
//! is longer than our host takes at all is refused before it is looked at.

use super::prelude::*;

/// The last four bytes of memory, where eight are wanted.
const TOO_CLOSE: u64 = MEMORY_BYTES as u64 - 4;
const BOUNDED: &str = "it bounds what a call may copy";
const OUTSIDE: u64 = 0xffff_fff0;

cases! {
    fn a_path_outside(g) {
        g.traps(path_open(ROOT, "a").with("path", OUTSIDE));
    }

    fn a_path_that_reaches_outside(g) {
        g.traps(path_open(ROOT, "a").with("path", TOO_CLOSE).with("path_len", 5));
    }

    fn a_path_whose_length_wraps(g) {
        g.fails(
            path_filestat_get(ROOT, "a").with("path", 16).with("path_len", u64::from(u32::MAX)),
            NAMETOOLONG,
        )
        .wasmtime(fails(NOMEM), BOUNDED);
    }

    fn a_second_path_outside(g) {
        g.file("a", "content");
        g.traps(path_rename(ROOT, "a", ROOT, "b").with("new_path", OUTSIDE));
    }

    fn a_target_outside(g) {
        g.traps(path_symlink("a", ROOT, "b").with("old_path", OUTSIDE));
    }

    fn a_path_may_end_with_memory(g) {
        // Zeros, which are no path.
        g.fails_with_one_of(
            path_open(ROOT, "a").with("path", TOO_CLOSE).with("path_len", 4),
            &[INVAL, ILSEQ],
        );
        g.fails(path_open(ROOT, "a").with("path", u64::from(MEMORY_BYTES)).with("path_len", 0), NOENT);
    }

    fn a_buffer_to_read_into_outside(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.traps(fd_read(a, &[8]).buffers(&[(OUTSIDE as u32, 8)]));
    }

    fn a_buffer_to_read_into_that_reaches_outside(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.traps(fd_read(a, &[8]).buffers(&[(TOO_CLOSE as u32, 8)]));
    }

    fn a_buffer_whose_length_wraps(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.fails(fd_read(a, &[8]).buffers(&[(64, u32::MAX)]), INVAL).wasmtime(fails(NOMEM), BOUNDED);
    }

    fn a_buffer_to_read_at_an_offset_outside(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.traps(fd_pread(a, &[8], 0).buffers(&[(OUTSIDE as u32, 8)]));
    }

    fn an_empty_buffer_may_be_at_the_end_of_memory(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.ok(fd_read(a, &[8]).buffers(&[(MEMORY_BYTES, 0)]));
        g.gives(fd_read(a, &[9]), "content");
    }

    fn a_buffer_may_end_with_memory(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.ok(fd_read(a, &[4]).buffers(&[(TOO_CLOSE as u32, 4)]));
        g.gives(fd_tell(a), 4);
    }

    fn the_null_pointer_is_a_place_like_others(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.ok(fd_read(a, &[4]).buffers(&[(0, 4)]));
        g.gives(fd_tell(a), 4);
    }

    fn a_buffer_to_write_from_outside(g) {
        let a = g.open(path_open(ROOT, "a").creat().write_only());
        g.traps(fd_write(a, &["x"]).buffers(&[(OUTSIDE as u32, 8)]));
    }

    fn a_second_buffer_to_write_from_outside(g) {
        g.only_ours("it does not look at a second buffer");
        let a = g.open(path_open(ROOT, "a").creat().write_only());
        g.traps(fd_write(a, &["x"]).buffers(&[(64, 8), (OUTSIDE as u32, 8)]));
    }

    fn a_buffer_to_write_at_an_offset_outside(g) {
        let a = g.open(path_open(ROOT, "a").creat().write_only());
        g.traps(fd_pwrite(a, &["x"], 0).buffers(&[(TOO_CLOSE as u32, 8)]));
    }

    fn standard_output_from_outside(g) {
        g.traps(fd_write(STDERR, &["x"]).buffers(&[(OUTSIDE as u32, 8)]));
    }

    fn the_list_of_buffers_outside(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.traps(fd_read(a, &[8]).with("iovs", OUTSIDE));
    }

    fn the_list_of_buffers_not_aligned(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.traps(fd_read(a, &[8]).with("iovs", 65));
    }

    fn a_list_of_buffers_that_is_far_too_long(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.fails(fd_read(a, &[8]).with("iovs_len", u64::from(u32::MAX)), INVAL)
            .wasmtime(fails(NOMEM), BOUNDED);
    }

    fn the_place_for_a_number_outside(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.traps(fd_seek(a, 1, whence::SET).with("newoffset", OUTSIDE));
    }

    fn the_place_for_a_number_not_aligned(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.traps(fd_tell(a).with("offset", 65));
    }

    fn the_place_for_a_descriptor_outside(g) {
        g.file("a", "content");
        g.traps(path_open(ROOT, "a").with("opened", TOO_CLOSE + 2));
    }

    fn the_place_for_attributes_outside(g) {
        g.traps(fd_filestat_get(ROOT).with("buf", TOO_CLOSE));
    }

    fn the_place_for_attributes_not_aligned(g) {
        g.traps(path_filestat_get(ROOT, ".").with("buf", 68));
    }

    fn the_place_for_a_descriptors_attributes_outside(g) {
        g.traps(fd_fdstat_get(ROOT).with("stat", OUTSIDE));
    }

    fn the_buffer_of_a_listing_outside(g) {
        g.traps(fd_readdir(ROOT, 64, 0).with("buf", OUTSIDE));
    }

    fn the_buffer_of_a_listing_that_reaches_outside(g) {
        g.traps(fd_readdir(ROOT, 64, 0).with("buf", TOO_CLOSE));
    }

    fn the_buffer_of_a_target_outside(g) {
        g.symlink("link", "a target that is longer than four bytes");
        g.traps(path_readlink(ROOT, "link", 64).with("buf", TOO_CLOSE));
    }

    fn the_name_of_a_preopen_outside(g) {
        g.traps(fd_prestat_dir_name(ROOT, 16).with("path", OUTSIDE));
    }

    fn the_place_for_a_preopens_attributes_outside(g) {
        g.traps(fd_prestat_get(ROOT).with("buf", OUTSIDE));
    }

    fn arguments_outside(g) {
        g.arguments(&["tool"]);
        g.traps(args_get(1, 5).with("argv_buf", OUTSIDE));
    }

    fn pointers_to_arguments_outside(g) {
        g.arguments(&["tool"]);
        g.traps(args_get(1, 5).with("argv", OUTSIDE));
    }

    fn sizes_of_arguments_outside(g) {
        g.traps(args_sizes_get().with("size", OUTSIDE));
    }

    fn the_environment_outside(g) {
        g.environment(&[("NAME", "value")]);
        g.traps(environ_get(1, 11).with("environ_buf", TOO_CLOSE));
    }

    fn sizes_of_the_environment_not_aligned(g) {
        g.traps(environ_sizes_get().with("count", 66));
    }

    fn the_time_outside(g) {
        g.traps(clock_time_get(clock::MONOTONIC).with("time", TOO_CLOSE));
    }

    fn the_resolution_of_a_clock_outside(g) {
        g.traps(clock_res_get(clock::MONOTONIC).with("resolution", OUTSIDE));
    }

    fn random_bytes_outside(g) {
        g.traps(random_get(64).with("buf", OUTSIDE));
    }

    fn random_bytes_that_reach_outside(g) {
        g.traps(random_get(64).with("buf", TOO_CLOSE));
    }

    fn subscriptions_outside(g) {
        g.traps(poll_oneoff(&[writable(1, STDERR)]).with("in", OUTSIDE));
    }

    fn events_outside(g) {
        g.traps(poll_oneoff(&[writable(1, STDERR)]).with("out", OUTSIDE));
    }

    fn far_too_many_subscriptions(g) {
        g.fails(poll_oneoff(&[writable(1, STDERR)]).with("nsubscriptions", u64::from(u32::MAX)), INVAL)
            .wasmtime(fails(NOMEM), BOUNDED);
    }
}
