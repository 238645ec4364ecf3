//! Engine.IO's polling transport over bare connections, a new one for each request: what shows
//! at once whether requests of one session reach one worker.

use super::Connection;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const PATH: &str = "/socket.io/?EIO=4&transport=polling";

/// One Engine.IO session.
#[derive(Debug, Clone)]
pub struct Session {
    pub port: u16,
    pub sid: String,
}

impl Session {
    /// The handshake; what was answered instead is the error.
    pub fn open(port: u16) -> Result<Self, String> {
        let answer = exchange(port, "GET", PATH, b"")?;
        let json = answer.strip_prefix('0').ok_or_else(|| format!("not an open: {answer}"))?;
        let open: serde_json::Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let sid = open["sid"].as_str().ok_or_else(|| format!("no sid: {answer}"))?.to_owned();
        Ok(Self { port, sid })
    }

    pub fn target(&self) -> String {
        format!("{PATH}&sid={}", encode(&self.sid))
    }

    pub fn post(&self, packet: &str) -> Result<String, String> {
        exchange(self.port, "POST", &self.target(), packet.as_bytes())
    }

    pub fn poll(&self) -> Result<String, String> {
        exchange(self.port, "GET", &self.target(), b"")
    }

    /// Connects to the default namespace, right after the handshake: a POST and a GET.
    pub fn join(&self) -> Result<(), String> {
        let post = self.post("40")?;
        if post != "ok" {
            return Err(format!("POST of {}: {post}", self.sid));
        }
        let poll = self.poll()?;
        if !poll.starts_with("40") {
            return Err(format!("GET of {}: {poll}", self.sid));
        }
        Ok(())
    }

    /// The process that holds the session, by its own word.
    pub fn pid(&self) -> Result<u32, String> {
        self.post("420[\"pid\"]")?;
        let answer = self.poll()?;
        let pid = answer.strip_prefix("430[").and_then(|a| a.strip_suffix(']')?.parse().ok());
        pid.ok_or_else(|| format!("no pid in {answer}"))
    }
}

/// One request on a connection of its own; anything but a 200 is an error.
fn exchange(port: u16, method: &str, target: &str, body: &[u8]) -> Result<String, String> {
    let mut connection = Connection::tcp(port);
    let answer = connection
        .try_send(super::http::request(method, target, body))
        .and_then(|()| connection.try_response())
        .map_err(|e| format!("{method} {target}: {e}"))?;
    match answer.status {
        200 => Ok(answer.text()),
        status => Err(format!("{method} {target}: {status} {}", answer.text())),
    }
}

/// As encodeURIComponent does it.
pub fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Runs `work` this many times, `at_once` at a time, and gives every failure.
pub fn many(
    count: usize,
    at_once: usize,
    work: impl Fn(usize) -> Result<(), String> + Sync,
) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        break;
                    }
                    if let Err(e) = work(n) {
                        failures.lock().unwrap().push(e);
                    }
                }
            });
        }
    });
    failures.into_inner().unwrap()
}
