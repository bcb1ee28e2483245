//! Values of flags that several commands share.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use wardian_proto::{Digest, InstanceName, RelPath};

use crate::client::{Access, Client, ClientError, ServerUrl};

/// Which server to talk to.
#[derive(Args, Clone, Debug)]
pub(crate) struct Remote {
    /// Server to talk to: HOST:PORT, grpc://HOST:PORT, or grpcs://HOST:PORT with TLS [default: grpc://127.0.0.1:8980]
    #[arg(long, value_name = "URL", global = true, env = "WARDIAN_SERVER", help_heading = "Connection")]
    pub(crate) server: Option<ServerUrl>,
    /// Instance of the server to use; most have one without a name.
    #[arg(
        long,
        value_name = "NAME",
        global = true,
        env = "WARDIAN_INSTANCE",
        default_value = "",
        value_parser = instance_name,
        hide_default_value = true,
        help_heading = "Connection"
    )]
    pub(crate) instance: InstanceName,
    /// PEM file with the authorities that sign the server's certificate [default: those this machine trusts]
    #[arg(long, value_name = "FILE", global = true, env = "WARDIAN_TLS_CA", help_heading = "Connection")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// PEM file with the certificate by which this client is known, for servers that ask for one.
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        env = "WARDIAN_TLS_CLIENT_CERTIFICATE",
        help_heading = "Connection"
    )]
    pub(crate) tls_client_certificate: Option<PathBuf>,
    /// PEM file with the key of that certificate.
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        env = "WARDIAN_TLS_CLIENT_KEY",
        help_heading = "Connection"
    )]
    pub(crate) tls_client_key: Option<PathBuf>,
    /// File with the token that the server knows this client by; WARDIAN_TOKEN may hold the token itself.
    #[arg(long, value_name = "FILE", global = true, env = "WARDIAN_TOKEN_FILE", help_heading = "Connection")]
    pub(crate) token_file: Option<PathBuf>,
}

impl Remote {
    pub(crate) async fn connect(&self) -> Result<Client, ClientError> {
        Client::reach(&self.access()?, self.instance.clone()).await
    }

    /// Where the server is and what it is shown. The token itself is no flag: lists of processes show flags.
    pub(crate) fn access(&self) -> Result<Access, ClientError> {
        let tls_identity = match (&self.tls_client_certificate, &self.tls_client_key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => {
                let text = "--tls-client-certificate and --tls-client-key go together".into();
                return Err(ClientError::Access(text));
            }
        };
        let token = match &self.token_file {
            Some(path) => Some(read_token(path)?),
            None => std::env::var("WARDIAN_TOKEN").ok().filter(|token| !token.is_empty()),
        };
        let url = self.server.clone().unwrap_or_default();
        Ok(Access { url, tls_ca: self.tls_ca.clone(), tls_identity, token })
    }
}

/// Reads a file that holds a token and nothing else.
pub(crate) fn read_token(path: &Path) -> Result<String, ClientError> {
    let failed = |why: String| ClientError::Access(format!("token file {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    match text.trim() {
        "" => Err(failed("it is empty".into())),
        token => Ok(token.to_owned()),
    }
}

fn instance_name(text: &str) -> Result<InstanceName, wardian_proto::InstanceNameError> {
    InstanceName::parse(text)
}

/// Why a flag's value was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ValueError {
    #[error("{0:?} is not NAME=VALUE")]
    Pair(String),
    #[error("{0:?} is not PATH=HASH/SIZE; `wardian cas put DIR` prints the HASH/SIZE of a directory")]
    Graft(String),
    #[error("{0:?} is no duration; write it like 90s, 1m30s, 500ms or 2h")]
    Duration(String),
}

/// `NAME=VALUE`. The value may be empty and may hold further equals signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl FromStr for Pair {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                Ok(Self { name: name.to_owned(), value: value.to_owned() })
            }
            _ => Err(ValueError::Pair(text.to_owned())),
        }
    }
}

/// `PATH=HASH/SIZE`: a directory tree that is stored already, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Graft {
    pub(crate) path: RelPath,
    pub(crate) root: Digest,
}

impl FromStr for Graft {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let parse = || {
            let (path, root) = text.rsplit_once('=')?;
            let path = relative_path(path).ok().filter(|path| !path.is_root())?;
            Some(Self { path, root: root.parse().ok()? })
        };
        parse().ok_or_else(|| ValueError::Graft(text.to_owned()))
    }
}

/// Parses a path below the input root as people write it, such as `./out/`.
pub(crate) fn relative_path(text: &str) -> Result<RelPath, wardian_proto::PathError> {
    RelPath::root().resolve(text)
}

/// Parses durations such as `90s`, `1m30s`, `500ms`, `2h`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, ValueError> {
    let refused = || ValueError::Duration(text.to_owned());
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
        let number: u64 = rest[..digits].parse().map_err(|_| refused())?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |n| digits + n);
        let part = match &rest[digits..unit_end] {
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            "h" => number.checked_mul(3600).map(Duration::from_secs),
            _ => None,
        };
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(refused)?;
        rest = &rest[unit_end..];
    }
    if text.is_empty() { Err(refused()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_split_at_the_first_equals_sign() {
        let pair = |text: &str| text.parse::<Pair>().map(|p| (p.name, p.value));
        assert_eq!(pair("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("A="), Ok(("A".to_owned(), String::new())));
        assert!(pair("A").is_err() && pair("=b").is_err() && pair("").is_err());
    }

    #[test]
    fn durations_have_units() {
        let cases = [
            ("90", 90_000),
            ("90s", 90_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("2h", 7_200_000),
            ("0s", 0),
        ];
        for (text, millis) in cases {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in
            ["", "s", "1x", "1.5s", "-1s", "1 s", "99999999999999999999s", "18446744073709551615h", "1s2"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn grafts_name_a_place_and_a_tree() {
        let digest = format!("{}/7", "ab".repeat(32));
        let graft: Graft = format!("tools/clang={digest}").parse().unwrap();
        assert_eq!((graft.path.as_str(), graft.root.to_string()), ("tools/clang", digest.clone()));
        for text in [digest.clone(), format!("={digest}"), format!("../x={digest}"), "tools=abc".to_owned()] {
            assert!(text.parse::<Graft>().is_err(), "{text}");
        }
    }

    #[test]
    fn paths_are_tidied_and_stay_inside() {
        assert_eq!(relative_path("./out/").unwrap().as_str(), "out");
        assert!(relative_path("../out").is_err() && relative_path("/out").is_err());
    }
}
