//! One connection to the API: HTTP over the unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use crate::api::{Query, model};
use crate::exit::Failure;

/// Longest time for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to a running gate64.
pub struct Connection {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
    socket: PathBuf,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// A line that says whether gate64 runs and whether this user may ask it.
    pub fn open(socket: &Path) -> Result<Connection, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
        let connected = runtime.block_on(async {
            let stream = UnixStream::connect(socket).await?;
            hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(io::Error::other)
        });
        let (sender, driver) = connected.map_err(|error| no_answer(socket, &error))?;
        runtime.spawn(driver);
        Ok(Connection {
            runtime,
            sender,
            socket: socket.to_owned(),
        })
    }

    /// Asks for a resource.
    ///
    /// # Errors
    /// What the server refused, or that it does not answer.
    pub fn get<T: DeserializeOwned>(&mut self, path: &str, query: &Query) -> Result<T, Failure> {
        self.request(Method::GET, path, query, "")
    }

    /// Asks for a change.
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub fn post<T: DeserializeOwned>(&mut self, path: &str, query: &Query) -> Result<T, Failure> {
        self.request(Method::POST, path, query, "")
    }

    /// Gives a text and asks what comes of it.
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub fn post_text<T: DeserializeOwned>(&mut self, path: &str, text: &str) -> Result<T, Failure> {
        self.request(Method::POST, path, &Query::default(), text)
    }

    fn request<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        query: &Query,
        text: &str,
    ) -> Result<T, Failure> {
        let uri = format!("{path}{}", encode(query));
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(hyper::header::HOST, "gate64")
            .body(Full::new(Bytes::copy_from_slice(text.as_bytes())))
            .map_err(|error| Failure::Failed(error.to_string()))?;
        let sender = &mut self.sender;
        let answered = self.runtime.block_on(async {
            tokio::time::timeout(ANSWER_TIMEOUT, async {
                sender.ready().await?;
                let response = sender.send_request(request).await?;
                let status = response.status();
                let body = response.into_body().collect().await?.to_bytes();
                Ok::<_, hyper::Error>((status, body))
            })
            .await
        });
        let (status, body) = match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(no_answer(&self.socket, &io::Error::other(error))),
            Err(_) => return Err(self.odd("does not answer in time")),
        };
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|error| self.odd(&format!("answers something unknown: {error}")));
        }
        match serde_json::from_slice::<model::ApiError>(&body) {
            Ok(refusal) => Err(Failure::Failed(refusal.error)),
            Err(_) => Err(self.odd(&format!("answers {status}"))),
        }
    }

    fn odd(&self, what: &str) -> Failure {
        Failure::Failed(format!("the gate64 on {} {what}", self.socket.display()))
    }
}

fn no_answer(socket: &Path, error: &io::Error) -> Failure {
    let shown = socket.display();
    Failure::Failed(match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(
            "no gate64 answers on {shown}: is `gate64 run` running? \
             `systemctl status gate64` tells; --socket names another one"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("no permission for {shown}: ask as root, or as a member of the socket's group")
        }
        _ => format!("no gate64 answers on {shown}: {error}"),
    })
}

/// `?name=value&…` of the fields that are given.
fn encode(query: &Query) -> String {
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(query) else {
        return String::new();
    };
    let mut text = String::new();
    for (name, value) in fields {
        let value = match value {
            serde_json::Value::String(value) => value,
            other => other.to_string(),
        };
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(&name);
        text.push('=');
        for octet in value.bytes() {
            let is_plain = octet.is_ascii_alphanumeric() || b"-._~".contains(&octet);
            if is_plain {
                text.push(char::from(octet));
            } else {
                text.push_str(&format!("%{octet:02X}"));
            }
        }
    }
    text
}
