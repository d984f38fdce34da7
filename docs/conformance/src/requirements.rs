//! What an RFC asks for, and where the tree answers it: one file for each RFC.

use std::path::Path;

use serde::Deserialize;

use crate::results::{Outcome, Results};

/// One RFC.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rfc {
    /// Its number.
    pub number: u16,
    /// Its title.
    pub title: String,
    /// What a reader has to know about this table: which wording was at hand, what is left out.
    pub note: String,
    /// Its requirements, in the order of their sections.
    pub row: Vec<Row>,
}

/// One requirement.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Section, or section and number of the requirement.
    pub section: String,
    /// The RFC's word.
    pub level: Level,
    /// What is asked, in our own words.
    pub text: String,
    /// How far it is met.
    pub state: State,
    /// Why it is not met, or not in full; who meets it otherwise.
    #[serde(default)]
    pub reason: String,
    /// Files of the tree that do it.
    #[serde(default)]
    pub code: Vec<String>,
    /// Tests that show it: program, `::`, path.
    #[serde(default)]
    pub tests: Vec<String>,
}

/// RFC 2119 words.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum Level {
    #[serde(rename = "MUST")]
    Must,
    #[serde(rename = "MUST NOT")]
    MustNot,
    #[serde(rename = "SHOULD")]
    Should,
    #[serde(rename = "SHOULD NOT")]
    ShouldNot,
    #[serde(rename = "RECOMMENDED")]
    Recommended,
    #[serde(rename = "MAY")]
    May,
    /// The RFC says how without one of these words.
    #[serde(rename = "text")]
    Text,
}

impl Level {
    /// As the RFC writes it.
    pub fn word(self) -> &'static str {
        match self {
            Level::Must => "MUST",
            Level::MustNot => "MUST NOT",
            Level::Should => "SHOULD",
            Level::ShouldNot => "SHOULD NOT",
            Level::Recommended => "RECOMMENDED",
            Level::May => "MAY",
            Level::Text => "text",
        }
    }
}

/// How far a requirement is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum State {
    /// Tests show it.
    #[serde(rename = "met")]
    Met,
    /// Tests show a part, `reason` names the rest.
    #[serde(rename = "partly")]
    Partly,
    /// `reason` says why.
    #[serde(rename = "not met")]
    NotMet,
    /// It asks nothing of this gateway; `reason` says why.
    #[serde(rename = "not ours")]
    NotOurs,
}

impl State {
    /// All, in the order in which they are counted.
    pub const ALL: [State; 4] = [State::Met, State::Partly, State::NotMet, State::NotOurs];

    /// As the pages write it.
    pub fn word(self) -> &'static str {
        match self {
            State::Met => "met",
            State::Partly => "partly",
            State::NotMet => "not met",
            State::NotOurs => "not ours",
        }
    }
}

impl Rfc {
    /// How many rows are in a state.
    pub fn count(&self, state: State) -> usize {
        self.row.iter().filter(|row| row.state == state).count()
    }

    /// What is wrong with the rows: no test, a test that is not there or did not pass, a file
    /// that is not there, a reason that is missing.
    pub fn problems(&self, root: &Path, results: &Results) -> Vec<String> {
        let mut problems = Vec::new();
        for row in &self.row {
            let mut say = |problem: String| {
                problems.push(format!(
                    "RFC {} section {}: {problem}",
                    self.number, row.section
                ));
            };
            row.check_form(&mut say);
            for test in &row.tests {
                match results.of(test) {
                    Some(Outcome::Passed) => {}
                    Some(Outcome::Failed) => say(format!("its test {test} failed")),
                    Some(Outcome::Ignored) => say(format!("its test {test} was not run")),
                    None => say(format!("its test {test} does not exist")),
                }
            }
            for file in &row.code {
                if !root.join(file).is_file() {
                    say(format!("its code {file} does not exist"));
                }
            }
        }
        problems
    }
}

impl Row {
    fn check_form(&self, say: &mut impl FnMut(String)) {
        let is_shown = matches!(self.state, State::Met | State::Partly);
        if is_shown && self.tests.is_empty() {
            say(format!(
                "is said to be {} without a test",
                self.state.word()
            ));
        }
        if is_shown && self.code.is_empty() {
            say("does not say where in the code".to_owned());
        }
        if !is_shown && !self.tests.is_empty() {
            say(format!("is said to be {} but has tests", self.state.word()));
        }
        if self.state != State::Met && self.reason.is_empty() {
            say(format!(
                "is said to be {} without a reason",
                self.state.word()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(row: &str) -> Vec<String> {
        let head = "number = 1\ntitle = \"t\"\nnote = \"n\"\n[[row]]\nsection = \"2\"\nlevel = \"MUST\"\ntext = \"x\"\n";
        let rfc: Rfc = toml::from_str(&format!("{head}{row}")).expect("a row");
        let log = "Running a (t/deps/x-1)\ntest good ... ok\ntest bad ... FAILED\n";
        rfc.problems(Path::new(env!("CARGO_MANIFEST_DIR")), &Results::parse(log))
    }

    #[test]
    fn a_row_that_is_met_needs_code_and_a_test_that_passes() {
        let met = |tests: &str, code: &str| {
            problems(&format!(
                "state = \"met\"\ntests = [{tests}]\ncode = [{code}]\n"
            ))
            .len()
        };
        assert_eq!(met("\"x::good\"", "\"src/main.rs\""), 0);
        assert_eq!(met("", "\"src/main.rs\""), 1);
        assert_eq!(met("\"x::good\"", ""), 1);
        assert_eq!(met("\"x::bad\"", "\"src/main.rs\""), 1);
        assert_eq!(met("\"x::gone\"", "\"src/main.rs\""), 1);
        assert_eq!(met("\"x::good\"", "\"src/gone.rs\""), 1);
    }

    #[test]
    fn a_row_that_is_not_met_needs_a_reason_and_no_test() {
        assert_eq!(problems("state = \"not met\"\n").len(), 1);
        assert_eq!(problems("state = \"not met\"\nreason = \"r\"\n").len(), 0);
        let tested = "state = \"not ours\"\nreason = \"r\"\ntests = [\"x::good\"]\n";
        assert_eq!(problems(tested).len(), 1);
    }
}
