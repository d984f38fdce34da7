//! What is wrong with a configuration, and how it is shown: file, line, caret, key, what was
//! found, what is accepted. All problems of a file are collected before any is printed.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Whether a configuration with this problem can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but something in it is unwise or below what an RFC asks.
    Warning,
    /// A default was fitted to the rest.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        })
    }
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// Dotted key, such as `nat64.lifetimes.udp`; empty for the file as a whole.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// Octets of the file it concerns.
    pub span: Option<Range<usize>>,
    /// What is accepted instead, or what to do.
    pub help: Option<String>,
}

/// The problems of one file, with its text to quote from.
#[derive(Debug, Clone)]
pub struct Report {
    path: PathBuf,
    text: String,
    problems: Vec<Problem>,
}

impl Report {
    /// An empty report about `text`, read from `path`.
    pub fn new(path: &Path, text: &str) -> Report {
        Report {
            path: path.to_owned(),
            text: text.to_owned(),
            problems: Vec::new(),
        }
    }

    /// Adds a problem.
    pub fn push(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Whether there is an error about a key that begins so.
    pub fn has_error_about(&self, key: &str) -> bool {
        self.problems
            .iter()
            .any(|p| p.severity == Severity::Error && p.key.starts_with(key))
    }

    /// Whether the configuration cannot be used.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// How many problems of a severity there are.
    pub fn count(&self, severity: Severity) -> usize {
        self.problems
            .iter()
            .filter(|p| p.severity == severity)
            .count()
    }

    /// Puts the problems in the order of the file; those without a place come last.
    pub fn sort(&mut self) {
        self.problems
            .sort_by_key(|p| p.span.as_ref().map_or(usize::MAX, |span| span.start));
    }

    /// Line and column, both from 1, of an octet offset.
    fn place(&self, offset: usize) -> (usize, usize, usize) {
        let before = &self.text[..offset.min(self.text.len())];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        let column = before[line_start..].chars().count() + 1;
        (line, column, line_start)
    }

    fn write_problem(&self, f: &mut fmt::Formatter<'_>, problem: &Problem) -> fmt::Result {
        match problem.key.as_str() {
            "" => writeln!(f, "{}: {}", problem.severity, problem.message)?,
            key => writeln!(f, "{}: {key}: {}", problem.severity, problem.message)?,
        }
        let path = self.path.display();
        match &problem.span {
            Some(span) => self.write_quote(f, span)?,
            None => writeln!(f, "  --> {path}")?,
        }
        if let Some(help) = &problem.help {
            writeln!(f, "  = {help}")?;
        }
        Ok(())
    }

    fn write_quote(&self, f: &mut fmt::Formatter<'_>, span: &Range<usize>) -> fmt::Result {
        let (line, column, line_start) = self.place(span.start);
        let quoted = self.text[line_start..].lines().next().unwrap_or_default();
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        // A span over several lines is underlined to the end of its first.
        let width = self
            .text
            .get(span.clone())
            .and_then(|t| t.lines().next())
            .map_or(1, |t| t.chars().count().max(1));
        // Tabs stay tabs, so that the caret stands under what it means.
        let indent: String = quoted
            .chars()
            .take(column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let path = self.path.display();
        writeln!(f, "{margin}--> {path}:{line}:{column}")?;
        writeln!(f, "{margin} |")?;
        writeln!(f, "{number} | {quoted}")?;
        writeln!(f, "{margin} | {indent}{}", "^".repeat(width))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            self.write_problem(f, problem)?;
        }
        Ok(())
    }
}
