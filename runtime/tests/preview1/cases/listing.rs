//! `fd_readdir`: small buffers, cookies, and directories that change meanwhile.

use super::prelude::*;

use crate::guest::{Guest, StepId};

/// Size of an entry with a name of one byte.
const ENTRY: u32 = Entry::HEAD_BYTES as u32 + 1;
const POSITIONAL: &str = "its cookies are positions in an order that the host's file system chooses";

/// A directory with one file of each name, opened.
fn directory_of(g: &mut Guest, names: &[&str]) -> Fd {
    g.directory("d");
    for name in names {
        g.file(&format!("d/{name}"), name);
    }
    g.open(path_open(ROOT, "d").directory())
}

/// Lists `.` and `..` and the entries of one letter after them; returns the listing.
fn first(g: &mut Guest, d: Fd, entries: u32) -> StepId {
    g.ok(fd_readdir(d, ENTRY + (ENTRY + 1) + entries * ENTRY, 0)).id()
}

/// The cookie behind the last of the entries of [`first`].
fn behind(g: &Guest, listing: StepId, entries: u32) -> Arg {
    g.cookie(listing, ENTRY + (ENTRY + 1) + (entries - 1) * ENTRY)
}

cases! {
    fn a_directory_is_listed(g) {
        g.file("d/file", "content");
        g.directory("d/directory");
        g.symlink("d/link", "file");
        let d = g.open(path_open(ROOT, "d").directory());
        g.gives(fd_readdir(d, 4096, 0), names(&[".", "..", "directory", "file", "link"]));
        g.gives(
            fd_readdir(d, 4096, 0),
            entries_where("with their types", |entries| {
                entries.iter().all(|entry| {
                    entry.filetype
                        == match &*entry.name {
                            "file" => filetype::REGULAR_FILE,
                            "link" => filetype::SYMBOLIC_LINK,
                            _ => filetype::DIRECTORY,
                        }
                })
            }),
        );
    }

    fn the_root_is_listed(g) {
        g.file("a", "content");
        g.directory("d");
        g.gives(fd_readdir(ROOT, 4096, 0), names(&[".", "..", "a", "d"]));
    }

    fn an_empty_directory_has_itself_and_its_parent(g) {
        let d = directory_of(g, &[]);
        g.gives(fd_readdir(d, 4096, 0), names(&[".", ".."]));
    }

    fn names_come_sorted(g) {
        g.only_ours("the host's file system chooses the order");
        let d = directory_of(g, &["b", "a", "C", "ä", "a0", "_"]);
        g.write_file("d/aa", "");
        g.gives(fd_readdir(d, 4096, 0), names_in_order(&[".", "..", "C", "_", "a", "a0", "aa", "b", "ä"]));
    }

    fn cookies_are_distinct_and_not_zero(g) {
        let d = directory_of(g, &["a", "b", "c"]);
        g.gives(
            fd_readdir(d, 4096, 0),
            entries_where("with cookies of their own", |entries| {
                let cookies: std::collections::BTreeSet<_> = entries.iter().map(|entry| entry.next).collect();
                cookies.len() == entries.len() && !cookies.contains(&0)
            }),
        );
    }

    fn a_listing_is_cut_off_where_the_buffer_ends(g) {
        let d = directory_of(g, &["abcdef"]);
        g.gives(fd_readdir(d, 0, 0), 0);
        g.gives(fd_readdir(d, 10, 0), 10);
        g.gives(fd_readdir(d, 24, 0), 24);
        g.gives(fd_readdir(d, ENTRY, 0), names(&["."]));
        g.gives(fd_readdir(d, ENTRY + 7, 0), names(&["."]));
        let all = 2 * ENTRY + 1 + ENTRY + 5;
        g.gives(fd_readdir(d, all - 1, 0), u64::from(all) - 1);
        g.gives(fd_readdir(d, all - 1, 0), names(&[".", ".."]));
        g.gives(fd_readdir(d, all, 0), names(&[".", "..", "abcdef"]));
        g.gives(fd_readdir(d, all + 1, 0), u64::from(all));
    }

    fn a_cookie_leads_to_the_entry_behind(g) {
        let d = directory_of(g, &["a"]);
        let listing = g.gives(fd_readdir(d, ENTRY, 0), names(&["."])).id();
        let cookie = g.cookie(listing, 0);
        let listing = g.gives(fd_readdir(d, ENTRY + 1, cookie), names(&[".."])).id();
        let cookie = g.cookie(listing, 0);
        let listing = g.gives(fd_readdir(d, ENTRY, cookie), names(&["a"])).id();
        let cookie = g.cookie(listing, 0);
        g.gives(fd_readdir(d, ENTRY, cookie), names(&[]));
    }

    fn a_cookie_from_the_middle_leads_to_the_rest(g) {
        let d = directory_of(g, &["a", "b", "c", "d", "e"]);
        let listing = first(g, d, 2);
        let cookie = behind(g, listing, 2);
        let rest = g.ok(fd_readdir(d, 4096, cookie)).id();
        g.compare("both parts are the whole", [listing, rest], |parts| {
            let mut names: Vec<_> =
                parts.iter().flat_map(|part| part.entries().unwrap_or_default()).map(|e| e.name).collect();
            names.sort();
            names == [".", "..", "a", "b", "c", "d", "e"]
        });
    }

    fn the_same_cookie_leads_to_the_same_place_again(g) {
        let d = directory_of(g, &["a", "b", "c"]);
        let listing = first(g, d, 1);
        let cookie = behind(g, listing, 1);
        let one = g.ok(fd_readdir(d, 4096, cookie.clone())).id();
        let two = g.ok(fd_readdir(d, 4096, cookie)).id();
        g.compare("the rests are equal", [one, two], |[one, two]| one.entries() == two.entries());
    }

    fn cookies_beyond_the_end_find_nothing(g) {
        let d = directory_of(g, &["a"]);
        g.gives(fd_readdir(d, 4096, 1 << 20), names(&[]));
        g.gives(fd_readdir(d, 4096, 1 << 33), names(&[]));
        g.gives(fd_readdir(d, 4096, i64::MAX as u64), names(&[]));
        g.gives(fd_readdir(d, 4096, u64::MAX), names(&[]));
    }

    fn what_is_removed_meanwhile_hides_nothing_else(g) {
        g.only_ours(POSITIONAL);
        let d = directory_of(g, &["a", "b", "c", "d"]);
        let listing = first(g, d, 2);
        let cookie = behind(g, listing, 2);
        g.ok(path_unlink_file(d, "a"));
        g.gives(fd_readdir(d, 4096, cookie.clone()), names(&["c", "d"]));
        // Even the entry that the cookie came with.
        g.ok(path_unlink_file(d, "b"));
        g.gives(fd_readdir(d, 4096, cookie.clone()), names(&["c", "d"]));
        g.ok(path_unlink_file(d, "c"));
        g.gives(fd_readdir(d, 4096, cookie), names(&["d"]));
    }

    fn what_is_made_meanwhile_repeats_nothing_else(g) {
        g.only_ours(POSITIONAL);
        let d = directory_of(g, &["c", "d", "e"]);
        let listing = first(g, d, 2);
        let cookie = behind(g, listing, 2);
        g.write_file("d/a", "");
        g.gives(
            fd_readdir(d, 4096, cookie),
            entries_where("e once and no c or d", |entries| {
                let count = |name: &str| entries.iter().filter(|entry| entry.name == name).count();
                (count("c"), count("d"), count("e")) == (0, 0, 1)
            }),
        );
    }

    fn everything_is_removed_while_it_is_listed(g) {
        g.only_ours(POSITIONAL);
        // As `rm -r` does it: list some, remove them, go on.
        let d = directory_of(g, &["a", "b", "c", "d"]);
        let listing = first(g, d, 2);
        let cookie = behind(g, listing, 2);
        g.ok(path_unlink_file(d, "a"));
        g.ok(path_unlink_file(d, "b"));
        let rest = g.gives(fd_readdir(d, 2 * ENTRY, cookie), names(&["c", "d"])).id();
        g.ok(path_unlink_file(d, "c"));
        g.ok(path_unlink_file(d, "d"));
        let cookie = g.cookie(rest, ENTRY);
        g.gives(fd_readdir(d, 4096, cookie), names(&[]));
        g.ok(path_remove_directory(ROOT, "d"));
    }

    fn what_a_guest_changed_is_listed(g) {
        g.file("d/a", "");
        g.file("d/b", "");
        g.file("d/c", "");
        g.ok(path_unlink_file(ROOT, "d/a"));
        g.ok(path_rename(ROOT, "d/b", ROOT, "d/x"));
        g.write_file("d/new", "");
        g.ok(path_create_directory(ROOT, "d/sub"));
        g.ok(path_symlink("c", ROOT, "d/link"));
        g.ok(path_link(ROOT, "d/c", ROOT, "d/hard"));
        g.lists("d", &["c", "hard", "link", "new", "sub", "x"]);
    }

    fn hundreds_of_entries_are_listed(g) {
        let all: Vec<_> = (0..400).map(|number| format!("name-{number:03}")).collect();
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        let d = directory_of(g, &all);
        g.gives(fd_readdir(d, 100_000, 0), names(&[&[".", ".."], &all[..]].concat()));
        g.gives(fd_readdir(d, 1000, 0), 1000);
    }

    fn an_opened_directory_is_listed_under_its_new_name(g) {
        let d = directory_of(g, &["a"]);
        g.ok(path_rename(ROOT, "d", ROOT, "e"));
        g.write_file("e/b", "");
        g.gives(fd_readdir(d, 4096, 0), names(&[".", "..", "a", "b"]));
    }

    fn a_removed_directory_is_empty(g) {
        let d = directory_of(g, &[]);
        g.ok(path_remove_directory(ROOT, "d"));
        g.gives(
            fd_readdir(d, 4096, 0),
            entries_where("nothing but dots", |entries| {
                entries.iter().all(|entry| entry.name == "." || entry.name == "..")
            }),
        )
        .wasmtime(anything(), "it looks `..` up");
    }

    fn inodes_are_those_of_the_entries(g) {
        let d = directory_of(g, &["a"]);
        let listing = g.ok(fd_readdir(d, 4096, 0)).id();
        let stat = g.ok(path_filestat_get(d, "a")).id();
        let own = g.ok(fd_filestat_get(d)).id();
        g.compare("the inodes agree", [listing, stat, own], |[listing, stat, own]| {
            let entries = listing.entries().unwrap_or_default();
            let inode = |name: &str| entries.iter().find(|e| e.name == name).map(|entry| entry.inode);
            inode("a") == Some(stat.field(INO)) && inode(".") == Some(own.field(INO))
        });
    }

    fn only_directories_are_listed(g) {
        g.file("a", "content");
        let a = g.open(path_open(ROOT, "a"));
        g.fails_with_one_of(fd_readdir(a, 100, 0), &[NOTDIR, BADF]);
        g.fails_with_one_of(fd_readdir(STDIN, 100, 0), &[NOTDIR, BADF]);
        g.fails(fd_readdir(NO_FD, 100, 0), BADF);
    }
}
