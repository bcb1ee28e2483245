//! Manifests: what is accepted, and that everything wrong is told at once.

use wardian_toolchains::{Manifest, Source, SourceError, builtin};

const GOOD: &str = r#"
name = "cc"
version = "1.2.3-rc1"
license = "MIT"
source = "npm:cc@1.2.3-rc1"
sha256 = "6230ea1afa9691fa065935cf68c01642ff9b31c183fe8ac64cdfda025df06009"

[module]
file = "package/cc.wasm"
paths = ["bin/cc", "bin/c++"]

[[unpack]]
archive = "package/usr.tar"
into = "usr"
"#;

/// The problems of a manifest, as `key: why`.
fn problems(text: &str) -> Vec<String> {
    let problems = Manifest::parse(text).unwrap_err();
    problems.0.into_iter().map(|problem| format!("{}: {}", problem.key, problem.why)).collect()
}

#[track_caller]
fn check(from: &str, to: &str, expected: &[&str]) {
    assert!(GOOD.contains(from));
    let found = problems(&GOOD.replace(from, to));
    let matches = found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected));
    assert!(found.len() == expected.len() && matches, "{found:#?}\n{expected:#?}");
}

#[test]
fn a_good_manifest_is_read() {
    let manifest = Manifest::parse(GOOD).unwrap();
    assert_eq!((manifest.name.as_str(), manifest.module.paths.len(), manifest.unpack.len()), ("cc", 2, 1));
    assert_eq!(manifest.source.to_string(), "npm:cc@1.2.3-rc1");
}

#[test]
fn everything_wrong_is_told_at_once() {
    let bad = r#"
name = "C C"
version = "latest"
source = "pypi:cc@1.0.0"
sha256 = "6230EA"
recipe = "make"

[module]
file = "/cc.wasm"
paths = ["bin/cc", "../cc", 3, "bin/cc/"]
size = 4

[[unpack]]
archive = "usr.tar"

[[unpack]]
archive = 5
into = "a/../b"
strip = 1
"#;
    let found = problems(bad);
    let keys: Vec<_> = found.iter().map(|problem| problem.split(": ").next().unwrap()).collect();
    let expected = [
        "name",
        "version",
        "license",
        "source",
        "sha256",
        "module.file",
        "module.paths[1]",
        "module.paths[2]",
        "module.paths[3]",
        "module.size",
        "unpack[0].into",
        "unpack[1].archive",
        "unpack[1].into",
        "unpack[1].strip",
        "recipe",
    ];
    assert_eq!(keys, expected, "{found:#?}");
}

#[test]
fn each_rule_is_explained() {
    check("\"bin/c++\"", "\"bin/cc\"", &["module.paths[1]: bin/cc is named already"]);
    check("\"bin/cc\", \"bin/c++\"", "", &["module.paths: name at least one"]);
    check("@1.2.3-rc1\"", "@1.2.4\"", &["version: the source has version 1.2.4"]);
    check("usr.tar", "cc.wasm", &["unpack[0].archive: this file is used already"]);
    check("[[unpack]]", "[unpack]", &["unpack: expected tables, found table"]);
    check("license = \"MIT\"", "", &["license: is missing"]);
    check("[module]", "[[module]]", &["module: expected a table, found array"]);
    check("name = \"cc\"", "name = \"cc", &[": "]);
}

#[test]
fn sources_are_npm_packages_of_one_version() {
    let parse = |text: &str| text.parse::<Source>();
    assert_eq!(
        parse("npm:@yowasp/clang@22.0.0-git20542-10").unwrap().spec(),
        "@yowasp/clang@22.0.0-git20542-10"
    );
    for kind in ["pypi:x@1.0.0", "crate:x@1.0.0", "https://example.com/x@1.0.0"] {
        assert!(matches!(parse(kind), Err(SourceError::Kind(_))), "{kind}");
    }
    for package in ["-x", "@-/x", "@a/-x", "A", "a/b", "@a", "@a/b/c", "", "a b", "..", "@../x"] {
        let outcome = parse(&format!("npm:{package}@1.0.0"));
        assert!(matches!(outcome, Err(SourceError::Package(_))), "{package}");
    }
    for version in ["latest", "^1.0.0", "1.0", "1.0.x", "", "1.0.0 || 2.0.0", "v1.0.0"] {
        assert!(matches!(parse(&format!("npm:x@{version}")), Err(SourceError::Version(_))), "{version}");
    }
    for text in ["", "npm", "npm:x"] {
        assert!(matches!(parse(text), Err(SourceError::Syntax(_))), "{text}");
    }
}

#[test]
fn clang_is_what_it_was_pinned_to() {
    let clang = builtin("clang").unwrap();
    assert_eq!(clang.source.spec(), "@yowasp/clang@22.0.0-git20542-10");
    let paths: Vec<_> = clang.module.paths.iter().map(|path| path.as_str()).collect();
    assert_eq!(paths, ["bin/clang", "bin/clang++", "bin/wasm-ld", "bin/llvm-ar"]);
    assert_eq!(clang.unpack[0].into.as_str(), "usr");
}
