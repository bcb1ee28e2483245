//! Names and paths that are unusual, and those that are none.

use super::prelude::*;

use crate::guest::Guest;
use crate::guest::call::Call;

const SLASH_IGNORED: &str = "it ignores a slash behind a name that is not followed";

/// Every function that takes a path, with this one; those that make something come last.
fn with_path(name: &[u8]) -> Vec<Call> {
    vec![
        path_open(ROOT, name),
        path_open(ROOT, name).creat().write_only(),
        path_filestat_get(ROOT, name),
        path_filestat_set_times(ROOT, name, 1, 1, MTIM),
        path_readlink(ROOT, name, 64),
        path_link(ROOT, name, ROOT, "new"),
        path_link(ROOT, "a", ROOT, name),
        path_rename(ROOT, name, ROOT, "new"),
        path_rename(ROOT, "a", ROOT, name),
        path_symlink("a", ROOT, name),
        path_unlink_file(ROOT, name),
        path_remove_directory(ROOT, name),
        path_create_directory(ROOT, name),
    ]
}

/// No function takes this path, and nothing happens.
fn refused_everywhere(g: &mut Guest, name: impl AsRef<[u8]>, errnos: &[Errno]) {
    g.file("a", "content");
    for call in with_path(name.as_ref()) {
        g.fails_with_one_of(call, errnos);
    }
    g.lists(".", &["a"]);
    g.holds("a", "content");
}

/// A file of this name can be made, found, renamed and removed.
fn ordinary(g: &mut Guest, name: &str) {
    g.write_file(name, "content");
    g.lists(".", &[name]);
    g.holds(name, "content");
    g.ok(path_rename(ROOT, name, ROOT, "other"));
    g.ok(path_rename(ROOT, "other", ROOT, name));
    g.ok(path_unlink_file(ROOT, name));
    g.lists(".", &[]);
}

