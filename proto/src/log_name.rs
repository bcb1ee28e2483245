//! Names of log streams: `[instance/]logstreams/ID` to read, the same with `/TOKEN` to write.

use std::fmt;

use crate::InstanceName;

/// The segment that tells a log stream from a blob.
const KEYWORD: &str = "logstreams";

/// Longest id or token in bytes.
const SEGMENT_BYTES_MAX: usize = 128;

/// The name of a log stream, with the writer's token when it came with one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LogName {
    /// The instance that the stream belongs to.
    pub instance: InstanceName,
    /// What tells it from the instance's other streams.
    pub id: String,
    /// What allows to write. A secret.
    pub token: Option<String>,
}

impl LogName {
    /// Parses a ByteStream resource name; `None` when it is no log stream's.
    pub fn parse(name: &str) -> Option<Self> {
        let segments: Vec<&str> = name.split('/').collect();
        let (instance, id, token) = match segments.as_slice() {
            [instance @ .., KEYWORD, id] => (instance, id, None),
            [instance @ .., KEYWORD, id, token] => (instance, id, Some((*token).to_owned())),
            _ => return None,
        };
        let is_valid = |segment: &str| !segment.is_empty() && segment.len() <= SEGMENT_BYTES_MAX;
        if !is_valid(id) || token.as_deref().is_some_and(|token| !is_valid(token)) {
            return None;
        }
        if instance.first() == Some(&"") {
            return None;
        }
        let instance = InstanceName::parse(&instance.join("/")).ok()?;
        Some(Self { instance, id: (*id).to_owned(), token })
    }

    /// The name for readers, whether or not this one may write.
    pub fn for_readers(&self) -> String {
        format!("{}{KEYWORD}/{}", self.instance.prefix(), self.id)
    }

    /// The name for the writer; `None` without a token.
    pub fn for_the_writer(&self) -> Option<String> {
        self.token.as_ref().map(|token| format!("{}/{token}", self.for_readers()))
    }
}

/// Never shows the token.
impl fmt::Debug for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.for_readers())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for instance in ["", "main", "a/b", "a/logstreams"] {
            let instance = InstanceName::parse(instance).unwrap();
            for token in [None, Some("secret".to_owned())] {
                let name = LogName { instance: instance.clone(), id: "id-1".into(), token };
                let text = name.for_the_writer().unwrap_or_else(|| name.for_readers());
                assert_eq!(LogName::parse(&text), Some(name.clone()), "{text}");
                assert!(!format!("{name:?}").contains("secret"));
            }
        }
    }

    #[test]
    fn other_names_are_left_alone() {
        for name in [
            "",
            "logstreams",
            "logstreams/",
            "/logstreams/id",
            "logstreams/id/",
            "logstreams/id/token/more",
            "logstreams//token",
            "blobs/logstreams/id",
            "uploads/u/blobs/00/1/logstreams/id",
            "a//logstreams/id",
        ] {
            assert_eq!(LogName::parse(name), None, "{name}");
        }
    }
}
