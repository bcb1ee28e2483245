//! Tokens: how they are configured, sent and compared.

use std::fmt;
use std::path::Path;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};
use toml::{Table, Value};
use tonic::Status;
use wardian_proto::InstanceName;

use super::{Verb, Verbs};

/// Bytes of a new token: nobody guesses 32.
const SECRET_BYTES: usize = 32;

/// Longest token that is read.
const TOKEN_BYTES_MAX: usize = 4096;

/// Tokens that can be configured; each request is compared with all of them.
const TOKENS_MAX: usize = 1000;

/// What a table of a token may say.
const KEYS: &[&str] = &["name", "sha256", "file", "role", "verbs", "instances"];

/// What the roles stand for.
const ROLES: &[(&str, &[Verb])] = &[
    ("client", &[Verb::Find, Verb::Read, Verb::Write, Verb::AcRead, Verb::Execute, Verb::AssetFetch]),
    // Inputs come from the CAS and outputs go there. No results of actions: those the server writes.
    ("worker", &[Verb::Worker, Verb::Find, Verb::Read, Verb::Write]),
    (
        "admin",
        &[
            Verb::Find,
            Verb::Read,
            Verb::Write,
            Verb::AcRead,
            Verb::AcWrite,
            Verb::Execute,
            Verb::AssetFetch,
            Verb::AssetPush,
            Verb::Metrics,
            Verb::Admin,
        ],
    ),
    ("metrics", &[Verb::Metrics]),
];

/// One of the tokens that a server knows. The token itself is not kept, only its hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What messages call whoever sends it.
    pub name: String,
    /// What it may do.
    pub verbs: Verbs,
    /// Where; `None` is everywhere.
    pub instances: Option<Vec<InstanceName>>,
    hash: [u8; 32],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?}, {:?}, {:?})", self.name, self.verbs, self.instances)
    }
}

impl Token {
    /// A token of these rights.
    pub fn new(name: &str, secret: &str, verbs: Verbs, instances: Option<Vec<InstanceName>>) -> Self {
        Self { name: name.into(), verbs, instances, hash: Sha256::digest(secret).into() }
    }

    /// Whether this is what was sent. Takes the same time whatever was sent.
    pub(super) fn is(&self, sent: &[u8; 32]) -> bool {
        let differing = self.hash.iter().zip(sent).fold(0, |bits, (a, b)| bits | (a ^ b));
        std::hint::black_box(differing) == 0
    }
}

/// The hash of the token that a request carries.
pub(crate) fn authorization(headers: &HeaderMap) -> Result<[u8; 32], Status> {
    const HOW: &str = "send the header `authorization: Bearer TOKEN` (Bazel: --remote_header=authorization='Bearer \
                       TOKEN'; wardian: --token-file or WARDIAN_TOKEN)";
    let mut sent = headers.get_all(AUTHORIZATION).iter();
    let first = sent.next().ok_or_else(|| Status::unauthenticated(format!("no token: {HOW}")))?;
    if sent.next().is_some() {
        return Err(Status::unauthenticated("more than one header `authorization`"));
    }
    let token = first.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        let token = token.trim();
        let is_one =
            scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= TOKEN_BYTES_MAX;
        is_one.then_some(token)
    });
    let token = token.ok_or_else(|| {
        Status::unauthenticated(format!("the header `authorization` holds no bearer token: {HOW}"))
    })?;
    Ok(Sha256::digest(token).into())
}

/// The hash of a token as the configuration has it.
pub(crate) fn sha256_hex(secret: &str) -> String {
    hex::encode(Sha256::digest(secret))
}

/// A token that nobody has.
pub(crate) fn new_secret() -> std::io::Result<String> {
    use std::io::Read as _;
    let mut bytes = [0; SECRET_BYTES];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("wdn_{}", hex::encode(bytes)))
}

/// Reads `auth.tokens`.
pub fn parse_tokens(items: &[Value]) -> Result<Vec<Token>, String> {
    if items.len() > TOKENS_MAX {
        return Err(format!("names {} tokens; limit is {TOKENS_MAX}", items.len()));
    }
    let mut tokens: Vec<Token> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let table = item.as_table().ok_or_else(|| format!("must be tables with {}", KEYS.join(", ")))?;
        let token = parse(table).map_err(|problem| format!("number {}: {problem}", at + 1))?;
        if tokens.iter().any(|other| other.name == token.name || other.hash == token.hash) {
            return Err(format!("number {}: the name {:?} or the token is there twice", at + 1, token.name));
        }
        tokens.push(token);
    }
    Ok(tokens)
}

