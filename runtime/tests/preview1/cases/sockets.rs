//! `sock_*`: there are no sockets.

use super::prelude::*;

cases! {
    fn a_file_is_no_socket(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a").read_write());
        let refused = [NOTSOCK, NOTSUP];
        g.fails_with_one_of(sock_accept(a), &refused);
        g.fails_with_one_of(sock_recv(a), &refused);
        g.fails_with_one_of(sock_send(a), &refused);
        g.fails_with_one_of(sock_shutdown(a, 3), &refused);
        g.holds("a", "content");
    }

    fn neither_are_directories_and_streams(g) {
        let refused = [NOTSOCK, NOTSUP];
        for fd in [ROOT, STDIN, STDOUT] {
            g.fails_with_one_of(sock_accept(fd), &refused);
            g.fails_with_one_of(sock_recv(fd), &refused);
            g.fails_with_one_of(sock_send(fd), &refused);
            g.fails_with_one_of(sock_shutdown(fd, 1), &refused);
        }
    }

    fn bad_descriptors_are_bad(g) {
        let refused = [BADF, NOTSUP];
        g.fails_with_one_of(sock_accept(NO_FD), &refused);
        g.fails_with_one_of(sock_recv(NO_FD), &refused);
        g.fails_with_one_of(sock_send(NO_FD), &refused);
        g.fails_with_one_of(sock_shutdown(NO_FD, 1), &refused);
    }

    fn a_flag_that_does_not_exist_is_a_trap(g) {
        g.traps(sock_shutdown(STDOUT, 4));
    }
}
