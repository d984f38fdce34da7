//! DHCPv4 option 108 (RFC 8925): clients that can do without IPv4 are told to, for a time. Others
//! get no answer here, and take what another server of the link offers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode, UnknownOption};
use dhcproto::{Decodable, Decoder, Encodable};
use socket2::{Domain, Socket, Type};
use tokio::net::UdpSocket;

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// IPv6-Only Preferred, as IANA has it. dhcproto 0.15 calls 106 so: the number is written here.
const IPV6_ONLY_PREFERRED: u8 = 108;
/// The server's identifier: the IPv4 dummy address (RFC 7600 section 4.8), since this link has none.
const IDENTIFIER: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// The socket of an interface.
pub fn open(interface: &str) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, SERVER_PORT)).into())?;
    UdpSocket::from_std(socket.into())
}

/// Answers until the task is dropped.
pub async fn serve(socket: UdpSocket, wait: Duration) {
    let mut octets = [0; 1500];
    let wait = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX);
    loop {
        let Ok((length, _)) = socket.recv_from(&mut octets).await else {
            continue;
        };
        if let Some(offer) = answer(&octets[..length], wait) {
            let to = (Ipv4Addr::BROADCAST, CLIENT_PORT);
            if let Err(error) = socket.send_to(&offer, to).await {
                tracing::debug!("a DHCPv4 offer was not sent: {error}");
            }
        }
    }
}

/// The offer to a client that asks for option 108 (RFC 8925 section 3.3): of no address.
fn answer(request: &[u8], wait_seconds: u32) -> Option<Vec<u8>> {
    let request = Message::decode(&mut Decoder::new(request)).ok()?;
    let options = request.opts();
    let is_discover = options.msg_type() == Some(MessageType::Discover);
    let can_do_without = matches!(
        options.get(OptionCode::ParameterRequestList),
        Some(DhcpOption::ParameterRequestList(asked))
            if asked.iter().any(|code| u8::from(*code) == IPV6_ONLY_PREFERRED));
    (request.opcode() == Opcode::BootRequest && is_discover && can_do_without).then_some(())?;
    let mut offer = Message::new_with_id(
        request.xid(),
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        request.giaddr(),
        request.chaddr(),
    );
    offer.set_opcode(Opcode::BootReply);
    offer.set_flags(Flags::default().set_broadcast());
    let given = offer.opts_mut();
    given.insert(DhcpOption::MessageType(MessageType::Offer));
    given.insert(DhcpOption::ServerIdentifier(IDENTIFIER));
    given.insert(DhcpOption::AddressLeaseTime(wait_seconds));
    let wait = wait_seconds.to_be_bytes().to_vec();
    let option = UnknownOption::new(OptionCode::from(IPV6_ONLY_PREFERRED), wait);
    given.insert(DhcpOption::Unknown(option));
    offer.to_vec().ok()
}
