//! A small HTTP/1.1 server: a page, downloads of known octets, uploads that are counted, and a
//! page that lets the client wait so that connections add up. One request per connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::body::{self, BLOCK};
use super::echo::accept;

/// Longest request head.
const HEAD_MAX: u64 = 16 * 1024;
/// Longest download.
const DOWNLOAD_MAX: u64 = 10_000_000_000;
/// How long `/slow` lets its client wait.
const SLOW: Duration = Duration::from_secs(2);
/// A client that sends no request is given up after this.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// Serves HTTP.
pub(super) async fn serve(address: SocketAddr) -> io::Result<()> {
    accept(address, |stream, peer| async move {
        request(stream, peer).await
    })
    .await
}

/// What a request asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Head {
    method: String,
    path: String,
    content_len: u64,
    expects_continue: bool,
}

async fn request(stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    let local = stream.local_addr()?;
    let mut stream = BufReader::new(stream);
    let head = timeout(HEAD_LIMIT, read_head(&mut stream)).await??;
    match (
        head.method.as_str(),
        head.path.split('?').next().unwrap_or_default(),
    ) {
        ("PUT" | "POST", _) => upload(&mut stream, &head).await?,
        ("GET" | "HEAD", "/slow") => {
            sleep(SLOW).await;
            text(&mut stream, "200 OK", "that took a while\n").await?;
        }
        ("GET" | "HEAD", "/") => {
            let page = format!("gate64 lab: {local} answers {peer}\n");
            text(&mut stream, "200 OK", &page).await?;
        }
        ("GET", path) => match download_len(path) {
            Some(len) => download(&mut stream, len).await?,
            None => {
                text(
                    &mut stream,
                    "404 Not Found",
                    "not here: /, /slow, /bytes/N\n",
                )
                .await?
            }
        },
        _ => text(&mut stream, "405 Method Not Allowed", "GET or PUT\n").await?,
    }
    stream.shutdown().await
}

async fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<Head> {
    let mut lines = stream.take(HEAD_MAX).lines();
    let mut head = Head::default();
    if let Some(first) = lines.next_line().await? {
        let mut words = first.split_whitespace().map(str::to_owned);
        head.method = words.next().unwrap_or_default();
        head.path = words.next().unwrap_or_default();
    }
    while let Some(line) = lines.next_line().await? {
        if line.is_empty() {
            return Ok(head);
        }
        header(&mut head, &line);
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn header(head: &mut Head, line: &str) {
    let Some((name, value)) = line.split_once(':') else {
        return;
    };
    match name.trim().to_ascii_lowercase().as_str() {
        "content-length" => head.content_len = value.trim().parse().unwrap_or(0),
        "expect" => head.expects_continue = true,
        _ => {}
    }
}

/// `/bytes/N`: the first N octets of the known stream.
fn download_len(path: &str) -> Option<u64> {
    let len = path.strip_prefix("/bytes/")?.parse().ok()?;
    (len <= DOWNLOAD_MAX).then_some(len)
}

async fn text(stream: &mut BufReader<TcpStream>, status: &str, page: &str) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    );
    stream.write_all(answer.as_bytes()).await
}

async fn download(stream: &mut BufReader<TcpStream>, len: u64) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut block = Box::new([0; BLOCK]);
    let (mut index, mut left) = (0, len);
    while left > 0 {
        body::fill(&mut block, index);
        let take = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        stream.write_all(&block[..take]).await?;
        left -= take as u64;
        index += 1;
    }
    Ok(())
}

async fn upload(stream: &mut BufReader<TcpStream>, head: &Head) -> io::Result<()> {
    if head.expects_continue {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let mut body = (&mut *stream).take(head.content_len);
    let received = tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
    text(stream, "200 OK", &format!("received {received} octets\n")).await
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn only_a_number_is_a_download() {
        assert_eq!(download_len("/bytes/100"), Some(100));
        assert_eq!(download_len("/bytes/"), None);
        assert_eq!(download_len("/bytes/99999999999999"), None);
        assert_eq!(download_len("/other"), None);
    }

    async fn exchange(request: &[u8]) -> Vec<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let served = tokio::spawn(super::request(stream, peer));
        client.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        served.await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn a_download_is_the_known_stream() {
        let answer = exchange(b"GET /bytes/70000 HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let end = answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap()
            + 4;
        let mut block = [0; BLOCK];
        body::fill(&mut block, 0);
        assert_eq!(answer.len() - end, 70000);
        assert_eq!(answer[end..end + BLOCK], block);
        body::fill(&mut block, 1);
        assert_eq!(answer[end + BLOCK..], block[..70000 - BLOCK]);
    }

    #[tokio::test]
    async fn an_upload_is_counted() {
        let answer = exchange(b"PUT /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde").await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.ends_with("received 5 octets\n"), "{answer}");
    }
}
