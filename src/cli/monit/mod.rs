//! `router monit`: all apps and workers, live, in a terminal; and keys to act on them.
//!
//! One look at the daemon a second, and the logs of what is chosen read from their files: however
//! slow the terminal is, no worker and no router is held up.

mod model;
mod past;
mod screen;

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use self::model::{Line, Model, Subject, Wish};
use super::commands::Logs;
use super::list;
use super::logs::{self, Tail};
use crate::control::apps::{AppState, Order, Outcome};
use crate::control::protocol::AskError;
use crate::control::socket;

/// How often the daemon is asked how things stand.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the logs are looked at for more.
const LOG_EVERY: Duration = Duration::from_millis(200);
/// Lines of the logs that are kept.
const LINES_MAX: usize = 200;
/// How much of a line is kept, in characters.
const COLUMNS_MAX: usize = 500;
/// Keys that were pressed and not yet read.
const KEYS_MAX: usize = 16;
/// Orders that have no answer yet: a reload may take as long as sessions drain.
const ORDERS_MAX: usize = 16;

/// What has come from the daemon.
enum News {
    Apps(Result<Vec<AppState>, AskError>),
    Done(Result<Vec<Outcome>, AskError>, &'static str),
}

/// Shows what the daemon at this socket keeps, these apps at first, until somebody has seen enough.
///
/// # Errors
/// There is no terminal, or a log cannot be read.
pub(super) fn run(
    runtime: &tokio::runtime::Runtime,
    daemon: &Path,
    first: Vec<AppState>,
) -> Result<()> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!("monit draws on a terminal, and this is none; `router list` says the same in a pipe");
    }
    let terminal = ratatui::try_init().context("the terminal cannot be drawn on")?;
    let left = runtime.block_on(show(terminal, daemon, first));
    ratatui::restore();
    left
}

async fn show(mut terminal: DefaultTerminal, daemon: &Path, first: Vec<AppState>) -> Result<()> {
    let wanted = Logs {
        target: None,
        lines: LINES_MAX / 4,
        nostream: false,
        err: false,
        out: false,
        raw: false,
        json: false,
        timestamp: false,
    };
    let mut model = Model::default();
    model.see(first);
    let mut reader = Reader::new(&wanted);
    let mut events = events();
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut log_looks = interval(LOG_EVERY);
    log_looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut asked = JoinSet::new();
    let mut looking = false;
    loop {
        reader.turn_to(&model)?;
        terminal.draw(|frame| screen::draw(frame, &model, reader.lines()))?;
        tokio::select! {
            event = events.recv() => match event {
                Some(Ok(Event::Key(key))) if key.kind == KeyEventKind::Press => {
                    // An order that is done has been read.
                    model.said.clear();
                    match model.press(key) {
                        Wish::Leave => return Ok(()),
                        Wish::Nothing => {}
                        Wish::Order(..) if asked.len() >= ORDERS_MAX => {
                            "too many orders are not done yet".clone_into(&mut model.said);
                        }
                        Wish::Order(order, done) => {
                            let daemon = daemon.to_owned();
                            asked.spawn(async move {
                                News::Done(socket::ask_for(&daemon, order).await, done)
                            });
                        }
                    }
                }
                Some(Ok(_)) => {} // Another size: it is drawn anew.
                Some(Err(error)) => return Err(error).context("the terminal cannot be read"),
                None => return Ok(()),
            },
            _ = looks.tick(), if !looking => {
                looking = true;
                let daemon = daemon.to_owned();
                asked.spawn(async move { News::Apps(socket::ask_for(&daemon, Order::List).await) });
            }
            Some(news) = asked.join_next() => match news.context("a question was lost")? {
                News::Apps(apps) => {
                    looking = false;
                    match apps {
                        Ok(apps) => model.see(apps),
                        Err(error) => model.lose(error.to_string()),
                    }
                }
                News::Done(Ok(outcomes), done) => model.hear(&outcomes, done),
                News::Done(Err(error), done) => model.said = format!("not {done}: {error}"),
            },
            _ = log_looks.tick() => if !model.held { reader.read()? },
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
        }
    }
}

