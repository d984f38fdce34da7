//! DNS64 (RFC 6147): pure synthesis, and a server on hickory.
//!
//! A client's question goes `server` → `handler` → `responder`, which answers local names, asks
//! `resolver` (the cache, then the upstreams), and lets `synthesis` decide what an AAAA question gets.
//! Synthesis knows no socket, no clock and no cache. Over UDP, `front` stands before the handler.

#![deny(unsafe_code)]

pub mod answer;
mod asker;
mod cache;
mod check;
mod client_limits;
mod clients;
pub mod clock;
pub mod config;
mod dnssec;
mod encode;
#[allow(unsafe_code)] // recvmmsg and sendmmsg, which no kept crate wraps as needed
mod front;
mod handler;
mod https;
mod listen;
pub mod local_names;
pub mod metrics;
mod neighbours;
mod request;
mod resolver;
mod responder;
mod scrub;
pub mod server;
pub mod synthesis;
#[cfg(test)]
mod testing;
mod tls;
mod trace;
mod upstream;

pub use cache::CacheState;
pub use check::{StartError, check, wildcard_listener};
pub use clock::Clock;
pub use config::{
    AskBoth, Caching, ClientPolicy, Config, Dnssec, Encrypted, Limits, Network, OnFailure,
    Protocol, Recursive, ResponseRate, Strangers, Synthesize, Timeouts, Upstream, UpstreamOrder,
};
pub use dnssec::TrustAnchor;
pub use listen::Sockets;
pub use metrics::Metrics;
pub use server::Server;
pub use tls::certificate_time;
pub use upstream::{TlsError, TryResult, UpstreamState, check_certificates, server_name};
