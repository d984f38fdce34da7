//! Records, in a few words each.

use std::str::FromStr;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NULL, PTR, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

pub fn name(text: &str) -> Name {
    Name::from_str(text).unwrap()
}

pub fn record(owner: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name(owner), ttl, data)
}

pub fn a(owner: &str, ttl: u32, ip: &str) -> Record {
    record(owner, ttl, RData::A(A(ip.parse().unwrap())))
}

pub fn aaaa(owner: &str, ttl: u32, ip: &str) -> Record {
    record(owner, ttl, RData::AAAA(AAAA(ip.parse().unwrap())))
}

pub fn cname(owner: &str, ttl: u32, target: &str) -> Record {
    record(owner, ttl, RData::CNAME(CNAME(name(target))))
}

pub fn ptr(owner: &str, ttl: u32, target: &str) -> Record {
    record(owner, ttl, RData::PTR(PTR(name(target))))
}

pub fn txt(owner: &str, ttl: u32, text: &str) -> Record {
    record(owner, ttl, RData::TXT(TXT::new(vec![text.into()])))
}

pub fn soa(zone: &str, ttl: u32, minimum: u32) -> Record {
    let soa = SOA::new(
        name(zone),
        name("nobody.invalid."),
        1,
        7200,
        3600,
        604_800,
        minimum,
    );
    record(zone, ttl, RData::SOA(soa))
}

/// A DNAME record, which hickory knows only as unknown data.
pub fn dname(owner: &str, ttl: u32, target: &str) -> Record {
    let mut octets = Vec::new();
    for label in name(target).iter() {
        octets.push(u8::try_from(label.len()).unwrap());
        octets.extend_from_slice(label);
    }
    octets.push(0);
    unknown(owner, ttl, RecordType::DNAME, octets)
}

/// A signature that covers a type; nobody here checks it.
pub fn rrsig(owner: &str, ttl: u32, covered: RecordType) -> Record {
    let mut octets = u16::from(covered).to_be_bytes().to_vec();
    octets.extend_from_slice(&[13, 2, 0, 0, 1, 44, 0, 0, 0, 9, 0, 0, 0, 1, 0, 7]);
    octets.extend_from_slice(b"\x04test\x00signature-octets");
    unknown(owner, ttl, RecordType::RRSIG, octets)
}

fn unknown(owner: &str, ttl: u32, code: RecordType, octets: Vec<u8>) -> Record {
    record(
        owner,
        ttl,
        RData::Unknown {
            code,
            rdata: NULL::with(octets),
        },
    )
}
