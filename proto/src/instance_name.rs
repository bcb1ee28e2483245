//! The name of one of the instances a server may offer.

use std::fmt;
use std::sync::Arc;

/// Longest instance name in bytes.
const INSTANCE_NAME_BYTES_MAX: usize = 255;

/// Path segments that resource names use as keywords, so that no instance may.
pub(crate) const RESERVED: &[&str] =
    &["blobs", "uploads", "actions", "actionResults", "operations", "capabilities", "compressed-blobs"];

/// Why an instance name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum InstanceNameError {
    #[error("instance name holds {0:?}, which resource names reserve")]
    Reserved(String),
    #[error("instance name has an empty path segment")]
    EmptySegment,
    #[error("instance name holds a control character")]
    Control,
    #[error("instance name is {0} bytes long; limit is {INSTANCE_NAME_BYTES_MAX}")]
    TooLong(usize),
}

/// A valid instance name: empty, or path segments none of which is a reserved keyword.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct InstanceName(Arc<str>);

impl InstanceName {
    /// Parses a name as requests carry it.
    pub fn parse(text: &str) -> Result<Self, InstanceNameError> {
        if text.len() > INSTANCE_NAME_BYTES_MAX {
            return Err(InstanceNameError::TooLong(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(InstanceNameError::Control);
        }
        if !text.is_empty() {
            for segment in text.split('/') {
                if segment.is_empty() {
                    return Err(InstanceNameError::EmptySegment);
                }
                if RESERVED.contains(&segment) {
                    return Err(InstanceNameError::Reserved(segment.to_owned()));
                }
            }
        }
        Ok(Self(text.into()))
    }

    /// The name as text; empty for the default instance.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a prefix of resource and operation names: empty, or `name/`.
    pub fn prefix(&self) -> String {
        if self.0.is_empty() { String::new() } else { format!("{}/", self.0) }
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_nested_and_empty_names_are_accepted() {
        for name in ["", "main", "team/project/main", "BLOBS", "blobs2"] {
            assert_eq!(InstanceName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn reserved_segments_are_refused_anywhere() {
        for keyword in RESERVED {
            for name in [(*keyword).to_owned(), format!("a/{keyword}"), format!("{keyword}/b")] {
                assert_eq!(
                    InstanceName::parse(&name),
                    Err(InstanceNameError::Reserved((*keyword).to_owned()))
                );
            }
        }
    }

    #[test]
    fn stray_slashes_controls_and_long_names_are_refused() {
        for name in ["/", "/a", "a/", "a//b"] {
            assert_eq!(InstanceName::parse(name), Err(InstanceNameError::EmptySegment), "{name}");
        }
        assert_eq!(InstanceName::parse("a\0b"), Err(InstanceNameError::Control));
        assert_eq!(InstanceName::parse(&"x".repeat(256)), Err(InstanceNameError::TooLong(256)));
    }
}
