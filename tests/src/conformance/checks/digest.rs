//! Digests and digest functions.

use bytes::Bytes;
use prost::Message as _;
use tonic::Code;
use wardian_proto::{Digest, DigestFunction, reapi};

use super::super::calls::{code_of, entry, messages};
use super::super::outcome::{ensure, ensure_eq, refused_as};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};
use crate::metadata;

pub(super) const CHECKS: &[Check] = &[
    check!(dig_01_malformed_hashes_are_refused: "DIG-01"),
    check!(dig_02_another_size_names_nothing: "DIG-02"),
    check!(dig_02_negative_sizes_are_refused: "DIG-02"),
    check!(dig_03_reported_trees_are_in_canonical_form: "DIG-03"),
    check!(dig_04_announced_functions_have_their_numbers: "DIG-04"),
    check!(dig_05_an_unset_function_is_told_by_the_length: "DIG-05"),
    check!(dig_06_functions_that_must_be_named_are_never_meant_by_length: "DIG-06"),
    check!(dig_07_one_request_has_one_function: "DIG-07").own(),
    check!(dig_07_outputs_have_the_function_of_their_action: "DIG-07"),
    check!(dig_08_functions_that_are_not_announced_are_refused: "DIG-08"),
    check!(dig_09_the_same_bytes_under_two_functions_are_two_blobs: "DIG-09"),
    check!(dig_10_sha256tree_has_the_hashes_of_its_vectors: "DIG-10"),
    check!(dig_11_gitsha1_is_what_git_says: "DIG-11"),
    check!(dig_12_murmur3_is_the_variant_for_x64: "DIG-12"),
    check!(dig_13_metadata_of_operations_name_the_function: "DIG-13").own(),
];

/// The code of reading one blob in a batch, whether it is the call's or the entry's.
async fn batch_code(subject: &Subject, digest: &reapi::Digest) -> Code {
    match subject.batch_read(subject.function(), vec![digest.clone()], vec![]).await {
        Ok(responses) => responses.first().map_or(Code::Unknown, |r| code_of(r.status.as_ref())),
        Err(status) => status.code(),
    }
}

/// Tries a digest that is none in every call of the CAS.
async fn is_refused(subject: &Subject, digest: &reapi::Digest, what: &str) -> Verdict {
    match subject.missing(std::slice::from_ref(digest)).await {
        // To call it missing is no more than the truth; ours says what is wrong.
        Ok(missing) if !subject.is_own() => ensure_eq!(missing.len(), 1, "missing, {what}"),
        outcome => _ = subject.chose(outcome, Code::InvalidArgument, &format!("FindMissingBlobs, {what}"))?,
    }
    let read = batch_code(subject, digest).await;
    let updated = match subject.update(vec![entry(digest.clone(), Bytes::from_static(b"data"))]).await {
        Ok(codes) => codes.first().copied().unwrap_or(Code::Unknown),
        Err(status) => status.code(),
    };
    for (call, code) in [("BatchReadBlobs", read), ("BatchUpdateBlobs", updated)] {
        ensure!(code != Code::Ok, "{call}, {what}: should be refused and was not");
        ensure!(!subject.is_own() || code == Code::InvalidArgument, "{call}, {what}: refused as {code:?}");
    }
    let name = format!("{}blobs/{}/{}", subject.prefix(), digest.hash, digest.size_bytes);
    subject.chose(subject.read(&name, 0, 0).await, Code::InvalidArgument, &format!("Read, {what}"))?;
    Ok(())
}

async fn dig_01_malformed_hashes_are_refused(subject: &Subject) -> Verdict {
    let good = subject.put(&subject.fresh(100)).await?.to_wire();
    for (what, hash) in [
        ("upper case", good.hash.to_uppercase()),
        ("a digit short", good.hash[1..].to_owned()),
        ("a digit long", format!("0{}", good.hash)),
        ("no hex", format!("g{}", &good.hash[1..])),
        ("a space", format!(" {}", &good.hash[1..])),
        ("empty", String::new()),
    ] {
        is_refused(subject, &reapi::Digest { hash, ..good.clone() }, what).await?;
    }
    Ok(())
}

