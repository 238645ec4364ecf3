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
    private::serve(&path)
        .inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "no commands are taken");
        })
        .ok()
}

/// Obeys for as long as it is polled, on a `LocalSet`.
pub(super) async fn obey(listener: Option<UnixListener>, look: Look, takers: Takers) -> Infallible {
    let Some(listener) = listener else { return std::future::pending().await };
    socket::serve(&listener, move |order: Order| {
        let (look, takers) = (Rc::clone(&look), takers.clone());
        async move { one(order, &look, &takers).await }
    })
    .await
}

/// Who does what is asked.
#[derive(Clone, Debug)]
pub(super) struct Takers {
    pub(super) supervisor: UnboundedSender<supervisor::Order>,
    /// Takes whom to tell why there is no upgrade; he is not told when there is one.
    pub(super) upgrade: UnboundedSender<oneshot::Sender<String>>,
}

async fn one(order: Order, look: &Look, takers: &Takers) -> Result<Value, String> {
    let wish = match order {
        Order::Status => return serde_json::to_value(look()).map_err(|error| error.to_string()),
        Order::LogLevel { filter } => return log::change(&filter).map(|()| Value::Null),
        Order::Settle => Wish::Resume(vec![]),
        Order::Upgrade => return Err(upgrade(takers).await),
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
        Order::Reset { slots } => Wish::Reset(slots),
    };
    let (done, outcome) = oneshot::channel();
    let ended = || "it is stopping".to_owned();
    takers.supervisor.send(supervisor::Order { wish, done }).map_err(|_| ended())?;
    match outcome.await {
        Ok(outcome) => outcome.map(|()| Value::Null),
        Err(_) => Err("it was upgraded, or has ended, before that was done; ask again".to_owned()),
    }
}

/// Why there is no upgrade; never, when there is.
async fn upgrade(takers: &Takers) -> String {
    let (refuse, refused) = oneshot::channel();
    if takers.upgrade.send(refuse).is_err() {
        return "it is stopping".to_owned();
    }
    match refused.await {
        Ok(why) => why,
        // The connection ends with this program.
        Err(_) => std::future::pending().await,
    }
}
