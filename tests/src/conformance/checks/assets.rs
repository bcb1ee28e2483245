//! Remote Asset: what holds for every request, and what is pushed.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message as _;
use tonic::{Code, Status};
use wardian_proto::asset::{
    FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, FetchDirectoryResponse, PushBlobRequest,
    PushDirectoryRequest, Qualifier,
};
use wardian_proto::{Digest, DigestFunction, reapi, rpc};

use super::super::outcome::{ensure, ensure_eq, refused, refused_as, told};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};

pub(super) const CHECKS: &[Check] = &[
    check!(ast_01_requests_without_uri_or_with_a_name_twice_are_refused: "AST-01"),
    check!(ast_02_qualifiers_that_are_not_supported_are_named: "AST-02"),
    check!(ast_04_a_malformed_request_is_the_calls_fault: "AST-04", "AST-06"),
    check!(ast_11_a_pushed_directory_is_a_tree: "AST-11"),
    check!(ast_13_what_is_not_stored_is_not_pushed: "AST-13", "AST-05"),
    check!(ast_14_what_is_pushed_is_found_under_each_uri: "AST-14", "AST-05"),
    check!(ast_14_other_qualifiers_are_something_else: "AST-14", "AST-03"),
    check!(ast_15_what_has_expired_is_not_returned: "AST-15"),
    check!(ast_16_the_function_of_a_push_is_told_by_the_length: "AST-16"),
    check!(ast_17_what_nobody_pushed_and_nobody_serves_is_not_found: "AST-17", "AST-04"),
    check!(ast_17_a_server_that_takes_no_pushes_says_so: "AST-17"),
];

pub(super) fn qualifiers(pairs: &[(&str, &str)]) -> Vec<Qualifier> {
    pairs.iter().map(|(name, value)| Qualifier { name: (*name).into(), value: (*value).into() }).collect()
}

/// What a response says of itself.
pub(super) fn code_of(status: Option<&rpc::Status>) -> Code {
    status.map_or(Code::Ok, |status| Code::from(status.code))
}

/// A method that is not offered, or not to us, is no fault.
fn offered<T>(outcome: Result<T, Status>, method: &str) -> Result<Result<T, Status>, Stop> {
    match outcome {
        Err(status)
            if matches!(
                status.code(),
                Code::Unimplemented | Code::PermissionDenied | Code::Unauthenticated
            ) =>
        {
            Err(Stop::skipped(format!("{method} answers {}", told(&status))))
        }
        outcome => Ok(outcome),
    }
}

impl Subject {
    /// A URI that nobody has used before and nobody can fetch.
    fn fresh_urn(&self) -> String {
        format!("urn:fdc:example.invalid:2026:{}", self.fresh_name())
    }

    /// The request for a blob by its URIs. The function is named: not every server has SHA256.
    pub(super) fn wanted(&self, uris: &[String], pairs: &[(&str, &str)]) -> FetchBlobRequest {
        FetchBlobRequest {
            instance_name: self.instance(),
            uris: uris.to_vec(),
            qualifiers: qualifiers(pairs),
            digest_function: self.function().wire().into(),
            ..Default::default()
        }
    }

    /// Fetches a blob. The check is skipped where that is not offered.
    pub(super) async fn fetch_blob(
        &self,
        request: FetchBlobRequest,
    ) -> Result<Result<FetchBlobResponse, Status>, Stop> {
        let outcome = self.fetch().fetch_blob(request).await;
        offered(outcome.map(tonic::Response::into_inner), "FetchBlob")
    }

    /// Fetches a directory. The check is skipped where that is not offered.
    pub(super) async fn fetch_directory(
        &self,
        uri: &str,
        pairs: &[(&str, &str)],
    ) -> Result<Result<FetchDirectoryResponse, Status>, Stop> {
        let request = FetchDirectoryRequest {
            instance_name: self.instance(),
            uris: vec![uri.into()],
            qualifiers: qualifiers(pairs),
            digest_function: self.function().wire().into(),
            ..Default::default()
        };
        let outcome = self.fetch().fetch_directory(request).await;
        offered(outcome.map(tonic::Response::into_inner), "FetchDirectory")
    }

