//! The data plane of gate64: packets, translation, sessions, pool, workers and packet I/O.
//!
//! A packet's way: [`io`] receives a [`packet::Frame`], [`worker`] strips its link header and
//! hands a burst to [`nat64`], which asks [`memory`] for the session and lets [`siit`] rewrite
//! the headers; the worker obeys the [`verdict::Verdict`], writes the link header of the next
//! hop found in [`route`] and sends. Nothing here is asynchronous, and nothing is shared
//! between workers but frames in bounded rings.
#![deny(unsafe_code)]

pub mod alarm;
pub mod clock;
pub mod command;
pub mod config;
pub mod counters;
pub mod gateway;
#[allow(unsafe_code)] // rings and frame memory shared with the kernel
pub mod io;
pub mod memory;
pub mod nat64;
pub mod packet;
pub mod route;
pub mod siit;
pub mod verdict;
pub mod worker;
