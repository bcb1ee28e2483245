//! What fuzzers do with an Action and its Command.

use std::collections::HashSet;
use std::sync::LazyLock;

use prost::Message as _;
use tokio::runtime::Runtime;
use wardian_proto::{DigestFunction, reapi};
use wardian_store::backend::MemoryStore;
use wardian_store::{BlobStore as _, Upload};

use super::read;
use crate::Limits;

const FUNCTION: DigestFunction = DigestFunction::Sha256;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be made"));

/// The length of an Action, the Action, and its Command: what is taken is inside the input root and can be run.
pub(crate) fn action(input: &[u8]) {
    let Some((&length, rest)) = input.split_first() else { return };
    let Some((action, command)) = rest.split_at_checked(length.into()) else { return };
    let Ok(mut action) = reapi::Action::decode(action) else { return };
    let store = MemoryStore::new(1 << 20);
    let limits = Limits::default();
    let taken = RUNTIME.block_on(async {
        let command_digest = FUNCTION.digest(command);
        action.command_digest = Some(command_digest.to_wire());
        let action = action.encode_to_vec();
        let digest = FUNCTION.digest(&action);
        for (digest, bytes) in [(command_digest, command.to_vec()), (digest, action)] {
            store.put(Upload::bytes(digest, bytes)).await.expect("there is room");
        }
        read(&store, digest, &limits).await
    });
    let Ok(spec) = taken else { return };
    assert!(!spec.arguments.is_empty() && spec.timeout <= limits.action_timeout_max);
    let texts = spec.arguments.iter().chain(spec.environment.iter().flat_map(|(name, value)| [name, value]));
    assert!(texts.into_iter().all(|text| !text.contains('\0')), "the machine has no such strings");
    let names: HashSet<_> = spec.environment.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), spec.environment.len(), "a variable twice");
    let paths = spec.outputs.all().map(|output| &output.path);
    for path in paths.chain([&spec.working_directory]) {
        for name in path.segments() {
            assert!(!matches!(name, "" | "." | "..") && !name.contains('\0'), "{path}");
        }
    }
}

/// Actions with everything that they can have.
#[allow(deprecated)]
pub(crate) fn actions() -> Vec<Vec<u8>> {
    let variable = |name: &str, value: &str| reapi::command::EnvironmentVariable {
        name: name.into(),
        value: value.into(),
    };
    let property =
        |name: &str, value: &str| reapi::platform::Property { name: name.into(), value: value.into() };
    let old = reapi::Command {
        arguments: vec!["tool".into(), "-c".into()],
        environment_variables: vec![variable("LANG", "C"), variable("PATH", "/bin:/usr/bin")],
        output_files: vec!["out/a".into(), "b".into()],
        output_directories: vec!["dir".into()],
        platform: Some(reapi::Platform { properties: vec![property("OSFamily", "wasi")] }),
        working_directory: "sub/folder".into(),
        ..Default::default()
    };
    let new = reapi::Command {
        arguments: vec!["./tool".into()],
        output_paths: vec!["../a".into(), "b/c".into()],
        working_directory: "sub".into(),
        output_directory_format: 2,
        ..Default::default()
    };
    let properties = vec![property("wasm-memory", "1048576"), property("wasi-audit", "1")];
    let action = reapi::Action {
        input_root_digest: Some(FUNCTION.digest(b"").to_wire()),
        timeout: Some(prost_types::Duration { seconds: 5, nanos: 1 }),
        platform: Some(reapi::Platform { properties }),
        ..Default::default()
    };
    let plain = reapi::Action { platform: None, timeout: None, ..action.clone() };
    let input = |action: &reapi::Action, command: &reapi::Command| {
        let action = action.encode_to_vec();
        let length = u8::try_from(action.len()).expect("it is small");
        [&[length][..], &action, &command.encode_to_vec()].concat()
    };
    vec![input(&action, &new), input(&plain, &old)]
}
