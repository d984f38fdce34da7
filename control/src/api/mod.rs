//! The API: HTTP and JSON on a unix socket, version 1. The command line is its client.

mod explain;
mod listing;
pub mod model;
mod server;
mod subscriber;
mod summary;

pub use listing::Query;
pub use server::ApiSocket;
