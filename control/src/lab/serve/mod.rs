//! The servers of the lab's Internet, inside this binary so that nothing has to be downloaded.
//! Each role runs in its namespace as `gate64 lab serve ROLE`.

pub(super) mod body;
mod dns;
mod echo;
mod http;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::task::JoinSet;

use super::error::LabError;
use super::topology::{CLIENT, NAME_SERVER, SERVER, STATIC_TCP_PORT, STATIC_UDP_PORT};

/// Which servers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Role {
    /// DNS, HTTP and echo on IPv4.
    Internet,
    /// HTTP on native IPv6.
    Ipv6,
    /// What the static BIB entries lead to.
    Client,
}

/// RFC 862.
pub(super) const ECHO_PORT: u16 = 7;
/// Answers with the source that it saw, as `address:port`.
pub(super) const WHOAMI_PORT: u16 = 7001;
/// HTTP.
pub(super) const HTTP_PORT: u16 = 80;

type Servers = JoinSet<io::Result<()>>;

/// Serves until it is ended or a server fails.
pub(super) fn run(role: Role) -> Result<(), LabError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LabError::io("cannot start the servers"))?;
    runtime
        .block_on(serve(role))
        .map_err(LabError::io("a server of the lab failed"))
}

async fn serve(role: Role) -> io::Result<()> {
    let mut servers = Servers::new();
    match role {
        Role::Internet => {
            let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            servers.spawn(dns::serve(at(NAME_SERVER, 53)));
            servers.spawn(http::serve(SocketAddr::new(any, HTTP_PORT)));
            servers.spawn(echo::tcp(at(SERVER, ECHO_PORT)));
            servers.spawn(echo::udp(at(SERVER, ECHO_PORT)));
            servers.spawn(echo::whoami_tcp(at(SERVER, WHOAMI_PORT)));
            servers.spawn(echo::whoami_udp(at(SERVER, WHOAMI_PORT)));
        }
        Role::Ipv6 => {
            servers.spawn(http::serve(at(Ipv6Addr::UNSPECIFIED, HTTP_PORT)));
        }
        Role::Client => {
            servers.spawn(http::serve(at(CLIENT, STATIC_TCP_PORT)));
            servers.spawn(echo::udp(at(CLIENT, STATIC_UDP_PORT)));
        }
    }
    // None of them ends by itself: the first that does ends all.
    match servers.join_next().await {
        Some(Ok(ended)) => ended,
        Some(Err(panic)) => Err(io::Error::other(panic)),
        None => Ok(()),
    }
}

fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}
