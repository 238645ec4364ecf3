//! What is asked of this router over its control socket, taken to whoever can do it.

use std::convert::Infallible;
use std::rc::Rc;

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::log;
use super::runtime::Runtime;
use crate::control::admin::Look;
use crate::control::orders::Order;
use crate::control::socket;
use crate::supervisor::{self, Wish};
use crate::sys::private;

/// Opens the socket, in the context of a tokio runtime. Without it the router is as good as before,
/// but for nobody being able to ask it anything.
pub(super) fn open(runtime: &Runtime) -> Option<UnixListener> {
    let path = runtime.control();
    let opened = private::listen(&path).and_then(|listener| {
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    });
    opened
        .inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "no commands are taken");
        })
        .ok()
}

/// Obeys for as long as it is polled, on a `LocalSet`.
pub(super) async fn obey(
    listener: Option<UnixListener>,
    look: Look,
    supervisor: UnboundedSender<supervisor::Order>,
) -> Infallible {
    let Some(listener) = listener else { return std::future::pending().await };
    socket::serve(&listener, move |order: Order| {
        let (look, supervisor) = (Rc::clone(&look), supervisor.clone());
        async move { one(order, &look, &supervisor).await }
    })
    .await
}

async fn one(
    order: Order,
    look: &Look,
    supervisor: &UnboundedSender<supervisor::Order>,
) -> Result<Value, String> {
    let wish = match order {
        Order::Status => return serde_json::to_value(look()).map_err(|error| error.to_string()),
        Order::LogLevel { filter } => return log::change(&filter).map(|()| Value::Null),
        Order::Reload => Wish::Reload { why: None },
        Order::Restart { slots: None } => Wish::Restart { why: "it was asked for".to_owned() },
        Order::Restart { slots: Some(slots) } => Wish::RestartSlots(slots),
        Order::Stop { slots } => Wish::Halt(slots),
        Order::Start { slots } => Wish::Resume(slots),
        Order::Scale { to } => Wish::ScaleTo(to.into()),
        Order::Signal { signal, slots } => {
            let signal = Signal::try_from(signal)
                .map_err(|_| format!("there is no signal of the number {signal}"))?;
            Wish::Signal(signal, slots)
        }
    };
    let (done, outcome) = oneshot::channel();
    let ended = || "it is stopping".to_owned();
    supervisor.send(supervisor::Order { wish, done }).map_err(|_| ended())?;
    match outcome.await {
        Ok(outcome) => outcome.map(|()| Value::Null),
        Err(_) => Err("it was upgraded, or has ended, before that was done; ask again".to_owned()),
    }
}
