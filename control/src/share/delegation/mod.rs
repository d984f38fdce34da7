//! A prefix that the upstream's network delegates (RFC 8415): what a client says ([`message`]),
//! when ([`client`]) and by which socket ([`socket`]); here the task that keeps it.

pub mod client;
mod message;
mod socket;

use std::io;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use super::random::Random;
use client::{Client, Lease, Notice};
use message::Identity;
use socket::ClientSocket;

/// How long no answer is no news.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the end waits for a server that is told of it.
const FAREWELL: Duration = Duration::from_secs(3);
/// After a socket could not be opened.
const RETRY: Duration = Duration::from_secs(1);

/// The upstream's link while it has a carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLink {
    /// The kernel's index.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its link-local address, once it may be used.
    pub link_local: Option<Ipv6Addr>,
}

/// The task.
pub struct Delegation {
    link: watch::Sender<Option<ClientLink>>,
    lease: watch::Receiver<Option<Lease>>,
    ends: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Delegation {
    /// Begins to ask on an interface. `iaid`: stays the same for what the prefix is for.
    pub fn start(interface: String, iaid: u32) -> Delegation {
        let (link, link_of_task) = watch::channel(None);
        let (lease_of_task, lease) = watch::channel(None);
        let (ends, ends_of_task) = watch::channel(false);
        let keeping = Keeping {
            interface,
            iaid,
            link: link_of_task,
            lease: lease_of_task,
            client: None,
            socket: None,
            refused: None,
            opened_for: None,
            asks_since: Instant::now(),
            told: AllTold::default(),
        };
        Delegation {
            link,
            lease,
            ends,
            task: tokio::spawn(keeping.run(ends_of_task)),
        }
    }

    /// Says what the upstream's link is.
    pub fn follow(&self, link: Option<ClientLink>) {
        self.link
            .send_if_modified(|now| std::mem::replace(now, link) != link);
    }

    /// The prefix at present.
    pub fn lease(&self) -> Option<Lease> {
        *self.lease.borrow()
    }

    /// Completes when the prefix or its lifetimes are others.
    pub async fn changed(&mut self) {
        if self.lease.changed().await.is_err() {
            // The task has ended: nothing changes any more.
            std::future::pending::<()>().await;
        }
    }

    /// Gives the prefix back.
    pub async fn end(self) {
        self.ends.send_replace(true);
        if !end_within(FAREWELL, self.task).await {
            tracing::debug!("the server does not answer the release of its prefix");
        }
    }
}

/// Whether a task ends in time; it is ended if not.
async fn end_within(time: Duration, mut task: JoinHandle<()>) -> bool {
    let is_over = tokio::time::timeout(time, &mut task).await.is_ok();
    task.abort();
    is_over
}

/// What an operator is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Silence,
    NoLinkLocal,
    NoSocket,
    Notice(Notice),
}

/// What the operator was told since there is no lease: each once, however the servers take turns.
#[derive(Debug, Default)]
struct AllTold(Vec<Told>);

impl AllTold {
    /// Whether it is news.
    fn add(&mut self, what: Told) -> bool {
        let is_news = !self.0.contains(&what);
        if is_news {
            self.0.push(what);
        }
        is_news
    }
}

struct Keeping {
    interface: String,
    iaid: u32,
    link: watch::Receiver<Option<ClientLink>>,
    lease: watch::Sender<Option<Lease>>,
    /// Once the link has an Ethernet address.
    client: Option<Client>,
    socket: Option<ClientSocket>,
    /// Why there is no socket, if it was refused.
    refused: Option<io::Error>,
    opened_for: Option<ClientLink>,
    /// Since when there is a link and no lease.
    asks_since: Instant,
    told: AllTold,
}

impl Keeping {
    async fn run(mut self, mut ends: watch::Receiver<bool>) {
        loop {
            self.follow_link();
            self.publish();
            let next = self.next();
            let at = next.unwrap_or_else(Instant::now);
            tokio::select! {
                _ = ends.changed() => break,
                changed = self.link.changed() => if changed.is_err() { return },
                received = receive(self.socket.as_ref()) => self.take(received),
                () = sleep_until(at.into()), if next.is_some() => self.say().await,
            }
        }
        self.give_back().await;
    }

    fn next(&self) -> Option<Instant> {
        let of_client = self.client.as_ref().and_then(Client::next);
        // Without a socket nothing can be said; without an answer the operator is told.
        let retry = self.socket.is_none().then(|| Instant::now() + RETRY);
        match retry {
            Some(retry) if self.opened_for.is_some() => Some(retry),
            _ => of_client.into_iter().chain(self.silence_at()).min(),
        }
    }

    /// When the operator is told that nothing has come, if nothing has been told yet.
    fn silence_at(&self) -> Option<Instant> {
        let is_silent = self.lease.borrow().is_none() && self.told.0.is_empty();
        is_silent.then(|| self.asks_since + PATIENCE)
    }