    /// The request that ties URIs to a blob.
    pub(super) fn pushing(&self, uris: &[String], pairs: &[(&str, &str)], blob: &Digest) -> PushBlobRequest {
        PushBlobRequest {
            instance_name: self.instance(),
            uris: uris.to_vec(),
            qualifiers: qualifiers(pairs),
            blob_digest: Some(blob.to_wire()),
            digest_function: blob.function().wire().into(),
            ..Default::default()
        }
    }

    /// Pushes. The check is skipped where that is not offered.
    pub(super) async fn push_blob(&self, request: PushBlobRequest) -> Result<Result<(), Status>, Stop> {
        let outcome = self.push().push_blob(request).await;
        offered(outcome.map(drop), "PushBlob")
    }

    /// The tree below a root, each Directory once.
    pub(super) async fn tree_of(&self, root: Option<reapi::Digest>) -> Result<Vec<reapi::Directory>, Status> {
        let request = reapi::GetTreeRequest {
            instance_name: self.instance(),
            root_digest: root,
            digest_function: self.function().wire().into(),
            ..Default::default()
        };
        let mut pages = self.cas().get_tree(request).await?.into_inner();
        let mut directories = Vec::new();
        while let Some(page) = pages.message().await? {
            directories.extend(page.directories);
        }
        Ok(directories)
    }
}

/// Content that was found, or the reason why it should have been.
fn found(outcome: Result<FetchBlobResponse, Status>, what: &str) -> Result<FetchBlobResponse, Stop> {
    let response = outcome?;
    let code = code_of(response.status.as_ref());
    ensure!(code == Code::Ok, "{what}: should be found, and the response says {:?}", response.status);
    Ok(response)
}

/// Content must not be found, whether the call or the response says so.
fn not_found(outcome: Result<FetchBlobResponse, Status>, what: &str) -> Verdict {
    if let Ok(response) = outcome {
        let code = code_of(response.status.as_ref());
        ensure!(code != Code::Ok, "{what}: {:?} was returned", response.blob_digest);
    }
    Ok(())
}

async fn ast_01_requests_without_uri_or_with_a_name_twice_are_refused(subject: &Subject) -> Verdict {
    let none = subject.fetch_blob(subject.wanted(&[], &[])).await?;
    subject.chose(none, Code::InvalidArgument, "a fetch without a URI")?;
    let twice = [("resource_type", "text/plain"), ("resource_type", "text/html")];
    let uris = [subject.fresh_urn()];
    let outcome = subject.fetch_blob(subject.wanted(&uris, &twice)).await?;
    // A duty of clients: another server may look at neither.
    if subject.is_own() || outcome.is_err() {
        subject.chose(outcome, Code::InvalidArgument, "a fetch with a qualifier twice")?;
    }
    Ok(())
}