async fn dig_02_another_size_names_nothing(subject: &Subject) -> Verdict {
    let data = subject.fresh(1000);
    let stored = subject.put(&data).await?;
    for size in [999, 1001, 0] {
        let other = Digest::from_parts(stored.function(), stored.hash(), size);
        let other = other.expect("the hash has its length");
        let wire = other.to_wire();
        match subject.missing(std::slice::from_ref(&wire)).await {
            Ok(missing) => {
                ensure_eq!(missing.as_slice(), std::slice::from_ref(&wire), "missing with size {size}")
            }
            Err(status) => ensure_eq!(status.code(), Code::InvalidArgument, "look-up with size {size}"),
        }
        ensure!(batch_code(subject, &wire).await != Code::Ok, "served in a batch with size {size}");
        ensure!(subject.get(&other).await.is_err(), "served by ByteStream with size {size}");
        let updated = subject.update(vec![entry(wire, data.clone())]).await?;
        ensure_eq!(updated, [Code::InvalidArgument], "upload with size {size}");
    }
    ensure!(subject.get(&stored).await? == data, "the blob itself is served as before");
    Ok(())
}

async fn dig_02_negative_sizes_are_refused(subject: &Subject) -> Verdict {
    let good = subject.digest(&subject.fresh(100)).to_wire();
    for size_bytes in [-1, i64::MIN] {
        let digest = reapi::Digest { size_bytes, ..good.clone() };
        is_refused(subject, &digest, &format!("size {size_bytes}")).await?;
    }
    Ok(())
}

async fn dig_03_reported_trees_are_in_canonical_form(subject: &Subject) -> Verdict {
    let script =
        "mkdir -p out/b out/a/deep; echo x >out/b/z; echo x >out/b/a; ln -s a out/link; chmod +x out/b/a";
    let action = subject.script(script).outputs(&["out"]).digest_function(DigestFunction::Sha256);
    let result = subject.succeed(action).await?.result();
    let digest = result.output_directories.first().and_then(|directory| directory.tree_digest.clone());
    let digest = Digest::from_wire(DigestFunction::Sha256, digest.as_ref())
        .map_err(|error| Stop::failed(format!("tree_digest: {error}")))?;
    let bytes = subject.get(&digest).await?;
    let tree = reapi::Tree::decode(bytes.clone()).map_err(|error| Stop::failed(format!("Tree: {error}")))?;
    // Written again from what we know of it: unknown, repeated or default fields would not come back.
    ensure!(tree.encode_to_vec() == bytes, "the Tree has other bytes than its canonical form");
    for directory in tree.root.iter().chain(&tree.children) {
        let names = [
            directory.files.iter().map(|node| &node.name).collect::<Vec<_>>(),
            directory.directories.iter().map(|node| &node.name).collect(),
            directory.symlinks.iter().map(|node| &node.name).collect(),
        ];
        ensure!(names.iter().all(|names| names.is_sorted()), "names are not in order: {names:?}");
    }
    let children: Vec<_> =
        tree.children.iter().map(|child| subject.digest(&child.encode_to_vec()).to_wire()).collect();
    let mut named = tree.root.iter().chain(&tree.children).flat_map(|directory| &directory.directories);
    let is_there = named.all(|node| node.digest.as_ref().is_some_and(|digest| children.contains(digest)));
    ensure!(is_there, "a directory is named by a digest that none of the children has");
    Ok(())
}

async fn dig_04_announced_functions_have_their_numbers(subject: &Subject) -> Verdict {
    let known = 1..=10;
    let mut announced =
        subject.announced()?.cache_capabilities.as_ref().map_or(vec![], |c| c.digest_functions.clone());
    if let Some(execution) = &subject.announced()?.execution_capabilities {
        announced.push(execution.digest_function);
        announced.extend_from_slice(&execution.digest_functions);
    }
    ensure!(!announced.is_empty(), "no digest function is announced");
    ensure!(announced.iter().all(|number| known.contains(number)), "announced: {announced:?}");
    Ok(())
}

