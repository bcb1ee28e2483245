//! Symlinks that lead out: in the tree from the beginning, or made by the guest.

use super::prelude::*;

/// A link in the tree, which must not lead to the canary.
fn in_the_tree(g: &mut Guest, target: &str) {
    g.symlink("link", target);
    shows_nothing(g, ROOT, "link");
    g.gives(path_readlink(ROOT, "link", 4096), target)
        .wasmtime(anything(), "it does not read out links that look absolute");
    // Making something where it leads would be outside too, unless it is read as a path in the tree.
    g.attempt(path_open(ROOT, "link").creat().write_only());
    g.attempt(path_create_directory(ROOT, "link/made"));
}

/// A link in the tree to a directory, which must not lead to what is in it.
fn to_a_directory(g: &mut Guest, target: &str, below: &str) {
    g.symlink("link", target);
    leads_nowhere(g, ROOT, format!("link/{below}"));
}

/// A link that the guest makes itself; a host may refuse it.
fn made(g: &mut Guest, target: &str) {
    g.attempt(path_symlink(target, ROOT, "link"));
    shows_nothing(g, ROOT, "link");
}

cases! {
    fn to_a_file(g) {
        in_the_tree(g, "../canary");
    }

    fn to_an_absolute_file(g) {
        in_the_tree(g, &format!("{OUTSIDE}/canary"));
    }

    fn to_an_absolute_file_with_two_slashes(g) {
        in_the_tree(g, &format!("/{OUTSIDE}/canary"));
    }

    fn to_the_passwords(g) {
        in_the_tree(g, "/etc/passwd");
    }

    fn to_a_file_after_going_down(g) {
        g.directory("d");
        in_the_tree(g, "d/../../canary");
    }

    fn to_the_process(g) {
        in_the_tree(g, &format!("/proc/self/root{OUTSIDE}/canary"));
    }

    fn to_the_top(g) {
        in_the_tree(g, &("../".repeat(40) + "etc/passwd"));
    }

    fn to_the_parent(g) {
        to_a_directory(g, "..", "canary");
    }

    fn to_the_parent_with_a_slash(g) {
        to_a_directory(g, "../", "canary");
    }

    fn to_the_parent_with_dots(g) {
        to_a_directory(g, "././.././.", "canary");
    }

    fn to_the_folder_outside(g) {
        to_a_directory(g, OUTSIDE, "canary");
    }

    fn to_the_root_and_from_there_down(g) {
        to_a_directory(g, "/", &format!("{}/canary", &OUTSIDE[1..]));
    }

    fn to_the_tree_itself_and_from_there_up(g) {
        to_a_directory(g, ".", "../canary");
    }

    fn to_a_directory_and_from_there_up(g) {
        g.directory("d");
        to_a_directory(g, "d", "../../canary");
    }

    fn many_of_them_each_one_up(g) {
        g.symlink("d/e/f/up", "..");
        g.symlink("d/e/up", "..");
        g.symlink("d/up", "..");
        g.symlink("up", "..");
        leads_nowhere(g, ROOT, "d/e/f/up/up/up/up/canary");
    }

    fn a_chain_whose_last_link_leads_out(g) {
        g.symlink("a", "b");
        g.symlink("b", "d/c");
        g.symlink("d/c", "../../canary");
        shows_nothing(g, ROOT, "a");
        shows_nothing(g, ROOT, "b");
    }

    fn a_chain_that_leads_out_together(g) {
        g.symlink("a", "d/b/..");
        g.symlink("d/b", "..");
        leads_nowhere(g, ROOT, "a/canary");
    }

    fn a_link_below_the_working_directory(g) {
        g.working_directory("w");
        g.symlink("w/link", "../../canary");
        shows_nothing(g, CWD, "link");
        shows_nothing(g, ROOT, "w/link");
    }

    fn a_slash_behind_a_link_to_a_file(g) {
        g.symlink("link", "../canary");
        shows_nothing(g, ROOT, "link/");
        g.fails_with_one_of(path_open(ROOT, "link/").nofollow(), NO);
    }

    fn a_slash_behind_a_link_to_the_parent(g) {
        // What cap-std got wrong in 2026.
        g.symlink("link", "..");
        g.fails_with_one_of(path_open(ROOT, "link/").directory(), NO);
        g.fails_with_one_of(path_open(ROOT, "link/").directory().nofollow(), NO);
        let out = g.try_open(path_open(ROOT, "link/"));
        g.fails_with_one_of(path_open(out, "canary"), NO);
        g.fails_with_one_of(path_filestat_get(ROOT, "link//canary"), NO);
    }

    fn slashes_and_dots_behind_a_link_to_the_parent(g) {
        g.symlink("link", "..");
        for path in ["link/.", "link/./", "link//", "link/..", "link/../", "link/./canary"] {
            g.fails_with_one_of(path_open(ROOT, path), NO);
            g.fails_with_one_of(path_open(ROOT, path).nofollow(), NO);
        }
    }

    fn made_to_a_file(g) {
        made(g, "../canary");
    }

    fn made_to_an_absolute_file(g) {
        made(g, &format!("{OUTSIDE}/canary"));
    }

    fn made_with_a_zero_byte(g) {
        made(g, "d\0/../../canary");
    }

    fn made_with_a_target_of_many_kilobytes(g) {
        made(g, &("./".repeat(3000) + "../canary"));
    }

    fn made_to_the_parent_and_followed(g) {
        g.attempt(path_symlink("..", ROOT, "link"));
        leads_nowhere(g, ROOT, "link/canary");
    }

    fn made_below_and_followed_from_above(g) {
        g.directory("d/e");
        g.attempt(path_symlink("../../..", ROOT, "d/e/link"));
        leads_nowhere(g, ROOT, "d/e/link/canary");
    }

    fn made_through_another_link(g) {
        g.symlink("link", "..");
        g.fails_with_one_of(path_symlink("x", ROOT, "link/planted"), NO);
        g.fails_with_one_of(path_create_directory(ROOT, "link/planted"), NO);
        g.fails_with_one_of(path_open(ROOT, "link/planted").creat().write_only(), NO);
    }

    fn a_new_file_behind_a_dangling_link(g) {
        g.symlink("link", "../planted");
        g.fails_with_one_of(path_open(ROOT, "link").creat().write_only(), NO);
        g.fails_with_one_of(path_open(ROOT, "link").creat().excl().write_only(), NO);
    }

    fn an_existing_file_emptied_behind_a_link(g) {
        g.symlink("link", "../canary");
        g.fails_with_one_of(path_open(ROOT, "link").trunc().write_only(), NO);
        g.fails_with_one_of(path_open(ROOT, "link").creat().trunc().write_only(), NO);
        g.fails_with_one_of(path_open(ROOT, "link").append().write_only(), NO);
    }

    fn times_set_behind_a_link(g) {
        g.symlink("link", "../canary");
        g.fails_with_one_of(path_filestat_set_times(ROOT, "link", 0, 0, MTIM | ATIM), NO);
    }

    fn linked_behind_a_link(g) {
        g.symlink("link", "../canary");
        g.fails_with_one_of(path_link(ROOT, "link", ROOT, "taken").follow(), NO);
        g.attempt(path_link(ROOT, "link", ROOT, "copy"));
        shows_nothing(g, ROOT, "copy");
    }

    fn a_relative_link_moved_up(g) {
        // Where it was it stayed inside.
        g.symlink("d/e/link", "../../canary");
        g.ok(path_rename(ROOT, "d/e/link", ROOT, "link"));
        shows_nothing(g, ROOT, "link");
    }

    fn a_relative_link_moved_up_with_its_directory(g) {
        g.symlink("d/e/link", "../../../canary");
        g.directory("d/e/f");
        g.ok(path_rename(ROOT, "d/e", ROOT, "e"));
        shows_nothing(g, ROOT, "e/link");
    }

    fn a_directory_replaced_by_a_link(g) {
        g.file("d/canary", "inside");
        let d = g.open(path_open(ROOT, "d"));
        g.ok(path_rename(ROOT, "d", ROOT, "away"));
        g.attempt(path_symlink("..", ROOT, "d"));
        shows_nothing(g, ROOT, "d/canary");
        // The descriptor still means what it meant.
        let inside = g.open(path_open(d, "canary"));
        g.gives(fd_read(inside, &[32]), "inside");
    }

    fn a_link_replaced_by_a_link(g) {
        g.file("canary", "inside");
        g.symlink("link", "canary");
        g.symlink("other", "../canary");
        g.holds("link", "inside");
        g.ok(path_rename(ROOT, "other", ROOT, "link"));
        shows_nothing(g, ROOT, "link");
    }

    fn a_link_to_a_link_to_the_root_of_the_machine(g) {
        g.symlink("a", "b/..");
        g.attempt(path_symlink("/", ROOT, "b"));
        leads_nowhere(g, ROOT, format!("a{OUTSIDE}/canary"));
    }
}
