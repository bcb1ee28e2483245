//! Which right each call needs at least. What is not in this table nobody may call.

use super::Verb;

/// What a call needs before it reaches its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing, not even a token: whoever starts and watches servers has none.
    Nothing,
    /// A caller that is known.
    Caller,
    /// One of these, on some instance. The service asks again for the instance that the call is about.
    AnyOf(&'static [Verb]),
}

const ANY_ON_THE_CAS: &[Verb] = &[Verb::Find, Verb::Read, Verb::Write];

/// Services, and their methods where these differ; the first row that fits holds.
const TABLE: &[(&str, &str, Needs)] = &[
    ("build.bazel.remote.execution.v2.Capabilities", "*", Needs::Caller),
    ("build.bazel.remote.execution.v2.ContentAddressableStorage", "FindMissingBlobs", any(&[Verb::Find])),
    ("build.bazel.remote.execution.v2.ContentAddressableStorage", "BatchUpdateBlobs", any(&[Verb::Write])),
    ("build.bazel.remote.execution.v2.ContentAddressableStorage", "BatchReadBlobs", any(&[Verb::Read])),
    ("build.bazel.remote.execution.v2.ContentAddressableStorage", "GetTree", any(&[Verb::Read])),
    ("build.bazel.remote.execution.v2.ContentAddressableStorage", "SplitBlob", any(&[Verb::Read])),
    ("build.bazel.remote.execution.v2.ContentAddressableStorage", "SpliceBlob", any(&[Verb::Write])),
    ("build.bazel.remote.execution.v2.ActionCache", "GetActionResult", any(&[Verb::AcRead])),
    ("build.bazel.remote.execution.v2.ActionCache", "UpdateActionResult", any(&[Verb::AcWrite])),
    ("build.bazel.remote.execution.v2.Execution", "*", any(&[Verb::Execute])),
    ("google.bytestream.ByteStream", "Read", any(&[Verb::Read])),
    ("google.bytestream.ByteStream", "Write", any(&[Verb::Write])),
    ("google.bytestream.ByteStream", "QueryWriteStatus", any(ANY_ON_THE_CAS)),
    ("google.longrunning.Operations", "*", any(&[Verb::Execute, Verb::Admin])),
    ("build.bazel.remote.logstream.v1.LogStreamService", "*", any(&[Verb::Write])),
    ("build.bazel.remote.asset.v1.Fetch", "*", any(&[Verb::AssetFetch])),
    ("build.bazel.remote.asset.v1.Push", "*", any(&[Verb::AssetPush])),
    ("wardian.v1.Toolchains", "ListToolchains", any(&[Verb::Execute, Verb::Admin])),
    ("wardian.v1.Toolchains", "GetToolchain", any(&[Verb::Execute, Verb::Admin])),
    ("wardian.v1.Toolchains", "*", any(&[Verb::Admin])),
    ("wardian.v1.Workers", "Work", any(&[Verb::Worker])),
    ("wardian.v1.Workers", "*", any(&[Verb::Admin])),
    ("grpc.reflection.v1.ServerReflection", "*", Needs::Caller),
    ("grpc.reflection.v1alpha.ServerReflection", "*", Needs::Caller),
    ("grpc.health.v1.Health", "*", Needs::Nothing),
];

/// The HTTP pages.
const PAGES: &[(&str, Needs)] = &[
    ("/", Needs::Nothing),
    ("/healthz", Needs::Nothing),
    ("/metrics", any(&[Verb::Metrics])),
    (crate::stats::STATS_PATH, any(&[Verb::Metrics])),
];

const fn any(verbs: &'static [Verb]) -> Needs {
    Needs::AnyOf(verbs)
}

/// What a path needs; `None` for one that is not known.
pub(super) fn needs(path: &str) -> Option<Needs> {
    if let Some((_, needs)) = PAGES.iter().find(|(page, _)| *page == path) {
        return Some(*needs);
    }
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let fits = |row: &&(&str, &str, Needs)| row.0 == service && (row.1 == "*" || row.1 == method);
    TABLE.iter().find(fits).map(|(_, _, needs)| *needs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::SERVED;

    #[test]
    fn every_service_that_is_served_is_in_the_table() {
        for service in SERVED {
            assert!(TABLE.iter().any(|(name, ..)| name == service), "{service}");
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_not_known() {
        assert_eq!(needs("/build.bazel.remote.execution.v2.ActionCache/Purge"), None);
        assert_eq!(needs("/wardian.v2.Toolchains/ListToolchains"), None);
        assert_eq!(needs("/wardian.v1.Toolchains/Anything"), Some(any(&[Verb::Admin])));
        assert_eq!(needs("/metrics"), Some(any(&[Verb::Metrics])));
        assert_eq!(needs("//"), None);
    }
}