async fn ast_02_qualifiers_that_are_not_supported_are_named(subject: &Subject) -> Verdict {
    let name = format!("colour-{}", subject.fresh_name());
    // Of an origin that could be asked, if the qualifier were understood.
    let uris = ["http://192.0.2.1:9/".to_owned()];
    let outcome = subject.fetch_blob(subject.wanted(&uris, &[(&name, "green")])).await?;
    let status = match outcome {
        // Who takes pushes may look the request up as it is, and find nothing.
        Ok(response) => {
            let code = code_of(response.status.as_ref());
            ensure!(code != Code::Ok, "a fetch with qualifier {name:?} succeeded");
            return Err(Stop::skipped(format!("the request is looked up as it is: {:?}", response.status)));
        }
        Err(status) if status.code() == Code::NotFound && !subject.is_own() => {
            return Err(Stop::skipped(format!("the request is looked up as it is: {}", told(&status))));
        }
        outcome => refused_as(outcome, Code::InvalidArgument, "a qualifier that nobody knows")?,
    };
    let wire = rpc::Status::decode(status.details()).unwrap_or_default();
    let requests = wire.details.iter().filter(|any| any.type_url.ends_with("google.rpc.BadRequest"));
    let requests = requests.filter_map(|any| rpc::BadRequest::decode(&*any.value).ok());
    let told: Vec<_> =
        requests.flat_map(|request| request.field_violations).map(|v| (v.field, v.description)).collect();
    let expected = ("qualifiers.name".to_owned(), format!("\"{name}\" not supported"));
    // The code is a must, the details are not.
    ensure!(!subject.is_own() || told.contains(&expected), "violations {told:?} lack {expected:?}");
    Ok(())
}

async fn ast_04_a_malformed_request_is_the_calls_fault(subject: &Subject) -> Verdict {
    let timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let request = FetchBlobRequest { timeout, ..subject.wanted(&[subject.fresh_urn()], &[]) };
    let outcome = subject.fetch_blob(request).await?;
    let is_looked_at = outcome.as_ref().err().is_some_and(|status| status.code() != Code::NotFound);
    if !subject.is_own() && !is_looked_at {
        return Err(Stop::skipped("nothing is fetched for such a URI, so that its timeout means nothing"));
    }
    refused_as(outcome, Code::InvalidArgument, "a timeout of less than nothing")?;
    Ok(())
}

async fn ast_11_a_pushed_directory_is_a_tree(subject: &Subject) -> Verdict {
    let file = subject.put(&subject.fresh(100)).await?;
    let node = reapi::FileNode { name: "f".into(), digest: Some(file.to_wire()), ..Default::default() };
    let root = reapi::Directory { files: vec![node], ..Default::default() };
    let root_digest = subject.put(&Bytes::from(root.encode_to_vec())).await?;
    let uri = subject.fresh_urn();
    let request = PushDirectoryRequest {
        instance_name: subject.instance(),
        uris: vec![uri.clone()],
        root_directory_digest: Some(root_digest.to_wire()),
        digest_function: root_digest.function().wire().into(),
        ..Default::default()
    };
    offered(subject.push().push_directory(request).await, "PushDirectory")??;
    let response = subject.fetch_directory(&uri, &[]).await??;
    ensure_eq!(code_of(response.status.as_ref()), Code::Ok, "FetchDirectory of what was pushed");
    ensure_eq!(response.root_directory_digest, Some(root_digest.to_wire()), "root_directory_digest");
    ensure_eq!(subject.tree_of(response.root_directory_digest).await?, vec![root], "the tree");
    Ok(())
}

async fn ast_13_what_is_not_stored_is_not_pushed(subject: &Subject) -> Verdict {
    let absent = subject.digest(&subject.fresh(100));
    let uri = [subject.fresh_urn()];
    let outcome = subject.push_blob(subject.pushing(&uri, &[], &absent)).await?;
    if subject.is_own() || outcome.is_err() {
        subject.chose(outcome, Code::FailedPrecondition, "a push of what is not stored")?;
    }
    // Whether it was taken or not: it is not there.
    not_found(subject.fetch_blob(subject.wanted(&uri, &[])).await?, "a blob that is not stored")
}

async fn ast_14_what_is_pushed_is_found_under_each_uri(subject: &Subject) -> Verdict {
    let data = subject.fresh(100);
    let blob = subject.put(&data).await?;
    let uris = [subject.fresh_urn(), subject.fresh_urn()];
    subject.push_blob(subject.pushing(&uris, &[], &blob)).await??;
    for uri in &uris {
        let one = std::slice::from_ref(uri);
        let response = found(subject.fetch_blob(subject.wanted(one, &[])).await?, "one of two URIs")?;
        ensure_eq!(response.blob_digest, Some(blob.to_wire()), "blob_digest");
        ensure_eq!(&response.uri, uri, "uri");
        ensure!(subject.get(&blob).await? == data, "what was returned is not stored");
    }
    Ok(())
}

