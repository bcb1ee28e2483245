//! `fd_seek` and `fd_tell`.

use super::prelude::*;

use crate::guest::Guest;

fn opened(g: &mut Guest) -> Fd {
    g.file("a", "0123456789");
    g.open(path_open(ROOT, "a").read_write())
}

cases! {
    fn from_the_start_from_here_and_from_the_end(g) {
        let a = opened(g);
        g.gives(fd_seek(a, 4, whence::SET), 4);
        g.gives(fd_read(a, &[1]), "4");
        g.gives(fd_seek(a, 2, whence::CUR), 7);
        g.gives(fd_read(a, &[1]), "7");
        g.gives(fd_seek(a, -3, whence::CUR), 5);
        g.gives(fd_read(a, &[1]), "5");
        g.gives(fd_seek(a, -1, whence::END), 9);
        g.gives(fd_read(a, &[9]), "9");
        g.gives(fd_tell(a), 10);
    }

    fn behind_the_end(g) {
        let a = opened(g);
        g.gives(fd_seek(a, 5, whence::END), 15);
        g.gives(fd_tell(a), 15);
        g.gives(fd_read(a, &[9]), "");
        g.gives(fd_filestat_get(a), filestat(filetype::REGULAR_FILE).size(10));
        g.gives(fd_seek(a, 1 << 40, whence::SET), 1 << 40);
        g.gives(fd_read(a, &[9]), "");
    }

    fn before_the_start_is_invalid_and_moves_nothing(g) {
        let a = opened(g);
        g.gives(fd_seek(a, 3, whence::SET), 3);
        g.fails(fd_seek(a, -1, whence::SET), INVAL);
        g.fails(fd_seek(a, -4, whence::CUR), INVAL);
        g.fails(fd_seek(a, -11, whence::END), INVAL);
        g.fails(fd_seek(a, i64::MIN, whence::SET), INVAL);
        g.fails(fd_seek(a, i64::MIN, whence::CUR), INVAL);
        g.fails(fd_seek(a, i64::MIN, whence::END), INVAL);
        g.gives(fd_tell(a), 3);
    }

    fn beyond_what_an_offset_can_be(g) {
        let why = "its offsets go beyond 63 bits";
        let a = opened(g);
        g.gives(fd_seek(a, 3, whence::SET), 3);
        g.fails_with_one_of(fd_seek(a, i64::MAX, whence::CUR), &[INVAL, OVERFLOW]).wasmtime(anything(), why);
        g.fails_with_one_of(fd_seek(a, i64::MAX, whence::END), &[INVAL, OVERFLOW]).wasmtime(anything(), why);
        g.gives(fd_tell(a), 3).wasmtime(anything(), why);
    }

    fn writing_at_the_very_last_offset_is_refused(g) {
        let a = opened(g);
        g.gives(fd_seek(a, i64::MAX, whence::SET), i64::MAX as u64);
        g.fails_with_one_of(fd_write(a, &["xy"]), &[INVAL, FBIG, OVERFLOW]);
        g.holds("a", "0123456789");
    }

    fn a_whence_that_does_not_exist_is_a_trap(g) {
        let a = opened(g);
        g.traps(fd_seek(a, 0, 3));
    }

    fn streams_have_no_offset(g) {
        for stream in [STDIN, STDOUT, STDERR] {
            g.fails(fd_seek(stream, 0, whence::CUR), SPIPE);
            g.fails(fd_tell(stream), SPIPE);
        }
    }

    fn directories_and_bad_descriptors_have_no_offset(g) {
        g.fails(fd_seek(NO_FD, 0, whence::CUR), BADF);
        g.fails(fd_tell(NO_FD), BADF);
        g.fails_with_one_of(fd_seek(ROOT, 0, whence::SET), &[BADF, ISDIR, NOTCAPABLE]);
        g.fails_with_one_of(fd_tell(ROOT), &[BADF, ISDIR, NOTCAPABLE]);
    }

    fn the_end_moves_with_the_size(g) {
        let a = opened(g);
        g.ok(fd_filestat_set_size(a, 3));
        g.gives(fd_seek(a, 0, whence::END), 3);
        g.gives(fd_write(a, &["xyz"]), 3);
        g.gives(fd_seek(a, 0, whence::END), 6);
    }
}
