//! One question over UDP, with everything in it that a forger would have to guess (RFC 5452):
//! the port, the id, and the case of the name's letters.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::serialize::binary::DecodeError;
use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{self, Handle};

use super::message::{check, query_octets};
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

/// The longest datagram that is read whole: more than was asked for, since some servers take no
/// notice.
const ANSWER_OCTETS_MAX: usize = 4 * UDP_PAYLOAD_MAX as usize;

/// What came back.
pub(super) enum Outcome {
    Answer(Message),
    /// There is more than a datagram holds.
    Truncated,
    /// Answers came that only a forger, or a server that changes the name's case, would send.
    Suspect,
}

/// A socket asks no more than so many questions, one after the other, and none after this time:
/// then its port is another one.
const USES_MAX: u32 = 16;
const LIFE: Duration = Duration::from_secs(1);
/// Sockets of one runtime that are kept for further questions to one upstream.
const IDLE_MAX: usize = 128;

/// The sockets to one upstream. Each question has one to itself, with a port that the kernel picks
/// at random. It is connected: datagrams from elsewhere never reach it, and an ICMP error ends the
/// wait. After a good answer, and nothing else, another question may have it.
pub(super) struct Sockets {
    addr: SocketAddr,
    /// How long one may be used.
    life: Duration,
    /// By the runtime that watches them.
    idle: Mutex<HashMap<runtime::Id, Vec<Connected>>>,
}

struct Connected {
    socket: AsyncFd<UdpSocket>,
    opened: Instant,
    uses: u32,
}

impl Sockets {
    pub(super) fn new(addr: SocketAddr) -> Sockets {
        Sockets {
            addr,
            life: LIFE,
            idle: Mutex::default(),
        }
    }

