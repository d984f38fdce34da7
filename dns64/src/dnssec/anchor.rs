//! Trust anchors: DS records as an operator writes them.

use std::str::FromStr;

use hickory_proto::dnssec::rdata::{DNSKEY, DS};
use hickory_proto::dnssec::{Algorithm, DigestType, Verifier};
use hickory_proto::rr::{LowerName, Name};

/// The key of a zone that is trusted without a proof: `example. IN DS 20326 8 2 E06D…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustAnchor {
    /// The zone.
    pub zone: LowerName,
    ds: DS,
}

impl TrustAnchor {
    /// Whether this is the key that the anchor means.
    pub(super) fn covers(&self, key: &DNSKEY) -> bool {
        let zone = Name::from(self.zone.clone());
        let is_candidate = key.algorithm() == self.ds.algorithm()
            && key.calculate_key_tag().ok() == Some(self.ds.key_tag());
        is_candidate && self.ds.covers(&zone, key).unwrap_or(false)
    }
}

impl FromStr for TrustAnchor {
    type Err = String;

    /// Reads the form of RFC 4034 section 5.3; TTL and class may be left out.
    fn from_str(text: &str) -> Result<TrustAnchor, String> {
        let mut words = text.split_whitespace();
        let zone = words.next().ok_or("it is empty")?;
        let mut zone = Name::from_ascii(zone).map_err(|_| format!("{zone:?} is no domain name"))?;
        zone.set_fqdn(true);
        let mut words =
            words.skip_while(|word| word.parse::<u32>().is_ok() || word.eq_ignore_ascii_case("IN"));
        match words.next() {
            Some(word) if word.eq_ignore_ascii_case("DS") => {}
            Some(word) => return Err(format!("{word:?} stands where DS belongs")),
            None => return Err("DS is missing".to_owned()),
        }
        let key_tag = number(words.next(), "key tag")?;
        let algorithm = number(words.next(), "algorithm")?;
        let digest_type: u8 = number(words.next(), "digest type")?;
        let digest: String = words.collect();
        Ok(TrustAnchor {
            zone: LowerName::new(&zone),
            ds: DS::new(
                key_tag,
                supported(algorithm)?,
                DigestType::from(digest_type),
                octets(&digest, digest_type)?,
            ),
        })
    }
}

fn number<T: FromStr>(word: Option<&str>, what: &str) -> Result<T, String> {
    let word = word.ok_or_else(|| format!("the {what} is missing"))?;
    word.parse().map_err(|_| format!("{word:?} is no {what}"))
}

fn supported(algorithm: u8) -> Result<Algorithm, String> {
    let known = Algorithm::from_u8(algorithm);
    match known.is_supported() {
        true => Ok(known),
        false => Err(format!("algorithm {algorithm} is not supported")),
    }
}

fn octets(digest: &str, digest_type: u8) -> Result<Vec<u8>, String> {
    // RFC 4034 section 5.1.3, RFC 4509, RFC 6605 section 2.
    let length = match digest_type {
        1 => 20,
        2 => 32,
        4 => 48,
        other => return Err(format!("digest type {other} is not supported")),
    };
    if digest.len() != 2 * length {
        return Err(format!(
            "the digest has {} hexadecimal digits, not {}",
            digest.len(),
            2 * length
        ));
    }
    let digits = digest.as_bytes().chunks(2);
    let octets = digits.map(|pair| {
        let text = std::str::from_utf8(pair).ok()?;
        // `from_str_radix` would take a sign.
        let is_hex = pair.iter().all(u8::is_ascii_hexdigit);
        u8::from_str_radix(text, 16).ok().filter(|_| is_hex)
    });
    let octets: Option<Vec<u8>> = octets.collect();
    octets.ok_or_else(|| "the digest is not hexadecimal".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D";

    #[test]
    fn rfc4034_section_5_3_ds_records_are_read() {
        let whole: TrustAnchor = format!(". 3600 IN DS 20326 8 2 {DIGEST}").parse().unwrap();
        let (first, second) = DIGEST.split_at(20);
        let short: TrustAnchor = format!(". ds 20326 8 2 {first} {second}").parse().unwrap();
        assert_eq!(whole, short);
        assert_eq!(whole.ds.key_tag(), 20326);
        let named: TrustAnchor = format!("Example.ORG DS 1 13 2 {DIGEST}").parse().unwrap();
        assert_eq!(named.zone.to_string(), "example.org.");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, reason) in [
            ("", "empty"),
            (". IN DNSKEY 257 3 8 AwEAAa", "where DS belongs"),
            (". IN", "DS is missing"),
            (". IN DS 20326 8", "digest type is missing"),
            (". IN DS 99999 8 2 00", "no key tag"),
            (&format!(". IN DS 1 3 2 {DIGEST}"), "algorithm 3"),
            (&format!(". IN DS 1 8 3 {DIGEST}"), "digest type 3"),
            (". IN DS 1 8 2 E06D", "4 hexadecimal digits, not 64"),
            (
                &format!(". IN DS 1 8 2 +{}", &DIGEST[1..]),
                "not hexadecimal",
            ),
            (&format!("bad..name DS 1 8 2 {DIGEST}"), "no domain name"),
        ] {
            let error = text.parse::<TrustAnchor>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
