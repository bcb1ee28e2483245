//! Remote Asset: what is fetched from an origin. The origin is on this machine, so a server elsewhere, or one that fetches
//! from no such place, is not tried.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use bytes::Bytes;
use tonic::Code;
use wardian_proto::DigestFunction;
use wardian_proto::asset::{FetchBlobRequest, FetchBlobResponse};

use super::super::origin::{HELD, Origin, Page};
use super::super::outcome::{ensure, ensure_eq, told};
use super::super::{Stop, Subject, Verdict};
use super::assets::code_of;
use super::{Check, check};

pub(super) const CHECKS: &[Check] = &[
    check!(ast_03_what_does_not_match_its_checksum_is_not_returned: "AST-03", "AST-04", "AST-18"),
    check!(ast_04_an_origins_fault_is_in_the_response: "AST-04", "AST-08"),
    check!(ast_05_what_was_fetched_is_stored: "AST-05", "AST-08"),
    check!(ast_06_the_timeout_bounds_the_fetch_and_does_not_stop_it: "AST-06", "AST-04"),
    check!(ast_07_content_that_is_too_old_is_fetched_anew: "AST-07"),
    check!(ast_08_another_mirror_is_tried_and_named: "AST-08"),
    check!(ast_10_the_function_is_sha256_unless_named: "AST-10"),
    check!(ast_11_an_archive_is_a_tree_in_the_cas: "AST-11", "AST-18"),
    check!(ast_18_one_of_several_checksums_is_enough: "AST-18"),
    check!(ast_19_headers_reach_the_origin_and_are_told_to_nobody: "AST-19"),
    check!(ast_20_this_machine_is_not_fetched_from: "AST-20").own(),
];

fn page(path: &str, status: &'static str, body: impl Into<Bytes>) -> Page {
    Page { path: path.into(), status, body: body.into() }
}

fn sri(data: &[u8]) -> String {
    let digest = DigestFunction::Sha256.digest(data);
    format!("sha256-{}", base64::prelude::BASE64_STANDARD.encode(digest.hash()))
}

impl Subject {
    /// Fetches from the origin. The check is skipped when the server does not go there.
    async fn fetch_from(
        &self,
        origin: &Origin,
        request: FetchBlobRequest,
    ) -> Result<FetchBlobResponse, Stop> {
        let before = origin.asked().len();
        let response = match self.fetch_blob(request).await? {
            Ok(response) => response,
            Err(status) if origin.asked().len() == before && !self.is_own() => {
                return Err(Stop::skipped(format!("nothing is fetched from here: {}", told(&status))));
            }
            Err(status) => return Err(status.into()),
        };
        if code_of(response.status.as_ref()) != Code::Ok && origin.asked().len() == before {
            return Err(Stop::skipped(format!("nothing is fetched from here: {:?}", response.status)));
        }
        Ok(response)
    }

    fn wanted_one(&self, uri: String, pairs: &[(&str, &str)]) -> FetchBlobRequest {
        self.wanted(&[uri], pairs)
    }
}

#[track_caller]
fn must_be(response: &FetchBlobResponse, code: Code, what: &str) -> Verdict {
    let got = code_of(response.status.as_ref());
    if got == code {
        return Ok(());
    }
    let text = response.status.as_ref().map(|status| status.message.clone()).unwrap_or_default();
    Err(Stop::failed(format!("{what}: the response should say {code:?}, and says {got:?} ({text})")))
}

async fn ast_03_what_does_not_match_its_checksum_is_not_returned(subject: &Subject) -> Verdict {
    let (right, wrong) = (subject.fresh(1000), subject.fresh(1000));
    let origin =
        Origin::start(vec![page("/wrong", "200 OK", wrong), page("/right", "200 OK", right.clone())]);
    let origin = origin.await?;
    let sum = sri(&right);
    let pairs = [("checksum.sri", sum.as_str())];
    let request = subject.wanted_one(origin.uri("/right"), &pairs);
    let response = subject.fetch_from(&origin, request).await?;
    must_be(&response, Code::Ok, "content of that checksum")?;
    ensure_eq!(response.blob_digest, Some(subject.digest(&right).to_wire()), "blob_digest");
    // Asked for by another name, so that what is known already does not help.
    let request = subject.wanted_one(origin.uri("/wrong"), &pairs);
    let response = subject.fetch_from(&origin, request).await?;
    must_be(&response, Code::Aborted, "content of another checksum")?;
    ensure!(response.blob_digest.is_none(), "it is returned all the same: {:?}", response.blob_digest);
    Ok(())
}