fn parse(table: &Table) -> Result<Token, String> {
    if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!("unknown key {key:?}; known here: {}", KEYS.join(", ")));
    }
    let text = |key: &str| match table.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(format!("{key} must be text in quotes")),
    };
    let list = |key: &str| match table.get(key) {
        None => Ok(None),
        Some(Value::Array(items)) => {
            let texts = items.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
            texts.map(Some).ok_or_else(|| format!("{key} must be a list of texts"))
        }
        Some(_) => Err(format!("{key} must be a list of texts")),
    };
    let name = text("name")?.filter(|name| !name.is_empty()).ok_or("a token without a `name`")?;
    let hash = match (text("sha256")?, text("file")?) {
        (Some(hex), None) => parse_hash(hex)?,
        (None, Some(file)) => hash_of_file(Path::new(file))?,
        _ => return Err("needs `sha256`, or a `file` that holds the token".into()),
    };
    let mut verbs = Verbs::default();
    if let Some(role) = text("role")? {
        let known = ROLES.iter().find(|(name, _)| *name == role);
        let names: Vec<&str> = ROLES.iter().map(|(name, _)| *name).collect();
        let (_, role) = known.ok_or_else(|| format!("role {role:?} is none of {}", names.join(", ")))?;
        verbs = role.iter().copied().collect();
    }
    for word in list("verbs")?.unwrap_or_default() {
        let words = || Verb::ALL.map(Verb::word).join(", ");
        let verb = Verb::ALL.into_iter().find(|verb| verb.word() == word);
        let verb = verb.ok_or_else(|| format!("verb {word:?} is none of {}", words()))?;
        verbs = verbs.and([verb].into_iter().collect());
    }
    if verbs == Verbs::default() {
        return Err("gives no right: it needs `role` or `verbs`".into());
    }
    let parse_instance = |name: &str| InstanceName::parse(name).map_err(|error| error.to_string());
    let instances = list("instances")?;
    let instances: Option<Vec<_>> =
        instances.map(|names| names.into_iter().map(parse_instance).collect()).transpose()?;
    if instances.is_some() && verbs.has(Verb::Worker) {
        return Err(
            "a worker is given actions of every instance: a token with `worker` has no `instances`".into()
        );
    }
    Ok(Token { name: name.to_owned(), verbs, instances, hash })
}

fn parse_hash(text: &str) -> Result<[u8; 32], String> {
    let mut hash = [0; 32];
    // What was written may be the token itself: it is not repeated.
    hex::decode_to_slice(text, &mut hash).map_err(|_| "sha256 is not 64 hexadecimal digits")?;
    Ok(hash)
}

fn hash_of_file(path: &Path) -> Result<[u8; 32], String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    match text.trim() {
        "" => Err(format!("{} is empty", path.display())),
        secret if secret.len() > TOKEN_BYTES_MAX => {
            Err(format!("{} has more than {TOKEN_BYTES_MAX} bytes", path.display()))
        }
        secret => Ok(Sha256::digest(secret).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Token>, String> {
        let table: Table = format!("tokens = {text}").parse().unwrap();
        parse_tokens(table["tokens"].as_array().unwrap())
    }

    #[test]
    fn a_token_may_be_in_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secret\n").unwrap();
        let tokens =
            parsed(&format!(r#"[{{ name = "x", file = "{}", role = "worker" }}]"#, file.path().display()));
        assert!(tokens.unwrap()[0].is(&Sha256::digest("secret").into()));
    }

    #[test]
    fn roles_of_workers_and_clients_share_only_the_cas() {
        let verbs = |role| ROLES.iter().find(|(name, _)| *name == role).unwrap().1;
        let shared: Vec<_> = verbs("client").iter().filter(|verb| verbs("worker").contains(verb)).collect();
        assert_eq!(shared, [&Verb::Find, &Verb::Read, &Verb::Write]);
        assert!(!verbs("admin").contains(&Verb::Worker));
    }

    #[test]
    fn mistakes_are_named() {
        let hash = sha256_hex("x");
        for (text, word) in [
            ("[5]".to_owned(), "tables"),
            (r#"[{ sha256 = "00", role = "client" }]"#.to_owned(), "without a `name`"),
            (r#"[{ name = "a", sha256 = "secret", role = "client" }]"#.to_owned(), "64 hexadecimal"),
            (r#"[{ name = "a", role = "client" }]"#.to_owned(), "needs `sha256`"),
            (r#"[{ name = "a", file = "/no/such/file", role = "client" }]"#.to_owned(), "cannot be read"),
            (format!(r#"[{{ name = "a", sha256 = "{hash}" }}]"#), "no right"),
            (format!(r#"[{{ name = "a", sha256 = "{hash}", role = "king" }}]"#), "none of client"),
            (format!(r#"[{{ name = "a", sha256 = "{hash}", verbs = ["fly"] }}]"#), "none of find"),
            (format!(r#"[{{ name = "a", sha256 = "{hash}", role = "client", colour = 1 }}]"#), "unknown key"),
            (format!(r#"[{{ name = "a", sha256 = "{hash}", role = "client", instances = "" }}]"#), "list"),
            (
                format!(r#"[{{ name = "a", sha256 = "{hash}", role = "worker", instances = ["x"] }}]"#),
                "every instance",
            ),
            (
                format!(
                    r#"[{{ name = "a", sha256 = "{hash}", role = "client" }}, {{ name = "b", sha256 = "{hash}", role = "worker" }}]"#
                ),
                "twice",
            ),
        ] {
            let error = parsed(&text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
