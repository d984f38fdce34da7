//! A JSON object a line.

use serde_json::{Map, Value as Json};

use super::fields::{Value, fields, rfc3339};
use crate::record::Record;

/// The line of a record, with its end.
pub fn line(record: &Record) -> Vec<u8> {
    let (event, values) = fields(record);
    let mut object = Map::new();
    object.insert("sequence".to_owned(), record.sequence.into());
    object.insert("time".to_owned(), rfc3339(record.at_ms).into());
    object.insert("event".to_owned(), event.into());
    for (name, value) in values {
        let value = match value {
            Value::Text(text) => Json::String(text.into_owned()),
            Value::Number(number) => number.into(),
        };
        object.insert(name.to_owned(), value);
    }
    let mut line = Json::Object(object).to_string().into_bytes();
    line.push(b'\n');
    line
}
