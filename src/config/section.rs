//! Walks through a TOML file: values by key, each with its line; wrong kinds, missing and unknown
//! keys are collected, so that a file's errors are reported all at once.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::checks::Checked;
use super::problem::{Place, Problem};

type Value<'a> = Spanned<DeValue<'a>>;

/// Collects what is wrong with one file.
pub(super) struct Report<'a> {
    path: &'a Path,
    text: &'a str,
    problems: RefCell<Vec<(usize, String)>>,
}

impl<'a> Report<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Self {
            path,
            text,
            problems: RefCell::new(Vec::new()),
        }
    }

    /// The line of a place in the text, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().iter().take(at);
        1 + before.filter(|&&byte| byte == b'\n').count()
    }

    pub(super) fn add(&self, at: usize, message: impl Into<String>) {
        self.problems.borrow_mut().push((at, message.into()));
    }

    /// All problems, in the order of the text.
    pub(super) fn finish(self) -> Vec<Problem> {
        let mut problems = self.problems.take();
        problems.sort();
        problems.dedup();
        let place = |at| Place::File {
            path: self.path.to_path_buf(),
            line: self.line(at),
        };
        problems
            .iter()
            .map(|(at, message)| Problem {
                place: place(*at),
                message: message.clone(),
            })
            .collect()
    }

    /// Reads the text; errors of the syntax are reported and nothing else is.
    pub(super) fn parse(&self) -> Option<Spanned<DeTable<'a>>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let at = error.span().map_or(0, |span| span.start);
            self.add(at, first_line(error.message()));
        }
        errors.is_empty().then_some(table)
    }
}

/// A table whose keys are taken out one after the other.
pub(super) struct Section<'a> {
    report: &'a Report<'a>,
    /// How the table is called in messages; empty for the file itself.
    name: String,
    table: &'a DeTable<'a>,
    at: usize,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(super) fn root(report: &'a Report<'a>, table: &'a Spanned<DeTable<'a>>) -> Self {
        Self {
            report,
            name: String::new(),
            table: table.get_ref(),
            at: 0,
            known: Vec::new(),
        }
    }

    /// The value of a key, if it is given.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.known.push(key);
        let (written, value) = self.table.get_key_value(key)?;
        Some(Item {
            report: self.report,
            name: self.name_of(key),
            value,
            at: written.span().start,
        })
    }

    /// The value of a key that must be there.
    pub(super) fn require(&mut self, key: &'static str) -> Option<Item<'a>> {
        let item = self.take(key);
        if item.is_none() {
            self.problem(format!("{} is missing", self.name_of(key)));
        }
        item
    }

    fn name_of(&self, key: &str) -> String {
        if self.name.is_empty() {
            return key.to_string();
        }
        format!("{}.{key}", self.name)
    }

    /// Reports something about the table as a whole.
    pub(super) fn problem(&self, message: impl Into<String>) {
        self.report.add(self.at, message);
    }

    /// Whether a key is given.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// How the table is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Reports all keys that were never asked for.
    pub(super) fn finish(mut self) {
        self.known.sort_unstable();
        for key in self.table.keys() {
            if self.known.contains(&key.get_ref().as_ref()) {
                continue;
            }
            let message = format!(
                "{}: there is no such setting; there are {}",
                self.name_of(key.get_ref()),
                self.known.join(", ")
            );
            self.report.add(key.span().start, message);
        }
    }
}

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct Item<'a> {
    report: &'a Report<'a>,
    name: String,
    value: &'a Value<'a>,
    at: usize,
}

impl<'a> Item<'a> {
    /// The line where it stands, from 1.
    pub(super) fn line(&self) -> usize {
        self.report.line(self.at)
    }

    /// Reports that the value is not as it must be.
    pub(super) fn problem(&self, message: impl std::fmt::Display) {
        self.report.add(self.at, format!("{}{message}", self.name));
    }

    fn wrong_kind<T>(&self, expected: &str) -> Option<T> {
        let found = self.value.get_ref().type_str();
        self.problem(format_args!(": must be {expected}, not {found}"));
        None
    }

