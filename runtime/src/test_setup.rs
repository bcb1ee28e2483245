//! Tests as Bazel sends them: a shell script, `test-setup.sh`, which prepares a little and starts the test program.
//!
//! A sealed case has no shell. With the platform property `wasi-test=bazel` the worker does what the script does and runs
//! the program itself. Not done: XML for the test's output, the manifest and the archive of undeclared outputs, coverage.

use wardian_proto::{PathError, RelPath};

use crate::Failure;
use crate::action::ActionSpec;

/// The last part of argv[0] of a test.
const SCRIPT: &str = "test-setup.sh";

/// Variables that hold a path, which may be relative to the working directory that the script is started in.
const PATHS: [&str; 14] = [
    "JAVA_RUNFILES",
    "PYTHON_RUNFILES",
    "RUNFILES_DIR",
    "TEST_INFRASTRUCTURE_FAILURE_FILE",
    "TEST_LOGSPLITTER_OUTPUT_FILE",
    "TEST_PREMATURE_EXIT_FILE",
    "TEST_SHARD_STATUS_FILE",
    "TEST_SRCDIR",
    TMPDIR,
    ANNOTATIONS,
    OUTPUTS,
    "TEST_UNUSED_RUNFILES_LOG_FILE",
    "TEST_WARNINGS_OUTPUT_FILE",
    XML,
];
const TMPDIR: &str = "TEST_TMPDIR";
const OUTPUTS: &str = "TEST_UNDECLARED_OUTPUTS_DIR";
const ANNOTATIONS: &str = "TEST_UNDECLARED_OUTPUTS_ANNOTATIONS_DIR";
const XML: &str = "XML_OUTPUT_FILE";

/// Variables that are for the script only.
const OF_THE_SCRIPT: [&str; 3] = [
    "TEST_UNDECLARED_OUTPUTS_ANNOTATIONS",
    "TEST_UNDECLARED_OUTPUTS_MANIFEST",
    "TEST_UNDECLARED_OUTPUTS_ZIP",
];

/// Replaces the script by the test program. An action that runs something else stays as it is: those that build a
/// test have the same platform as the test.
pub(crate) fn replace(spec: &mut ActionSpec) -> Result<(), Failure> {
    if spec.arguments[0].rsplit('/').next() != Some(SCRIPT) {
        return Ok(());
    }
    if spec.platform.get("OSFamily") != Some("wasi") {
        return Err(refuse("platform property wasi-test needs OSFamily=wasi"));
    }
    let started_in = spec.working_directory.clone();
    let mut variables = Variables(std::mem::take(&mut spec.environment));
    if variables.get("COVERAGE_DIR").is_some() {
        return Err(refuse("coverage of tests in WebAssembly is not collected"));
    }
    let place = |text: &str| {
        // The guest's `/` is the input root.
        let found: Result<RelPath, PathError> = match text.strip_prefix('/') {
            Some(absolute) => RelPath::root().resolve(absolute),
            None => started_in.resolve(text),
        };
        found.map_err(|error| refuse(format!("a test's environment: {error}")))
    };

    let runfiles = variables.get("TEST_SRCDIR").ok_or_else(|| refuse("a test has no TEST_SRCDIR"))?;
    let below = format!("{runfiles}/{}", variables.get("TEST_WORKSPACE").unwrap_or_default());
    let directory = place(&below)?;
    let mut arguments = std::mem::take(&mut spec.arguments).into_iter().skip(1).peekable();
    arguments.next_if(|argument| argument == "--no_echo");
    let program = arguments.next().ok_or_else(|| refuse("a test names no program"))?;
    let program = match program.strip_prefix('/') {
        Some(_) => place(&program)?,
        None => directory.resolve(&program).map_err(|error| refuse(format!("a test's program: {error}")))?,
    };
    spec.arguments = std::iter::once(format!("/{}", program.as_str())).chain(arguments).collect();
    if variables.get("RUNTEST_PRESERVE_CWD").is_none() {
        spec.working_directory = directory;
    }

    for name in ["TEST_SRCDIR", TMPDIR, OUTPUTS, ANNOTATIONS] {
        let text = variables.get(name).map(str::to_owned);
        spec.directories.extend(text.map(|text| place(&text)).transpose()?);
    }
    for name in [XML, "TEST_SHARD_STATUS_FILE"] {
        let text = variables.get(name).map(str::to_owned);
        spec.directories.extend(text.map(|text| place(&text)).transpose()?.and_then(|file| file.parent()));
    }
    spec.directories.retain(|directory| !directory.is_root());
    spec.directories.sort();
    spec.directories.dedup();

    for name in PATHS {
        if let Some(text) = variables.get(name).map(str::to_owned) {
            variables.set(name, format!("/{}", place(&text)?.as_str()));
        }
    }
    if let Some(folder) = variables.get(TMPDIR).map(str::to_owned) {
        if !variables.get("HOME").is_some_and(|home| home.starts_with('/')) {
            variables.set("HOME", folder.clone());
        }
        variables.set("GTEST_TMP_DIR", folder);
    }
    if variables.get("TEST_TOTAL_SHARDS").is_some_and(|shards| shards != "0") {
        for (theirs, ours) in
            [("GTEST_SHARD_INDEX", "TEST_SHARD_INDEX"), ("GTEST_TOTAL_SHARDS", "TEST_TOTAL_SHARDS")]
        {
            let value = variables.get(ours).unwrap_or_default().to_owned();
            variables.set(theirs, value);
        }
    }
    spec.environment = variables.0;
    spec.environment.retain(|(name, _)| !OF_THE_SCRIPT.contains(&name.as_str()));
    Ok(())
}

