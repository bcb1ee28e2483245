//! Reads the tables of a manifest key by key and collects everything that is wrong.

use toml::{Table, Value};

use super::Problem;

#[derive(Default)]
pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, key: &str, why: String) {
        self.0.push(Problem { key: key.to_owned(), why });
    }
}

/// A table whose keys are taken out one by one; what is left over was not expected.
pub(super) struct Keys {
    prefix: String,
    table: Table,
}

impl Keys {
    pub(super) fn new(prefix: &str, table: Table) -> Self {
        Self { prefix: prefix.to_owned(), table }
    }

    pub(super) fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(super) fn text<T>(
        &mut self,
        key: &str,
        problems: &mut Problems,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let outcome = match self.table.remove(key) {
            None => Err("is missing".to_owned()),
            Some(Value::String(text)) => parse(&text),
            Some(other) => Err(format!("expected a string, found {}", other.type_str())),
        };
        outcome.map_err(|why| problems.add(&self.key(key), why)).ok()
    }

    pub(super) fn texts<T>(
        &mut self,
        key: &str,
        problems: &mut Problems,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let items = match self.table.remove(key) {
            Some(Value::Array(items)) => items,
            None => {
                problems.add(&self.key(key), "is missing".to_owned());
                return None;
            }
            Some(other) => {
                problems.add(&self.key(key), format!("expected a list, found {}", other.type_str()));
                return None;
            }
        };
        // Each item is looked at, also behind a bad one.
        let mut parsed = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let outcome = item.as_str().ok_or_else(|| "expected a string".to_owned()).and_then(&parse);
            parsed.push(outcome.map_err(|why| problems.add(&self.key(&format!("{key}[{at}]")), why)).ok());
        }
        parsed.into_iter().collect()
    }

    pub(super) fn table(&mut self, key: &str, problems: &mut Problems) -> Option<Keys> {
        match self.table.remove(key) {
            Some(Value::Table(table)) => return Some(Self::new(&format!("{}.", self.key(key)), table)),
            None => problems.add(&self.key(key), "is missing".to_owned()),
            Some(other) => {
                problems.add(&self.key(key), format!("expected a table, found {}", other.type_str()))
            }
        }
        None
    }

    /// How many tables a list has.
    pub(super) fn count(&self, key: &str) -> usize {
        self.table.get(key).and_then(Value::as_array).map_or(0, Vec::len)
    }

    /// A list of tables that may be absent.
    pub(super) fn tables(&mut self, key: &str, problems: &mut Problems) -> Vec<Keys> {
        let items = match self.table.remove(key) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                problems.add(&self.key(key), format!("expected tables, found {}", other.type_str()));
                return Vec::new();
            }
        };
        let mut tables = Vec::new();
        for (at, item) in items.into_iter().enumerate() {
            let key = self.key(&format!("{key}[{at}]"));
            match item {
                Value::Table(table) => tables.push(Self::new(&format!("{key}."), table)),
                other => problems.add(&key, format!("expected a table, found {}", other.type_str())),
            }
        }
        tables
    }

    pub(super) fn finish(self, problems: &mut Problems) {
        for key in self.table.keys() {
            problems.add(&self.key(key), "is no key of a manifest".to_owned());
        }
    }

    /// A string that may be left out.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        problems: &mut Problems,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        if self.table.contains_key(key) { self.text(key, problems, parse) } else { None }
    }

    /// A list of strings that may be left out.
    pub(super) fn optional_texts<T>(
        &mut self,
        key: &str,
        problems: &mut Problems,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        if self.table.contains_key(key) {
            self.texts(key, problems, parse).unwrap_or_default()
        } else {
            Vec::new()
        }
    }

    /// A number that may be left out.
    pub(super) fn number(&mut self, key: &str, problems: &mut Problems) -> Option<i64> {
        match self.table.remove(key)? {
            Value::Integer(number) => Some(number),
            other => {
                problems.add(&self.key(key), format!("expected a number, found {}", other.type_str()));
                None
            }
        }
    }

    /// A table of strings that may be left out; `check` says what is wrong with a name.
    pub(super) fn pairs(
        &mut self,
        key: &str,
        problems: &mut Problems,
        check: impl Fn(&str, &str) -> Option<String>,
    ) -> Vec<(String, String)> {
        let Some(value) = self.table.remove(key) else { return Vec::new() };
        let Value::Table(table) = value else {
            problems.add(&self.key(key), format!("expected a table, found {}", value.type_str()));
            return Vec::new();
        };
        let mut pairs = Vec::new();
        for (name, value) in table {
            let at = self.key(&format!("{key}.{name}"));
            match value {
                Value::String(text) => match check(&name, &text) {
                    None => pairs.push((name, text)),
                    Some(why) => problems.add(&at, why),
                },
                other => problems.add(&at, format!("expected a string, found {}", other.type_str())),
            }
        }
        pairs
    }

    /// A table that may be left out.
    pub(super) fn optional_table(&mut self, key: &str, problems: &mut Problems) -> Option<Keys> {
        if self.table.contains_key(key) { self.table(key, problems) } else { None }
    }
}
