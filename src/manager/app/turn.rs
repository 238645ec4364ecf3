//! An app's turn: orders change an app one after another, and only while it is kept.
//!
//! ```text
//!   order ─► waits for its turn ─┬─► has it ─► done, or failed
//!                                ├─► the app was deleted meanwhile: Forgotten
//!                                └─► somebody ends the app: Overtaken
//!   order to end it ─► whoever has the turn gives it up as soon as he waits for the router
//! ```
//!
//! Whoever wants an app to end must not wait for what only its router can finish. So an order that
//! ends the app overtakes those before it: what they have begun in the router goes down with that.

use std::cell::Cell;
use std::fs;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{App, Running};
use crate::control::orders::Order;
use crate::control::protocol::AskError;
use crate::supervisor::Estate;
use crate::sys::process;

/// How long an app may take to show how its start went.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How soon a router that does not answer yet is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// How long beyond its workers' time a router may take to end.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// The same after it was told to end at once.
const STOP_NOW: Duration = Duration::from_secs(2);

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Turns {
    busy: Mutex<()>,
    /// What it is doing whose turn it is.
    doing: Cell<Option<&'static str>>,
    /// The app is not kept any more; nothing makes it one that is.
    forgotten: Cell<bool>,
    /// So many orders to end the app wait for their turn, or have it.
    enders: Cell<usize>,
    /// There is one more.
    overtakes: Notify,
}

/// Why an order has no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::manager) enum NoTurn {
    /// The app is none any more.
    #[error("it was deleted meanwhile")]
    Forgotten,
    /// The app is to end.
    #[error("it was overtaken by an order that ends the app")]
    Overtaken,
}

/// The right to change an app, until it is dropped.
#[derive(Debug)]
pub(in crate::manager) struct Turn<'a> {
    app: &'a Rc<App>,
    /// This order ends the app, and is overtaken by none.
    ender: Option<Ender<'a>>,
    _busy: MutexGuard<'a, ()>,
}

/// Somebody who wants the app to end, from when he says so.
#[derive(Debug)]
struct Ender<'a>(&'a Turns);

impl<'a> Ender<'a> {
    fn new(turns: &'a Turns) -> Self {
        turns.enders.set(turns.enders.get() + 1);
        turns.overtakes.notify_waiters();
        Self(turns)
    }
}

impl Drop for Ender<'_> {
    fn drop(&mut self) {
        self.0.enders.set(self.0.enders.get() - 1);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.app.turns.doing.set(None);
    }
}

impl Turns {
    pub(super) fn doing(&self) -> Option<&'static str> {
        self.doing.get()
    }

    /// Until the app is to end.
    async fn overtaken(&self) {
        loop {
            let overtakes = self.overtakes.notified();
            if self.enders.get() > 0 {
                return;
            }
            overtakes.await;
        }
    }
}

impl App {
    /// Waits for the turn to do something.
    pub(in crate::manager) async fn turn<'a>(
        self: &'a Rc<Self>,
        doing: &'static str,
    ) -> Result<Turn<'a>, NoTurn> {
        let turn = self.turn_of(None, doing).await?;
        turn.goes_on()?;
        Ok(turn)
    }

    /// The same for who ends the app: nobody is waited for who waits for its router.
    pub(in crate::manager) async fn turn_to_end<'a>(
        self: &'a Rc<Self>,
        doing: &'static str,
    ) -> Result<Turn<'a>, NoTurn> {
        self.turn_of(Some(Ender::new(&self.turns)), doing).await
    }

    async fn turn_of<'a>(
        self: &'a Rc<Self>,
        ender: Option<Ender<'a>>,
        doing: &'static str,
    ) -> Result<Turn<'a>, NoTurn> {
        let busy = self.turns.busy.lock().await;
        if self.turns.forgotten.get() {
            return Err(NoTurn::Forgotten);
        }
        self.turns.doing.set(Some(doing));
        Ok(Turn { app: self, ender, _busy: busy })
    }
}

