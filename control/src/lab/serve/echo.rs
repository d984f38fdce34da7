//! Small TCP and UDP services: echo, the mirror that tells a client how it is seen.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

/// Larger than any datagram.
const DATAGRAM_MAX: usize = 65536;
/// A connection without traffic is closed after this.
const IDLE: Duration = Duration::from_secs(120);

/// Accepts connections and gives each to `handle`, which may fail without harm to others.
pub(super) async fn accept<F, Handled>(address: SocketAddr, handle: F) -> io::Result<()>
where
    F: Fn(TcpStream, SocketAddr) -> Handled,
    Handled: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind(address).await?;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => drop(tokio::spawn(handle(stream, peer))),
            // Out of descriptors, or the client has gone already: neither ends the server.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// TCP echo.
pub(super) async fn tcp(address: SocketAddr) -> io::Result<()> {
    accept(address, |mut stream, _| async move {
        let (mut read, mut write) = stream.split();
        timeout(IDLE, tokio::io::copy(&mut read, &mut write)).await??;
        Ok(())
    })
    .await
}

/// Tells a TCP client its address and port, and keeps the connection until it closes it.
pub(super) async fn whoami_tcp(address: SocketAddr) -> io::Result<()> {
    accept(address, |mut stream, peer| async move {
        stream.write_all(format!("{peer}\n").as_bytes()).await?;
        timeout(IDLE, stream.read(&mut [0])).await??;
        Ok(())
    })
    .await
}

/// UDP echo.
pub(super) async fn udp(address: SocketAddr) -> io::Result<()> {
    answer(address, |datagram, _| datagram.to_vec()).await
}

/// Tells a UDP client its address and port.
pub(super) async fn whoami_udp(address: SocketAddr) -> io::Result<()> {
    answer(address, |_, peer| format!("{peer}\n").into_bytes()).await
}

async fn answer(
    address: SocketAddr,
    reply: impl Fn(&[u8], SocketAddr) -> Vec<u8>,
) -> io::Result<()> {
    let socket = UdpSocket::bind(address).await?;
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        // An ICMP error for an earlier answer arrives here as an error: it concerns one client.
        let Ok((len, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let _ = socket.send_to(&reply(&buffer[..len], peer), peer).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_mirror_tells_the_source() {
        // A free port, found by binding to it once.
        let address = UdpSocket::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        tokio::spawn(whoami_udp(address));
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut buffer = [0; 64];
        let len = loop {
            client.send_to(b"?", address).await.unwrap();
            let answer = timeout(Duration::from_millis(100), client.recv(&mut buffer)).await;
            if let Ok(Ok(len)) = answer {
                break len;
            }
        };
        let seen = String::from_utf8_lossy(&buffer[..len]);
        assert_eq!(seen.trim(), client.local_addr().unwrap().to_string());
    }
}
