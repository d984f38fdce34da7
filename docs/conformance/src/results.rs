//! What the tests did, read from what `cargo test` printed.

use std::collections::BTreeMap;

/// Outcome by name: the test program, `::`, the test's path in it.
#[derive(Debug, Default)]
pub struct Results {
    by_name: BTreeMap<String, Outcome>,
}

/// What became of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It failed, in one of the programs that have it.
    Failed,
    /// It was not run.
    Ignored,
}

impl Results {
    /// Reads the lines `Running … (…/deps/PROGRAM-HASH)` and `test NAME ... ok`.
    pub fn parse(log: &str) -> Results {
        let mut results = Results::default();
        let mut program = "";
        for line in log.lines() {
            if let Some(name) = program_of(line) {
                program = name;
            } else if let Some((test, outcome)) = test_of(line) {
                results.note(format!("{program}::{test}"), outcome);
            }
        }
        results
    }

    /// Two programs of the same name may have tests of the same name: the worse result counts.
    fn note(&mut self, name: String, outcome: Outcome) {
        let known = self.by_name.entry(name).or_insert(outcome);
        if *known == Outcome::Passed {
            *known = outcome;
        }
    }

    /// What became of a test; `None` if there is no such test.
    pub fn of(&self, name: &str) -> Option<Outcome> {
        self.by_name.get(name).copied()
    }

    /// Whether there were no tests at all.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

fn program_of(line: &str) -> Option<&str> {
    let line = line.trim_start();
    if line.starts_with("Doc-tests ") {
        return Some("doc");
    }
    let path = line.strip_prefix("Running ")?.strip_suffix(')')?;
    let (_, file) = path.rsplit_once('/')?;
    file.rsplit_once('-').map(|(name, _)| name)
}

fn test_of(line: &str) -> Option<(&str, Outcome)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let outcome = match outcome.split([' ', ',']).next()? {
        "ok" => Outcome::Passed,
        "FAILED" => Outcome::Failed,
        "ignored" => Outcome::Ignored,
        _ => return None,
    };
    let name = name.strip_suffix(" - should panic").unwrap_or(name);
    Some((name, outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_tests_and_outcomes() {
        let log = "   Compiling x v0.1.0
     Running unittests src/lib.rs (target/debug/deps/gate64_x-00aa)
running 3 tests
test a::b ... ok
test a::c ... FAILED
test a::d ... ignored, too slow
     Running tests/rfc1.rs (/t/debug/deps/rfc1-00bb)
test a::b - should panic ... ok
test result: ok. 1 passed; 0 failed
";
        let results = Results::parse(log);
        assert_eq!(results.of("gate64_x::a::b"), Some(Outcome::Passed));
        assert_eq!(results.of("gate64_x::a::c"), Some(Outcome::Failed));
        assert_eq!(results.of("gate64_x::a::d"), Some(Outcome::Ignored));
        assert_eq!(results.of("rfc1::a::b"), Some(Outcome::Passed));
        assert_eq!(results.of("rfc1::a::c"), None);
        assert!(Results::parse("nothing").is_empty());
    }

    #[test]
    fn the_worse_of_two_results_counts() {
        let log =
            "Running a (t/deps/x-1)\ntest a ... FAILED\nRunning b (t/deps/x-2)\ntest a ... ok\n";
        assert_eq!(Results::parse(log).of("x::a"), Some(Outcome::Failed));
    }
}
