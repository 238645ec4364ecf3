//! A client that controls every byte and every segment: one connection, requests as they are
//! written, answers as HTTP/1.1 frames them.

use super::SOON;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body of `/pid` and its like.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        assert_eq!(self.status, 200, "{self:?}");
        self.text().parse().unwrap_or_else(|_| panic!("no pid: {self:?}"))
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

pub struct Connection {
    stream: Stream,
    /// Read but not yet part of an answer.
    buffer: Vec<u8>,
}

impl Connection {
    #[track_caller]
    pub fn tcp(port: u16) -> Self {
        Self::to(("127.0.0.1", port))
    }

    #[track_caller]
    pub fn to(address: impl ToSocketAddrs) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        // Each write is a segment: what "split" means in these tests.
        stream.set_nodelay(true).unwrap();
        let connection = Self { stream: Stream::Tcp(stream), buffer: Vec::new() };
        connection.patience(SOON);
        connection
    }

    #[track_caller]
    pub fn unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        let connection = Self { stream: Stream::Unix(stream), buffer: Vec::new() };
        connection.patience(SOON);
        connection
    }

    /// Does anybody listen there?
    pub fn connects(port: u16) -> bool {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    }

    /// This side's port of a TCP connection.
    pub fn local_port(&self) -> u16 {
        match &self.stream {
            Stream::Tcp(s) => s.local_addr().unwrap().port(),
            Stream::Unix(_) => panic!("a Unix socket has no port"),
        }
    }

    /// How long a read waits.
    pub fn patience(&self, limit: Duration) {
        match &self.stream {
            Stream::Tcp(s) => s.set_read_timeout(Some(limit)).unwrap(),
            Stream::Unix(s) => s.set_read_timeout(Some(limit)).unwrap(),
        }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(s) => s.write_all(bytes.as_ref()),
            Stream::Unix(s) => s.write_all(bytes.as_ref()),
        }
    }

    /// More bytes, or 0 at the end of the stream.
    fn fill(&mut self) -> std::io::Result<usize> {
        let mut chunk = [0; 65536];
        let n = match &mut self.stream {
            Stream::Tcp(s) => s.read(&mut chunk),
            Stream::Unix(s) => s.read(&mut chunk),
        }?;
        self.buffer.extend_from_slice(&chunk[..n]);
        Ok(n)
    }

    /// A whole answer; an error when the connection ends or stays silent instead.
    pub fn try_response(&mut self) -> std::io::Result<Response> {
        let cut = || std::io::Error::new(ErrorKind::UnexpectedEof, "the answer is cut");
        let head = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break self.buffer.drain(..at + 4).collect::<Vec<_>>();
            }
            if self.fill()? == 0 {
                return Err(cut());
            }
        };
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.lines();
        let status = lines.next().and_then(|l| l.split(' ').nth(1)?.parse().ok());
        let status = status.ok_or_else(|| std::io::Error::other(format!("not HTTP: {head:?}")))?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|l| l.split_once(':'))
            .map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()))
            .collect();
        let mut response = Response { status, headers, body: Vec::new() };
        if response.header("transfer-encoding") == Some("chunked") {
            loop {
                let line = loop {
                    if let Some(at) = find(&self.buffer, b"\r\n") {
                        break self.buffer.drain(..at + 2).collect::<Vec<_>>();
                    }
                    if self.fill()? == 0 {
                        return Err(cut());
                    }
                };
                let line = String::from_utf8_lossy(&line);
                let size = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
                self.need(size + 2)?;
                response.body.extend(self.buffer.drain(..size));
                self.buffer.drain(..2);
                if size == 0 {
                    return Ok(response);
                }
            }
        }
        if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(std::io::Error::other)?;
            self.need(length)?;
            response.body = self.buffer.drain(..length).collect();
        } else if status >= 200 && status != 204 && status != 304 {
            while self.fill()? > 0 {}
            response.body = std::mem::take(&mut self.buffer);
        }
        Ok(response)
    }

    fn need(&mut self, n: usize) -> std::io::Result<()> {
        while self.buffer.len() < n {
            if self.fill()? == 0 {
                return Err(std::io::Error::new(ErrorKind::UnexpectedEof, "the body is cut"));
            }
        }
        Ok(())
    }

    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.try_response().unwrap_or_else(|e| panic!("no answer: {e}"))
    }

    pub fn try_get(&mut self, target: &str) -> std::io::Result<Response> {
        self.try_send(request("GET", target, b""))?;
        self.try_response()
    }

    #[track_caller]
    pub fn get(&mut self, target: &str) -> Response {
        self.try_get(target).unwrap_or_else(|e| panic!("GET {target}: {e}"))
    }

    #[track_caller]
    pub fn post(&mut self, target: &str, body: &[u8]) -> Response {
        self.send(request("POST", target, body));
        self.response()
    }

    /// Everything until the other side closes (or resets: closed is closed).
    pub fn rest(&mut self) -> Vec<u8> {
        loop {
            match self.fill() {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => break,
                Err(e) => panic!("not closed: {e}"),
            }
        }
        std::mem::take(&mut self.buffer)
    }

    /// A line of a protocol of lines.
    #[track_caller]
    pub fn line(&mut self) -> String {
        loop {
            if let Some(at) = find(&self.buffer, b"\n") {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                return String::from_utf8_lossy(&line).trim_end().to_owned();
            }
            assert!(self.fill().unwrap() > 0, "closed before a whole line");
        }
    }

    /// Nothing came within this time, and the connection is open.
    pub fn is_quiet(&mut self, time: Duration) -> bool {
        self.patience(time);
        let quiet = self
            .fill()
            .is_err_and(|e| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
        self.patience(SOON);
        quiet
    }
}

pub fn request(method: &str, target: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: test\r\n").into_bytes();
    if method == "POST" {
        bytes.extend(format!("Content-Length: {}\r\n", body.len()).into_bytes());
        bytes.extend(b"Content-Type: text/plain;charset=UTF-8\r\n");
    }
    bytes.extend(b"\r\n");
    bytes.extend(body);
    bytes
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// A port nobody listens on now: for applications that name theirs.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