fn refuse(why: impl Into<String>) -> Failure {
    Failure::InvalidArgument(why.into())
}

/// An environment; an empty value counts as none.
struct Variables(Vec<(String, String)>);

impl Variables {
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        found.filter(|value| !value.is_empty())
    }

    fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message as _;
    use wardian_proto::{Digest, DigestFunction, reapi};
    use wardian_store::backend::MemoryStore;
    use wardian_store::{BlobStore as _, Upload};

    use super::*;
    use crate::{Limits, action};

    const RUNFILES: &str = "bazel-out/bin/cpp/t.runfiles";

    /// Reads an action with these arguments, platform and environment as a worker would.
    async fn read(
        arguments: &[&str],
        platform: &[(&str, &str)],
        environment: &[(&str, &str)],
    ) -> Result<ActionSpec, Failure> {
        let store = MemoryStore::new(1 << 20);
        let put = async |bytes: Vec<u8>| {
            let digest = DigestFunction::Sha256.digest(&bytes);
            store.put_batch(vec![Upload::bytes(digest, Bytes::from(bytes))]).await.remove(0).unwrap();
            digest
        };
        let texts = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let variables = texts(environment).into_iter();
        let properties = texts(platform).into_iter();
        let command = reapi::Command {
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            environment_variables: variables
                .map(|(name, value)| reapi::command::EnvironmentVariable { name, value })
                .collect(),
            ..Default::default()
        };
        let action = reapi::Action {
            command_digest: Some(put(command.encode_to_vec()).await.to_wire()),
            input_root_digest: Some(Digest::empty(DigestFunction::Sha256).to_wire()),
            platform: Some(reapi::Platform {
                properties: properties
                    .map(|(name, value)| reapi::platform::Property { name, value })
                    .collect(),
            }),
            ..Default::default()
        };
        action::read(&store, put(action.encode_to_vec()).await, &Limits::default()).await
    }

    const BAZEL: [(&str, &str); 2] = [("OSFamily", "wasi"), ("wasi-test", "bazel")];
    const ENVIRONMENT: [(&str, &str); 9] = [
        ("RUNFILES_DIR", RUNFILES),
        ("TEST_SRCDIR", RUNFILES),
        ("TEST_TMPDIR", "_tmp/7"),
        ("TEST_UNDECLARED_OUTPUTS_ZIP", "bazel-out/outputs.zip"),
        ("TEST_WORKSPACE", "garden"),
        ("TEST_SHARD_INDEX", "1"),
        ("TEST_TOTAL_SHARDS", "3"),
        ("XML_OUTPUT_FILE", "bazel-out/testlogs/test.xml"),
        ("TZ", "UTC"),
    ];

    #[tokio::test]
    async fn a_test_is_its_program_in_its_runfiles() {
        let script = "external/bazel_tools/tools/test/test-setup.sh";
        let spec = read(&[script, "cpp/t", "a", "--no_echo"], &BAZEL, &ENVIRONMENT).await.unwrap();
        assert_eq!(spec.arguments, [&format!("/{RUNFILES}/garden/cpp/t"), "a", "--no_echo"]);
        assert_eq!(spec.working_directory.as_str(), format!("{RUNFILES}/garden"));
        let made: Vec<_> = spec.directories.iter().map(RelPath::as_str).collect();
        assert_eq!(made, ["_tmp/7", RUNFILES, "bazel-out/testlogs"]);
        let variables = Variables(spec.environment);
        for (name, value) in [
            ("TEST_SRCDIR", Some("/bazel-out/bin/cpp/t.runfiles")),
            ("RUNFILES_DIR", Some("/bazel-out/bin/cpp/t.runfiles")),
            ("XML_OUTPUT_FILE", Some("/bazel-out/testlogs/test.xml")),
            ("HOME", Some("/_tmp/7")),
            ("GTEST_TMP_DIR", Some("/_tmp/7")),
            ("GTEST_SHARD_INDEX", Some("1")),
            ("GTEST_TOTAL_SHARDS", Some("3")),
            ("TEST_UNDECLARED_OUTPUTS_ZIP", None),
            ("TEST_WORKSPACE", Some("garden")),
            ("TZ", Some("UTC")),
        ] {
            assert_eq!(variables.get(name), value, "{name}");
        }
    }

    #[tokio::test]
    async fn the_script_may_be_told_to_be_quiet_and_to_stay() {
        let stays = [("TEST_SRCDIR", "/r"), ("RUNTEST_PRESERVE_CWD", "1")];
        let spec = read(&["x/test-setup.sh", "--no_echo", "./t", "b"], &BAZEL, &stays).await.unwrap();
        assert_eq!(spec.arguments, ["/r/t", "b"]);
        assert!(spec.working_directory.is_root() && spec.directories.len() == 1);
    }

    #[tokio::test]
    async fn what_is_no_test_and_what_does_not_ask_is_left_alone() {
        let spec = read(&["/opt/wardian/clang/bin/clang", "-c"], &BAZEL, &[]).await.unwrap();
        assert_eq!(spec.arguments, ["/opt/wardian/clang/bin/clang", "-c"]);
        let spec = read(&["x/test-setup.sh", "t"], &BAZEL[..1], &ENVIRONMENT).await.unwrap();
        assert_eq!(spec.arguments, ["x/test-setup.sh", "t"]);
        assert!(spec.environment.iter().any(|(name, value)| name == "TEST_TMPDIR" && value == "_tmp/7"));
    }

    #[tokio::test]
    async fn tests_that_cannot_be_run_are_refused() {
        for (arguments, platform, environment, why) in [
            (&["x/test-setup.sh", "t"][..], &BAZEL[1..], &ENVIRONMENT[..], "OSFamily=wasi"),
            (&["x/test-setup.sh"], &BAZEL, &ENVIRONMENT, "no program"),
            (&["x/test-setup.sh", "t"], &BAZEL, &[], "TEST_SRCDIR"),
            (&["x/test-setup.sh", "../../t"], &BAZEL, &[("TEST_SRCDIR", "r")], "input root"),
            (&["x/test-setup.sh", "t"], &BAZEL, &[("TEST_SRCDIR", "../r")], "input root"),
            (&["x/test-setup.sh", "t"], &BAZEL, &[("TEST_SRCDIR", "r"), ("COVERAGE_DIR", "c")], "coverage"),
        ] {
            let refusal = read(arguments, platform, environment).await.unwrap_err();
            assert!(matches!(refusal, Failure::InvalidArgument(_)), "{refusal:?}");
            assert!(refusal.to_string().contains(why), "{refusal}");
        }
    }
}
