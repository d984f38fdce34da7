//! Syslog messages (RFC 5424) with structured data.

use super::fields::{Value, fields, rfc3339};
use crate::record::{Record, What};

/// The structured data's id. 32473 is the number that RFC 5612 gives to examples: gate64 has none.
const SD_ID: &str = "nat64@32473";

/// RFC 5424 section 6.2.1.
const SEVERITY_WARNING: u8 = 4;
const SEVERITY_NOTICE: u8 = 5;
const SEVERITY_INFORMATIONAL: u8 = 6;

/// What is the same in every message.
#[derive(Debug, Clone)]
pub struct Formatter {
    facility: u8,
    host: String,
    process: u32,
}

impl Formatter {
    /// Messages of this host and process.
    pub fn new(facility: u8) -> Formatter {
        let host = nix::unistd::gethostname().ok();
        let host = host.and_then(|host| host.into_string().ok());
        Formatter {
            facility,
            // RFC 5424 section 6.2.4: the NILVALUE where the name is not known.
            host: host
                .filter(|host| !host.is_empty())
                .unwrap_or("-".to_owned()),
            process: std::process::id(),
        }
    }

    /// The message of a record, without framing.
    pub fn message(&self, record: &Record) -> Vec<u8> {
        let (event, values) = fields(record);
        let (id, severity) = match &record.what {
            What::Block(..) => ("BLOCK", SEVERITY_INFORMATIONAL),
            What::Session(..) => ("SESSION", SEVERITY_INFORMATIONAL),
            What::Alarm(_) => ("ALARM", SEVERITY_WARNING),
            What::Lost(_) => ("LOG", SEVERITY_WARNING),
            What::Started | What::Stopped | What::ClockStep { .. } => ("LOG", SEVERITY_NOTICE),
        };
        let mut text = format!(
            "<{}>1 {} {} gate64 {} {id} [{SD_ID} event=\"{event}\" sequence=\"{}\"",
            u16::from(self.facility) * 8 + u16::from(severity),
            rfc3339(record.at_ms),
            self.host,
            self.process,
            record.sequence,
        );
        for (name, value) in values {
            text.push_str(&format!(" {name}=\"{}\"", escaped(&value)));
        }
        text.push(']');
        text.into_bytes()
    }
}

/// RFC 5424 section 6.3.3: `"`, `\` and `]` are escaped.
fn escaped(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Text(text) => text
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace(']', "\\]"),
    }
}

/// RFC 6587 section 3.4.1: the length before the message.
pub fn octet_counted(message: &[u8]) -> Vec<u8> {
    let mut framed = format!("{} ", message.len()).into_bytes();
    framed.extend(message);
    framed
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::record::{Alarm, AlarmKind};

    #[test]
    fn a_message_has_header_and_structured_data() {
        let formatter = Formatter {
            facility: 16,
            host: "gw1".to_owned(),
            process: 7,
        };
        let alarm = Alarm {
            kind: AlarmKind::Pool,
            subject: r#"a"]\b"#.to_owned(),
            raised: true,
            used_percent: 81,
            threshold_percent: 80,
        };
        let record = Record {
            sequence: 9,
            at_ms: 1_793_577_600_123,
            what: What::Alarm(Arc::new(alarm)),
        };
        let message = String::from_utf8(formatter.message(&record)).unwrap();
        assert_eq!(
            message,
            "<132>1 2026-11-02T00:00:00.123Z gw1 gate64 7 ALARM [nat64@32473 event=\"alarm_raised\" \
             sequence=\"9\" alarm=\"pool\" subject=\"a\\\"\\]\\\\b\" used_percent=\"81\" \
             threshold_percent=\"80\"]"
        );
        assert_eq!(octet_counted(b"<1>x"), b"4 <1>x");
    }
}
