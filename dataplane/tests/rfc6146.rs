//! RFC 6146, a file for each section.
#![allow(missing_docs)]

#[path = "support/mod.rs"]
mod support;

#[path = "rfc6146/section_3_1_bibs.rs"]
mod section_3_1_bibs;
#[path = "rfc6146/section_3_1_static_bib.rs"]
mod section_3_1_static_bib;
#[path = "rfc6146/section_3_4_fragments.rs"]
mod section_3_4_fragments;
#[path = "rfc6146/section_3_5_2_tcp.rs"]
mod section_3_5_2_tcp;
#[path = "rfc6146/section_3_5_filtering.rs"]
mod section_3_5_filtering;
#[path = "rfc6146/section_3_5_sessions.rs"]
mod section_3_5_sessions;
#[path = "rfc6146/section_3_6_icmp_errors.rs"]
mod section_3_6_icmp_errors;
#[path = "rfc6146/section_3_7_sizes.rs"]
mod section_3_7_sizes;
#[path = "rfc6146/section_3_8_hairpin_errors.rs"]
mod section_3_8_hairpin_errors;