async fn dig_05_an_unset_function_is_told_by_the_length(subject: &Subject) -> Verdict {
    let functions: Vec<_> = subject.functions().into_iter().filter(|f| !f.must_be_named()).collect();
    if functions.is_empty() {
        return Err(Stop::skipped("all functions that are announced must be named"));
    }
    for function in functions {
        let name = function.wire().as_str_name();
        let data = subject.fresh(300);
        let digest = subject.put_as(function, data.clone()).await?.to_wire();
        ensure_eq!(subject.missing_of(0, std::slice::from_ref(&digest)).await?, [], "missing by {name}");
        let request = reapi::BatchReadBlobsRequest {
            instance_name: subject.instance(),
            digests: vec![digest],
            ..Default::default()
        };
        let read = subject.cas().batch_read_blobs(request).await?.into_inner().responses;
        ensure!(read.len() == 1 && read[0].data == data, "{name}: the blob does not come back");
    }
    Ok(())
}

async fn dig_06_functions_that_must_be_named_are_never_meant_by_length(subject: &Subject) -> Verdict {
    let functions: Vec<_> = subject.functions().into_iter().filter(|f| f.must_be_named()).collect();
    if functions.is_empty() {
        return Err(Stop::skipped("no function that must be named is announced"));
    }
    for function in functions {
        let digest = subject.put_as(function, subject.fresh(300)).await?.to_wire();
        let outcome = subject.missing_of(0, std::slice::from_ref(&digest)).await;
        let is_found = outcome.is_ok_and(|missing| missing.is_empty());
        ensure!(!is_found, "{} is taken for granted", function.wire().as_str_name());
    }
    Ok(())
}

async fn dig_07_one_request_has_one_function(subject: &Subject) -> Verdict {
    let functions = subject.functions();
    let first = functions[0];
    let other = functions.iter().find(|function| function.hash_bytes() != first.hash_bytes());
    let other = other.ok_or_else(|| Stop::skipped("all announced functions have hashes of one length"))?;
    let data = subject.fresh(100);
    let mixed = [first.digest(&data).to_wire(), other.digest(&data).to_wire()];
    refused_as(subject.missing_of(0, &mixed).await, Code::InvalidArgument, "FindMissingBlobs")?;
    let read = subject.batch_read(first, mixed.to_vec(), vec![]).await;
    refused_as(read, Code::InvalidArgument, "BatchReadBlobs")?;
    let entries = mixed.map(|digest| entry(digest, data.clone()));
    let responses = subject.update_as(first, entries.to_vec()).await?;
    let codes: Vec<_> = responses.iter().map(|response| code_of(response.status.as_ref())).collect();
    ensure_eq!(codes, [Code::Ok, Code::InvalidArgument], "BatchUpdateBlobs");
    Ok(())
}

async fn dig_07_outputs_have_the_function_of_their_action(subject: &Subject) -> Verdict {
    for function in subject.functions() {
        let name = function.wire().as_str_name();
        let text = subject.fresh_name();
        let action = subject
            .script("cat in; mkdir out; cp in out/copy; cp in file")
            .file("in", text.clone())
            .outputs(&["file", "out"])
            .digest_function(function);
        let result = subject.succeed(action).await?.result();
        let expected = Some(function.digest(text.as_bytes()).to_wire());
        ensure_eq!(result.stdout_digest, expected, "stdout_digest under {name}");
        let file = result.output_files.first().and_then(|file| file.digest.clone());
        ensure_eq!(file, expected, "digest of the file under {name}");
        let tree = result.output_directories.first().and_then(|directory| directory.tree_digest.clone());
        let tree = Digest::from_wire(function, tree.as_ref());
        let tree = tree.map_err(|error| Stop::failed(format!("tree_digest under {name}: {error}")))?;
        let bytes = subject.get(&tree).await?;
        ensure_eq!(function.digest(&bytes), tree, "digest of the Tree under {name}");
        let tree = reapi::Tree::decode(bytes).map_err(|error| Stop::failed(format!("Tree: {error}")))?;
        let inner = tree.root.and_then(|root| root.files.first().and_then(|file| file.digest.clone()));
        ensure_eq!(inner, expected, "digest of the file in the Tree under {name}");
    }
    Ok(())
}

