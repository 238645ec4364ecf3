//! A worker that answers every connection of its lane at once, and closes it.

use std::io::IoSliceMut;
use std::os::fd::RawFd;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recv, recvmsg, send};
use nix::unistd::close;

/// Bytes of a request that are read; of the load's own there are fewer.
const REQUEST_MAX: usize = 4096;
/// Bytes that stand beside a socket on the lane.
const MESSAGE_MAX: usize = 128;
/// How often router hears that it lives.
const BEAT: Duration = Duration::from_secs(5);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\npid 0";

/// Until the other end of the lane is closed.
pub(crate) fn serve(lane: RawFd) -> Result<()> {
    let mut space = nix::cmsg_space!(RawFd);
    let mut bytes = [0; MESSAGE_MAX];
    loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let got = match recvmsg::<()>(lane, &mut parts, Some(&mut space), MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            got => got.context("the lane")?,
        };
        if got.bytes == 0 {
            return Ok(());
        }
        for message in got.cmsgs()? {
            if let ControlMessageOwned::ScmRights(sockets) = message {
                sockets.into_iter().try_for_each(answer)?;
            }
        }
    }
}

/// The request is there: whoever handed the socket over has seen its first line.
fn answer(socket: RawFd) -> Result<()> {
    let mut request = [0; REQUEST_MAX];
    // A client that has gone meanwhile has no need of it.
    let _read = recv(socket, &mut request, MsgFlags::MSG_DONTWAIT);
    let _sent = send(socket, ANSWER, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT);
    Ok(close(socket)?)
}

/// The least of a Node worker's words, in JSON on the channel; `part` is what the preload is told.
pub(crate) fn by_router(part: &str) -> Result<()> {
    let part: serde_json::Value = serde_json::from_str(part)?;
    let lane = part.get("lane").and_then(serde_json::Value::as_i64).context("no lane")?;
    let number = std::env::var("NODE_CHANNEL_FD").context("no channel")?;
    let channel: RawFd = number.parse()?;
    let say = move |text: &str| send(channel, text.as_bytes(), MsgFlags::MSG_NOSIGNAL);
    say("{\"cmd\":\"NODE_CLUSTER\",\"act\":\"online\",\"seq\":0}\n\"router:hello 1 lane\"\n")?;
    std::thread::spawn(move || {
        // What router says is not for this worker; that it says nothing more is.
        let mut words = [0; 4096];
        while recv(channel, &mut words, MsgFlags::empty()).is_ok_and(|read| read > 0) {}
        #[expect(clippy::exit, reason = "the other threads only wait")]
        std::process::exit(0);
    });
    std::thread::spawn(move || {
        while say("\"router:beat\"\n").is_ok() {
            std::thread::park_timeout(BEAT);
        }
    });
    serve(RawFd::try_from(lane)?)
}
