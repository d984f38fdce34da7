//! Bytes to facts and back: headers, checksums, RFC 6052 addresses.
//!
//! No state, no time, no allocation. `parse` is the only way to facts, and facts have proven
//! every length that will ever be used.
#![forbid(unsafe_code)]

pub mod addr;
pub mod checksum;
pub mod ethernet;
pub mod facts;
pub mod icmp;
pub mod icmpv4;
pub mod icmpv6;
pub mod inner;
pub mod ipv4;
pub mod ipv6;
mod l4;
pub mod plain;
pub mod rfc6052;
pub mod tcp;
pub mod udp;
