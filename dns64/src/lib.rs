//! DNS64 (RFC 6147): pure synthesis, and a server on hickory.
//!
//! A client's question goes `server` → `handler` → `responder`, which answers local names, asks
//! `resolver` (the cache, then the upstreams), and lets `synthesis` decide what an AAAA question gets.
//! Synthesis knows no socket, no clock and no cache.

pub mod answer;
mod cache;
pub mod clock;
pub mod config;
mod handler;
pub mod local_names;
pub mod metrics;
mod pool;
mod resolver;
mod responder;
pub mod server;
pub mod synthesis;
mod trace;
mod upstream;

pub use clock::Clock;
pub use config::{
    Config, Dnssec, Limits, Network, OnFailure, Protocol, Synthesize, Timeouts, Upstream,
};
pub use metrics::Metrics;
pub use server::{Server, Sockets, StartError};