/// What is done at the terminal; the thread that reads it ends with the process.
fn events() -> mpsc::Receiver<io::Result<Event>> {
    let (sender, receiver) = mpsc::channel(KEYS_MAX);
    std::thread::spawn(move || {
        loop {
            let event = event::read();
            let failed = event.is_err();
            if sender.blocking_send(event).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// The logs of what is chosen.
struct Reader<'a> {
    wanted: &'a Logs,
    of: Option<Subject>,
    tail: Tail<'a>,
    lines: VecDeque<String>,
}

impl<'a> Reader<'a> {
    fn new(wanted: &'a Logs) -> Self {
        Self { wanted, of: None, tail: Tail::new(wanted, false), lines: VecDeque::new() }
    }

    fn lines(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// Reads what is chosen now, and the files that have come since.
    fn turn_to(&mut self, model: &Model) -> Result<()> {
        let Some(line) = model.chosen() else {
            *self = Self::new(self.wanted);
            return Ok(());
        };
        let anew = self.of.as_ref() != Some(&line.subject);
        if anew {
            *self = Self::new(self.wanted);
            self.of = Some(line.subject.clone());
        }
        self.tail.add(files(model, line))?;
        if anew {
            let last = self.tail.last()?;
            self.keep(&last);
        }
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        let more = self.tail.more()?;
        self.keep(&more);
        Ok(())
    }

    fn keep(&mut self, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        for line in text.lines() {
            // Colors of an app's own would be drawn as the letters of their escape sequences.
            let plain = anstream::adapter::strip_str(line).to_string();
            if self.lines.len() == LINES_MAX {
                self.lines.pop_front();
            }
            self.lines.push_back(plain.chars().take(COLUMNS_MAX).collect());
        }
    }
}

fn files(model: &Model, line: &Line) -> Vec<logs::Log> {
    let app = &model.apps[line.app];
    match &line.row {
        Some(row) => logs::worker_files(app, row.id.as_slice()),
        None => logs::files(&list::Found::whole(app)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::time::Duration;

    use crate::config::LogTargets;
    use crate::control::apps::{AppState, Definition, RouterState, Source};
    use crate::metrics::snapshot::{Process, Reloads, Snapshot, Worker};

    /// An app with these workers, by slot and generation.
    pub(super) fn app(name: &str, workers: &[(u16, u32)]) -> AppState {
        let process = Process { pid: 100, uptime: 60.0, cpu: 1.0, memory: 30 << 20 };
        let worker = |(slot, generation): &(u16, u32)| Worker {
            slot: *slot,
            generation: *generation,
            state: "ready".to_owned(),
            process,
            sessions: 3,
            event_loop_delay: Some(0.004),
            ..Worker::default()
        };
        let status = Snapshot {
            bus: None,
            version: "1".to_owned(),
            process,
            engine: "uring".to_owned(),
            shards: 1,
            app: name.to_owned(),
            wanted: workers.len(),
            listening: Vec::new(),
            unopened: None,
            reloading: false,
            reloads: Reloads::default(),
            announced_sessions: 0,
            workers: workers.iter().map(worker).collect(),
            queues: Vec::new(),
            latency: BTreeMap::new(),
            log_lines_dropped: 0,
            log_writes_failed: 0,
            totals: BTreeMap::new(),
        };
        let definition = Definition {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            directory: PathBuf::new(),
            environment: BTreeMap::new(),
            options: Vec::new(),
            app: Source::Path(PathBuf::new()),
            app_args: Vec::new(),
            args: Vec::new(),
            node_args: Vec::new(),
            instance_var: String::new(),
            workers: u16::try_from(workers.len()).expect("few"),
            mode: "cluster".to_owned(),
            script: PathBuf::new(),
            cwd: PathBuf::new(),
            interpreter: "node".to_owned(),
            autostart: true,
            kill_timeout: Duration::from_secs(1),
            logs: LogTargets::default(),
            router_log: PathBuf::new(),
        };
        AppState {
            definition,
            ids: (0..u32::try_from(workers.len()).expect("few")).collect(),
            state: RouterState::Online,
            pid: Some(99),
            restarts: 0,
            created: 0,
            why: None,
            status: Some(status),
            runtime: PathBuf::new(),
        }
    }
}
