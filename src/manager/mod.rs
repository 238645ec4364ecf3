//! The daemon that keeps many apps: a router for each, started, watched, remembered.
//!
//! It is small on purpose. Every app has a router process of its own, with its own listeners,
//! shards, workers and upgrade: no app sees another's traffic or shares its fate. When this daemon
//! dies, the routers go on; the next one finds them by their directories ([`crate::control::home`]).

mod app;
mod dump;
mod record;

use std::cell::{Cell, RefCell};
use std::fs;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Serialize;
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::sleep;

use self::app::{App, NoTurn, Turn};
use self::record::Record;
use crate::control::apps::{
    Action, Anew, AppState, Definition, Environment, Order, Outcome, Pong, Scale,
};
use crate::control::home::{Home, NoHome};
use crate::control::targets::{self, Known, Meant, meant};
use crate::control::{orders, socket};
use crate::supervisor::output;
use crate::sys::exec;
use crate::sys::private::{self, Lock};
use crate::sys::socket::service_manager as socket_of_service_manager;

/// Why nothing new is begun.
const ENDING: &str = "the daemon is ending, or becomes another program; ask again";

/// How long the last answer may take to leave.
const LAST_ANSWER: Duration = Duration::from_millis(100);

/// How long what was said may take to be written before another program takes over.
const FLUSH: Duration = Duration::from_millis(300);

/// What a log says that was told nothing else, of the environment.
const LOG_FILTER: &str = "RUST_LOG";

/// The most workers of one app.
const WORKERS_MAX: u16 = crate::config::WORKERS_MAX;

/// How serving came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// There is nothing left to keep.
    Over,
    /// Another program is to go on with what is kept.
    Upgrade,
}

/// Why the daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// A directory is not its user's alone, or cannot be had.
    #[error(transparent)]
    Directory(#[from] NoHome),
    /// Another daemon has this home.
    #[error("the daemon of process {holder} keeps the apps of {home}; `router kill` ends it")]
    Taken {
        /// The home.
        home: PathBuf,
        /// As it wrote it down.
        holder: String,
    },
    /// Something the process needs from the system.
    #[error("cannot start: {what}: {reason}")]
    System {
        /// What was to be had.
        what: String,
        /// Why it was not.
        reason: io::Error,
    },
}

/// Changes what this process's log says, as in `RUST_LOG`; or says what is wrong with that.
pub type ChangeLog = fn(&str) -> Result<(), String>;

/// Keeps apps until it is told to end.
///
/// # Errors
/// It could not start.
pub fn run(home: Home, resurrect: bool, change_log: ChangeLog) -> Result<ExitCode, ManagerError> {
    home.make()?;
    let system = |what: &str| {
        let what = what.to_owned();
        move |reason| ManagerError::System { what, reason }
    };
    let _lock = match private::lock(&home.lock()).map_err(system("the lock"))? {
        Lock::Taken(lock) => lock,
        Lock::Held(holder) => {
            return Err(ManagerError::Taken { home: home.directory().to_owned(), holder });
        }
    };
    // The terminal that it was started from may go; one that is watched there, or by a service
    // manager, is the first of its session already, and stays.
    let _stays = nix::unistd::setsid();
    let program = fs::read_link("/proc/self/exe").map_err(system("the path of this program"))?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("the runtime"))?;
    let manager = Rc::new(Manager {
        home,
        program: program.clone(),
        apps: RefCell::default(),
        next: Cell::new(0),
        change_log,
        log_filter: RefCell::default(),
        ending: Cell::new(None),
        ends: Notify::new(),
    });
    let ending = LocalSet::new().block_on(&tokio, async {
        manager.take_over();
        let socket = manager.home.socket();
        let listener = private::serve(&socket).map_err(system(&socket.display().to_string()))?;
        tracing::info!(socket = %socket.display(), "daemon ready");
        let ending = manager.serve(&listener, resurrect).await.map_err(system("signals"))?;
        if ending == Ending::Over {
            // It may have been replaced or removed by others.
            let _removed = fs::remove_file(&socket);
        }
        Ok::<_, ManagerError>(ending)
    })?;
    match ending {
        Ending::Over => Ok(ExitCode::SUCCESS),
        Ending::Upgrade => {
            // Everything that is kept is written down, and the next program finds it there.
            let words: Vec<_> = std::env::args_os().filter(|word| word != "--resurrect").collect();
            let mut around: Vec<_> = std::env::vars_os().collect();
            if let Some(filter) = manager.log_filter.take() {
                // Routers have the environments of their own commands.
                around.retain(|(name, _)| name != LOG_FILTER);
                around.push((LOG_FILTER.into(), filter.into()));
            }
            output::printer().flush(FLUSH);
            // One that came before the next program has its handlers would end it.
            exec::hold_signals().map_err(system("signals"))?;
            let Err(reason) = exec::exec(&program, &words, &around);
            Err(ManagerError::System { what: program.display().to_string(), reason })
        }
    }
}

