//! Who may do what.
//!
//! Each request is given a [`Caller`] before it reaches a service ([`gate`]), and each service asks the caller for the
//! right it needs, for the instance it is about. There are two kinds of servers: those that are open to everybody who
//! reaches the port, which is to be this machine only, and those that know their callers by tokens.

mod gate;
mod rpcs;
mod token;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::HeaderMap;
use tonic::{Request, Status};
use wardian_proto::InstanceName;

pub(crate) use gate::{Gate, gate};
pub use token::{Token, parse_tokens};
pub(crate) use token::{authorization, new_secret, sha256_hex};

/// What can be done to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Ask which blobs are stored.
    Find,
    /// Read blobs and logs.
    Read,
    /// Store blobs and logs.
    Write,
    /// Read results of actions.
    AcRead,
    /// Write results of actions.
    AcWrite,
    /// Run actions; look at and cancel what runs.
    Execute,
    /// Have the server fetch a URI.
    AssetFetch,
    /// Say what a URI stands for.
    AssetPush,
    /// Take actions and say what came of them.
    Worker,
    /// Read the server's numbers.
    Metrics,
    /// Change what is everybody's: toolchains, workers.
    Admin,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Find,
        Self::Read,
        Self::Write,
        Self::AcRead,
        Self::AcWrite,
        Self::Execute,
        Self::AssetFetch,
        Self::AssetPush,
        Self::Worker,
        Self::Metrics,
        Self::Admin,
    ];

    /// The word for it in the configuration and in messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Find => "find",
            Self::Read => "read",
            Self::Write => "write",
            Self::AcRead => "ac-read",
            Self::AcWrite => "ac-write",
            Self::Execute => "execute",
            Self::AssetFetch => "asset-fetch",
            Self::AssetPush => "asset-push",
            Self::Worker => "worker",
            Self::Metrics => "metrics",
            Self::Admin => "admin",
        }
    }

    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A set of verbs.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Verbs(u16);

impl Verbs {
    /// Every verb.
    pub fn all() -> Self {
        Verb::ALL.into_iter().collect()
    }

    /// Whether a verb is in it.
    pub fn has(self, verb: Verb) -> bool {
        self.0 & verb.bit() != 0
    }

    /// Those of either.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<Verb> for Verbs {
    fn from_iter<I: IntoIterator<Item = Verb>>(verbs: I) -> Self {
        Self(verbs.into_iter().fold(0, |set, verb| set | verb.bit()))
    }
}

impl fmt::Debug for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Verb::ALL.iter().filter(|verb| self.has(**verb)).map(|v| v.word())).finish()
    }
}

/// Whoever made a request, and what it may do.
#[derive(Clone, Debug)]
pub struct Caller {
    name: Arc<str>,
    verbs: Verbs,
    /// `None` stands for every instance.
    instances: Option<Arc<[InstanceName]>>,
    /// Whether it may change what belongs to all instances.
    operates: bool,
}

impl Caller {
    /// The caller of a request. A request that came by no gate may nothing.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Self>();
        caller.cloned().ok_or_else(|| Status::internal("a request that nobody asked for its rights"))
    }

    /// What messages call it. Those that nothing tells apart have one name.
    pub(crate) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// Whether the caller may do something to an instance.
    pub fn may(&self, verb: Verb, instance: &InstanceName) -> bool {
        let within = self.instances.as_ref().is_none_or(|named| named.contains(instance));
        within && self.verbs.has(verb)
    }

    /// Refuses what the caller may not do to an instance.
    pub(crate) fn check(&self, verb: Verb, instance: &InstanceName) -> Result<(), Status> {
        if self.may(verb, instance) {
            return Ok(());
        }
        Err(self.denied(verb.word(), &format!("on instance {:?}", instance.as_str())))
    }

    /// Refuses who has none of these rights, on whatever instance.
    pub(crate) fn check_any(&self, verbs: &[Verb]) -> Result<(), Status> {
        if verbs.iter().any(|verb| self.verbs.has(*verb)) {
            return Ok(());
        }
        let words: Vec<&str> = verbs.iter().map(|verb| verb.word()).collect();
        Err(self.denied(&words.join(" or "), "on any instance"))
    }

    /// Refuses who may not change what belongs to all instances.
    pub(crate) fn check_operates(&self, what: &str) -> Result<(), Status> {
        if self.operates {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "{what} is for the operator: a token with the right `admin` on every instance or, where no tokens are \
             configured, a caller on the server's own machine"
        )))
    }

    fn denied(&self, verb: &str, on_what: &str) -> Status {
        Status::permission_denied(format!("{} has no right `{verb}` {on_what}", self.name))
    }
}

