//! DNS over HTTPS (RFC 8484): GET and POST over HTTP/2. hickory's server has POST alone (0.26.3),
//! and a server must have both (section 4.1).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use h2::server::SendResponse;
use h2::{RecvStream, server};
use hickory_net::xfer::Protocol;
use hickory_server::server::Request;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{Method, Response, StatusCode};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::handler::{Handled, Handler};
use crate::tls::Certificate;
use crate::{config, encode, request};

/// Connections to one address; a further one waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;
/// Questions under way on one connection.
const STREAMS_MAX: u32 = 64;
/// Octets of a request's header list, as RFC 9113 section 6.5.2 counts them. A question of any real
/// length fits into a path; a longer list gets the status 431.
const HEADERS_OCTETS_MAX: u32 = 16 << 10;
/// The longest DNS message (RFC 1035 section 4.2.2).
const MESSAGE_OCTETS_MAX: usize = u16::MAX as usize;
/// How long to wait after a connection could not be taken: no file descriptor is free, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const DNS_MESSAGE: &str = "application/dns-message";

/// The service of one address.
pub(crate) struct Https {
    acceptor: TlsAcceptor,
    path: String,
    /// A connection with no question under way ends after this.
    idle: Duration,
    handler: Arc<Handler>,
}

impl Https {
    /// Serves under the path.
    ///
    /// # Errors
    /// The TLS library has no version of the protocol.
    pub(crate) fn new(
        certificate: Arc<Certificate>,
        path: String,
        idle: Duration,
        handler: Arc<Handler>,
    ) -> io::Result<Https> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_cert_resolver(certificate);
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Https {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            path,
            idle,
            handler,
        })
    }

    /// Takes connections until it is dropped, and they with it.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let https = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, client)) => {
                        let https = https.clone();
                        connections.spawn(async move { https.connection(stream, client).await });
                    }
                    Err(error) => {
                        tracing::debug!(%error, "no connection for DNS over HTTPS");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// Answers one client until it leaves or says nothing for too long.
    async fn connection(self: Arc<Self>, stream: TcpStream, client: SocketAddr) {
        let Ok(Ok(stream)) = timeout(self.idle, self.acceptor.accept(stream)).await else {
            return;
        };
        let mut builder = server::Builder::new();
        builder
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADERS_OCTETS_MAX);
        let Ok(Ok(mut connection)) =
            timeout(self.idle, builder.handshake::<_, Bytes>(stream)).await
        else {
            return;
        };
        // Ends with the connection: nobody is left to take the answers.
        let mut exchanges = JoinSet::new();
        loop {
            // `accept` also moves the octets of the exchanges that are under way.
            tokio::select! {
                accepted = connection.accept() => {
                    let Some(Ok((request, respond))) = accepted else {
                        return;
                    };
                    let https = self.clone();
                    exchanges.spawn(async move { https.exchange(request, respond, client).await });
                }
                Some(_) = exchanges.join_next() => {}
                () = sleep(self.idle), if exchanges.is_empty() => return,
            }
        }
    }

    async fn exchange(
        &self,
        // Lives until the answer is sent: a body let go before would reset the stream.
        mut request: http::Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        client: SocketAddr,
    ) {
        let answered = match timeout(self.idle, question(&self.path, &mut request)).await {
            Ok(Ok(octets)) => self.answer(octets, client).await,
            Ok(Err(status)) => Err(status),
            Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
        };
        if let Err(error) = send(&mut respond, answered) {
            tracing::debug!(%client, %error, "answer not sent");
        }
    }

    async fn answer(&self, octets: Vec<u8>, client: SocketAddr) -> Result<Answered, StatusCode> {
        let Some(request) = request::read(octets, client, Protocol::Https) else {
            self.handler.count_unreadable(config::Protocol::Https);
            return Err(StatusCode::BAD_REQUEST);
        };
        let handled = self.handler.handle_admitted(&request).await;
        let message = encode::whole_message(&request, &handled);
        Ok(Answered {
            message: message.ok_or(StatusCode::INTERNAL_SERVER_ERROR)?,
            seconds: freshness(&request, &handled),
        })
    }
}