async fn ast_14_other_qualifiers_are_something_else(subject: &Subject) -> Verdict {
    let uri = [subject.fresh_urn()];
    let one = subject.put(&subject.fresh(100)).await?;
    let two = subject.put(&subject.fresh(100)).await?;
    let of = |commit: &'static str| [("vcs.commit", commit)];
    subject.push_blob(subject.pushing(&uri, &of("one"), &one)).await??;
    subject.push_blob(subject.pushing(&uri, &of("two"), &two)).await??;
    for (commit, blob) in [("one", one), ("two", two)] {
        let response = found(subject.fetch_blob(subject.wanted(&uri, &of(commit))).await?, commit)?;
        ensure_eq!(response.blob_digest, Some(blob.to_wire()), "the blob of commit {commit}");
    }
    not_found(subject.fetch_blob(subject.wanted(&uri, &of("three"))).await?, "a commit that nobody pushed")
}

async fn ast_15_what_has_expired_is_not_returned(subject: &Subject) -> Verdict {
    const HOUR: Duration = Duration::from_secs(3600);
    let blob = subject.put(&subject.fresh(100)).await?;
    let uri = [subject.fresh_urn()];
    let now = SystemTime::now();
    let until =
        |at: SystemTime| PushBlobRequest { expire_at: Some(at.into()), ..subject.pushing(&uri, &[], &blob) };
    subject.push_blob(until(now + HOUR)).await??;
    found(subject.fetch_blob(subject.wanted(&uri, &[])).await?, "what expires in an hour")?;
    // A later push may change it. Some servers refuse to take what has expired.
    if subject.push_blob(until(now - HOUR)).await?.is_err() {
        return Ok(());
    }
    not_found(subject.fetch_blob(subject.wanted(&uri, &[])).await?, "what expired an hour ago")
}

async fn ast_16_the_function_of_a_push_is_told_by_the_length(subject: &Subject) -> Verdict {
    let function = subject.needs_function(DigestFunction::Sha256)?;
    let blob = subject.put_as(function, subject.fresh(100)).await?;
    let uri = [subject.fresh_urn()];
    let request = PushBlobRequest { digest_function: 0, ..subject.pushing(&uri, &[], &blob) };
    subject.push_blob(request).await??;
    let response = found(subject.fetch_blob(subject.wanted(&uri, &[])).await?, "what was pushed")?;
    ensure_eq!(response.blob_digest, Some(blob.to_wire()), "blob_digest");
    Ok(())
}

async fn ast_17_what_nobody_pushed_and_nobody_serves_is_not_found(subject: &Subject) -> Verdict {
    let response = subject.fetch_blob(subject.wanted(&[subject.fresh_urn()], &[])).await?;
    match response {
        Ok(response) => {
            ensure_eq!(code_of(response.status.as_ref()), Code::NotFound, "the response's status")
        }
        // A server that only fetches may say that it cannot fetch such a URI.
        Err(status) if !subject.is_own() && status.code() == Code::InvalidArgument => {}
        Err(status) => {
            return Err(Stop::failed(format!("what is not there is the call's fault: {}", told(&status))));
        }
    }
    Ok(())
}

async fn ast_17_a_server_that_takes_no_pushes_says_so(subject: &Subject) -> Verdict {
    let outcome = subject.push().push_blob(PushBlobRequest::default()).await;
    let status = refused(outcome, "a push of nothing")?;
    if matches!(status.code(), Code::Unimplemented | Code::PermissionDenied) {
        return Ok(());
    }
    Err(Stop::skipped(format!("pushes are taken: {}", told(&status))))
}
