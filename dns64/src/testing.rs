//! What unit tests have in common.

use std::str::FromStr;

use hickory_proto::rr::{LowerName, Name, RecordType};

use crate::answer::Question;

pub(crate) fn name(text: &str) -> Name {
    Name::from_str(text).unwrap()
}

/// A question without DO and CD.
pub(crate) fn question(owner: &str, qtype: RecordType) -> Question {
    Question {
        name: LowerName::new(&name(owner)),
        qtype,
        dnssec_ok: false,
        checking_disabled: false,
    }
}
