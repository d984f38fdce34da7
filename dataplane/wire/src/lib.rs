//! Bytes to facts and back: headers, checksums, RFC 6052 addresses.
//!
//! No state, no time, no allocation. `parse` is the only way to a view, and a view has proven
//! every length it will ever use.
#![forbid(unsafe_code)]

pub mod addr;
pub mod facts;
pub mod rfc6052;
