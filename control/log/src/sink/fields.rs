//! A record as names and values: what syslog and JSON have in common.

use std::borrow::Cow;

pub use crate::clock::rfc3339;
use crate::record::{BlockAction, Record, SessionAction, What};

/// A value: a number stays one in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(Cow<'static, str>),
    /// A number.
    Number(i64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Value {
        Value::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(Cow::Owned(text))
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Value {
        Value::Number(number.into())
    }
}

impl From<u8> for Value {
    fn from(number: u8) -> Value {
        Value::Number(number.into())
    }
}

/// Which event, and its names and values.
pub fn fields(record: &Record) -> (&'static str, Vec<(&'static str, Value)>) {
    match &record.what {
        What::Started => ("started", Vec::new()),
        What::Stopped => ("stopped", Vec::new()),
        What::Lost(count) => {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            ("events_lost", vec![("count", Value::Number(count))])
        }
        What::ClockStep { from_ms, to_ms } => (
            "clock_set",
            vec![
                ("from", rfc3339(*from_ms).into()),
                ("to", rfc3339(*to_ms).into()),
            ],
        ),
        What::Block(action, block) => {
            let event = match action {
                BlockAction::Allocated => "block_allocated",
                BlockAction::Live => "block_held",
                BlockAction::Released => "block_released",
            };
            let values = vec![
                ("subscriber", block.subscriber.to_string().into()),
                ("v4", block.v4.to_string().into()),
                ("port_first", block.port_first.into()),
                ("port_last", block.port_last().into()),
            ];
            (event, values)
        }
        What::Session(action, one) => {
            let event = match action {
                SessionAction::Created => "session_created",
                SessionAction::Deleted => "session_deleted",
            };
            let values = vec![
                ("protocol", one.protocol.name().into()),
                ("v6", one.v6.ip.to_string().into()),
                ("v6_port", one.v6.port.into()),
                ("v6_remote", one.v6_remote.ip.to_string().into()),
                ("v6_remote_port", one.v6_remote.port.into()),
                ("v4", one.v4.ip.to_string().into()),
                ("v4_port", one.v4.port.into()),
                ("v4_remote", one.v4_remote.ip.to_string().into()),
                ("v4_remote_port", one.v4_remote.port.into()),
            ];
            (event, values)
        }
        What::Alarm(alarm) => {
            let event = if alarm.raised {
                "alarm_raised"
            } else {
                "alarm_cleared"
            };
            let values = vec![
                ("alarm", alarm.kind.name().into()),
                ("subject", alarm.subject.clone().into()),
                ("used_percent", alarm.used_percent.into()),
                ("threshold_percent", alarm.threshold_percent.into()),
            ];
            (event, values)
        }
    }
}
