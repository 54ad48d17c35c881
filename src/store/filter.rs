//! Conditions of a query, put together.

use super::database::Value;

/// `WHERE` with its values.
#[derive(Default)]
pub(super) struct Conditions {
    terms: Vec<String>,
    pub(super) values: Vec<Value>,
}

impl Conditions {
    /// Adds a condition whose `?` stands for the value.
    pub(super) fn add(&mut self, term: &str, value: impl Into<Value>) {
        self.values.push(value.into());
        let place = format!("${}", self.values.len());
        self.terms.push(term.replace('?', &place));
    }

    /// The same if there is a value.
    pub(super) fn maybe(&mut self, term: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.add(term, value);
        }
    }

    /// Adds a condition without a value.
    pub(super) fn plain(&mut self, term: &str) {
        self.terms.push(term.to_string());
    }

    /// Adds that a column is one of `ids`.
    pub(super) fn one_of(&mut self, column: &str, ids: &[i64]) {
        let places = super::upsert::placeholders(self.values.len() + 1, ids.len());
        self.terms.push(format!("{column} IN ({places})"));
        self.values.extend(ids.iter().map(|id| Value::from(*id)));
    }

    /// ` WHERE …`, or nothing.
    pub(super) fn sql(&self) -> String {
        if self.terms.is_empty() {
            return String::new();
        }
        format!(" WHERE {}", self.terms.join(" AND "))
    }
}