async fn dig_08_functions_that_are_not_announced_are_refused(subject: &Subject) -> Verdict {
    subject.cache()?;
    let announced = subject.functions();
    let absent: Vec<_> =
        DigestFunction::ALL.iter().filter(|function| !announced.contains(function)).collect();
    if absent.is_empty() {
        return Err(Stop::skipped("every function is announced"));
    }
    for function in absent {
        let digest = function.digest(&subject.fresh(50)).to_wire();
        let outcome = subject.missing_of(function.wire().into(), &[digest]).await;
        subject.chose(outcome, Code::InvalidArgument, function.wire().as_str_name())?;
    }
    let digest = subject.digest(&subject.fresh(50)).to_wire();
    subject.chose(subject.missing_of(77, &[digest]).await, Code::InvalidArgument, "function 77")?;
    Ok(())
}

async fn dig_09_the_same_bytes_under_two_functions_are_two_blobs(subject: &Subject) -> Verdict {
    let functions = subject.functions();
    if functions.len() < 2 {
        return Err(Stop::skipped("only one function is announced"));
    }
    // More than one leaf of SHA256TREE, below which it is the same as SHA256.
    let data = subject.fresh(5000);
    for function in &functions {
        let digest = function.digest(&data);
        let name = function.wire().as_str_name();
        ensure!(!subject.has(&digest).await?, "{name}: there before it was uploaded under this function");
        subject.put_as(*function, data.clone()).await?;
        ensure!(subject.get(&digest).await? == data, "{name}: other bytes came back");
        // The same hash under another function of this length is the hash of something else.
        for other in functions.iter().filter(|f| *f != function && f.hash_bytes() == function.hash_bytes()) {
            let twin = Digest::from_parts(*other, digest.hash(), digest.size()).expect("of one length");
            let twin_name = other.wire().as_str_name();
            ensure!(!subject.has(&twin).await?, "the hash by {name} is found as one by {twin_name}");
            ensure!(subject.get(&twin).await.is_err(), "the hash by {name} is read as one by {twin_name}");
        }
    }
    Ok(())
}

/// Lengths and hashes of the bytes 0, 1, ... 250, 0, 1, ..., as the API publishes them.
const SHA256TREE_VECTORS: &[(usize, &str)] = &[
    (1_025, "36c0998b21839ef74300b9de47d96d1f62323dc81f2b4231e98ce70cd6ffe750"),
    (2_048, "b584996386f01793751c5cf0c39561f51b7e9924b818943b3cb2f6928cea0fa9"),
    (2_049, "7318d2029b0392edf4cf109edb5a086b4bdadbb7950f710a1483eb881d9e5d44"),
    (3_072, "dfc61c0a041f79d55d53bfe31c6cda7df77fdc8e6fbac1143d70b7144fdf6937"),
    (3_073, "517d20c0e5835f060a1bd6388ed68574f63424bdac2a2c3a35a5c2ef859d8fe2"),
    (4_096, "2f72bb93880012168c027f6781527ff08177c7c8dccb443f4d2c6389c186633d"),
    (4_097, "c3ec942c1b8f4580320d3a06bcf4f8fe1f5db2be797ab67061ea4c2a95f208f2"),
    (5_120, "a76924f6535b4b473377c285ec27acc84cc58e95ab1e9e29b1bb6a4a3fb9d0b3"),
    (5_121, "98f987c3e9fc057a70873715b679b89a663d0df806859b6ce73f8379b06a10ff"),
    (6_144, "372f988af412041b680ab236feef45626380062beb7514bbf93607aedd28fc9a"),
    (6_145, "6dc4b78efd770453417b2ffdc74b27054793efe6122ecd7ee098670ed7c4651c"),
    (7_168, "43686312c0cabccf9d5ad509efa096e3d743c63c7a51f122473c57949e4dd9a0"),
    (7_169, "ad729297ab36cd099665b27c4247474a5518e4cd0be443f5f31d95edda08429b"),
    (8_192, "fcfdde6fe59178e17708c5ba647919c3b141a44c9d1970782e597e1465266932"),
    (8_193, "113c6e3a2452f388b6fad13dfab66ee0bff597a0a9a517ad8d0165f7190b603e"),
    (16_384, "a7a10149a8cb00be537000560edb83b196306b780b72fad8af218f369f75fc19"),
    (31_744, "2cdf7662636c173d4b236f6ea03bf84c65e7f6487b53b2a61c420e26cf8a98c7"),
    (102_400, "0668d69e5331840d2f1823d717b7b3f5d1fdc8a09504cddb692b87ff83d50e5f"),
];

