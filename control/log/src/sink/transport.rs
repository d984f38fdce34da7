//! How a sink's octets leave: datagrams, a connection, an encrypted connection, a file.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::file::{Lines, Rotation};
use crate::config::Target;

/// A connection is given up if it is not made, or nothing can be written, in this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a refusal of the first datagram is waited for.
const REFUSAL_WAIT: Duration = Duration::from_millis(100);

/// An open way to a collector.
pub enum Transport {
    /// Datagrams.
    Udp(UdpSocket),
    /// A connection, encrypted or not.
    Stream {
        /// The way out.
        writer: Box<dyn AsyncWrite + Send + Unpin>,
        /// Ends when the collector closes.
        closed: tokio::task::JoinHandle<()>,
    },
    /// A file.
    File(Lines),
}

impl Transport {
    /// Opens it.
    ///
    /// # Errors
    /// As the kernel or the collector's certificate says.
    pub async fn open(target: &Target, rotation: Option<Rotation>) -> io::Result<Transport> {
        match target {
            Target::Udp(addr) => {
                let socket = UdpSocket::bind(any(*addr)).await?;
                socket.connect(*addr).await?;
                Ok(Transport::Udp(socket))
            }
            Target::Tcp(addr) => Ok(stream(patiently(TcpStream::connect(*addr)).await?)),
            Target::Tls { addr, name, ca } => {
                let connector = connector(ca)?;
                let name = server_name(name, *addr)?;
                let tcp = patiently(TcpStream::connect(*addr)).await?;
                Ok(stream(patiently(connector.connect(name, tcp)).await?))
            }
            Target::File(path) => {
                let rotation = rotation.unwrap_or(Rotation {
                    size: u64::MAX,
                    every: None,
                    keep: 0,
                });
                Ok(Transport::File(Lines::open(path, rotation)?))
            }
        }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// It did not leave. A collector may have part of what went before over a connection.
    pub async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.refused()?;
        match self {
            Transport::Udp(socket) => {
                let sent = socket.send(message).await?;
                match sent == message.len() {
                    true => Ok(()),
                    false => Err(io::Error::other("a datagram was cut short")),
                }
            }
            Transport::Stream { writer, .. } => patiently(writer.write_all(message)).await,
            Transport::File(lines) => lines.write(message),
        }
    }

    /// Lets what was sent leave.
    ///
    /// # Errors
    /// As [`Transport::send`].
    pub async fn flush(&mut self) -> io::Result<()> {
        match self {
            Transport::Stream { writer, .. } => patiently(writer.flush()).await,
            Transport::Udp(_) | Transport::File(_) => Ok(()),
        }
    }

    /// Waits for the refusal that a datagram to nobody is answered by.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn await_refusal(&mut self) -> io::Result<()> {
        if matches!(self, Transport::Udp(_)) {
            tokio::time::sleep(REFUSAL_WAIT).await;
        }
        self.refused()
    }

    /// Whether the collector said that it does not listen any more.
    ///
    /// # Errors
    /// It does not.
    pub fn refused(&self) -> io::Result<()> {
        match self {
            Transport::Udp(socket) => socket.take_error()?.map_or(Ok(()), Err),
            Transport::Stream { closed, .. } if closed.is_finished() => {
                Err(io::Error::other("the collector closed the connection"))
            }
            Transport::Stream { .. } | Transport::File(_) => Ok(()),
        }
    }

    /// Ends it in good order.
    pub async fn close(mut self) {
        if let Transport::Stream { writer, closed } = &mut self {
            // Whoever does not listen any more need not be told.
            let _ = patiently(writer.shutdown()).await;
            closed.abort();
        }
    }
}

fn any(addr: SocketAddr) -> SocketAddr {
    let ip = match addr {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(ip, 0)
}

/// Collectors say nothing; reading notices when they close.
fn stream<S>(stream: S) -> Transport
where
    S: tokio::io::AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, writer) = tokio::io::split(stream);
    let closed = tokio::spawn(async move {
        let mut ignored = [0; 256];
        while matches!(reader.read(&mut ignored).await, Ok(1..)) {}
    });
    Transport::Stream {
        writer: Box::new(writer),
        closed,
    }
}

fn connector(ca: &Path) -> io::Result<TlsConnector> {
    let unreadable =
        |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", ca.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| unreadable(&error))? {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        roots.add(certificate).map_err(|error| unreadable(&error))?;
    }
    if roots.is_empty() {
        return Err(unreadable(&"holds no certificate"));
    }
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn server_name(name: &str, addr: SocketAddr) -> io::Result<ServerName<'static>> {
    match name {
        "" => Ok(ServerName::IpAddress(addr.ip().into())),
        name => ServerName::try_from(name.to_owned()).map_err(io::Error::other),
    }
}

async fn patiently<T>(done: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(PATIENCE, done).await {
        Ok(done) => done,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