impl Turn<'_> {
    /// Whether this order is still to be carried out.
    fn goes_on(&self) -> Result<(), NoTurn> {
        match self.ender.is_none() && self.app.turns.enders.get() > 0 {
            true => Err(NoTurn::Overtaken),
            false => Ok(()),
        }
    }

    /// Waits, unless this order is overtaken.
    async fn unless_overtaken<T>(&self, waited: impl Future<Output = T>) -> Result<T, NoTurn> {
        if self.ender.is_some() {
            return Ok(waited.await);
        }
        tokio::select! {
            biased;
            () = self.app.turns.overtaken() => Err(NoTurn::Overtaken),
            done = waited => Ok(done),
        }
    }

    async fn answer(&self, order: &Order) -> Result<Result<Value, AskError>, NoTurn> {
        self.unless_overtaken(self.app.ask(order)).await
    }

    /// Asks the app's router for something that is done or not.
    pub(in crate::manager) async fn ask(&self, order: Order) -> Result<(), String> {
        let answer = self.answer(&order).await.map_err(|error| error.to_string())?;
        answer.map(drop).map_err(|error| error.to_string())
    }

    /// Has its router go on as it is defined now.
    pub(in crate::manager) async fn upgrade(&self) -> Result<(), String> {
        match self.answer(&Order::Upgrade).await.map_err(|error| error.to_string())? {
            // The program that was asked is not there any more.
            Ok(_) | Err(AskError::Ended) => self.up().await,
            Err(error) => Err(error.to_string()),
        }
    }

    /// Starts it, and waits until its workers serve, or will not.
    pub(in crate::manager) async fn start(&self) -> Result<(), String> {
        self.goes_on().map_err(|error| error.to_string())?;
        self.app.record.borrow_mut().runs = true;
        {
            let mut life = self.app.life.borrow_mut();
            (life.why, life.pause, life.proved) = (None, Duration::ZERO, false);
        }
        self.app.remember();
        self.app.spawn().inspect_err(|error| self.app.give_up(error.clone()))?;
        self.up().await
    }

    /// Waits until its workers serve, or will not.
    async fn up(&self) -> Result<(), String> {
        let app = self.app;
        let deadline = Instant::now() + START_PATIENCE;
        while Instant::now() < deadline {
            if !app.runs() {
                let why = app.life.borrow().why.clone();
                if let Some(why) = why {
                    return Err(why);
                }
                if !app.record.borrow().runs {
                    return Ok(());
                }
            }
            let settled = timeout_at(deadline, self.answer(&Order::Settle)).await;
            let Ok(settled) = settled else { break };
            match settled.map_err(|error| error.to_string())? {
                Ok(_) => {
                    app.life.borrow_mut().proved = true;
                    return Ok(());
                }
                Err(AskError::Nobody(_) | AskError::Another(_) | AskError::Ended) => {
                    let paused = self.unless_overtaken(sleep(ASK_AGAIN)).await;
                    paused.map_err(|error| error.to_string())?;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(format!(
            "it has not started within {START_PATIENCE:?}; `router logs` shows what it says"
        ))
    }

    /// Ends it: its workers have the time that they have. It has ended then, even if that cannot be
    /// written down.
    pub(in crate::manager) async fn stop(&self) -> Result<(), String> {
        self.app.record.borrow_mut().runs = false;
        self.app.life.borrow_mut().why = None;
        let ended = self.end().await;
        self.app.remember();
        ended
    }

    /// Ends its router, whatever comes then.
    pub(in crate::manager) async fn end(&self) -> Result<(), String> {
        let app = self.app;
        let patience = app.record.borrow().definition.kill_timeout + STOP_GRACE;
        // A second time: at once.
        for patience in [patience, STOP_NOW] {
            let Some(running) = app.running() else { return Ok(()) };
            app.life.borrow_mut().stopping = true;
            tracing::debug!(app = app.name(), pid = running.pid.as_raw(), ?patience, "told to end");
            send(&running, Signal::SIGTERM)?;
            if timeout(patience, app.gone()).await.is_ok() {
                return Ok(());
            }
        }
        let Some(running) = app.running() else { return Ok(()) };
        tracing::warn!(app = app.name(), pid = running.pid.as_raw(), "it does not end: killed");
        kill(&running)?;
        if timeout(STOP_NOW, app.gone()).await.is_err() {
            return Err("the kernel does not end it".to_owned());
        }
        self.kill_left().map_err(|error| format!("its workers cannot be ended: {error}"))
    }

    /// Ends the workers that were none of the killed router's children: what it has written down of
    /// them nobody is to go on with.
    fn kill_left(&self) -> io::Result<()> {
        /// Of the roll, all that matters here.
        #[derive(Deserialize)]
        struct Roll {
            estate: Estate,
        }
        match fs::read(self.app.directory.join("roll")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            text => serde_json::from_slice::<Roll>(&text?)?.estate.kill(),
        }
    }

    /// The app is none any more: nothing is left of it, and nobody has its turn.
    pub(in crate::manager) fn forget(self) {
        self.app.turns.forgotten.set(true);
        self.app.forget();
    }
}

/// To a router that may have ended meanwhile.
fn send(running: &Running, signal: Signal) -> Result<(), String> {
    match running.process.send_signal(signal) {
        Err(error) if error.raw_os_error() != Some(Errno::ESRCH as i32) => {
            Err(format!("it cannot be ended: {error}"))
        }
        _ => Ok(()),
    }
}

/// Ends a router with all that it has started. First it is stopped: it starts nobody anew.
fn kill(running: &Running) -> Result<(), String> {
    send(running, Signal::SIGSTOP)?;
    // Not reaped yet, so that the pid is still its own; or nothing is to be done.
    if running.process.has_ended() {
        return Ok(());
    }
    process::kill_tree(running.pid, Signal::SIGKILL)
        .map_err(|error| format!("it cannot be killed: {error}"))
}