async fn ast_04_an_origins_fault_is_in_the_response(subject: &Subject) -> Verdict {
    let origin = Origin::start(vec![page("/denied", "403 Forbidden", "")]).await?;
    for (path, code) in [("/absent", Code::NotFound), ("/denied", Code::PermissionDenied)] {
        let uri = origin.uri(path);
        let response = subject.fetch_from(&origin, subject.wanted_one(uri.clone(), &[])).await?;
        must_be(&response, code, path)?;
        ensure_eq!(response.uri, uri, "the URI that the fault is of");
    }
    Ok(())
}

async fn ast_05_what_was_fetched_is_stored(subject: &Subject) -> Verdict {
    let data = subject.fresh(100_000);
    let origin = Origin::start(vec![page("/x", "200 OK", data.clone())]).await?;
    let uri = origin.uri("/x");
    let response = subject.fetch_from(&origin, subject.wanted_one(uri.clone(), &[])).await?;
    must_be(&response, Code::Ok, "a fetch")?;
    let blob = subject.digest(&data);
    ensure_eq!(response.blob_digest, Some(blob.to_wire()), "blob_digest");
    ensure_eq!(response.uri, uri, "uri");
    ensure!(subject.has(&blob).await?, "what was fetched is missing");
    ensure!(subject.get(&blob).await? == data, "what was fetched has other bytes");
    Ok(())
}

async fn ast_06_the_timeout_bounds_the_fetch_and_does_not_stop_it(subject: &Subject) -> Verdict {
    let data = subject.fresh(1000);
    let path = format!("{HELD}x");
    let origin = Origin::start(vec![page(&path, "200 OK", data.clone())]).await?;
    let timeout = Some(prost_types::Duration { seconds: 0, nanos: 300_000_000 });
    let request = FetchBlobRequest { timeout, ..subject.wanted_one(origin.uri(&path), &[]) };
    match subject.fetch_blob(request).await? {
        Ok(response) => {
            let code = code_of(response.status.as_ref());
            if code != Code::DeadlineExceeded && origin.asked().is_empty() {
                return Err(Stop::skipped(format!("nothing is fetched from here: {:?}", response.status)));
            }
            must_be(&response, Code::DeadlineExceeded, "a fetch that takes too long")?;
        }
        Err(status) if status.code() == Code::InvalidArgument && !subject.is_own() => {
            return Err(Stop::skipped(format!("short timeouts are refused: {}", told(&status))));
        }
        Err(status) if origin.asked().is_empty() && !subject.is_own() => {
            return Err(Stop::skipped(format!("nothing is fetched from here: {}", told(&status))));
        }
        Err(status) => return Err(status.into()),
    }
    origin.let_go();
    let response = subject.fetch_blob(subject.wanted_one(origin.uri(&path), &[])).await??;
    must_be(&response, Code::Ok, "the next fetch")?;
    ensure_eq!(response.blob_digest, Some(subject.digest(&data).to_wire()), "blob_digest");
    // That the first one went on is a should.
    ensure!(!subject.is_own() || origin.asked().len() == 1, "the origin was asked twice");
    Ok(())
}

