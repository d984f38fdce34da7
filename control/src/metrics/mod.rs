//! Prometheus: a collector that reads the workers' published counters at each scrape, and the
//! HTTP server with `/metrics`, `/healthz` and `/readyz`.

mod collector;
mod dns64;
mod family;
mod server;

pub use server::{listen, router, serve};