    /// Opens a socket for each link, and verifies the lease there.
    fn follow_link(&mut self) {
        let link = *self.link.borrow_and_update();
        if link == self.opened_for && (self.socket.is_some() || link.is_none()) {
            return;
        }
        if link.is_some() && self.opened_for.is_none() {
            self.asks_since = Instant::now();
            self.told = AllTold::default();
        }
        self.opened_for = link;
        let opened = link.and_then(|link| {
            let link_local = link.link_local?;
            Some(ClientSocket::open(&self.interface, link.index, link_local))
        });
        (self.socket, self.refused) = match opened {
            Some(Ok(socket)) => (Some(socket), None),
            Some(Err(error)) => (None, Some(error)),
            None => (None, None),
        };
        if let Some(link) = link
            && self.client.is_none()
        {
            let identity = Identity::new(link.mac, self.iaid);
            self.client = Some(Client::new(identity, Random::seeded()));
        }
        if let Some(client) = &mut self.client {
            match self.socket {
                Some(_) => client.link_came_up(Instant::now()),
                None => client.link_went_down(),
            }
        }
    }

    fn publish(&mut self) {
        let Some(client) = &mut self.client else {
            return;
        };
        let lease = client.lease();
        if lease.is_some() {
            self.told = AllTold::default();
        } else if self.lease.borrow().is_some() {
            self.asks_since = Instant::now();
        }
        if let Some(notice) = client.take_notice() {
            self.tell(Told::Notice(notice));
        }
        self.lease
            .send_if_modified(|now| std::mem::replace(now, lease) != lease);
    }

    fn take(&mut self, received: io::Result<Vec<u8>>) {
        match (received, &mut self.client) {
            (Ok(octets), Some(client)) => client.hear(&octets, Instant::now()),
            (Ok(_), None) => {}
            (Err(error), _) => {
                tracing::debug!("the DHCPv6 socket failed: {error}");
                self.socket = None;
            }
        }
    }

    async fn say(&mut self) {
        let now = Instant::now();
        if self.silence_at().is_some_and(|at| at <= now) {
            match self.opened_for {
                Some(link) if link.link_local.is_none() => self.tell(Told::NoLinkLocal),
                _ if self.refused.is_some() => self.tell(Told::NoSocket),
                _ => self.tell(Told::Silence),
            }
        }
        let octets = self.client.as_mut().and_then(|client| client.due(now));
        if let (Some(octets), Some(socket)) = (octets, &self.socket)
            && let Err(error) = socket.send(&octets).await
        {
            // It is said again in due course.
            tracing::debug!("a DHCPv6 message was not sent: {error}");
        }
    }

    /// Tells the operator why there is no prefix, once.
    fn tell(&mut self, what: Told) {
        if !self.told.add(what) {
            return;
        }
        let interface = &self.interface;
        let why = match what {
            Told::Silence => format!(
                "no DHCPv6 server on {interface} answers (a firewall here must let UDP port 546 in)"
            ),
            Told::NoLinkLocal => format!(
                "{interface} has no link-local address to ask for a prefix from (see \
                 net.ipv6.conf.{interface}.disable_ipv6)"
            ),
            Told::NoSocket => {
                let error = self.refused.as_ref().map(io::Error::to_string);
                format!(
                    "cannot ask for a prefix on {interface}: {}",
                    error.unwrap_or_default()
                )
            }
            Told::Notice(Notice::TooLong(length)) => format!(
                "the DHCPv6 server on {interface} delegates a /{length} at most, and hosts make \
                 addresses from a /64: ask its operator for a /64 or more"
            ),
            Told::Notice(Notice::NoneForUs) => {
                format!("the DHCPv6 server on {interface} has no prefix for this host")
            }
        };
        tracing::warn!("{why}; clients have no native IPv6 until a prefix comes");
    }

    async fn give_back(mut self) {
        let Some(mut client) = self.client.take() else {
            return;
        };
        let Some(socket) = self.socket.take() else {
            return;
        };
        client.release(Instant::now());
        while let Some(next) = client.next().filter(|_| !client.rests()) {
            tokio::select! {
                Ok(octets) = socket.receive() => client.hear(&octets, Instant::now()),
                () = sleep_until(next.into()) => {
                    if let Some(octets) = client.due(Instant::now())
                        && let Err(error) = socket.send(&octets).await
                    {
                        tracing::debug!("a prefix was not given back: {error}");
                    }
                }
            }
        }
    }
}

/// The next message; none without a socket.
async fn receive(socket: Option<&ClientSocket>) -> io::Result<Vec<u8>> {
    match socket {
        Some(socket) => socket.receive().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_does_not_end_is_ended() {
        let (held, mut gone) = tokio::sync::mpsc::channel::<()>(1);
        let task = tokio::spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        assert!(!end_within(Duration::from_millis(20), task).await);
        let ended = tokio::time::timeout(Duration::from_secs(5), gone.recv()).await;
        assert_eq!(ended, Ok(None), "what it held is let go of");
        let task = tokio::spawn(async {});
        assert!(end_within(Duration::from_secs(5), task).await);
    }

    #[test]
    fn servers_that_take_turns_are_told_of_once_each() {
        let mut told = AllTold::default();
        let (none, long) = (
            Told::Notice(Notice::NoneForUs),
            Told::Notice(Notice::TooLong(72)),
        );
        let news: Vec<bool> = [none, long, none, long].map(|what| told.add(what)).to_vec();
        assert_eq!(news, [true, true, false, false]);
    }
}