async fn ast_07_content_that_is_too_old_is_fetched_anew(subject: &Subject) -> Verdict {
    const HOUR: Duration = Duration::from_secs(3600);
    let (old, new) = (subject.fresh(1000), subject.fresh(1000));
    let origin = Origin::start(vec![page("/x", "200 OK", new.clone())]).await?;
    let uri = [origin.uri("/x")];
    let known = subject.put(&old).await?;
    subject.push_blob(subject.pushing(&uri, &[], &known)).await??;
    // An hour on, so that clocks need not agree.
    let newer_than = |at: SystemTime| FetchBlobRequest {
        oldest_content_accepted: Some(at.into()),
        ..subject.wanted(&uri, &[])
    };
    let response = subject.fetch_blob(newer_than(SystemTime::now() - HOUR)).await??;
    must_be(&response, Code::Ok, "content of now, for who wants none older than an hour")?;
    ensure_eq!(response.blob_digest, Some(known.to_wire()), "the blob that was pushed");
    match subject.fetch_blob(newer_than(SystemTime::now() + HOUR)).await? {
        Ok(response) if code_of(response.status.as_ref()) == Code::Ok => {
            ensure_eq!(response.blob_digest, Some(subject.digest(&new).to_wire()), "the origin's content");
        }
        // There is nothing so new, and the origin is not asked: not what is too old, at least.
        Ok(response) => ensure!(response.blob_digest.is_none(), "{:?}", response.blob_digest),
        Err(_) => {}
    }
    Ok(())
}

async fn ast_08_another_mirror_is_tried_and_named(subject: &Subject) -> Verdict {
    let data = subject.fresh(1000);
    let origin = Origin::start(vec![page("/good", "200 OK", data.clone())]).await?;
    let uris = [origin.uri("/absent"), origin.uri("/good")];
    let response = subject.fetch_from(&origin, subject.wanted(&uris, &[])).await?;
    must_be(&response, Code::Ok, "the second of two mirrors has it")?;
    ensure_eq!(response.uri, uris[1], "uri");
    ensure_eq!(response.blob_digest, Some(subject.digest(&data).to_wire()), "blob_digest");
    Ok(())
}

async fn ast_10_the_function_is_sha256_unless_named(subject: &Subject) -> Verdict {
    let function = subject.needs_function(DigestFunction::Sha256)?;
    let data = subject.fresh(1000);
    let origin = Origin::start(vec![page("/x", "200 OK", data.clone())]).await?;
    let request = FetchBlobRequest { digest_function: 0, ..subject.wanted_one(origin.uri("/x"), &[]) };
    let response = subject.fetch_from(&origin, request).await?;
    must_be(&response, Code::Ok, "a fetch without a digest function")?;
    ensure_eq!(response.blob_digest, Some(function.digest(&data).to_wire()), "blob_digest");
    let said = response.digest_function;
    let own = function.wire() as i32;
    // Clients read an unset one as SHA256.
    ensure!(said == own || (said == 0 && !subject.is_own()), "digest_function of the response is {said}");
    for function in subject.functions() {
        let digest_function = function.wire().into();
        let request = FetchBlobRequest { digest_function, ..subject.wanted_one(origin.uri("/x"), &[]) };
        let response = subject.fetch_blob(request).await??;
        let name = function.wire().as_str_name();
        must_be(&response, Code::Ok, name)?;
        ensure_eq!(response.blob_digest, Some(function.digest(&data).to_wire()), "the digest by {name}");
    }
    Ok(())
}

/// A compressed archive of two files, `top/README` and `top/src/a.c`.
fn archive(readme: &[u8], source: &[u8]) -> Result<Bytes, Stop> {
    let failed = |error: std::io::Error| Stop::failed(format!("the check makes no archive: {error}"));
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in [("top/README", readme), ("top/src/a.c", source)] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content).map_err(failed)?;
    }
    let tar = tar.into_inner().map_err(failed)?;
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&tar).map_err(failed)?;
    gz.finish().map(Bytes::from).map_err(failed)
}

