//! RFC 7915, section by section: literal octets out, and etherparse as the independent judge of
//! every checksum and length.

mod generated;
mod judge;
mod section_1_2_fragmented_icmp;
mod section_4_1_header;
mod section_4_2_icmp_error;
mod section_4_5_udp_checksum;
mod section_5_1_1_fragment;
mod section_5_1_header;
mod section_5_2_icmp_error;
mod sections_4_4_5_4_generated;
mod tcp_mss;
