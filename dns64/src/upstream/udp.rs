//! One question over UDP, with everything in it that a forger would have to guess (RFC 5452):
//! the port, the id, and the case of the name's letters.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use hickory_proto::op::Message;
use tokio::net::UdpSocket;

use super::message::{check, query};
use super::{AskError, UDP_PAYLOAD_MAX};
use crate::answer::Question;
use crate::metrics::{Metrics, add};

/// Datagrams for one question that do not fit it; after so many somebody is guessing.
const MISFITS_MAX: u32 = 32;

/// Where the question's name begins (RFC 1035 section 4.1.1).
const HEADER_OCTETS: usize = 12;
/// Type and class behind the name.
const QUESTION_TAIL_OCTETS: usize = 4;
/// QR and TC in the third octet of the header.
const RESPONSE_BIT: u8 = 0x80;
const TRUNCATION_BIT: u8 = 0x02;

/// What came back.
pub(super) enum Outcome {
    Answer(Message),
    /// There is more than a datagram holds.
    Truncated,
    /// Answers came that only a forger, or a server that changes the name's case, would send.
    Suspect,
}

/// A socket of its own for each question, so that the kernel picks it a random port. It is
/// connected: datagrams from elsewhere never reach it, and an ICMP error ends the wait.
pub(super) async fn ask(
    addr: SocketAddr,
    question: &Question,
    metrics: &Metrics,
) -> Result<Outcome, AskError> {
    let sent = Sent::new(question)?;
    let any: SocketAddr = match addr {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(addr).await?;
    socket.send(&sent.octets).await?;
    // More than was asked for: some servers take no notice.
    let mut buffer = vec![0; 4 * usize::from(UDP_PAYLOAD_MAX)];
    for _ in 0..MISFITS_MAX {
        let len = socket.recv(&mut buffer).await?;
        let received = &mut buffer[..len];
        match sent.judge(received) {
            Judgement::Misfit => add(&metrics.upstream_misfits),
            Judgement::OtherCase => {
                add(&metrics.upstream_misfits);
                return Ok(Outcome::Suspect);
            }
            Judgement::Fits if received[2] & TRUNCATION_BIT != 0 => return Ok(Outcome::Truncated),
            Judgement::Fits => {
                sent.restore_case(received);
                let message = Message::from_vec(received)
                    .map_err(|error| AskError::Unreadable(error.to_string()))?;
                return check(question, message).map(Outcome::Answer);
            }
        }
    }
    Ok(Outcome::Suspect)
}

/// A query as it was sent.
struct Sent {
    octets: Vec<u8>,
    /// The question section.
    question: Range<usize>,
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// Same id, same question.
    Fits,
    /// Same but for the case of the name.
    OtherCase,
    /// Anything else.
    Misfit,
}

impl Sent {
    fn new(question: &Question) -> Result<Sent, AskError> {
        let mut octets = query(question).to_vec()?;
        let name_octets: usize = question.name.iter().map(|label| label.len() + 1).sum();
        let name = HEADER_OCTETS..HEADER_OCTETS + name_octets + 1;
        randomize_case(&mut octets[name.clone()]);
        Ok(Sent {
            octets,
            question: name.start..name.end + QUESTION_TAIL_OCTETS,
        })
    }

    fn judge(&self, received: &[u8]) -> Judgement {
        let is_response = received
            .get(2)
            .is_some_and(|flags| flags & RESPONSE_BIT != 0);
        if received.len() < HEADER_OCTETS || received[..2] != self.octets[..2] || !is_response {
            return Judgement::Misfit;
        }
        // QDCOUNT: an error may come without the question; `check` looks at its code.
        if received[4..6] == [0, 0] {
            return Judgement::Fits;
        }
        let sent = &self.octets[self.question.clone()];
        match received.get(self.question.clone()) {
            Some(question) if question == sent => Judgement::Fits,
            Some(question) if question.eq_ignore_ascii_case(sent) => Judgement::OtherCase,
            _ => Judgement::Misfit,
        }
    }

    /// Records point to the question's name for theirs, so that lower case there is lower
    /// case everywhere.
    fn restore_case(&self, received: &mut [u8]) {
        let name = self.question.start..self.question.end - QUESTION_TAIL_OCTETS;
        if received[4..6] != [0, 0]
            && let Some(name) = received.get_mut(name)
        {
            name.make_ascii_lowercase();
        }
    }
}

/// Draft-vixie-dnsext-dns0x20. Length octets are below 64 and no letters.
fn randomize_case(name: &mut [u8]) {
    for chunk in name.chunks_mut(64) {
        let mut bits: u64 = rand::random();
        for octet in chunk {
            if octet.is_ascii_alphabetic() && bits & 1 == 1 {
                *octet ^= 0x20;
            }
            bits >>= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{LowerName, Name, RecordType};

    use super::*;

    fn sent() -> Sent {
        let name = Name::from_ascii("some-long-name-with-many-letters.example.").unwrap();
        Sent::new(&Question {
            name: LowerName::new(&name),
            qtype: RecordType::AAAA,
            dnssec_ok: false,
            checking_disabled: false,
        })
        .unwrap()
    }

    fn response(sent: &Sent) -> Vec<u8> {
        let mut octets = sent.octets.clone();
        octets[2] |= RESPONSE_BIT;
        octets
    }

    #[test]
    fn rfc5452_only_the_same_id_and_question_fit() {
        let sent = sent();
        let good = response(&sent);
        assert_eq!(sent.judge(&good), Judgement::Fits);
        assert_eq!(sent.judge(&sent.octets), Judgement::Misfit, "no response");
        for at in [
            0,
            1,
            HEADER_OCTETS,
            sent.question.end - 1,
            sent.question.end - 3,
        ] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(sent.judge(&bad), Judgement::Misfit, "octet {at}");
        }
        for len in 0..sent.question.end {
            assert_eq!(sent.judge(&good[..len]), Judgement::Misfit, "{len} octets");
        }
    }

    #[test]
    fn the_case_of_letters_is_random_checked_and_restored() {
        let sent = sent();
        let name = sent.question.start..sent.question.end - QUESTION_TAIL_OCTETS;
        let letters = &sent.octets[name.clone()];
        assert!(
            letters.iter().any(u8::is_ascii_uppercase),
            "one in 2^34 fails"
        );
        let mut lower = response(&sent);
        lower[name.clone()].make_ascii_lowercase();
        assert_eq!(sent.judge(&lower), Judgement::OtherCase);
        let mut good = response(&sent);
        sent.restore_case(&mut good);
        assert_eq!(
            good[name],
            lower[sent.question.start..sent.question.end - 4]
        );
        assert_eq!(good[sent.question.end..], sent.octets[sent.question.end..]);
    }

    #[test]
    fn an_error_may_leave_out_the_question() {
        let sent = sent();
        let mut short = response(&sent);
        short.truncate(HEADER_OCTETS);
        short[4..6].copy_from_slice(&[0, 0]);
        assert_eq!(sent.judge(&short), Judgement::Fits);
        sent.restore_case(&mut short);
    }
}