    pub(super) async fn ask(
        &self,
        question: &Question,
        metrics: &Metrics,
    ) -> Result<Outcome, AskError> {
        let sent = Sent::new(question);
        let connected = match self.take() {
            Some(idle) => idle,
            None => Connected::open(self.addr)?,
        };
        let socket = &connected.socket;
        // One that has room for no datagram is as good as none.
        socket.get_ref().send(&sent.octets)?;
        let mut misfits = 0;
        while misfits < MISFITS_MAX {
            let mut ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
            match sent.receive(socket.get_ref()) {
                Ok(Received::Misfit) => {
                    misfits += 1;
                    add(&metrics.upstream_misfits);
                }
                Ok(Received::OtherCase) => {
                    add(&metrics.upstream_misfits);
                    return Ok(Outcome::Suspect);
                }
                Ok(Received::Truncated) => return Ok(Outcome::Truncated),
                Ok(Received::Message(message)) => {
                    ready.clear_ready();
                    drop(ready);
                    let message =
                        message.map_err(|error| AskError::Unreadable(error.to_string()))?;
                    let message = check(question, message)?;
                    // One that leaves out the question is easier to forge.
                    if misfits == 0 && !message.queries.is_empty() {
                        self.give_back(connected);
                    }
                    return Ok(Outcome::Answer(message));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Outcome::Suspect)
    }

    /// One of those kept, at random. Those whose time is up are closed.
    fn take(&self) -> Option<Connected> {
        let now = Instant::now();
        let mut idle = self.idle();
        let idle = idle.get_mut(&Handle::current().id())?;
        idle.retain(|connected| !connected.is_old(now, self.life));
        while !idle.is_empty() {
            let connected = idle.swap_remove(rand::random_range(..idle.len()));
            if connected.is_quiet() {
                return Some(connected);
            }
        }
        None
    }

    /// Closes those kept whose time is up: where no further question comes, nobody else does.
    pub(super) fn close_old(&self, now: Instant) {
        let mut idle = self.idle();
        let kept = idle.values_mut();
        let old: Vec<Connected> = kept
            .flat_map(|kept| kept.extract_if(.., |connected| connected.is_old(now, self.life)))
            .collect();
        // No question waits until the kernel has closed them.
        drop(idle);
        drop(old);
    }

    fn give_back(&self, mut connected: Connected) {
        connected.uses += 1;
        if connected.uses < USES_MAX {
            let mut idle = self.idle();
            let idle = idle.entry(Handle::current().id()).or_default();
            if idle.len() < IDLE_MAX {
                idle.push(connected);
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<runtime::Id, Vec<Connected>>> {
        self.idle.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Connected {
    /// connect() picks the port of a socket that was not bound, as bind() would.
    fn open(addr: SocketAddr) -> io::Result<Connected> {
        let kind = Type::DGRAM.nonblocking();
        let socket = Socket::new(Domain::for_address(addr), kind, Some(SocketProtocol::UDP))?;
        socket.connect(&addr.into())?;
        // Not tokio's own: that is woken for each datagram that left, as well.
        // SAFETY: a `UdpSocket` keeps its one open descriptor until it is dropped, and nothing
        // here takes it out of the `AsyncFd`.
        let socket = unsafe { AsyncFd::register_with_interest(socket.into(), Interest::READABLE) }?;
        Ok(Connected {
            socket,
            opened: Instant::now(),
            uses: 0,
        })
    }

    fn is_old(&self, now: Instant, life: Duration) -> bool {
        now - self.opened >= life
    }

    /// Nothing came since the last answer: no second one, no guess, no ICMP error.
    fn is_quiet(&self) -> bool {
        let came = self.socket.get_ref().recv(&mut [0]);
        came.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// A datagram from the upstream's address.
enum Received {
    Misfit,
    OtherCase,
    Truncated,
    Message(Result<Message, DecodeError>),
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
    fn new(question: &Question) -> Sent {
        let mut octets = query_octets(question);
        let name_octets: usize = question.name.iter().map(|label| label.len() + 1).sum();
        let name = HEADER_OCTETS..HEADER_OCTETS + name_octets + 1;
        randomize_case(&mut octets[name.clone()]);
        Sent {
            octets,
            question: name.start..name.end + QUESTION_TAIL_OCTETS,
        }
    }

    /// Takes one datagram from the socket.
    fn receive(&self, socket: &UdpSocket) -> io::Result<Received> {
        let mut buffer = [0; ANSWER_OCTETS_MAX];
        let len = socket.recv(&mut buffer)?;
        let received = &mut buffer[..len];
        Ok(match self.judge(received) {
            Judgement::Misfit => Received::Misfit,
            Judgement::OtherCase => Received::OtherCase,
            Judgement::Fits if received[2] & TRUNCATION_BIT != 0 => Received::Truncated,
            Judgement::Fits => {
                self.restore_case(received);
                Received::Message(Message::from_vec(received))
            }
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
    use std::collections::HashSet;

    use futures_util::future::join_all;
    use hickory_proto::rr::{LowerName, Name, RecordType};

    use super::*;

    fn question() -> Question {
        let name = Name::from_ascii("some-long-name-with-many-letters.example.").unwrap();
        Question {
            name: LowerName::new(&name),
            qtype: RecordType::AAAA,
            dnssec_ok: false,
            checking_disabled: false,
        }
    }

    fn sent() -> Sent {
        Sent::new(&question())
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

    /// Sockets whose time is not up before a test ends, and the upstream that they lead to.
    async fn upstream() -> (Sockets, tokio::net::UdpSocket) {
        let upstream = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut sockets = Sockets::new(upstream.local_addr().unwrap());
        sockets.life = Duration::from_secs(60);
        (sockets, upstream)
    }

    /// The next query, and the port it came from.
    async fn heard(upstream: &tokio::net::UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut octets = vec![0; 512];
        let (len, from) = upstream.recv_from(&mut octets).await.unwrap();
        octets.truncate(len);
        octets[2] |= RESPONSE_BIT;
        (octets, from)
    }

    /// One question and its answer, with these datagrams before and behind it: the port.
    async fn ask_once(
        (sockets, upstream): &(Sockets, tokio::net::UdpSocket),
        before: &[&[u8]],
        behind: &[&[u8]],
    ) -> u16 {
        let metrics = Metrics::default();
        let question = question();
        let asked = sockets.ask(&question, &metrics);
        let answered = async {
            let (answer, from) = heard(upstream).await;
            for octets in before.iter().chain([&&*answer]).chain(behind) {
                upstream.send_to(octets, from).await.unwrap();
            }
            from.port()
        };
        let (outcome, port) = tokio::join!(asked, answered);
        assert!(matches!(outcome, Ok(Outcome::Answer(_))));
        port
    }

    #[tokio::test]
    async fn rfc5452_section_9_2_questions_under_way_have_ports_of_their_own() {
        const QUESTIONS: usize = 50;
        let (sockets, upstream) = upstream().await;
        let (metrics, question) = (Metrics::default(), question());
        for _ in 0..2 {
            let asked = join_all((0..QUESTIONS).map(|_| sockets.ask(&question, &metrics)));
            let answered = async {
                let mut all = Vec::new();
                for _ in 0..QUESTIONS {
                    all.push(heard(&upstream).await);
                }
                for (answer, from) in &all {
                    upstream.send_to(answer, from).await.unwrap();
                }
                let ports = all.iter().map(|(_, from)| from.port());
                ports.collect::<HashSet<u16>>()
            };
            let (outcomes, ports) = tokio::join!(asked, answered);
            assert!(outcomes.iter().all(Result::is_ok));
            assert_eq!(ports.len(), QUESTIONS);
        }
    }

    #[tokio::test]
    async fn a_port_is_another_one_after_some_questions_and_some_time() {
        let mut peers = upstream().await;
        let mut ports = Vec::new();
        for _ in 0..2 * USES_MAX {
            ports.push(ask_once(&peers, &[], &[]).await);
        }
        let uses: Vec<usize> = ports.chunk_by(|a, b| a == b).map(<[u16]>::len).collect();
        assert!(uses.iter().all(|n| *n <= USES_MAX as usize), "{uses:?}");
        assert!(uses.iter().any(|n| *n > 1), "{uses:?}");
        let port = ask_once(&peers, &[], &[]).await;
        peers.0.life = Duration::from_millis(10);
        tokio::time::sleep(peers.0.life).await;
        assert_ne!(ask_once(&peers, &[], &[]).await, port);
    }

    #[tokio::test]
    async fn a_socket_whose_time_is_up_is_closed_without_a_further_question() {
        let peers = upstream().await;
        let port = ask_once(&peers, &[], &[]).await;
        let opened = peers.0.idle().values().flatten().next().unwrap().opened;
        let ends = [port, peers.0.addr.port()].map(|port| format!("0100007F:{port:04X}"));
        let is_open = || {
            let sockets = std::fs::read_to_string("/proc/net/udp").unwrap();
            sockets.contains(&ends.join(" "))
        };
        peers
            .0
            .close_old(opened + peers.0.life - Duration::from_millis(1));
        assert!(is_open());
        peers.0.close_old(opened + peers.0.life);
        assert!(!is_open());
    }

    #[tokio::test]
    async fn a_port_that_somebody_else_sent_to_is_not_used_again() {
        let peers = upstream().await;
        let port = ask_once(&peers, &[b"a guess"], &[]).await;
        let next = ask_once(&peers, &[], &[]).await;
        assert_ne!(next, port);
        assert_eq!(ask_once(&peers, &[], &[b"late"]).await, next);
        // The kernel may take its time on loopback, too.
        let is_there = || {
            let idle = peers.0.idle();
            let connected = idle.values().flatten().next().unwrap();
            connected.socket.get_ref().peek(&mut [0]).is_ok()
        };
        while !is_there() {
            tokio::task::yield_now().await;
        }
        assert_ne!(ask_once(&peers, &[], &[]).await, next);
    }

    #[tokio::test]
    async fn a_port_that_a_bad_answer_came_to_is_not_used_again() {
        const SERVFAIL: u8 = 2;
        let peers = upstream().await;
        let (metrics, question) = (Metrics::default(), question());
        let no_question = |rcode: u8| vec![RESPONSE_BIT, rcode, 0, 0, 0, 0, 0, 0, 0, 0];
        // One record is promised, and is not there.
        let mut cut = sent().octets[2..].to_vec();
        cut[0] |= RESPONSE_BIT;
        cut[5] = 1;
        for bad in [no_question(0), no_question(SERVFAIL), cut] {
            let asked = peers.0.ask(&question, &metrics);
            let answered = async {
                let (query, from) = heard(&peers.1).await;
                let name = HEADER_OCTETS..query.len();
                let mut answer = [&query[..2], &bad].concat();
                if answer.len() > HEADER_OCTETS {
                    answer[name.clone()].copy_from_slice(&query[name]);
                }
                peers.1.send_to(&answer, from).await.unwrap();
                from.port()
            };
            let (_, port) = tokio::join!(asked, answered);
            assert_ne!(ask_once(&peers, &[], &[]).await, port, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_question_given_up_takes_its_socket_with_it() {
        let peers = upstream().await;
        let port = ask_once(&peers, &[], &[]).await;
        let metrics = Metrics::default();
        let question = question();
        let asked = peers.0.ask(&question, &metrics);
        let given_up = tokio::time::timeout(Duration::from_millis(20), asked).await;
        assert!(given_up.is_err());
        assert_eq!(heard(&peers.1).await.1.port(), port);
        assert_ne!(ask_once(&peers, &[], &[]).await, port);
    }
}
