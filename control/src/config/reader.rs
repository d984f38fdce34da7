//! Reads TOML tables key by key and goes on after an error, so that one run of `check` shows
//! everything that is wrong. Keys that nobody asked for are errors.

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, Report, Severity};

/// A value with its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Dotted key.
    pub key: String,
    /// Octets of the file; `None` where a default stands in.
    pub span: Option<Range<usize>>,
}

impl<T> Located<T> {
    /// Whether the operator wrote it, rather than a default.
    pub fn is_explicit(&self) -> bool {
        self.span.is_some()
    }

    /// Another value at the same place.
    pub fn with<U>(&self, value: U) -> Located<U> {
        Located {
            value,
            key: self.key.clone(),
            span: self.span.clone(),
        }
    }
}

/// A table being read.
pub struct Table<'a, 'i> {
    path: String,
    span: Option<Range<usize>>,
    entries: Option<&'a DeTable<'i>>,
    asked: BTreeSet<&'static str>,
}

type Entry<'a, 'i> = &'a Spanned<DeValue<'i>>;

impl<'a, 'i> Table<'a, 'i> {
    /// The whole file.
    pub fn root(root: &'a DeTable<'i>) -> Table<'a, 'i> {
        Table {
            path: String::new(),
            span: None,
            entries: Some(root),
            asked: BTreeSet::new(),
        }
    }

    /// Whether the table stands in the file.
    pub fn is_present(&self) -> bool {
        self.entries.is_some()
    }

    /// Whether the key stands in the table, right or wrong.
    pub fn holds(&self, name: &str) -> bool {
        self.entries
            .is_some_and(|entries| entries.contains_key(name))
    }

    /// Whether the dotted key of this table holds an empty list.
    pub fn is_empty_list(&self, key: &str) -> bool {
        let name = key.rsplit('.').next().unwrap_or(key);
        let value = self.entries.and_then(|entries| entries.get(name));
        value.is_some_and(|v| v.get_ref().as_array().is_some_and(|items| items.is_empty()))
    }

    /// Where the value of a key stands.
    pub fn span_of(&self, name: &str) -> Option<Range<usize>> {
        Some(self.entries?.get(name)?.span())
    }

    /// Where its header stands.
    pub fn span(&self) -> Option<Range<usize>> {
        self.span.clone()
    }

    /// Dotted name of the table.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Dotted name of a key of this table.
    pub fn key(&self, name: &str) -> String {
        match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }

    /// An error about a key of this table that is missing.
    pub fn missing(&self, report: &mut Report, name: &str, help: &str) {
        report.push(Problem {
            severity: Severity::Error,
            key: self.key(name),
            message: "is missing".to_owned(),
            span: self.span.clone(),
            help: Some(help.to_owned()),
        });
    }

    fn take(&mut self, name: &'static str) -> Option<Entry<'a, 'i>> {
        self.asked.insert(name);
        self.entries?.get(name)
    }

    /// A table inside this one; one that is not in the file reads as empty.
    pub fn table(&mut self, report: &mut Report, name: &'static str) -> Table<'a, 'i> {
        let path = self.key(name);
        let mut inner = Table {
            path,
            span: None,
            entries: None,
            asked: BTreeSet::new(),
        };
        if let Some(value) = self.take(name) {
            inner.span = Some(value.span());
            match value.get_ref() {
                DeValue::Table(entries) => inner.entries = Some(entries),
                _ => report.push(wrong_type(
                    &inner.path,
                    value,
                    &format!("a table: [{}]", inner.path),
                )),
            }
        }
        inner
    }

