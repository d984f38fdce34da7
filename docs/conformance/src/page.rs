//! The pages: one of each RFC, and one that counts.

use std::fmt::Write;

use crate::requirements::{Rfc, Row, State};

/// File names and texts.
pub fn pages(rfcs: &[Rfc]) -> Vec<(String, String)> {
    let mut pages = vec![("index.md".to_owned(), index(rfcs))];
    pages.extend(rfcs.iter().map(|rfc| (file_name(rfc), page(rfc))));
    pages
}

/// How much is met, in one line.
pub fn summary(rfcs: &[Rfc]) -> String {
    let count = |state| rfcs.iter().map(|rfc| rfc.count(state)).sum::<usize>();
    let counts: Vec<String> = State::ALL
        .iter()
        .map(|&state| format!("{} {}", count(state), state.word()))
        .collect();
    format!("conformance: {}", counts.join(", "))
}

fn file_name(rfc: &Rfc) -> String {
    format!("rfc{}.md", rfc.number)
}

fn index(rfcs: &[Rfc]) -> String {
    let mut text = String::from(
        "# Conformance

What the RFCs ask of a NAT64, where gate64 does it, and which tests show it. These pages are made by `make test`
from `docs/conformance/requirements/` and the results of the tests: a row that is said to be met has tests, and all of
them passed. What is not met stands there with the reason. The pages on DNS64 (RFC 6147) are not part of this.

| RFC | title | met | partly | not met | not ours |
|---|---|---|---|---|---|
",
    );
    for rfc in rfcs {
        let counts = State::ALL.map(|state| rfc.count(state).to_string());
        let row = format!(
            "| [{}]({}) | {} | {} |\n",
            rfc.number,
            file_name(rfc),
            rfc.title,
            counts.join(" | ")
        );
        text.push_str(&row);
    }
    text.push_str("\n## What is not met, or not in full\n\n");
    for rfc in rfcs {
        for row in &rfc.row {
            if matches!(row.state, State::NotMet | State::Partly) {
                let _ = writeln!(
                    text,
                    "- RFC {} section {} ({}, {}): {} *{}*",
                    rfc.number,
                    row.section,
                    row.level.word(),
                    row.state.word(),
                    row.text,
                    row.reason
                );
            }
        }
    }
    text
}

fn page(rfc: &Rfc) -> String {
    let mut text = format!(
        "# RFC {}: {}\n\n{}\n\n| section | level | requirement | code | tests | result |\n|---|---|---|---|---|---|\n",
        rfc.number,
        rfc.title,
        rfc.note.trim()
    );
    for row in &rfc.row {
        text.push_str(&line(row));
    }
    text
}

fn line(row: &Row) -> String {
    let codes = |all: &[String]| {
        let all: Vec<String> = all.iter().map(|one| format!("`{one}`")).collect();
        all.join("<br>")
    };
    let mut result = format!("**{}**", row.state.word());
    if !row.reason.is_empty() {
        result = format!("{result}: {}", row.reason);
    }
    format!(
        "| {} | {} | {} | {} | {} | {result} |\n",
        row.section,
        row.level.word(),
        row.text,
        codes(&row.code),
        codes(&row.tests)
    )
}
