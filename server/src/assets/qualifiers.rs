//! What a request says of the content it wants, taken apart.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prost::Message as _;
use tonic::{Code, Status};
use wardian_proto::{DigestFunction, Hasher, RelPath, asset, pack_any, rpc};

/// Qualifiers of one request, and bytes of one value.
const QUALIFIERS_MAX: usize = 100;
const VALUE_BYTES_MAX: usize = 16 << 10;

const CHECKSUM: &str = "checksum.sri";
const DIRECTORY: &str = "directory";
const RESOURCE_TYPE: &str = "resource_type";
const CANONICAL_ID: &str = "bazel.canonical_id";
const HEADER: &str = "http_header:";
const HEADER_OF_URL: &str = "http_header_url:";
const AUTH_HEADERS: &str = "bazel.auth_headers";

/// The qualifiers of a request. Each name is there once.
#[derive(Clone, Default)]
pub(crate) struct Qualifiers {
    /// Those that say what the content is, by name; no secrets among them.
    pub(crate) public: BTreeMap<String, String>,
    /// Headers for the origin, name and value. Secrets.
    headers: Vec<(HeaderFor, String, String)>,
    /// What the content's hash may be; empty for anything.
    pub(crate) checksums: Vec<Checksum>,
    /// The part of an archive that is asked for.
    pub(crate) directory: RelPath,
}

/// Which of a request's URIs a header is for. What is later here wins.
#[derive(Clone, Debug, PartialEq, Eq)]
enum HeaderFor {
    All,
    Uri(String),
    Index(usize),
}

/// One hash of a list as Subresource Integrity writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checksum {
    function: DigestFunction,
    hash: Vec<u8>,
}

impl Checksum {
    pub(crate) fn hasher(&self) -> Hasher {
        self.function.hasher(0)
    }

    pub(crate) fn is_of(&self, hasher: Hasher) -> bool {
        hasher.finish().hash() == self.hash
    }
}

impl Qualifiers {
    pub(crate) fn parse(wire: &[asset::Qualifier]) -> Result<Self, Status> {
        if wire.len() > QUALIFIERS_MAX {
            let text = format!("the request has {} qualifiers; limit is {QUALIFIERS_MAX}", wire.len());
            return Err(Status::invalid_argument(text));
        }
        let mut parsed = Self::default();
        let mut seen = std::collections::HashSet::new();
        for asset::Qualifier { name, value } in wire {
            if name.is_empty() || !seen.insert(name) {
                return Err(Status::invalid_argument(format!("qualifier {name:?} is empty or given twice")));
            }
            if name.len() + value.len() > VALUE_BYTES_MAX {
                let text = format!("a qualifier has more than {VALUE_BYTES_MAX} bytes");
                return Err(Status::invalid_argument(text));
            }
            parsed.add(name, value)?;
        }
        Ok(parsed)
    }

