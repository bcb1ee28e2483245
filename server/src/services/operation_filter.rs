//! The filter of ListOperations: `NAME=VALUE` terms with `AND` between them, all of which must hold.
//!
//! A value is a word, or any text in double quotes, in which a backslash takes the next character as it is.

use std::iter::Peekable;
use std::str::Chars;

use wardian_scheduler::Stage;
use wardian_scheduler::state::View;

/// Longest filter that is read, and most terms in one.
const FILTER_BYTES_MAX: usize = 4096;
const TERMS_MAX: usize = 16;

/// What can be asked for, for messages.
const KNOWN: &str = "known are done=true|false, stage=QUEUED|EXECUTING|COMPLETED, invocation=ID, action=HASH[/SIZE] and \
                     worker=NAME, joined by AND";

/// What operations must be like to be listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Done(bool),
    Stage(StageName),
    Invocation(String),
    /// A hash, or a digest as resource names have it.
    Action(String),
    Worker(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StageName {
    Queued,
    Executing,
    Completed,
}

impl StageName {
    fn of(stage: &Stage) -> Self {
        match stage {
            Stage::Queued => Self::Queued,
            Stage::Executing(_) => Self::Executing,
            Stage::Completed(_) => Self::Completed,
        }
    }
}

/// Why a filter is none (INVALID_ARGUMENT).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FilterError {
    #[error("filter has {0} bytes; limit is {FILTER_BYTES_MAX}")]
    TooLong(usize),
    #[error("filter has more than {TERMS_MAX} terms")]
    TooMany,
    #[error("filter: expected {expected} at {at:?}; {KNOWN}")]
    Syntax { expected: &'static str, at: String },
    #[error("filter: {0:?} cannot be asked for; {KNOWN}")]
    Unknown(String),
    #[error("filter: {name} cannot be {value:?}; {KNOWN}")]
    Value { name: &'static str, value: String },
}

impl Filter {
    /// Reads a filter; an empty one lets everything pass.
    pub(super) fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > FILTER_BYTES_MAX {
            return Err(FilterError::TooLong(text.len()));
        }
        let mut reader = Reader(text.chars().peekable());
        let mut terms = Vec::new();
        if reader.is_at_end() {
            return Ok(Self(terms));
        }
        loop {
            if terms.len() == TERMS_MAX {
                return Err(FilterError::TooMany);
            }
            let name = reader.word("a name")?;
            reader.equals()?;
            let value = reader.value()?;
            terms.push(Term::parse(&name, value)?);
            if reader.is_at_end() {
                return Ok(Self(terms));
            }
            reader.and()?;
        }
    }

    /// Whether everything passes.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an operation is like that.
    pub(super) fn passes(&self, view: &View) -> bool {
        self.0.iter().all(|term| term.holds(view))
    }
}

impl Term {
    fn parse(name: &str, value: String) -> Result<Self, FilterError> {
        let refused = |name, value| Err(FilterError::Value { name, value });
        match name {
            "done" => match &*value {
                "true" => Ok(Self::Done(true)),
                "false" => Ok(Self::Done(false)),
                _ => refused("done", value),
            },
            "stage" => match &*value {
                "QUEUED" => Ok(Self::Stage(StageName::Queued)),
                "EXECUTING" => Ok(Self::Stage(StageName::Executing)),
                "COMPLETED" => Ok(Self::Stage(StageName::Completed)),
                _ => refused("stage", value),
            },
            "invocation" => Ok(Self::Invocation(value)),
            "action" => Ok(Self::Action(value)),
            "worker" => Ok(Self::Worker(value)),
            _ => Err(FilterError::Unknown(name.to_owned())),
        }
    }

    fn holds(&self, view: &View) -> bool {
        match self {
            Self::Done(done) => *done == matches!(view.stage, Stage::Completed(_)),
            Self::Stage(name) => *name == StageName::of(&view.stage),
            Self::Invocation(id) => view.job.invocation.to_string() == *id,
            Self::Action(digest) => {
                let action = view.job.requested;
                action.to_string() == *digest || action.hash_hex() == *digest
            }
            Self::Worker(name) => match &view.stage {
                Stage::Queued => false,
                Stage::Executing(metadata) => is_of(&metadata.worker, name),
                Stage::Completed(response) => {
                    let metadata = response.result.as_ref().and_then(|r| r.execution_metadata.as_ref());
                    metadata.is_some_and(|metadata| is_of(&metadata.worker, name))
                }
            },
        }
    }
}

/// Whether a worker is meant, as metadata have it: `NAME` or `NAME/EXECUTOR`.
fn is_of(worker: &str, name: &str) -> bool {
    worker.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

struct Reader<'a>(Peekable<Chars<'a>>);

impl Reader<'_> {
    fn skip_space(&mut self) {
        while self.0.next_if(|c| c.is_whitespace()).is_some() {}
    }

    fn is_at_end(&mut self) -> bool {
        self.skip_space();
        self.0.peek().is_none()
    }

    fn fail<T>(&self, expected: &'static str) -> Result<T, FilterError> {
        const SHOWN_CHARS_MAX: usize = 40;
        Err(FilterError::Syntax { expected, at: self.0.clone().take(SHOWN_CHARS_MAX).collect() })
    }

    /// Characters up to a space, a quote or a sign of the grammar.
    fn word(&mut self, expected: &'static str) -> Result<String, FilterError> {
        self.skip_space();
        let mut word = String::new();
        while let Some(c) = self.0.next_if(|c| !c.is_whitespace() && !"=\"()<>!,".contains(*c)) {
            word.push(c);
        }
        if word.is_empty() { self.fail(expected) } else { Ok(word) }
    }

    fn equals(&mut self) -> Result<(), FilterError> {
        self.skip_space();
        if self.0.next_if_eq(&'=').is_some() { Ok(()) } else { self.fail("=") }
    }

    fn value(&mut self) -> Result<String, FilterError> {
        self.skip_space();
        if self.0.next_if_eq(&'"').is_none() {
            return self.word("a value");
        }
        let mut value = String::new();
        loop {
            match self.0.next() {
                Some('"') => return Ok(value),
                Some('\\') => value.extend(self.0.next()),
                Some(c) => value.push(c),
                None => return self.fail("a closing quote"),
            }
        }
    }

    fn and(&mut self) -> Result<(), FilterError> {
        let before = self.0.clone();
        match self.word("AND") {
            Ok(word) if word == "AND" => Ok(()),
            _ => {
                self.0 = before;
                self.fail("AND")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wardian_proto::{DigestFunction, InstanceName, reapi};
    use wardian_scheduler::{Invocation, Job, Platform};

    use super::*;

    fn view(stage: Stage) -> View {
        let action = DigestFunction::Sha256.digest(b"run");
        let job = Job {
            instance: InstanceName::default(),
            action,
            requested: DigestFunction::Sha256.digest(b"asked"),
            platform: Platform::default(),
            priority: 0,
            do_not_cache: false,
            invocation: Invocation::from_client("build \"7\"", ""),
            memory_bytes: 0,
        };
        View { job: Arc::new(job), stage }
    }

    fn executing(worker: &str) -> View {
        let metadata = reapi::ExecutedActionMetadata { worker: worker.into(), ..Default::default() };
        view(Stage::Executing(Box::new(metadata)))
    }

    #[track_caller]
    fn passes(filter: &str, view: &View) -> bool {
        Filter::parse(filter).unwrap().passes(view)
    }

    #[test]
    fn every_term_must_hold() {
        let (queued, running) = (view(Stage::Queued), executing("w1/wasm"));
        let ended = view(Stage::Completed(Arc::default()));
        for (filter, expected) in [
            ("", [true, true, true]),
            ("  ", [true, true, true]),
            ("done=false", [true, true, false]),
            ("done = true", [false, false, true]),
            ("stage=QUEUED", [true, false, false]),
            ("stage=\"EXECUTING\" AND done=false", [false, true, false]),
            ("stage=COMPLETED", [false, false, true]),
            ("done=true AND done=false", [false, false, false]),
            ("worker=w1", [false, true, false]),
            ("worker=w1/wasm", [false, true, false]),
            ("worker=w", [false, false, false]),
            (r#"invocation="build \"7\"" AND worker=w1"#, [false, true, false]),
            ("invocation=build", [false, false, false]),
        ] {
            let parsed = Filter::parse(filter).unwrap();
            assert_eq!([&queued, &running, &ended].map(|view| parsed.passes(view)), expected, "{filter}");
        }
        let asked = queued.job.requested;
        assert!(passes(&format!("action={asked}"), &queued));
        assert!(passes(&format!("action={}", asked.hash_hex()), &queued));
        assert!(!passes(&format!("action={}", queued.job.action), &queued), "clients know what they sent");
    }

    #[test]
    fn what_is_no_filter_is_told_what_is() {
        let names_known = |filter: &str| {
            let error = Filter::parse(filter).unwrap_err().to_string();
            assert!(error.contains("stage=QUEUED|EXECUTING|COMPLETED"), "{filter}: {error}");
            error
        };
        assert!(names_known("colour=green").contains("colour"));
        assert!(names_known("done=yes").contains("\"yes\""));
        assert!(names_known("stage=queued").contains("stage cannot be"));
        for (filter, expected) in [
            ("done", "expected = at \"\""),
            ("=true", "expected a name at \"=true\""),
            ("done=", "expected a value"),
            ("done=true stage=QUEUED", "expected AND at \"stage=QUEUED\""),
            ("done=true OR done=false", "expected AND at \"OR done=false\""),
            ("done=true AND", "expected a name"),
            ("done!=true", "expected = at \"!=true\""),
            ("invocation=\"open", "expected a closing quote"),
            ("(done=true)", "expected a name"),
        ] {
            assert!(names_known(filter).contains(expected), "{filter}: {}", names_known(filter));
        }
        assert_eq!(Filter::parse(&"x".repeat(5000)), Err(FilterError::TooLong(5000)));
        assert_eq!(Filter::parse(&["done=true"; 17].join(" AND ")), Err(FilterError::TooMany));
    }
}