async fn ast_11_an_archive_is_a_tree_in_the_cas(subject: &Subject) -> Verdict {
    let (readme, source) = (subject.fresh(500), subject.fresh(500));
    let archive = archive(&readme, &source)?;
    let sum = sri(&archive);
    let origin = Origin::start(vec![page("/a.tar.gz", "200 OK", archive)]).await?;
    let uri = origin.uri("/a.tar.gz");
    let pairs = [("checksum.sri", sum.as_str()), ("directory", "top/src")];
    let response = match subject.fetch_directory(&uri, &pairs).await? {
        Ok(response) if code_of(response.status.as_ref()) == Code::Ok => response,
        // To unpack archives is a freedom of the server; what our own offers is no reason to skip.
        Ok(response) if origin.asked().is_empty() || !subject.is_own() => {
            return Err(Stop::skipped(format!("the archive is not unpacked: {:?}", response.status)));
        }
        Ok(response) => return Err(Stop::failed(format!("the archive is refused: {:?}", response.status))),
        Err(status) if !subject.is_own() => {
            return Err(Stop::skipped(format!("the archive is not unpacked: {}", told(&status))));
        }
        Err(status) => return Err(status.into()),
    };
    let tree = subject.tree_of(response.root_directory_digest).await?;
    ensure_eq!(tree.len(), 1, "Directories below `directory`");
    let files: Vec<_> = tree[0].files.iter().map(|file| (file.name.as_str(), file.digest.clone())).collect();
    let blob = subject.digest(&source);
    ensure_eq!(files, [("a.c", Some(blob.to_wire()))], "files below `directory`");
    ensure!(subject.get(&blob).await? == source, "the file has other bytes");
    Ok(())
}

async fn ast_18_one_of_several_checksums_is_enough(subject: &Subject) -> Verdict {
    let data = subject.fresh(1000);
    let origin = Origin::start(vec![page("/x", "200 OK", data.clone())]).await?;
    let sums = format!("{} {}", sri(b"something else"), sri(&data));
    let request = subject.wanted_one(origin.uri("/x"), &[("checksum.sri", &sums)]);
    let response = subject.fetch_from(&origin, request).await?;
    must_be(&response, Code::Ok, "content of one of two checksums")
}

async fn ast_19_headers_reach_the_origin_and_are_told_to_nobody(subject: &Subject) -> Verdict {
    let origin = Origin::start(vec![page("/x", "200 OK", subject.fresh(1000))]).await?;
    let secret = subject.fresh_name();
    let (general, special) = (format!("general-{secret}"), format!("special-{secret}"));
    let pairs = [
        ("bazel.canonical_id", "any"),
        ("http_header:X-Wardian-One", general.as_str()),
        ("http_header:X-Wardian-Two", general.as_str()),
        ("http_header_url:0:X-Wardian-Two", special.as_str()),
    ];
    let response = match subject.fetch_blob(subject.wanted_one(origin.uri("/x"), &pairs)).await? {
        Ok(response) if origin.asked().is_empty() => {
            return Err(Stop::skipped(format!("nothing is fetched from here: {:?}", response.status)));
        }
        Ok(response) => response,
        Err(status) if !subject.is_own() => {
            return Err(Stop::skipped(format!("Bazel's qualifiers are refused: {}", told(&status))));
        }
        Err(status) => return Err(status.into()),
    };
    must_be(&response, Code::Ok, "a fetch with headers")?;
    let head = origin.asked()[0].to_lowercase();
    let header = |name: &str, value: &str| format!("\r\n{}: {value}\r\n", name.to_lowercase());
    ensure!(head.contains(&header("X-Wardian-One", &general)), "the header for all URIs did not come");
    ensure!(head.contains(&header("X-Wardian-Two", &special)), "the header for one URI does not win");
    let told = format!("{response:?}");
    ensure!(!told.contains(&secret), "the response repeats a header's value: {told}");
    Ok(())
}

async fn ast_20_this_machine_is_not_fetched_from(subject: &Subject) -> Verdict {
    let origin = Origin::start(vec![page("/x", "200 OK", "inside")]).await?;
    let port = origin.uri("").rsplit(':').next().unwrap_or_default().to_owned();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"] {
        let request = subject.wanted_one(format!("http://{host}:{port}/x"), &[]);
        let response = subject.fetch_blob(request).await??;
        if !origin.asked().is_empty() {
            return Err(Stop::skipped("private addresses are allowed here"));
        }
        must_be(&response, Code::PermissionDenied, host)?;
    }
    Ok(())
}
