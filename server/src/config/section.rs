//! Reading a table: every value checked, every problem with the path of its key.

use std::time::Duration;

use toml::{Table, Value};
use wardian_proto::Digest;

/// Longest time that can be set.
pub(super) const SECONDS_MAX: u64 = 365 * 24 * 3600;

/// One table on its way into the configuration. What is left at the end is unknown.
pub(super) struct Section<'a> {
    path: String,
    table: Table,
    known: Vec<&'static str>,
    problems: &'a mut Vec<String>,
}

impl<'a> Section<'a> {
    pub(super) fn new(path: String, table: Table, problems: &'a mut Vec<String>) -> Self {
        Self { path, table, known: Vec::new(), problems }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    pub(super) fn problem(&mut self, key: &str, text: &str) {
        self.problems.push(format!("{}{key}: {text}", self.path));
    }

    pub(super) fn text(&mut self, key: &'static str, set: impl FnOnce(&str) -> Result<(), String>) {
        match self.take(key) {
            None => {}
            Some(Value::String(text)) => {
                if let Err(problem) = set(&text) {
                    self.problem(key, &format!("{text:?} {problem}"));
                }
            }
            Some(_) => self.problem(key, "must be text in quotes"),
        }
    }

    pub(super) fn array(&mut self, key: &'static str, set: impl FnOnce(&[Value]) -> Result<(), String>) {
        let set = match self.take(key) {
            None => Ok(()),
            Some(Value::Array(items)) => set(&items),
            Some(_) => Err("must be a list".into()),
        };
        if let Err(problem) = set {
            self.problem(key, &problem);
        }
    }

    pub(super) fn list(&mut self, key: &'static str, set: impl FnOnce(&[String]) -> Result<(), String>) {
        let Some(value) = self.take(key) else { return };
        let texts = match value {
            Value::Array(items) => {
                items.into_iter().map(|i| i.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
            }
            _ => None,
        };
        match texts.map(|texts| set(&texts)) {
            Some(Ok(())) => {}
            Some(Err(problem)) => self.problem(key, &problem),
            None => self.problem(key, "must be a list of texts"),
        }
    }

    pub(super) fn digests(&mut self, key: &'static str, target: &mut Vec<Digest>) {
        self.list(key, |texts| {
            let parse = |text: &String| text.parse().map_err(|e| format!("{text:?} is no HASH/SIZE: {e}"));
            *target = texts.iter().map(parse).collect::<Result<_, String>>()?;
            Ok(())
        });
    }

    pub(super) fn boolean(&mut self, key: &'static str, target: &mut bool) {
        match self.take(key) {
            None => {}
            Some(Value::Boolean(value)) => *target = value,
            Some(_) => self.problem(key, "must be true or false"),
        }
    }

    pub(super) fn number(&mut self, key: &'static str, min: u64, max: u64, target: &mut u64) {
        match self.take(key) {
            None => {}
            Some(Value::Integer(value)) => match u64::try_from(value) {
                Ok(value) if (min..=max).contains(&value) => *target = value,
                _ => self.problem(key, &format!("{value} is not between {min} and {max}")),
            },
            Some(_) => self.problem(key, "must be a whole number"),
        }
    }

    pub(super) fn count(&mut self, key: &'static str, target: &mut usize) {
        let mut value = *target as u64;
        self.number(key, 1, usize::MAX as u64, &mut value);
        *target = usize::try_from(value).expect("checked against usize::MAX");
    }

    pub(super) fn seconds(&mut self, key: &'static str, target: &mut Duration) {
        let mut value = target.as_secs();
        self.number(key, 1, SECONDS_MAX, &mut value);
        *target = Duration::from_secs(value);
    }

    pub(super) fn seconds_or_none(&mut self, key: &'static str, target: &mut Duration) {
        let mut value = target.as_secs();
        self.number(key, 0, SECONDS_MAX, &mut value);
        *target = Duration::from_secs(value);
    }

    pub(super) fn section(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_>)) {
        match self.take(key) {
            None => {}
            Some(Value::Table(table)) => {
                let mut section = Section::new(format!("{}{key}.", self.path), table, self.problems);
                read(&mut section);
                section.finish();
            }
            Some(_) => self.problem(key, "must be a table"),
        }
    }

    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let known = self.known.join(", ");
            self.problems.push(format!("{}{key}: unknown key; known here: {known}", self.path));
        }
    }
}