    /// An array of tables, `[[name]]`.
    pub fn tables(&mut self, report: &mut Report, name: &'static str) -> Vec<Table<'a, 'i>> {
        let path = self.key(name);
        let accepted = format!("an array of tables: [[{path}]]");
        let Some(value) = self.take(name) else {
            return Vec::new();
        };
        let DeValue::Array(items) = value.get_ref() else {
            report.push(wrong_type(&path, value, &accepted));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(entries) => tables.push(Table {
                    path: path.clone(),
                    span: Some(item.span()),
                    entries: Some(entries),
                    asked: BTreeSet::new(),
                }),
                _ => report.push(wrong_type(&path, item, &accepted)),
            }
        }
        tables
    }

    /// Reports every key that was not asked for.
    pub fn finish(self, report: &mut Report) {
        for (name, _) in self.entries.into_iter().flatten() {
            if self.asked.contains(name.get_ref().as_ref()) {
                continue;
            }
            let known: Vec<&str> = self.asked.iter().copied().collect();
            let nearest = nearest(name.get_ref(), &known)
                .map_or(String::new(), |near| format!("did you mean {near:?}? "));
            let place = match self.path.as_str() {
                "" => "the file".to_owned(),
                path => format!("[{path}]"),
            };
            report.push(Problem {
                severity: Severity::Error,
                key: self.key(name.get_ref()),
                message: format!("unknown key {:?} in {place}", name.get_ref()),
                span: Some(name.span()),
                help: Some(format!("{nearest}accepted: {}", known.join(", "))),
            });
        }
    }

    fn located<T>(&self, name: &str, value: T, span: Option<Range<usize>>) -> Located<T> {
        Located {
            value,
            key: self.key(name),
            span,
        }
    }

    /// A value of any shape: `read` turns it into `T` or says why not, and `accepted` tells the
    /// operator what would do. A value that is not there or is wrong becomes `default`.
    pub fn value<T>(
        &mut self,
        report: &mut Report,
        name: &'static str,
        default: T,
        accepted: &str,
        read: impl FnOnce(&DeValue<'i>) -> Result<T, Wrong>,
    ) -> Located<T> {
        let Some(entry) = self.take(name) else {
            return self.located(name, default, None);
        };
        let span = Some(entry.span());
        match read(entry.get_ref()) {
            Ok(value) => self.located(name, value, span),
            Err(wrong) => {
                report.push(wrong.problem(self.key(name), entry, accepted));
                self.located(name, default, span)
            }
        }
    }

    /// As [`Table::value`], but nothing in place of a default.
    pub fn optional<T>(
        &mut self,
        report: &mut Report,
        name: &'static str,
        accepted: &str,
        read: impl FnOnce(&DeValue<'i>) -> Result<T, Wrong>,
    ) -> Option<Located<T>> {
        let found = self.value(report, name, None, accepted, |v| read(v).map(Some));
        let value = found.value?;
        Some(Located {
            value,
            key: found.key,
            span: found.span,
        })
    }

    /// An array whose items are each read by `read`; wrong items are reported one by one.
    /// `None` if the key is not there.
    pub fn list<T>(
        &mut self,
        report: &mut Report,
        name: &'static str,
        accepted: &str,
        mut read: impl FnMut(&DeValue<'i>) -> Result<T, Wrong>,
    ) -> Option<Located<Vec<Located<T>>>> {
        let entry = self.take(name)?;
        let key = self.key(name);
        let DeValue::Array(items) = entry.get_ref() else {
            let wanted = format!("a list, each item {accepted}");
            report.push(wrong_type(&key, entry, &wanted));
            return Some(self.located(name, Vec::new(), Some(entry.span())));
        };
        let mut values = Vec::new();
        for item in items.iter() {
            match read(item.get_ref()) {
                Ok(value) => values.push(self.located(name, value, Some(item.span()))),
                Err(wrong) => report.push(wrong.problem(key.clone(), item, accepted)),
            }
        }
        Some(self.located(name, values, Some(entry.span())))
    }

    /// A list of texts that parse as `T`.
    pub fn parsed_list<T>(
        &mut self,
        report: &mut Report,
        name: &'static str,
        accepted: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Located<Vec<Located<T>>>> {
        self.list(report, name, accepted, |v| parsed(v, &parse))
    }

    /// A text that parses as `T`.
    pub fn parsed<T>(
        &mut self,
        report: &mut Report,
        name: &'static str,
        default: T,
        accepted: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Located<T> {
        self.value(report, name, default, accepted, |v| parsed(v, &parse))
    }

    /// One of a few words.
    pub fn word<T: Copy>(
        &mut self,
        report: &mut Report,
        name: &'static str,
        default: T,
        words: &[(&str, T)],
    ) -> Located<T> {
        let accepted = words_text(words);
        self.value(report, name, default, &accepted, |v| word(v, words))
    }

    /// `true` or `false`.
    pub fn flag(
        &mut self,
        report: &mut Report,
        name: &'static str,
        default: bool,
    ) -> Located<bool> {
        self.value(report, name, default, "true or false", |v| {
            v.as_bool().ok_or(Wrong::Type)
        })
    }

    /// A whole number within bounds.
    pub fn integer<T: TryFrom<i64>>(
        &mut self,
        report: &mut Report,
        name: &'static str,
        default: T,
        bounds: RangeInclusive<i64>,
    ) -> Located<T> {
        let accepted = bounds_text(&bounds);
        self.value(report, name, default, &accepted, |v| integer(v, &bounds))
    }
}

/// Why a value is not what its key wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// Of another type.
    Type,
    /// Of the right type, but outside what is accepted.
    Value,
    /// For this reason.
    Because(String),
}

impl Wrong {
    fn problem(self, key: String, entry: &Spanned<DeValue<'_>>, accepted: &str) -> Problem {
        let found = describe(entry.get_ref());
        let message = match self {
            Wrong::Type => format!("found {} {found}", article(entry.get_ref())),
            Wrong::Value => format!("found {found}"),
            Wrong::Because(reason) => format!("found {found}: {reason}"),
        };
        Problem {
            severity: Severity::Error,
            key,
            message,
            span: Some(entry.span()),
            help: Some(format!("accepted: {accepted}")),
        }
    }
}

fn wrong_type(key: &str, entry: Entry<'_, '_>, accepted: &str) -> Problem {
    Wrong::Type.problem(key.to_owned(), entry, accepted)
}

/// A text that parses as `T`.
pub fn parsed<T>(
    value: &DeValue<'_>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, Wrong> {
    parse(value.as_str().ok_or(Wrong::Type)?).map_err(Wrong::Because)
}

/// One of a few words.
pub fn word<T: Copy>(value: &DeValue<'_>, words: &[(&str, T)]) -> Result<T, Wrong> {
    let text = value.as_str().ok_or(Wrong::Type)?;
    let found = words.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or(Wrong::Value)
}

/// A whole number within bounds that also fits `T`.
pub fn integer<T: TryFrom<i64>>(
    value: &DeValue<'_>,
    bounds: &RangeInclusive<i64>,
) -> Result<T, Wrong> {
    let number = value.as_integer().ok_or(Wrong::Type)?;
    let number = i64::from_str_radix(number.as_str(), number.radix()).map_err(|_| Wrong::Value)?;
    if !bounds.contains(&number) {
        return Err(Wrong::Value);
    }
    T::try_from(number).map_err(|_| Wrong::Value)
}

/// The bounds in words.
pub fn bounds_text(bounds: &RangeInclusive<i64>) -> String {
    format!("a whole number from {} to {}", bounds.start(), bounds.end())
}

fn words_text<T>(words: &[(&str, T)]) -> String {
    let quoted: Vec<String> = words.iter().map(|(name, _)| format!("{name:?}")).collect();
    quoted.join(", ")
}

fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "the text",
        DeValue::Integer(_) => "the number",
        DeValue::Float(_) => "the fraction",
        DeValue::Boolean(_) => "the truth value",
        DeValue::Datetime(_) => "the date",
        DeValue::Array(_) => "a",
        DeValue::Table(_) => "a",
    }
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(_) => "list".to_owned(),
        DeValue::Table(_) => "table".to_owned(),
    }
}

/// The known key that differs least from `name`, if it differs by at most a third.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|k| (distance(name, k), *k))
        .min()
        .filter(|(distance, k)| *distance <= k.len().max(name.len()).div_ceil(3))
        .map(|(_, k)| k)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitution = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_proposed_only_when_it_is_near() {
        let known = ["filtering", "hairpin", "pref64"];
        assert_eq!(nearest("filterng", &known), Some("filtering"));
        assert_eq!(nearest("perf64", &known), Some("pref64"));
        assert_eq!(nearest("colour", &known), None);
    }
}
