//! Makes `docs/src/conformance/` from `requirements/*.toml` and the output of `cargo test`, and
//! fails where a requirement that is said to be met has no test, or one that did not pass.
//!
//! `make test` runs it; `GATE64_UPDATE_DOCS=1` writes the pages instead of comparing them.

mod page;
mod requirements;
mod results;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use requirements::Rfc;
use results::Results;

/// Set, pages are written instead of compared, as by the other generated pages of the book.
const UPDATE: &str = "GATE64_UPDATE_DOCS";

fn main() -> ExitCode {
    let Some(log) = std::env::args_os().nth(1) else {
        eprintln!("usage: gate64-conformance FILE   (FILE: what `cargo test --workspace` printed)");
        return ExitCode::from(2);
    };
    match run(Path::new(&log)) {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(problems) => {
            for problem in &problems {
                eprintln!("conformance: {problem}");
            }
            eprintln!("conformance: {} problems", problems.len());
            ExitCode::FAILURE
        }
    }
}

/// One line that says how much is met, or every problem.
fn run(log: &Path) -> Result<String, Vec<String>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.join("../..");
    let log = read(log)?;
    let results = Results::parse(&log);
    let rfcs = read_requirements(&here.join("requirements"))?;
    let mut problems = Vec::new();
    if results.is_empty() {
        problems.push("the file has no results of tests in it".to_owned());
    }
    for rfc in &rfcs {
        problems.extend(rfc.problems(&root, &results));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    settle_pages(&root.join("docs/src/conformance"), &page::pages(&rfcs))?;
    Ok(page::summary(&rfcs))
}

fn read(path: &Path) -> Result<String, Vec<String>> {
    std::fs::read_to_string(path).map_err(|error| vec![format!("{}: {error}", path.display())])
}

/// All files of the directory, by number.
fn read_requirements(directory: &Path) -> Result<Vec<Rfc>, Vec<String>> {
    let failed = |error: &dyn std::fmt::Display| vec![format!("{}: {error}", directory.display())];
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|error| failed(&error))? {
        paths.push(entry.map_err(|error| failed(&error))?.path());
    }
    let mut rfcs = Vec::new();
    for path in paths {
        let text = read(&path)?;
        let rfc: Rfc =
            toml::from_str(&text).map_err(|error| vec![format!("{}: {error}", path.display())])?;
        rfcs.push(rfc);
    }
    rfcs.sort_by_key(|rfc| rfc.number);
    Ok(rfcs)
}

/// Compares the pages with the committed ones, or writes them.
fn settle_pages(directory: &Path, pages: &[(String, String)]) -> Result<(), Vec<String>> {
    let mut problems = Vec::new();
    for (name, text) in pages {
        let path = directory.join(name);
        if std::env::var_os(UPDATE).is_some() {
            if let Err(error) = std::fs::write(&path, text) {
                problems.push(format!("{}: {error}", path.display()));
            }
        } else if std::fs::read_to_string(&path).ok().as_ref() != Some(text) {
            problems.push(format!(
                "docs/src/conformance/{name} is stale: run `make test-conformance {UPDATE}=1`"
            ));
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}