/// Tells whoever has started the daemon as a service.
fn tell_service_manager(text: &str) {
    let told = socket_of_service_manager().and_then(|manager| match manager {
        Some((socket, address)) => socket.send_to_addr(text.as_bytes(), &address).map(drop),
        None => Ok(()),
    });
    if let Err(error) = told {
        tracing::warn!(%error, text, "the service manager could not be told");
    }
}

/// An app that is meant; and the slots, if only some are.
type Target = (Rc<App>, Option<Vec<u16>>);

struct Manager {
    home: Home,
    /// What is run as the apps' routers.
    program: PathBuf,
    /// In the order in which they came.
    apps: RefCell<Vec<Rc<App>>>,
    /// The next worker's number.
    next: Cell<u32>,
    change_log: ChangeLog,
    /// What this process's log was told to say last.
    log_filter: RefCell<Option<String>>,
    /// How it is to end, once it is clear.
    ending: Cell<Option<Ending>>,
    ends: Notify,
}

impl Manager {
    /// Finds what an earlier daemon has left.
    fn take_over(&self) {
        let entries = match fs::read_dir(self.home.apps()) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!(%error, "the apps' directories cannot be read");
                return;
            }
        };
        let mut records = Vec::new();
        for directory in entries.flatten().map(|entry| entry.path()) {
            match Record::read(&directory) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(directory = %directory.display(), %error, "it is left alone");
                }
            }
        }
        records.sort_by_key(|record| record.ids.first().copied());
        for record in records {
            let highest = record.ids.iter().max().map_or(0, |highest| highest + 1);
            self.next.set(self.next.get().max(highest));
            let app = App::new(record, &self.home, &self.program);
            app.take_over();
            self.apps.borrow_mut().push(app);
        }
    }

    /// Does what it is asked, by clients and by signals, until it is to end.
    async fn serve(
        self: &Rc<Self>,
        listener: &UnixListener,
        resurrect: bool,
    ) -> io::Result<Ending> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut quit = signal(SignalKind::quit())?;
        let mut moved = signal(SignalKind::user_defined1())?;
        // As PM2's: whoever closes the terminal does not mean the apps.
        let mut hangup = signal(SignalKind::hangup())?;
        // Whoever means all routers by their name means this process, too.
        let mut upgrade = signal(SignalKind::user_defined2())?;
        let mut more = signal(SignalKind::from_raw(Signal::SIGTTIN as i32))?;
        let mut less = signal(SignalKind::from_raw(Signal::SIGTTOU as i32))?;
        exec::release_signals()?;
        let manager = Rc::clone(self);
        tokio::task::spawn_local(async move {
            if resurrect {
                manager.bring_back().await;
            }
            tell_service_manager("READY=1");
        });
        let manager = Rc::clone(self);
        let mut serving = std::pin::pin!(socket::serve(listener, move |order: Order| {
            let manager = Rc::clone(&manager);
            async move { manager.obey(order).await }
        }));
        loop {
            let stop = tokio::select! {
                never = &mut serving => match never {},
                () = self.ends.notified() => {
                    let ending = self.ending.get().unwrap_or(Ending::Over);
                    tracing::info!(?ending, "daemon ends");
                    // The answer to whoever has asked for it is on its way.
                    tokio::select! {
                        never = &mut serving => match never {},
                        () = sleep(LAST_ANSWER) => return Ok(ending),
                    }
                }
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = quit.recv() => "SIGQUIT",
                _ = hangup.recv() => continue,
                _ = more.recv() => continue,
                _ = less.recv() => continue,
                _ = upgrade.recv() => {
                    if self.ending.get().is_none() {
                        self.renew();
                    }
                    continue;
                }
                _ = moved.recv() => {
                    self.reopen_logs();
                    continue;
                }
            };
            tracing::info!(signal = stop, "stopping all apps");
            tell_service_manager("STOPPING=1");
            let manager = Rc::clone(self);
            tokio::task::spawn_local(async move {
                // Every one that did not end is told of in the log.
                let _told = manager.end().await;
            });
        }
    }

    async fn obey(self: &Rc<Self>, order: Order) -> Result<Value, String> {
        let harmless = matches!(order, Order::Ping | Order::List | Order::Kill);
        if self.ending.get().is_some() && !harmless {
            return Err(ENDING.to_owned());
        }
        match order {
            Order::Ping => {
                let version = env!("CARGO_PKG_VERSION").to_owned();
                let apps = self.apps.borrow();
                let doing = apps.iter().filter_map(|app| {
                    app.doing().map(|doing| format!("{} is being {doing}", app.name()))
                });
                json(&Pong { pid: std::process::id(), version, doing: doing.collect() })
            }
            Order::List => json(&self.list().await),
            Order::Run { apps, anew } => json(&self.run(apps, anew).await?),
            Order::Act { action, targets, environment } => {
                json(&self.act(action, &targets, environment).await?)
            }
            Order::Scale { target, to } => json(&self.scale(target, to).await?),
            Order::Signal { signal, targets } => {
                let order = |slots| orders::Order::Signal { signal, slots };
                json(&self.pass(&targets, order).await?)
            }
            Order::Reset { targets } => {
                let order = |slots| orders::Order::Reset { slots };
                json(&self.pass(&targets, order).await?)
            }
            Order::LogLevel { filter, targets } => {
                // The daemon is one of all.
                if targets.iter().any(|target| target == "all") {
                    (self.change_log)(&filter)?;
                    *self.log_filter.borrow_mut() = Some(filter.clone());
                }
                let order = |_slots| orders::Order::LogLevel { filter: filter.clone() };
                json(&self.pass(&targets, order).await?)
            }
            Order::ReopenLogs => {
                self.reopen_logs();
                Ok(Value::Null)
            }
            Order::Save => json(&self.save()?),
            Order::Resurrect => json(&self.resurrect().await?),
            Order::Update => json(&self.update().await),
            Order::Renew => {
                self.renew();
                // The connection ends with this program.
                std::future::pending().await
            }
            Order::Kill => json(&self.end().await?),
        }
    }

    async fn list(&self) -> Vec<AppState> {
        let apps = self.apps.borrow().clone();
        all(apps.into_iter().map(|app| async move { app.state().await })).await
    }

    /// The apps that are meant.
    fn meant(&self, targets: &[String]) -> Result<Vec<Target>, String> {
        let apps = self.apps.borrow();
        let records: Vec<_> = apps.iter().map(|app| app.record.borrow()).collect();
        let known: Vec<Known<'_>> =
            records.iter().map(|record| record.definition.known(&record.ids)).collect();
        let found = meant(targets, &known)?;
        Ok(found.into_iter().map(|Meant { app, slots }| (Rc::clone(&apps[app]), slots)).collect())
    }

    fn named(&self, name: &str) -> Option<Rc<App>> {
        self.apps.borrow().iter().find(|app| app.record.borrow().definition.name == name).cloned()
    }

    fn numbered(&self, ids: Vec<u32>, workers: u16) -> Vec<u32> {
        let mut next = self.next.get();
        let ids = numbered(ids, workers, &mut next);
        self.next.set(next);
        ids
    }

    /// Runs apps as they are defined now.
    async fn run(
        self: &Rc<Self>,
        definitions: Vec<Definition>,
        anew: Anew,
    ) -> Result<Vec<Outcome>, String> {
        // All or none: what is wrong with one is found before the first is touched.
        let mut names: Vec<&str> = definitions.iter().map(|app| app.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("two apps are called {}; give each a `name` of its own", pair[0]));
        }
        for definition in &definitions {
            targets::check_name(&definition.name)?;
            self.home.check(&definition.name)?;
            if anew == Anew::Refuse && self.named(&definition.name).is_some_and(|app| app.runs()) {
                return Err(format!(
                    "{0} runs already: `router restart {0}` starts it again, --force does so as it \
                     is defined now, and --name gives this one another name",
                    definition.name
                ));
            }
        }
        let tasks = definitions.into_iter().map(|definition| {
            let manager = Rc::clone(self);
            async move { manager.run_one(definition, anew).await }
        });
        Ok(all(tasks).await)
    }

    async fn run_one(&self, definition: Definition, anew: Anew) -> Outcome {
        loop {
            let app = self.named_or_new(&definition);
            let outcome = match app.turn("started").await {
                Ok(turn) => self.define(&app, turn, definition, anew).await,
                // Its name is free again.
                Err(NoTurn::Forgotten) if self.ending.get().is_none() => continue,
                Err(error) => Err(error.to_string()),
            };
            return self.outcome(&app, None, outcome);
        }
    }

    fn named_or_new(&self, definition: &Definition) -> Rc<App> {
        self.named(&definition.name).unwrap_or_else(|| {
            let ids = self.numbered(Vec::new(), definition.workers);
            let app = App::new(Record::new(definition.clone(), ids), &self.home, &self.program);
            self.apps.borrow_mut().push(Rc::clone(&app));
            app
        })
    }

    /// Has an app be as it is defined, and run so.
    async fn define(
        &self,
        app: &Rc<App>,
        turn: Turn<'_>,
        definition: Definition,
        anew: Anew,
    ) -> Result<(), String> {
        let fresh = !app.is_known();
        let same = !fresh && app.record.borrow().definition == definition;
        let (ids, autostart) = (self.numbered(app.ids(), definition.workers), definition.autostart);
        let mut record = app.record.borrow().clone();
        (record.definition, record.ids) = (definition, ids);
        if let Err(error) = app.redefine(record) {
            // One that was never there is not left in the list for that.
            if fresh {
                self.forget(app, turn);
            }
            return Err(error);
        }
        if !autostart {
            return Ok(());
        }
        if anew == Anew::Reload && app.runs() {
            if !same {
                turn.upgrade().await?;
            }
            return turn.ask(orders::Order::Reload).await;
        }
        turn.end().await?;
        turn.start().await
    }

    /// The app is none any more.
    fn forget(&self, app: &Rc<App>, turn: Turn<'_>) {
        turn.forget();
        self.apps.borrow_mut().retain(|other| !Rc::ptr_eq(other, app));
        if self.apps.borrow().is_empty() {
            self.next.set(0);
        }
    }

    fn outcome(&self, app: &App, slots: Option<&[u16]>, outcome: Result<(), String>) -> Outcome {
        let ids = app.ids();
        let meant = |slot: &u16| ids.get(usize::from(*slot)).copied();
        let ids =
            slots.map_or_else(|| ids.clone(), |slots| slots.iter().filter_map(meant).collect());
        let unwritten = app.unwritten().map(|why| {
            format!("it is not written down how it is, and the next daemon will not know: {why}")
        });
        let warning = unwritten.or_else(|| targets::warning(&app.name()));
        Outcome { name: app.name(), ids, error: outcome.err(), warning }
    }

    async fn act(
        self: &Rc<Self>,
        action: Action,
        targets: &[String],
        environment: Option<Environment>,
    ) -> Result<Vec<Outcome>, String> {
        let found = self.meant(targets)?;
        if action == Action::Delete
            && let Some((app, _)) = found.iter().find(|(_, slots)| slots.is_some())
        {
            return Err(format!(
                "one worker of several cannot be deleted: `router scale {0} -1` takes the last one \
                 away, `router delete {0}` all of them",
                app.name()
            ));
        }
        if environment.is_some()
            && let Some((app, _)) = found.iter().find(|(_, slots)| slots.is_some())
        {
            return Err(format!(
                "one worker of several has the environment of all: `router restart {0} --update-env` \
                 starts all of them with another, `router reload {0} --update-env` without a gap",
                app.name()
            ));
        }
        let tasks = found.into_iter().map(|(app, slots)| {
            let (manager, environment) = (Rc::clone(self), environment.clone());
            async move {
                let outcome = manager.act_on(&app, action, slots.as_deref(), environment).await;
                manager.outcome(&app, slots.as_deref(), outcome)
            }
        });
        Ok(all(tasks).await)
    }

    async fn act_on(
        &self,
        app: &Rc<App>,
        action: Action,
        slots: Option<&[u16]>,
        environment: Option<Environment>,
    ) -> Result<(), String> {
        let turn = match (action, slots) {
            (Action::Stop, None) => app.turn_to_end("stopped").await,
            (Action::Delete, _) => app.turn_to_end("deleted").await,
            (Action::Stop, Some(_)) => app.turn("stopped in part").await,
            (Action::Start, _) => app.turn("started").await,
            (Action::Restart, _) => app.turn("restarted").await,
            (Action::Reload, _) => app.turn("reloaded").await,
        };
        let turn = match turn {
            // As was wished for.
            Err(NoTurn::Forgotten) if action == Action::Delete => return Ok(()),
            turn => turn.map_err(|error| error.to_string())?,
        };
        let renewed = environment.is_some();
        if let Some(environment) = environment {
            let mut record = app.record.borrow().clone();
            record.definition.environment = environment;
            app.redefine(record)?;
        }
        let some = slots.map(<[u16]>::to_vec);
        match (action, some) {
            (Action::Stop, None) => turn.stop().await,
            (Action::Delete, _) => {
                turn.stop().await?;
                self.forget(app, turn);
                Ok(())
            }
            (Action::Stop, Some(_)) if !app.runs() => Ok(()),
            (Action::Stop, Some(slots)) => turn.ask(orders::Order::Stop { slots }).await,
            // Whatever was wished for: it is there then.
            _ if !app.runs() => turn.start().await,
            (Action::Start, Some(slots)) => turn.ask(orders::Order::Start { slots }).await,
            (Action::Reload, None) => {
                if renewed {
                    turn.upgrade().await?;
                }
                turn.ask(orders::Order::Reload).await
            }
            // One worker alone is replaced as one that has grown too large.
            (Action::Restart | Action::Reload, Some(slots)) => {
                turn.ask(orders::Order::Restart { slots: Some(slots) }).await
            }
            (Action::Start | Action::Restart, None) if renewed => {
                turn.end().await?;
                turn.start().await
            }
            (Action::Start | Action::Restart, None) => {
                turn.ask(orders::Order::Restart { slots: None }).await
            }
        }
    }

    async fn scale(self: &Rc<Self>, target: String, to: Scale) -> Result<Vec<Outcome>, String> {
        let found = self.meant(std::slice::from_ref(&target))?;
        let [(app, None)] = found.as_slice() else {
            return Err(format!("`{target}` is not one app: scale takes the name of one"));
        };
        let outcome = self.scale_one(app, to).await;
        Ok(vec![self.outcome(app, None, outcome)])
    }

    async fn scale_one(&self, app: &Rc<App>, to: Scale) -> Result<(), String> {
        let turn = app.turn("scaled").await.map_err(|error| error.to_string())?;
        let now = i32::try_from(app.ids().len()).unwrap_or(i32::MAX);
        let wanted = match to {
            Scale::To(to) => i32::from(to),
            Scale::By(by) => now.saturating_add(by.into()),
        };
        let to = u16::try_from(wanted).ok().filter(|to| (1..=WORKERS_MAX).contains(to));
        let Some(to) = to else {
            return Err(format!("{wanted} workers asked for; it must be 1 to {WORKERS_MAX}"));
        };
        let mut record = app.record.borrow().clone();
        record.ids = self.numbered(record.ids, to);
        record.definition.workers = to;
        // The new workers' numbers are to be found when they are started.
        app.redefine(record)?;
        if app.runs() { turn.ask(orders::Order::Scale { to }).await } else { Ok(()) }
    }

    /// Has the routers do what only they can.
    async fn pass(
        self: &Rc<Self>,
        targets: &[String],
        order: impl Fn(Option<Vec<u16>>) -> orders::Order,
    ) -> Result<Vec<Outcome>, String> {
        let tasks = self.meant(targets)?.into_iter().map(|(app, slots)| {
            let (manager, order) = (Rc::clone(self), order(slots.clone()));
            async move {
                let outcome = if app.runs() {
                    app.ask(&order).await.map(drop).map_err(|error| error.to_string())
                } else {
                    Err("it does not run".to_owned())
                };
                manager.outcome(&app, slots.as_deref(), outcome)
            }
        });
        Ok(all(tasks).await)
    }

    fn reopen_logs(&self) {
        match output::reopen() {
            Ok(()) => tracing::info!("logs reopened"),
            Err(error) => tracing::error!(%error, "the log file cannot be opened again"),
        }
        self.apps.borrow().iter().for_each(|app| app.reopen_logs());
    }

    /// Another program is to go on with what is kept.
    fn renew(&self) {
        self.ending.set(Some(Ending::Upgrade));
        self.ends.notify_one();
    }

    /// Ends all apps, at the same time, and then the daemon; but not if it would leave one behind
    /// that nobody could end any more. Whoever wishes for it again waits for the same.
    async fn end(self: &Rc<Self>) -> Result<Vec<Outcome>, String> {
        if self.ending.get() == Some(Ending::Upgrade) {
            return Err(ENDING.to_owned());
        }
        self.ending.set(Some(Ending::Over));
        let apps = self.apps.borrow().clone();
        let outcomes = all(apps.into_iter().map(|app| {
            let manager = Rc::clone(self);
            async move {
                let outcome = manager.act_on(&app, Action::Delete, None, None).await;
                if let Err(error) = &outcome {
                    tracing::error!(app = app.name(), error, "it does not end, so that it is kept");
                }
                manager.outcome(&app, None, outcome)
            }
        }))
        .await;
        if self.apps.borrow().is_empty() {
            self.ends.notify_one();
        } else {
            self.ending.set(None);
        }
        Ok(outcomes)
    }

    /// Has every router go on as the program that lies where it lay.
    async fn update(self: &Rc<Self>) -> Vec<Outcome> {
        let apps = self.apps.borrow().clone();
        let tasks = apps.into_iter().filter(|app| app.runs()).map(|app| {
            let manager = Rc::clone(self);
            async move {
                let outcome = match app.turn("updated").await {
                    Ok(turn) => turn.upgrade().await,
                    Err(error) => Err(error.to_string()),
                };
                manager.outcome(&app, None, outcome)
            }
        });
        all(tasks).await
    }
}

fn json<T: Serialize>(value: &T) -> Result<Value, String> {
    serde_json::to_value(value).map_err(|error| error.to_string())
}

/// Does all at the same time; the outcomes are in the order of the tasks.
async fn all<T: 'static>(tasks: impl Iterator<Item = impl Future<Output = T> + 'static>) -> Vec<T> {
    let tasks: Vec<_> = tasks.map(tokio::task::spawn_local).collect();
    let mut outcomes = Vec::new();
    for task in tasks {
        // A task that panicked has been told of, and ends this one, too: nothing is to be hidden.
        match task.await {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    outcomes
}

/// So many numbers: those that are there, and the next ones that nobody has had.
fn numbered(mut ids: Vec<u32>, workers: u16, next: &mut u32) -> Vec<u32> {
    ids.truncate(workers.into());
    while ids.len() < usize::from(workers) {
        ids.push(*next);
        *next += 1;
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_not_given_twice() {
        let mut next = 3;
        assert_eq!(numbered(vec![0, 1], 4, &mut next), [0, 1, 3, 4]);
        assert_eq!(numbered(vec![0, 1, 3, 4], 1, &mut next), [0]);
        assert_eq!((numbered(vec![0], 2, &mut next), next), (vec![0, 5], 6));
    }
}