/// Tells callers apart.
pub trait Authorizer: Send + Sync + 'static {
    /// Says who sends a request with these headers, from that address where it is known.
    fn caller(&self, headers: &HeaderMap, from: Option<SocketAddr>) -> Result<Caller, Status>;
}

/// Everybody may everything, except what only callers on the same machine may.
#[derive(Debug)]
pub struct Open;

impl Authorizer for Open {
    fn caller(&self, _: &HeaderMap, from: Option<SocketAddr>) -> Result<Caller, Status> {
        let is_here = from.is_some_and(|address| address.ip().to_canonical().is_loopback());
        Ok(Caller { name: "this caller".into(), verbs: Verbs::all(), instances: None, operates: is_here })
    }
}

/// Callers are known by the token that they send.
#[derive(Debug)]
pub struct Tokens(Vec<(Token, Caller)>);

impl Tokens {
    /// A server that knows these tokens, and refuses everybody else.
    pub fn new(tokens: Vec<Token>) -> Self {
        let caller = |token: Token| {
            let caller = Caller {
                name: format!("token {:?}", token.name).into(),
                verbs: token.verbs,
                instances: token.instances.clone().map(Into::into),
                operates: token.instances.is_none() && token.verbs.has(Verb::Admin),
            };
            (token, caller)
        };
        Self(tokens.into_iter().map(caller).collect())
    }
}

impl Authorizer for Tokens {
    fn caller(&self, headers: &HeaderMap, _: Option<SocketAddr>) -> Result<Caller, Status> {
        let sent = authorization(headers)?;
        let mut found = None;
        // Every token is compared, and every comparison takes the same time: how long this takes tells nothing.
        for (token, caller) in &self.0 {
            if token.is(&sent) {
                found = Some(caller);
            }
        }
        found.cloned().ok_or_else(|| Status::unauthenticated("the token is not known here"))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn tokens(text: &str) -> Tokens {
        let table: toml::Table = text.parse().unwrap();
        Tokens::new(parse_tokens(table["tokens"].as_array().unwrap()).unwrap())
    }

    fn with(value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static(value));
        headers
    }

    fn instance(name: &str) -> InstanceName {
        InstanceName::parse(name).unwrap()
    }

    #[test]
    fn a_token_gives_what_its_role_says_where_it_says() {
        let hash = sha256_hex("secret-of-at-least-16");
        let tokens = tokens(&format!(
            r#"tokens = [{{ name = "ci", sha256 = "{hash}", role = "client", instances = ["main"] }}]"#
        ));
        let caller = tokens.caller(&with("Bearer secret-of-at-least-16"), None).unwrap();
        assert!(caller.may(Verb::Execute, &instance("main")));
        assert!(!caller.may(Verb::Execute, &instance("")));
        for verb in [Verb::Worker, Verb::Admin, Verb::AcWrite, Verb::Metrics] {
            let refusal = caller.check(verb, &instance("main")).unwrap_err();
            assert_eq!(refusal.code(), tonic::Code::PermissionDenied);
            for word in ["ci", verb.word(), "main"] {
                assert!(refusal.message().contains(word), "{word} in {refusal:?}");
            }
        }
        assert!(caller.check_operates("this").is_err());
    }

    #[test]
    fn no_token_or_another_is_unauthenticated_and_never_repeated() {
        let tokens = tokens(&format!(
            r#"tokens = [{{ name = "ci", sha256 = "{}", role = "admin" }}]"#,
            sha256_hex("right")
        ));
        let mut twice = with("Bearer right");
        twice.append("authorization", HeaderValue::from_static("Bearer wrong"));
        for headers in [
            HeaderMap::new(),
            with("Bearer wrong"),
            with("Basic right"),
            with("right"),
            with("Bearer "),
            twice,
        ] {
            let refusal = tokens.caller(&headers, None).unwrap_err();
            assert_eq!(refusal.code(), tonic::Code::Unauthenticated, "{headers:?}");
            assert!(!refusal.message().contains("wrong"), "{refusal:?}");
        }
        let operator = tokens.caller(&with("bearer  right"), None).unwrap();
        operator.check_operates("this").unwrap();
    }

    #[test]
    fn without_tokens_only_this_machine_operates() {
        let caller = |from: Option<&str>| {
            Open.caller(&HeaderMap::new(), from.map(|from| from.parse().unwrap())).unwrap()
        };
        for from in ["127.0.0.1:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
            caller(Some(from)).check_operates("this").unwrap();
        }
        for from in [Some("192.0.2.1:9"), None] {
            assert!(caller(from).check_operates("this").is_err());
            assert!(caller(from).may(Verb::Execute, &instance("")));
        }
    }
}