    fn add(&mut self, name: &str, value: &str) -> Result<(), Status> {
        if let Some(header) = name.strip_prefix(HEADER) {
            self.headers.push((HeaderFor::All, header.to_owned(), value.to_owned()));
            return Ok(());
        }
        if let Some(rest) = name.strip_prefix(HEADER_OF_URL) {
            let (index, header) = rest.split_once(':').unwrap_or_default();
            let index = index.parse().map_err(|_| {
                Status::invalid_argument(format!("{HEADER_OF_URL} is followed by INDEX:HEADER"))
            })?;
            self.headers.push((HeaderFor::Index(index), header.to_owned(), value.to_owned()));
            return Ok(());
        }
        if name == AUTH_HEADERS {
            self.headers.extend(auth_headers(value)?);
            return Ok(());
        }
        match name {
            CHECKSUM => self.checksums = checksums(value)?,
            DIRECTORY => {
                self.directory = RelPath::parse(value.trim_end_matches('/')).map_err(|error| {
                    Status::invalid_argument(format!("qualifier {DIRECTORY} {value:?}: {error}"))
                })?;
            }
            _ => {}
        }
        self.public.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// Refuses what a fetch from an origin could not obey, all of it at once.
    pub(crate) fn check_supported(&self, is_directory: bool) -> Result<(), Status> {
        let is_known = |name: &str| {
            [CHECKSUM, RESOURCE_TYPE, CANONICAL_ID].contains(&name) || (is_directory && name == DIRECTORY)
        };
        let unknown: Vec<&String> = self.public.keys().filter(|name| !is_known(name)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let field_violations = unknown.iter().map(|name| rpc::bad_request::FieldViolation {
            field: "qualifiers.name".into(),
            description: format!("\"{name}\" not supported"),
            ..Default::default()
        });
        let request = rpc::BadRequest { field_violations: field_violations.collect() };
        let message = format!("qualifiers are not supported: {unknown:?}");
        let wire = rpc::Status {
            code: rpc::Code::InvalidArgument.into(),
            message: message.clone(),
            details: vec![pack_any("google.rpc.BadRequest", &request)],
        };
        Err(Status::with_details(Code::InvalidArgument, message, wire.encode_to_vec().into()))
    }

    /// The headers for the URI at an index; those for it alone win over those for all.
    pub(crate) fn headers_for(&self, index: usize, uri: &str) -> Vec<(&str, &str)> {
        let mut headers: BTreeMap<String, (&str, &str)> = BTreeMap::new();
        for wanted in [HeaderFor::All, HeaderFor::Uri(uri.to_owned()), HeaderFor::Index(index)] {
            for (at, name, value) in &self.headers {
                if *at == wanted {
                    headers.insert(name.to_lowercase(), (name, value));
                }
            }
        }
        headers.into_values().collect()
    }

    /// Whether somebody else might be given something else, or nothing, for the same URI.
    pub(crate) fn has_secrets(&self) -> bool {
        !self.headers.is_empty()
    }

    /// Tells requests with other headers apart. Never leaves memory.
    pub(crate) fn secrets_hash(&self) -> Vec<u8> {
        let mut hasher = DigestFunction::Sha256.hasher(0);
        for header in &self.headers {
            hasher.update(format!("{header:?}").as_bytes());
        }
        hasher.finish().hash().to_vec()
    }

    /// The qualifiers as an answer repeats them: without secrets.
    pub(crate) fn to_wire(&self) -> Vec<asset::Qualifier> {
        let pairs = self.public.iter();
        pairs.map(|(name, value)| asset::Qualifier { name: name.clone(), value: value.clone() }).collect()
    }
}

/// Parses what Bazel sent before it had qualifiers for headers: an object of URIs, each with an object of headers.
fn auth_headers(value: &str) -> Result<Vec<(HeaderFor, String, String)>, Status> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Values {
        One(String),
        Many(Vec<String>),
    }
    // The error of the parser may repeat what it read.
    let parsed: BTreeMap<String, BTreeMap<String, Values>> = serde_json::from_str(value).map_err(|_| {
        Status::invalid_argument(format!("qualifier {AUTH_HEADERS} is no JSON of URIs and headers"))
    })?;
    let headers = parsed.into_iter().flat_map(|(uri, headers)| {
        headers.into_iter().flat_map(move |(name, values)| {
            let values = match values {
                Values::One(value) => vec![value],
                Values::Many(values) => values,
            };
            let uri = uri.clone();
            values.into_iter().map(move |value| (HeaderFor::Uri(uri.clone()), name.clone(), value))
        })
    });
    Ok(headers.collect())
}

/// Parses hashes with white space between them. Functions that are not known are skipped, as browsers do.
fn checksums(value: &str) -> Result<Vec<Checksum>, Status> {
    let refused = |text: &str| Status::invalid_argument(format!("qualifier {CHECKSUM}: {text}"));
    let mut found = Vec::new();
    for item in value.split_ascii_whitespace() {
        let (name, rest) = item.split_once('-').ok_or_else(|| refused("an item is not FUNCTION-BASE64"))?;
        let function = match name {
            "sha256" => DigestFunction::Sha256,
            "sha384" => DigestFunction::Sha384,
            "sha512" => DigestFunction::Sha512,
            _ => continue,
        };
        let text = rest.split('?').next().unwrap_or_default();
        let hash = BASE64_STANDARD.decode(text).map_err(|_| refused("a hash is no Base64"))?;
        if hash.len() != function.hash_bytes() {
            return Err(refused("a hash has the wrong length"));
        }
        found.push(Checksum { function, hash });
    }
    if found.is_empty() {
        return Err(refused("names no hash of sha256, sha384 or sha512"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Qualifiers, Status> {
        let wire = |(name, value): &(&str, &str)| asset::Qualifier {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        };
        Qualifiers::parse(&pairs.iter().map(wire).collect::<Vec<_>>())
    }

    #[test]
    fn ast_18_a_list_of_checksums_is_satisfied_by_one() {
        // Of "abc".
        let sha256 = "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
        let zeros = format!("sha256-{}", BASE64_STANDARD.encode([0; 32]));
        let parsed = parse(&[(CHECKSUM, &format!("{zeros} md5-what {sha256}?opt"))]).unwrap();
        let satisfied = parsed.checksums.iter().any(|checksum| {
            let mut hasher = checksum.hasher();
            hasher.update(b"abc");
            checksum.is_of(hasher)
        });
        assert!(satisfied && parsed.checksums.len() == 2);
        for bad in ["", "md5-abc", "sha256", "sha256-abc", "sha256-!!!!"] {
            assert_eq!(parse(&[(CHECKSUM, bad)]).err().unwrap().code(), Code::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn ast_19_headers_are_kept_apart_and_those_of_a_url_win() {
        let parsed = parse(&[
            ("http_header:Authorization", "general"),
            ("http_header_url:1:authorization", "special"),
            ("http_header:Accept", "x"),
            ("bazel.canonical_id", "id"),
        ])
        .unwrap();
        assert_eq!(parsed.headers_for(0, "u"), [("Accept", "x"), ("Authorization", "general")]);
        assert_eq!(parsed.headers_for(1, "u"), [("Accept", "x"), ("authorization", "special")]);
        assert!(parsed.has_secrets());
        assert_eq!(parsed.to_wire().len(), 1, "answers repeat no secrets");
        parsed.check_supported(false).unwrap();
        assert!(parse(&[("http_header_url:x:A", "v")]).is_err());
    }

    #[test]
    fn ast_19_older_bazels_say_headers_as_json() {
        let json = r#"{"https://a/x": {"Authorization": "Basic 1", "Accept": ["y"]}}"#;
        let parsed = parse(&[("bazel.auth_headers", json), ("http_header:Accept", "z")]).unwrap();
        assert_eq!(parsed.headers_for(0, "https://a/x"), [("Accept", "y"), ("Authorization", "Basic 1")]);
        assert_eq!(parsed.headers_for(0, "https://a/y"), [("Accept", "z")]);
        assert!(parsed.to_wire().is_empty(), "answers repeat no secrets");
        let refused = parse(&[("bazel.auth_headers", r#"{"https://a": "secret"}"#)]).err().unwrap();
        assert!(!refused.message().contains("secret"));
    }

    #[test]
    fn ast_02_everything_unknown_is_named() {
        let parsed = parse(&[("vcs.commit", "x"), ("colour", "green"), ("directory", "a")]).unwrap();
        let refused = parsed.check_supported(true).unwrap_err();
        let wire = rpc::Status::decode(refused.details()).unwrap();
        let details = rpc::BadRequest::decode(&*wire.details[0].value).unwrap();
        let told: Vec<_> = details.field_violations.iter().map(|v| v.description.as_str()).collect();
        assert_eq!(told, ["\"colour\" not supported", "\"vcs.commit\" not supported"]);
        assert_eq!(details.field_violations[0].field, "qualifiers.name");
    }

    #[test]
    fn ast_01_names_are_unique_and_directories_stay_inside() {
        assert!(parse(&[("a", "1"), ("a", "2")]).is_err());
        for bad in ["/etc", "../x", "a//b"] {
            assert!(parse(&[("directory", bad)]).is_err(), "{bad}");
        }
        assert_eq!(parse(&[("directory", "a/b/")]).unwrap().directory.as_str(), "a/b");
    }
}
