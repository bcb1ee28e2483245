//! Paths inside an input root, and the names they are made of.

use std::fmt;

/// Longest single name in bytes: what common file systems hold.
pub const SEGMENT_BYTES_MAX: usize = 255;

/// Longest path in bytes.
pub const PATH_BYTES_MAX: usize = 4096;

/// Why a path or name was refused. All of these are the caller's mistake (INVALID_ARGUMENT).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum PathError {
    #[error("path {0:?} is absolute; paths are relative to the input root")]
    Absolute(String),
    #[error("path {0:?} holds an empty, '.' or '..' segment")]
    Segment(String),
    #[error("path {0:?} leads out of the input root")]
    Escapes(String),
    #[error("path {0:?} holds a NUL byte")]
    Nul(String),
    #[error("path of {0} bytes is longer than {PATH_BYTES_MAX}")]
    TooLong(usize),
    #[error("name of {0} bytes is longer than {SEGMENT_BYTES_MAX}")]
    SegmentTooLong(usize),
    #[error("{0:?} is no file name: it is empty, '.', '..', or holds '/' or NUL")]
    Name(String),
}

/// One valid file name: not empty, not `.` or `..`, without `/` and NUL.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Segment(String);

impl Segment {
    /// Parses a name as a Directory's nodes carry it.
    pub fn parse(name: &str) -> Result<Self, PathError> {
        if name.len() > SEGMENT_BYTES_MAX {
            return Err(PathError::SegmentTooLong(name.len()));
        }
        if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
            return Err(PathError::Name(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A path below the input root. The empty path is the root itself.
///
/// It holds no `..`, no `.`, no empty segment, no leading or trailing slash and no NUL.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RelPath(String);

impl RelPath {
    /// The root itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// Parses a path that must already be in its plain form.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong(text.len()));
        }
        if text.is_empty() {
            return Ok(Self::root());
        }
        if text.starts_with('/') {
            return Err(PathError::Absolute(text.to_owned()));
        }
        if text.contains('\0') {
            return Err(PathError::Nul(text.to_owned()));
        }
        for segment in text.split('/') {
            match Segment::parse(segment) {
                Ok(_) => {}
                Err(PathError::Name(_)) => return Err(PathError::Segment(text.to_owned())),
                Err(other) => return Err(other),
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// Resolves `text` against this directory by its letters alone: `.` and `..` are taken away.
    ///
    /// Fails when the result would lie above the root. Symlinks are not looked at.
    pub fn resolve(&self, text: &str) -> Result<Self, PathError> {
        if text.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong(text.len()));
        }
        if text.starts_with('/') {
            return Err(PathError::Absolute(text.to_owned()));
        }
        let mut segments: Vec<&str> = self.segments().collect();
        for segment in text.split('/') {
            match segment {
                "" | "." => {}
                ".." => {
                    segments.pop().ok_or_else(|| PathError::Escapes(text.to_owned()))?;
                }
                name => segments.push(name),
            }
        }
        Self::parse(&segments.join("/"))
    }

    /// Returns this path with one more name at its end.
    pub fn join(&self, name: &Segment) -> Self {
        if self.is_root() { Self(name.0.clone()) } else { Self(format!("{}/{}", self.0, name.0)) }
    }

    /// The directory that holds this path; the root has none.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        Some(self.0.rsplit_once('/').map_or_else(Self::root, |(dir, _)| Self(dir.to_owned())))
    }

    /// The last name; the root has none.
    pub fn file_name(&self) -> Option<&str> {
        self.segments().next_back()
    }

    /// The names from the root down.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|s| !s.is_empty())
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this path is `other` or lies below it.
    pub fn starts_with(&self, other: &Self) -> bool {
        other.is_root()
            || self.0.strip_prefix(&other.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The path as text; empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root() { "." } else { &self.0 })
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_paths_are_accepted() {
        for path in ["", "a", "a/b", "a.b/..c/...", "ü/é", "with space"] {
            assert_eq!(RelPath::parse(path).unwrap().as_str(), path);
        }
    }

    #[test]
    fn paths_that_climb_or_blur_are_refused() {
        for path in ["/", "/a", "..", "a/..", "../a", "a/../b", ".", "a/./b", "a//b", "a/", "a\0b"] {
            assert!(RelPath::parse(path).is_err(), "{path:?}");
        }
        assert!(RelPath::parse(&"a/".repeat(3000)).is_err());
        assert!(RelPath::parse(&"a".repeat(256)).is_err());
    }

    #[test]
    fn names_are_single_segments() {
        for name in ["", ".", "..", "a/b", "/", "a\0"] {
            assert!(Segment::parse(name).is_err(), "{name:?}");
        }
        assert_eq!(Segment::parse("..a").unwrap().as_str(), "..a");
    }

    #[track_caller]
    fn resolves(base: &str, text: &str, expected: Option<&str>) {
        let got = RelPath::parse(base).unwrap().resolve(text).ok();
        assert_eq!(got.as_ref().map(RelPath::as_str), expected, "{base:?} + {text:?}");
    }

    #[test]
    fn resolve_stays_inside_the_root() {
        resolves("", "a/b", Some("a/b"));
        resolves("work/dir", "../out", Some("work/out"));
        resolves("work/dir", "../../out", Some("out"));
        resolves("work/dir", "../..", Some(""));
        resolves("work", "./x//y/", Some("work/x/y"));
        resolves("work/dir", "../../../out", None);
        resolves("", "/etc/passwd", None);
    }

    #[test]
    fn prefix_is_by_segment() {
        let path = |p| RelPath::parse(p).unwrap();
        assert!(path("a/b").starts_with(&path("a")));
        assert!(path("a/b").starts_with(&path("")));
        assert!(!path("ab").starts_with(&path("a")));
    }

    proptest! {
        #[test]
        fn whatever_parses_is_safe(text in "([a-c.]|/|\\.\\.|\0){0,12}") {
            if let Ok(path) = RelPath::parse(&text) {
                prop_assert_eq!(path.as_str(), &text);
                prop_assert!(path.segments().all(|s| Segment::parse(s).is_ok()));
                prop_assert!(!text.starts_with('/') && !text.contains('\0'));
            }
        }

        #[test]
        fn resolve_never_climbs_out(base in "([a-c]{1,2}/){0,3}", text in "([a-c.]|/|\\.\\./){0,10}") {
            let base = RelPath::root().resolve(&base).unwrap();
            if let Ok(path) = base.resolve(&text) {
                prop_assert_eq!(RelPath::parse(path.as_str()).unwrap(), path);
            }
        }
    }
}
