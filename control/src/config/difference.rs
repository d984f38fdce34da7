//! What two configurations have different, key by key.

use std::collections::BTreeMap;

use toml::Value;

/// The keys of which the values differ, as lines for people. Texts that do not parse have no keys.
pub fn difference(old: &str, new: &str) -> Vec<String> {
    let (old, new) = (keys(old), keys(new));
    let mut lines = Vec::new();
    for (key, value) in &new {
        match old.get(key) {
            None => lines.push(format!("{key}: {value} (was not there)")),
            Some(before) if before != value => lines.push(format!("{key}: {before} -> {value}")),
            Some(_) => {}
        }
    }
    let gone = old.iter().filter(|(key, _)| !new.contains_key(*key));
    lines.extend(gone.map(|(key, value)| format!("{key}: {value} (is no longer there)")));
    lines
}

fn keys(text: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    if let Ok(table) = text.parse::<toml::Table>() {
        collect("", &Value::Table(table), &mut all);
    }
    all
}

/// Tables are taken apart; of several tables of one name each has its number, from 1.
fn collect(path: &str, value: &Value, all: &mut BTreeMap<String, String>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                let path = match path {
                    "" => key.clone(),
                    path => format!("{path}.{key}"),
                };
                collect(&path, value, all);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_table) => {
            for (number, item) in (1..).zip(items) {
                collect(&format!("{path}[{number}]"), item, all);
            }
        }
        value => {
            all.insert(path.to_owned(), value.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_differs_is_named_with_both_values() {
        let old = "[a]\nx = 1\ny = \"same\"\n[[b]]\nz = [1, 2]\n[[b]]\nz = 3\n";
        let new = "[a]\nx = 2\ny = \"same\"\n[[b]]\nz = [1, 2]\n[c]\nw = true\n";
        assert_eq!(
            difference(old, new),
            [
                "a.x: 1 -> 2",
                "c.w: true (was not there)",
                "b[2].z: 3 (is no longer there)",
            ]
        );
        assert!(difference(old, old).is_empty());
    }
}
