//! The admin address: how the router stands, over HTTP, for probes and monitoring systems.
//!
//! | path | answer |
//! |---|---|
//! | `/` | a page that shows the rest live |
//! | `/healthz` | 200: the control thread turns |
//! | `/readyz` | 200 when a worker is ready, else 503 |
//! | `/status` | everything, as JSON |
//! | `/metrics` | the same for Prometheus, as OpenMetrics text for who accepts that |
//!
//! Nobody changes anything here, and nobody is asked who he is: it belongs on an address that only
//! those reach who may know.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::timeout;

use super::clients::attend_each;
use super::page;
use crate::config::Address;
use crate::metrics::exposition::{self, Format};
use crate::metrics::snapshot::Snapshot;
use crate::sys::socket::{self, TcpOptions};

/// Answers under way at once; more wait in the kernel's queue.
const MAX_CLIENTS: usize = 64;
/// How long one may take to say what it wants: many that say nothing hold up a probe no longer.
const HEAD_TIME: Duration = Duration::from_secs(1);
/// How long one may take, from its connection to its end.
const LIMIT: Duration = Duration::from_secs(10);

const TEXT: &str = "text/plain; charset=utf-8";

/// Where it can be asked: open, and not answered yet.
#[derive(Debug)]
pub struct Admin {
    /// As it was asked for.
    address: Address,
    tcp: Vec<TcpListener>,
    unix: Option<(UnixListener, PathBuf)>,
}

/// What makes the answers.
pub type Look = Rc<dyn Fn() -> Snapshot>;

impl Admin {
    /// Opens the address, in the context of a tokio runtime.
    ///
    /// # Errors
    /// As bind(2) and listen(2).
    pub fn open(address: &Address) -> io::Result<Self> {
        let mut admin = Self { address: address.clone(), tcp: Vec::new(), unix: None };
        match address {
            Address::Tcp(addresses) => {
                for address in addresses {
                    let alone = TcpOptions { reuse_port: false, v6_only: false };
                    let socket = socket::listen_tcp(*address, alone)?;
                    let address = socket::local_address(std::os::fd::AsFd::as_fd(&socket))?;
                    tracing::info!(%address, "admin listens");
                    admin.tcp.push(TcpListener::from_std(socket.into())?);
                }
            }
            Address::Unix(path) => {
                let socket: OwnedFd = socket::listen_unix(path)?;
                tracing::info!(path = %path.display(), "admin listens");
                admin.unix = Some((UnixListener::from_std(socket.into())?, path.clone()));
            }
        }
        Ok(admin)
    }

    /// The address as it was asked for.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Its sockets, for whoever goes on in this process's place; they stay open, and clients that
    /// come meanwhile wait in the kernel's queue.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn into_sockets(mut self) -> io::Result<Vec<OwnedFd>> {
        let unix = self.unix.take().map(|(unix, _)| unix.into_std().map(OwnedFd::from));
        let tcp = std::mem::take(&mut self.tcp).into_iter();
        unix.into_iter().chain(tcp.map(|tcp| tcp.into_std().map(OwnedFd::from))).collect()
    }

    /// Goes on with the sockets of an address that was opened before.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn resume(address: Address, sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let mut admin = Self { address, tcp: Vec::new(), unix: None };
        for socket in sockets {
            match &admin.address {
                Address::Tcp(_) => admin.tcp.push(TcpListener::from_std(socket.into())?),
                Address::Unix(path) => {
                    admin.unix = Some((UnixListener::from_std(socket.into())?, path.clone()));
                }
            }
        }
        Ok(admin)
    }

    /// Answers for as long as it is polled, on a `LocalSet`.
    pub async fn serve(&self, look: Look) -> Infallible {
        let mut turn = 0;
        let accept = async || {
            turn += 1;
            self.accept(turn).await
        };
        attend_each(MAX_CLIENTS, accept, |client| {
            let look = Rc::clone(&look);
            async move {
                match client {
                    Client::Tcp(client) => attend(client, look).await,
                    Client::Unix(client) => attend(client, look).await,
                }
            }
        })
        .await
    }

    /// The next client, of all places in turn.
    async fn accept(&self, turn: usize) -> io::Result<Client> {
        if let Some((unix, _)) = &self.unix {
            return Ok(Client::Unix(unix.accept().await?.0));
        }
        std::future::poll_fn(|context| {
            for at in 0..self.tcp.len() {
                let Some(tcp) = self.tcp.get((turn + at) % self.tcp.len()) else { continue };
                if let std::task::Poll::Ready(accepted) = tcp.poll_accept(context) {
                    return std::task::Poll::Ready(accepted.map(|(client, _)| Client::Tcp(client)));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        if let Some((_, path)) = &self.unix {
            // It may have been replaced or removed by others.
            let _removed = std::fs::remove_file(path);
        }
    }
}

enum Client {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

async fn attend<C>(client: C, look: Look)
where
    C: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&request, &*look);
        async move { Ok::<_, Infallible>(response) }
    });
    // One answer for a connection: its time is bounded as a whole.
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(client), service);
    match timeout(LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an admin client spoke no HTTP, or left"),
        Err(_) => tracing::debug!("an admin client took too long"),
    }
}

fn answer(request: &Request<Incoming>, look: &dyn Fn() -> Snapshot) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = say(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/" => {
            let mut response = say(StatusCode::OK, "text/html; charset=utf-8", page::HTML);
            let policy = HeaderValue::from_static(page::POLICY);
            response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
            response
        }
        "/healthz" => say(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => {
            let now = look();
            let text = format!("{} of {} workers ready\n", now.count("ready"), now.wanted);
            let ready =
                if now.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            say(ready, TEXT, text)
        }
        "/status" => match serde_json::to_string(&look()) {
            Ok(text) => say(StatusCode::OK, "application/json", text),
            Err(error) => failed(&error),
        },
        "/metrics" => {
            let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
            let format = Format::accepted(accept.unwrap_or_default());
            match exposition::encode(look(), format) {
                Ok(text) => say(StatusCode::OK, format.content_type(), text),
                Err(error) => failed(&error),
            }
        }
        _ => {
            let there = "there are /, /healthz, /readyz, /status and /metrics\n";
            say(StatusCode::NOT_FOUND, TEXT, there)
        }
    }
}

fn failed(error: &dyn std::error::Error) -> Response<Full<Bytes>> {
    tracing::error!(%error, "an admin answer could not be written");
    say(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n"))
}

fn say(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // A probe that is answered from a cache knows nothing.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
