//! The reference page of drop reasons lists exactly the program's reasons, in its words, and
//! says for each what to do. `GATE64_UPDATE_DOCS=1` rewrites the first two columns.

use std::collections::HashMap;
use std::path::PathBuf;

use gate64_dataplane::verdict::DropReason;

const HEAD: &str = "| reason | what happened | what to do |\n|---|---|---|\n";

#[test]
fn reference_page_lists_every_drop_reason() {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/src/reference/drop-reasons.md");
    let found = std::fs::read_to_string(&path).expect("the page is there");
    let (intro, table) = found.split_once(HEAD).expect("the page has its table");
    let advice = advice_by_label(table);

    let mut expected = format!("{intro}{HEAD}");
    for reason in DropReason::ALL {
        let advice = advice.get(reason.label()).copied().unwrap_or_default();
        expected += &format!(
            "| `{}` | {} | {advice} |\n",
            reason.label(),
            reason.sentence()
        );
    }
    if std::env::var_os("GATE64_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).expect("the page can be written");
    } else {
        assert!(
            found == expected,
            "docs/src/reference/drop-reasons.md is stale: run this test with GATE64_UPDATE_DOCS=1"
        );
    }
    for reason in DropReason::ALL {
        assert!(
            advice
                .get(reason.label())
                .is_some_and(|advice| !advice.is_empty()),
            "docs/src/reference/drop-reasons.md does not say what to do about `{}`",
            reason.label()
        );
    }
}

/// The hand-written third column of each row, by the label in the first.
fn advice_by_label(table: &str) -> HashMap<&str, &str> {
    table
        .lines()
        .filter_map(|row| {
            let (label, rest) = row.strip_prefix("| `")?.split_once("` | ")?;
            let (_, advice) = rest.strip_suffix(" |")?.split_once(" | ")?;
            Some((label, advice))
        })
        .collect()
}
