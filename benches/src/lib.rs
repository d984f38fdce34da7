//! The tester of RFC 9693 and RFC 8219 (`gate64 bench`), and the benches.
//!
//! [`engine::run`] measures the engine in memory, against itself at other sizes and against
//! re-implementations of other translators' algorithms; [`instructions`] counts instructions;
//! [`scenario`] is the same harness for criterion;
//! [`tester`] measures this translator or any other from outside.

mod contender;
pub mod engine;
mod error;
mod flows;
mod frames;
mod gateway;
mod hashed;
pub mod instructions;
mod jool;
mod lifecycle;
mod measure;
pub mod report;
pub mod scenario;
pub mod simulation;
pub mod tester;
mod vpp;
mod workers;

pub use error::BenchError;
