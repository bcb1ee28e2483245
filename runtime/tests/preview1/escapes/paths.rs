//! Paths that lead out as they stand, through every function that takes one.

use super::prelude::*;

fn nowhere(g: &mut Guest, path: impl AsRef<[u8]>) {
    g.directory("d/e");
    leads_nowhere(g, ROOT, path);
}

/// Up as far as it goes and further.
fn climbing() -> String {
    "../".repeat(40)
}

cases! {
    fn dotdot(g) {
        nowhere(g, "../canary");
    }

    fn dotdot_alone(g) {
        nowhere(g, "..");
    }

    fn dotdot_and_a_slash(g) {
        nowhere(g, "../");
    }

    fn dotdot_and_a_dot(g) {
        nowhere(g, "../.");
    }

    fn dotdot_behind_a_dot(g) {
        nowhere(g, "./../canary");
    }

    fn dotdot_with_many_slashes(g) {
        nowhere(g, "..////canary");
    }

    fn down_and_further_up(g) {
        nowhere(g, "d/../../canary");
    }

    fn down_twice_and_up_thrice(g) {
        nowhere(g, "d/e/../../../canary");
    }

    fn up_and_down_again_by_name(g) {
        nowhere(g, "../inside/../canary");
    }

    fn up_and_back_into_the_tree(g) {
        // Knowing the name of one's own root is no help, and tells nothing.
        nowhere(g, "../inside/d");
    }

    fn up_to_the_top(g) {
        nowhere(g, climbing());
    }

    fn up_to_the_top_and_down(g) {
        nowhere(g, climbing() + OUTSIDE.trim_start_matches('/') + "/canary");
    }

    fn up_to_the_top_and_to_the_passwords(g) {
        nowhere(g, climbing() + "etc/passwd");
    }

    fn absolute(g) {
        nowhere(g, format!("{OUTSIDE}/canary"));
    }

    fn absolute_directory(g) {
        nowhere(g, OUTSIDE);
    }

    fn the_root_of_the_machine(g) {
        nowhere(g, "/");
    }

    fn above_the_root_of_the_machine(g) {
        nowhere(g, "/..");
    }

    fn two_slashes(g) {
        nowhere(g, format!("/{OUTSIDE}/canary"));
    }

    fn three_slashes(g) {
        nowhere(g, format!("//{OUTSIDE}/canary"));
    }

    fn the_root_of_this_process(g) {
        nowhere(g, format!("/proc/self/root{OUTSIDE}/canary"));
    }

    fn the_working_directory_of_this_process(g) {
        nowhere(g, "/proc/self/cwd/Cargo.toml");
    }

    fn descriptors_of_this_process(g) {
        nowhere(g, "/proc/self/fd/3/../canary");
    }

    fn devices(g) {
        nowhere(g, "/dev/null");
    }

    fn a_file_behind_which_dotdot_follows(g) {
        g.file("file", "content");
        nowhere(g, "file/../../canary");
    }

    fn something_missing_behind_which_dotdot_follows(g) {
        nowhere(g, "missing/../../canary");
    }

    fn dotdot_with_a_zero_byte_behind(g) {
        nowhere(g, b"../canary\0");
    }

    fn dotdot_with_a_zero_byte_inside(g) {
        nowhere(g, b"..\0/canary");
    }

    fn a_zero_byte_and_then_dotdot(g) {
        nowhere(g, b"d\0/../../canary");
    }

    fn dots_in_overlong_utf8(g) {
        nowhere(g, b"\xc0\xae\xc0\xae/canary");
    }

    fn a_slash_in_overlong_utf8(g) {
        nowhere(g, b"..\xc0\xafcanary");
    }

    fn dotdot_behind_what_is_no_utf8(g) {
        nowhere(g, b"\xff/../../canary");
    }

    fn dotdot_behind_a_name_that_is_too_long(g) {
        nowhere(g, "n".repeat(300) + "/../../canary");
    }

    fn dotdot_behind_more_than_a_path_can_hold(g) {
        nowhere(g, "./".repeat(3000) + "../canary");
    }

    fn from_an_opened_directory(g) {
        g.directory("d/e");
        let e = g.open(path_open(ROOT, "d/e"));
        leads_nowhere(g, e, "../../../canary");
    }

    fn from_an_opened_dotdot(g) {
        g.directory("d/e");
        let e = g.open(path_open(ROOT, "d/e"));
        // Up to the root one may go where the host allows it, and no further.
        let d = g.try_open(path_open(e, ".."));
        let root = g.try_open(path_open(d, ".."));
        g.fails_with_one_of(path_open(root, ".."), NO);
        g.fails_with_one_of(path_open(root, "../canary"), NO);
        g.fails_with_one_of(path_open(d, "../../canary"), NO);
    }

    fn from_the_working_directory(g) {
        g.working_directory("w/x");
        leads_nowhere(g, CWD, "../../../canary");
    }

    fn from_the_working_directory_at_the_root(g) {
        leads_nowhere(g, CWD, "../canary");
    }

    fn from_the_working_directory_absolutely(g) {
        g.working_directory("w/x");
        leads_nowhere(g, CWD, format!("{OUTSIDE}/canary"));
    }
}

/// Text that leads out somewhere else, and here is only a name.
mod names {
    use super::*;

    fn only_a_name(g: &mut Guest, name: &str) {
        g.fails(path_open(ROOT, name), NOENT);
        g.write_file(name, "mine");
        g.holds(name, "mine");
        g.lists(".", &[name]);
    }

    cases! {
        fn dotdot_and_a_backslash(g) {
            only_a_name(g, "..\\canary");
        }

        fn a_drive(g) {
            only_a_name(g, "C:\\canary");
        }

        fn an_encoded_dotdot(g) {
            only_a_name(g, "%2e%2e%2fcanary");
        }

        fn wide_dots(g) {
            only_a_name(g, "\u{ff0e}\u{ff0e}");
        }

        fn a_two_dot_leader(g) {
            only_a_name(g, "\u{2025}");
        }

        fn a_wide_slash(g) {
            only_a_name(g, "..\u{ff0f}canary");
        }

        fn a_home(g) {
            only_a_name(g, "~");
        }

        fn dotdot_and_a_space(g) {
            only_a_name(g, ".. ");
        }

        fn dotdot_and_a_colon(g) {
            only_a_name(g, "..::$INDEX_ALLOCATION");
        }
    }
}

pub(super) const NAMES: &[crate::Case] = names::CASES;