cases! {
    fn the_empty_path_is_noent(g) {
        refused_everywhere(g, "", &[NOENT]);
    }

    fn a_zero_byte_is_in_no_path(g) {
        refused_everywhere(g, b"a\0b", &[INVAL, ILSEQ]);
    }

    fn a_zero_byte_does_not_end_a_path(g) {
        refused_everywhere(g, b"a\0", &[INVAL, ILSEQ]);
    }

    fn what_is_not_utf8_is_in_no_path(g) {
        refused_everywhere(g, b"a\xff", &[ILSEQ]);
    }

    fn half_a_character_is_in_no_path(g) {
        refused_everywhere(g, b"\xe2\x82", &[ILSEQ]);
    }

    fn a_surrogate_is_in_no_path(g) {
        refused_everywhere(g, b"\xed\xa0\x80", &[ILSEQ]);
    }

    fn a_name_is_at_most_255_bytes(g) {
        ordinary(g, &"n".repeat(255));
    }

    fn a_longer_name_is_too_long(g) {
        refused_everywhere(g, "n".repeat(256), &[NAMETOOLONG]);
    }

    fn a_path_can_be_too_long(g) {
        let path = "./".repeat(40_000) + "a";
        g.file("a", "content");
        g.fails(path_open(ROOT, &path), NAMETOOLONG);
        g.fails(path_filestat_get(ROOT, &path), NAMETOOLONG);
    }

    fn a_deep_path_is_walked(g) {
        let path = "d/".repeat(200) + "a";
        g.file(&path, "content");
        g.holds(&path, "content");
        g.holds(&("./".repeat(500) + &path), "content");
    }

    fn slashes_and_dots_in_the_middle_do_not_matter(g) {
        g.file("d/e/a", "content");
        for path in ["d//e///a", "./d/e/a", "d/./e/./a", "d/e/../e/a", "d/../d/e/a", "./././d/e/../../d/e/a"]
        {
            g.holds(path, "content");
        }
    }

    fn a_slash_behind_a_file_is_notdir(g) {
        g.file("a", "content");
        g.symlink("link", "a");
        for path in ["a/", "a//", "a/.", "link/"] {
            g.fails(path_open(ROOT, path), NOTDIR);
            g.fails(path_filestat_get(ROOT, path), NOTDIR);
            g.fails(path_filestat_get(ROOT, path).nofollow(), NOTDIR).wasmtime(anything(), SLASH_IGNORED);
        }
    }

    fn a_slash_behind_a_directory_is_fine(g) {
        g.directory("d");
        g.symlink("link", "d");
        for path in ["d/", "d//", "d/.", "d/./", "link/", "link/."] {
            g.open(path_open(ROOT, path).directory());
            g.gives(path_filestat_get(ROOT, path), filestat(filetype::DIRECTORY));
        }
    }

    fn a_slash_behind_a_link_follows_it(g) {
        g.directory("d");
        g.symlink("link", "d");
        g.symlink("dangling", "nowhere");
        g.gives(path_filestat_get(ROOT, "link/").nofollow(), filestat(filetype::DIRECTORY))
            .wasmtime(anything(), SLASH_IGNORED);
        g.open(path_open(ROOT, "link/").directory().nofollow());
        g.fails(path_filestat_get(ROOT, "dangling/").nofollow(), NOENT).wasmtime(anything(), SLASH_IGNORED);
    }

    fn no_file_is_made_with_a_slash_behind_its_name(g) {
        g.fails_with_one_of(path_open(ROOT, "new/").creat().write_only(), &[ISDIR, NOENT, NOTDIR, INVAL]);
        g.lists(".", &[]);
    }

    fn dot_is_the_directory_itself(g) {
        g.file("d/a", "content");
        let d = g.open(path_open(ROOT, "d"));
        let dot = g.open(path_open(d, ".").directory());
        let a = g.open(path_open(dot, "a"));
        g.gives(fd_read(a, &[9]), "content");
        g.fails(path_open(ROOT, ".").creat().write_only(), ISDIR);
    }

    fn dotdot_leads_up_within_the_tree(g) {
        g.file("a", "top");
        g.file("d/a", "below");
        g.directory("d/e");
        g.holds("d/../a", "top");
        g.holds("d/e/../a", "below");
        g.holds("d/e/../../a", "top");
    }

    fn dotdot_goes_through_a_link_to_where_it_leads(g) {
        g.file("a", "top");
        g.file("x/a", "beside the target");
        g.directory("x/y");
        g.symlink("link", "x/y");
        g.holds("link/../a", "beside the target");
    }

    fn dotdot_of_what_is_not_there_is_noent(g) {
        g.file("a", "content");
        g.fails(path_open(ROOT, "x/../a"), NOENT);
        g.fails(path_open(ROOT, "a/../a"), NOTDIR);
    }

    fn case_matters(g) {
        g.file("name", "small");
        g.absent("Name");
        g.absent("NAME");
        g.write_file("NAME", "large");
        g.holds("name", "small");
        g.lists(".", &["NAME", "name"]);
    }

    fn characters_are_not_normalised(g) {
        // One character, and a letter with a combining one.
        g.write_file("\u{e9}", "one");
        g.absent("e\u{301}");
        g.write_file("e\u{301}", "two");
        g.holds("\u{e9}", "one");
        g.lists(".", &["\u{e9}", "e\u{301}"]);
    }

    fn a_space_is_a_name(g) {
        ordinary(g, " ");
    }

    fn a_newline_is_a_name(g) {
        ordinary(g, "a\nb");
    }

    fn a_backslash_is_part_of_a_name(g) {
        ordinary(g, "..\\a");
    }

    fn three_dots_are_a_name(g) {
        ordinary(g, "...");
    }

    fn names_of_devices_elsewhere_are_names(g) {
        ordinary(g, "CON");
    }

    fn a_colon_is_part_of_a_name(g) {
        ordinary(g, "C:a");
    }

    fn characters_beyond_the_basic_plane_are_names(g) {
        ordinary(g, "\u{1f980}\u{202e}");
    }
}
