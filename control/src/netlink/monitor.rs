//! The kernel's notifications of changes, as hints of what to read again.

use std::io;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::AsyncSocket;
use tokio::task::JoinHandle;

use super::kernel::{self, Neighbor, NeighborKey};

/// Room for notifications that wait to be read; the kernel caps it at net.core.rmem_max.
const RECEIVE_BUFFER_BYTES: i32 = 4 << 20;

/// What a notification says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A link came, changed or went.
    Links,
    /// An address came or went.
    Addresses,
    /// A route came, changed or went.
    Routes,
    /// A neighbour is now this, or is gone.
    Neighbor(NeighborKey, Option<Neighbor>),
    /// Notifications were lost (ENOBUFS): everything may have changed.
    Lost,
}

/// A subscription to the kernel's notifications.
pub struct Monitor {
    messages: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    task: JoinHandle<()>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Monitor {
    /// Subscribes in the network namespace of the calling thread.
    pub fn open() -> io::Result<Monitor> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (mut connection, _, messages) = rtnetlink::new_multicast_connection(&groups)?;
        let socket = connection.socket_mut().socket_mut();
        socket.set_rx_buf_sz(RECEIVE_BUFFER_BYTES)?;
        Ok(Monitor {
            messages: messages.map(|(message, _)| message).boxed(),
            task: tokio::spawn(connection),
        })
    }

    /// The next change; `None` when the socket has failed and must be opened anew.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            if let Some(change) = read(self.messages.next().await?.payload) {
                return Some(change);
            }
        }
    }
}

fn read(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Change> {
    let message = match payload {
        NetlinkPayload::InnerMessage(message) => message,
        NetlinkPayload::Overrun(_) => return Some(Change::Lost),
        _ => return None,
    };
    match message {
        RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_) => Some(Change::Links),
        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => {
            Some(Change::Addresses)
        }
        RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => Some(Change::Routes),
        RouteNetlinkMessage::NewNeighbour(message) => {
            let (key, neighbor) = kernel::neighbor(&message)?;
            Some(Change::Neighbor(key, Some(neighbor)))
        }
        RouteNetlinkMessage::DelNeighbour(message) => {
            let (key, _) = kernel::neighbor(&message)?;
            Some(Change::Neighbor(key, None))
        }
        _ => None,
    }
}