    pub(super) fn string(&self) -> Option<&'a str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text),
            _ => self.wrong_kind("a string"),
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => self.wrong_kind("true or false"),
        }
    }

    pub(super) fn number(&self) -> Option<f64> {
        let text = match self.value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            _ => return self.wrong_kind("a number"),
        };
        match text.parse() {
            Ok(number) => Some(number),
            Err(_) => self.wrong_kind("a number"),
        }
    }

    /// A number that `holds`; `expected` says in words which do.
    pub(super) fn number_if(&self, holds: fn(f64) -> bool, expected: &str) -> Option<f64> {
        let number = self.number()?;
        if holds(number) {
            return Some(number);
        }
        self.problem(format_args!(" = {number}: must be {expected}"));
        None
    }

    pub(super) fn array(&self) -> Option<Vec<Item<'a>>> {
        let DeValue::Array(values) = self.value.get_ref() else {
            return self.wrong_kind("a list");
        };
        let mut items = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            items.push(Item {
                report: self.report,
                name: format!("{}[{index}]", self.name),
                value,
                at: value.span().start,
            });
        }
        Some(items)
    }

    pub(super) fn section(&self) -> Option<Section<'a>> {
        let DeValue::Table(table) = self.value.get_ref() else {
            return self.wrong_kind("a table");
        };
        Some(Section {
            report: self.report,
            name: self.name.clone(),
            table,
            at: self.at,
            known: Vec::new(),
        })
    }

    /// A table of settings that all have defaults: each is read and checked by itself first, so that
    /// each error has its line, then all of them together. `tag` is a key that says what the table
    /// is about; without it nothing else can be read.
    pub(super) fn settings<T>(&self, tag: Option<&str>) -> Option<T>
    where
        T: DeserializeOwned + Checked,
    {
        let DeValue::Table(table) = self.value.get_ref() else {
            return self.wrong_kind("a table");
        };
        let mut always = DeTable::new();
        if let Some(tag) = tag {
            let Some((key, value)) = table.get_key_value(tag) else {
                self.problem(format_args!(".{tag} is missing"));
                return None;
            };
            always.insert(key.clone(), value.clone());
            if let Err(message) = self.deserialize::<T>(always.clone()) {
                self.setting(key.span(), key.get_ref(), &message);
                return None;
            }
        }
        let mut fine = true;
        for (key, value) in table {
            if Some(key.get_ref().as_ref()) == tag {
                continue;
            }
            let mut alone = always.clone();
            alone.insert(key.clone(), value.clone());
            let outcome = self
                .deserialize::<T>(alone)
                .map(|settings| settings.check());
            let message = match outcome {
                Ok(Ok(())) => continue,
                Ok(Err(message)) | Err(message) => message,
            };
            self.setting(key.span(), key.get_ref(), &message);
            fine = false;
        }
        if !fine {
            return None;
        }
        self.settings_together(table.clone())
    }

    fn settings_together<T>(&self, table: DeTable<'a>) -> Option<T>
    where
        T: DeserializeOwned + Checked,
    {
        let settings: T = match self.deserialize(table) {
            Ok(settings) => settings,
            Err(message) => {
                self.problem(format_args!(": {message}"));
                return None;
            }
        };
        if let Err(message) = settings.check() {
            self.problem(format_args!(": {message}"));
            return None;
        }
        Some(settings)
    }

    /// Reports one setting of this table; messages that begin with its name are not given it twice.
    fn setting(&self, span: Range<usize>, key: &str, message: &str) {
        let name = &self.name;
        let text = match message.strip_prefix(key) {
            Some(rest) => format!("{name}.{key}{rest}"),
            None => format!("{name}.{key}: {message}"),
        };
        self.report.add(span.start, text);
    }

    fn deserialize<T: DeserializeOwned>(&self, table: DeTable<'a>) -> Result<T, String> {
        let value = Spanned::new(self.value.span(), DeValue::Table(table));
        T::deserialize(ValueDeserializer::from(value)).map_err(|error| in_words(error.message()))
    }
}

/// serde's message without the names of Rust's types.
fn in_words(message: &str) -> String {
    let message = first_line(message);
    for (kind, words) in [
        ("expected f64", "expected a number"),
        ("expected u32", "expected a whole number"),
        ("expected usize", "expected a whole number"),
    ] {
        if let Some(before) = message.strip_suffix(kind) {
            return format!("{before}{words}");
        }
    }
    message
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_string()
}