/// Stores a blob under a hash that was computed elsewhere, and must not be able to under one that differs in a digit.
async fn goes_by(subject: &Subject, function: DigestFunction, data: &Bytes, hash: &str) -> Verdict {
    let what = format!("{} of {} bytes", function.wire().as_str_name(), data.len());
    let size = i64::try_from(data.len()).expect("short");
    let digest = Digest::parse(function, hash, size).expect("vectors are well-formed");
    let outcome = subject.write(messages(&subject.write_name(&digest), data, 10_000)).await;
    ensure!(outcome.is_ok(), "{what}: {outcome:?}");
    ensure!(subject.get(&digest).await? == data, "{what}: other bytes came back");
    let last = if hash.ends_with('0') { "1" } else { "0" };
    let wrong = format!("{}{last}", &hash[..hash.len() - 1]);
    let wrong = Digest::parse(function, &wrong, size).expect("vectors are well-formed");
    let outcome = subject.write(messages(&subject.write_name(&wrong), data, 10_000)).await;
    refused_as(outcome, Code::InvalidArgument, &format!("{what}, with another last digit"))?;
    Ok(())
}

async fn dig_10_sha256tree_has_the_hashes_of_its_vectors(subject: &Subject) -> Verdict {
    let function = subject.needs_function(DigestFunction::Sha256Tree)?;
    for (size, hash) in SHA256TREE_VECTORS {
        let data: Bytes = (0..=250_u8).cycle().take(*size).collect::<Vec<_>>().into();
        goes_by(subject, function, &data, hash).await?;
    }
    // Up to one leaf it is plain SHA-256.
    for size in [1, 1000, 1024] {
        let data = subject.fresh(size);
        goes_by(subject, function, &data, &DigestFunction::Sha256.digest(&data).hash_hex()).await?;
    }
    Ok(())
}

async fn dig_11_gitsha1_is_what_git_says(subject: &Subject) -> Verdict {
    let function = subject.needs_function(DigestFunction::GitSha1)?;
    for (data, hash) in [
        ("hello\n", "ce013625030ba8dba906f756967f9e9ca394464a"),
        ("hello world\n", "3b18e512dba79e4c8300dd08aeb37f8e728b8dad"),
    ] {
        goes_by(subject, function, &Bytes::from_static(data.as_bytes()), hash).await?;
    }
    let empty = Digest::parse(function, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", 0).expect("well-formed");
    ensure!(subject.has(&empty).await?, "git's empty blob is not there");
    Ok(())
}

async fn dig_12_murmur3_is_the_variant_for_x64(subject: &Subject) -> Verdict {
    let function = subject.needs_function(DigestFunction::Murmur3)?;
    let data = Bytes::from_static(b"The quick brown fox jumps over the lazy dog");
    let bytes = goes_by(subject, function, &data, "6c1b07bc7bbc4be347939ac4a93c437a").await;
    // The hash is two numbers; a server may write them as numbers instead of as the bytes in memory.
    match bytes {
        Err(_) if !subject.is_own() => {
            goes_by(subject, function, &data, "e34bbc7bbc071b6c7a433ca9c49a9347").await
        }
        verdict => verdict,
    }
}

async fn dig_13_metadata_of_operations_name_the_function(subject: &Subject) -> Verdict {
    for function in subject.functions() {
        let action = subject.script("true").digest_function(function).do_not_cache();
        for operation in subject.succeed(action).await?.operations {
            let named = metadata(&operation).digest_function;
            ensure_eq!(named, i32::from(function.wire()), "digest_function of the metadata");
        }
    }
    Ok(())
}
