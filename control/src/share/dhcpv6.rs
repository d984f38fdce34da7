//! Stateless DHCPv6 (RFC 8415): information-requests are answered with resolver and search list,
//! for hosts that take no notice of RDNSS.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use dhcproto::v6::{DhcpOption, DhcpOptions, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use hickory_proto::rr::Name;
use socket2::{Domain, Socket, Type};
use tokio::net::UdpSocket;

use super::Common;
use super::network::Network;

const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const SERVER_PORT: u16 = 547;
const CLIENT_PORT: u16 = 546;
/// IRT_MINIMUM (section 7.6): a changed resolver is learnt within ten minutes.
const REFRESH_SECONDS: u32 = 600;
/// DUID-LL over Ethernet (section 11.4).
const DUID_HEAD: [u8; 4] = [0, 3, 0, 1];

/// The socket of an interface.
pub fn open(interface: &str, index: u32) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    socket.set_only_v6(true)?;
    socket.set_nonblocking(true)?;
    // Another share on this host has the port on its own interface.
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, SERVER_PORT)).into())?;
    socket.join_multicast_v6(&SERVERS, index)?;
    UdpSocket::from_std(socket.into())
}

/// Answers until the task is dropped.
pub async fn serve(socket: UdpSocket, mac: [u8; 6], common: Arc<Common>) {
    let mut octets = [0; 1500];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut octets).await else {
            continue;
        };
        let SocketAddr::V6(from) = from else { continue };
        if let Some(reply) = answer(&octets[..length], mac, &common.network) {
            let to = SocketAddrV6::new(*from.ip(), CLIENT_PORT, 0, from.scope_id());
            if let Err(error) = socket.send_to(&reply, to).await {
                tracing::debug!("a DHCPv6 reply was not sent: {error}");
            }
        }
    }
}

/// The reply to an information-request; nothing to anything else (sections 16.12 and 18.3.6).
fn answer(request: &[u8], mac: [u8; 6], network: &Network) -> Option<Vec<u8>> {
    let request = Message::decode(&mut Decoder::new(request)).ok()?;
    (request.msg_type() == MessageType::InformationRequest).then_some(())?;
    let mut duid = DUID_HEAD.to_vec();
    duid.extend(mac);
    let options = request.opts();
    let asks_for_addresses = [OptionCode::IANA, OptionCode::IATA, OptionCode::IAPD]
        .into_iter()
        .any(|code| options.get(code).is_some());
    let is_for_another = matches!(
        options.get(OptionCode::ServerId), Some(DhcpOption::ServerId(id)) if *id != duid);
    (!asks_for_addresses && !is_for_another).then_some(())?;
    let mut given = DhcpOptions::new();
    given.insert(DhcpOption::ServerId(duid));
    if let Some(client) = options.get(OptionCode::ClientId) {
        given.insert(client.clone());
    }
    given.insert(DhcpOption::DomainNameServers(vec![network.resolver]));
    let search = network.search.iter().filter_map(|text| {
        let mut name = Name::from_ascii(text).ok()?;
        name.set_fqdn(true);
        Some(name)
    });
    let search: Vec<Name> = search.collect();
    if !search.is_empty() {
        given.insert(DhcpOption::DomainSearchList(search));
    }
    given.insert(DhcpOption::InformationRefreshTime(REFRESH_SECONDS));
    let mut reply = Message::new_with_id(MessageType::Reply, request.xid());
    reply.set_opts(given);
    reply.to_vec().ok()
}