/// A DNS message, and for how long HTTP caches may keep it.
struct Answered {
    message: Vec<u8>,
    seconds: u32,
}

/// RFC 8484 section 5.1: no longer than the least TTL; a failure not at all.
fn freshness(request: &Request, handled: &Handled) -> u32 {
    match request.request_info() {
        Ok(info) if handled.answer.is_success() => handled.answer.ttl(info.query.query_type()),
        _ => 0,
    }
}

/// The DNS message in a request (RFC 8484 section 4.1), or what is wrong with it.
async fn question(
    path: &str,
    request: &mut http::Request<RecvStream>,
) -> Result<Vec<u8>, StatusCode> {
    if request.uri().path() != path {
        return Err(StatusCode::NOT_FOUND);
    }
    match *request.method() {
        Method::GET => from_query(request.uri().query().unwrap_or_default()),
        Method::POST => {
            // Read in any case: some clients lose an answer that overtakes their body.
            let octets = from_body(request.body_mut()).await?;
            let is_dns = |value: &http::HeaderValue| value.as_bytes() == DNS_MESSAGE.as_bytes();
            match request.headers().get(CONTENT_TYPE).is_some_and(is_dns) {
                true => Ok(octets),
                false => Err(StatusCode::UNSUPPORTED_MEDIA_TYPE),
            }
        }
        _ => Err(StatusCode::METHOD_NOT_ALLOWED),
    }
}

/// The variable `dns`, in base64url without padding (section 6).
fn from_query(query: &str) -> Result<Vec<u8>, StatusCode> {
    let mut variables = query.split('&');
    let text = variables.find_map(|variable| variable.strip_prefix("dns="));
    let octets = text.and_then(|text| BASE64URL_NOPAD.decode(text.as_bytes()).ok());
    octets.ok_or(StatusCode::BAD_REQUEST)
}

async fn from_body(body: &mut RecvStream) -> Result<Vec<u8>, StatusCode> {
    let mut octets = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.map_err(|_| StatusCode::BAD_REQUEST)?;
        if octets.len() + part.len() > MESSAGE_OCTETS_MAX {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        octets.extend_from_slice(&part);
        // What was read gives the client room for more.
        let released = body.flow_control().release_capacity(part.len());
        released.map_err(|_| StatusCode::BAD_REQUEST)?;
    }
    Ok(octets)
}

fn send(
    respond: &mut SendResponse<Bytes>,
    answered: Result<Answered, StatusCode>,
) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    match answered {
        Ok(Answered { message, seconds }) => {
            headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(DNS_MESSAGE));
            if let Ok(value) = format!("max-age={seconds}").try_into() {
                headers.insert(CACHE_CONTROL, value);
            }
            let mut stream = respond.send_response(response, false)?;
            stream.send_data(message.into(), true)
        }
        Err(status) => {
            if status == StatusCode::METHOD_NOT_ALLOWED {
                headers.insert(ALLOW, http::HeaderValue::from_static("GET, POST"));
            }
            *response.status_mut() = status;
            respond.send_response(response, true).map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc8484_section_4_1_1_the_example_is_read_and_padding_is_not() {
        let example = "dns=AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB";
        let octets = from_query(example).unwrap();
        assert_eq!(octets.len(), 33);
        assert!(octets.windows(7).any(|part| part == b"example"));
        assert_eq!(from_query(&format!("ct&{example}")).unwrap(), octets);
        for bad in ["", "dns", "name=example.com", "dns=AAA=", "dns=A+A/"] {
            assert_eq!(from_query(bad), Err(StatusCode::BAD_REQUEST), "{bad}");
        }
    }
}
