//! How apps and their workers stand, as tables and as JSON.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table};
use serde_json::{Value, json};

use super::columns::{self, Column};
use super::environment;
use super::logs;
use crate::config;
use crate::control::apps::{AppState, RouterState};
use crate::control::targets::{Known, Meant, meant};
use crate::metrics::snapshot::{Bus, Worker};

/// The time on a core that processes had used when they were looked at before.
#[derive(Debug, Default)]
pub(super) struct Looked {
    cpu: HashMap<i32, f64>,
    ago: Duration,
}

impl Looked {
    pub(super) fn new(apps: &[AppState], ago: Duration) -> Self {
        let workers = apps.iter().flat_map(workers);
        Self { cpu: workers.map(|worker| (worker.process.pid, worker.process.cpu)).collect(), ago }
    }

    /// How much of one core a process has used since; or of its life, if it was not there.
    fn busy(&self, worker: &Worker) -> f64 {
        let share = match self.cpu.get(&worker.process.pid) {
            Some(before) => (worker.process.cpu - before) / self.ago.as_secs_f64(),
            None => worker.process.cpu / worker.process.uptime.max(0.1),
        };
        (share * 100.0).clamp(0.0, 9999.0)
    }
}

/// What the router of an app says of its workers.
fn workers(app: &AppState) -> &[Worker] {
    app.status.as_ref().map_or(&[], |status| &status.workers)
}

/// One row: a worker, or the place of one.
#[derive(Debug)]
pub(super) struct Row {
    /// Its number; none: it was scaled away.
    pub(super) id: Option<u32>,
    pub(super) status: &'static str,
    pub(super) worker: Worker,
}

/// A worker that its router says nothing of.
fn nobody(slot: usize) -> Worker {
    Worker { slot: slot.try_into().unwrap_or(u16::MAX), ..Worker::default() }
}

/// The rows of an app, by slot. A worker that drains beside its successor is a row of its own.
pub(super) fn rows(app: &AppState) -> Vec<Row> {
    let workers = workers(app);
    let mut rows = Vec::new();
    for (slot, id) in app.ids.iter().enumerate() {
        let here: Vec<&Worker> =
            workers.iter().filter(|worker| usize::from(worker.slot) == slot).collect();
        rows.extend(here.iter().map(|worker| Row {
            id: Some(*id),
            status: status(app.state, &worker.state),
            worker: (*worker).clone(),
        }));
        if here.is_empty() {
            let status = match app.state {
                RouterState::Online if app.status.is_none() => "launching",
                // A slot that is to be filled is spoken of.
                RouterState::Online => "stopped",
                other => word(other),
            };
            rows.push(Row { id: Some(*id), status, worker: nobody(slot) });
        }
    }
    // Those that were scaled away, as long as they have sessions.
    let gone = workers.iter().filter(|worker| usize::from(worker.slot) >= app.ids.len());
    rows.extend(gone.filter(|worker| worker.process.pid > 0).map(|worker| Row {
        id: None,
        status: status(app.state, &worker.state),
        worker: worker.clone(),
    }));
    rows
}

/// PM2's words for an app as a whole.
pub(super) const fn word(state: RouterState) -> &'static str {
    match state {
        RouterState::Online => "online",
        RouterState::Stopped => "stopped",
        RouterState::Stopping => "stopping",
        RouterState::Waiting => "waiting restart",
        RouterState::Errored => "errored",
    }
}

/// PM2's words for a worker, where it has one.
fn status(router: RouterState, worker: &str) -> &'static str {
    match (router, worker) {
        (RouterState::Stopping, _) | (_, "stopping") => "stopping",
        (_, "ready") => "online",
        (_, "starting") => "launching",
        (_, "draining") => "draining",
        (_, "waiting") => "waiting restart",
        (_, "errored") => "errored",
        _ => "stopped",
    }
}

/// An app that is meant, or some of its workers.
pub(super) struct Found<'a> {
    pub(super) app: &'a AppState,
    slots: Option<Vec<u16>>,
}

impl<'a> Found<'a> {
    /// All of it.
    pub(super) const fn whole(app: &'a AppState) -> Self {
        Self { app, slots: None }
    }

    /// The slots that are meant.
    pub(super) fn slots(&self) -> Vec<u16> {
        let slots = (0_u16..).take(self.app.ids.len());
        slots.filter(|slot| self.has(*slot)).collect()
    }

    /// The workers' numbers.
    pub(super) fn ids(&self) -> Vec<u32> {
        let slots = (0_u16..).zip(&self.app.ids);
        slots.filter(|(slot, _)| self.has(*slot)).map(|(_, id)| *id).collect()
    }

    /// The workers' processes.
    pub(super) fn pids(&self) -> Vec<i32> {
        let meant = workers(self.app).iter().filter(|worker| self.has(worker.slot));
        meant.map(|worker| worker.process.pid).filter(|pid| *pid > 0).collect()
    }

    fn has(&self, slot: u16) -> bool {
        self.slots.as_ref().is_none_or(|slots| slots.contains(&slot))
    }
}

/// What these words mean.
///
/// # Errors
/// One means nothing; the message says what there is.
pub(super) fn find<'a>(apps: &'a [AppState], words: &[String]) -> Result<Vec<Found<'a>>> {
    let known: Vec<Known<'_>> = apps.iter().map(AppState::known).collect();
    let meant = meant(words, &known).map_err(|error| anyhow!(error))?;
    Ok(meant.into_iter().map(|Meant { app, slots }| Found { app: &apps[app], slots }).collect())
}

/// The columns of the list, and which go first where the terminal is narrow: an id, a name and a
/// status are what a list is read for, and a process id what is done with it.
const COLUMNS: [(&str, Option<u8>); 12] = [
    ("id", None),
    ("name", None),
    ("namespace", Some(0)),
    ("mode", Some(1)),
    ("pid", Some(8)),
    ("uptime", Some(4)),
    ("↺", Some(7)),
    ("status", None),
    ("cpu", Some(6)),
    ("mem", Some(5)),
    ("sessions", Some(3)),
    ("lag", Some(2)),
];
/// The places of two of them.
const NAME: usize = 1;
const STATUS: usize = 7;

/// A name is not cut to less than this, as long as something else can be left out, in columns.
pub(super) const NAME_LEAST: usize = 12;

/// What the table draws around each cell, and at its edge, in columns.
const GAP: usize = 3;
const EDGE: usize = 1;

/// All of them, in as many columns as fit.
pub(super) fn table(apps: &[AppState], looked: &Looked) -> String {
    let mut table = new_table();
    let rows: Vec<[String; COLUMNS.len()]> = apps
        .iter()
        .flat_map(|app| rows(app).into_iter().map(|row| cells(app, &row, looked)))
        .collect();
    let columns: Vec<Column> = (0..COLUMNS.len())
        .map(|at| {
            let (title, rank) = COLUMNS[at];
            let cells = rows.iter().map(|row| columns::width(&row[at]));
            let width = cells.chain([columns::width(title)]).max().unwrap_or_default();
            if at == NAME { Column::cut(width, NAME_LEAST) } else { Column::whole(width, rank) }
        })
        .collect();
    let room = table.width().map_or(usize::MAX, usize::from);
    let widths = columns::fit(&columns, room, GAP, EDGE);
    let shown = || (0..COLUMNS.len()).filter_map(|at| Some((at, widths[at]?)));
    table.set_content_arrangement(ContentArrangement::Disabled);
    table
        .set_header(shown().map(|(at, _)| Cell::new(COLUMNS[at].0).add_attribute(Attribute::Bold)));
    for row in &rows {
        table.add_row(shown().map(|(at, width)| match at {
            NAME => Cell::new(columns::cut(&row[at], width)).add_attribute(Attribute::Bold),
            STATUS => Cell::new(&row[at]).fg(color(&row[at])),
            _ => Cell::new(&row[at]),
        }));
    }
    format!("{table}\n{}", buses(apps))
}

/// What a row says, in the order of [`COLUMNS`].
fn cells(app: &AppState, row: &Row, looked: &Looked) -> [String; COLUMNS.len()] {
    let Row { id, status, worker } = row;
    let definition = &app.definition;
    let lives = worker.process.pid > 0;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let when = |text: String| or_dash(Some(text).filter(|_| lives));
    let lag = worker.event_loop_delay.map(|delay| format!("{:.0}ms", delay * 1000.0));
    [
        or_dash(id.map(|id| id.to_string())),
        definition.name.clone(),
        definition.namespace.clone(),
        definition.mode.clone(),
        when(worker.process.pid.to_string()),
        when(span(worker.process.uptime)),
        worker.restarts.max(if lives { 0 } else { app.restarts }).to_string(),
        (*status).to_owned(),
        when(format!("{:.0}%", looked.busy(worker))),
        when(size(worker.process.memory)),
        when(worker.sessions.to_string()),
        or_dash(lag),
    ]
}

fn new_table() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// Whether who has this status has no process, and is to have none.
pub(super) fn is_down(status: &str) -> bool {
    ["stopped", "errored"].contains(&status)
}

fn color(status: &str) -> Color {
    match status {
        "online" => Color::Green,
        down if is_down(down) => Color::Red,
        _ => Color::Yellow,
    }
}

/// One app, everything of it.
pub(super) fn describe(app: &AppState, looked: &Looked) -> String {
    let definition = &app.definition;
    let mut table = new_table();
    let created = app.created.to_string();
    let words = definition.options.iter().map(|word| config::presentable(word));
    let words = words.collect::<Vec<_>>().join(" ");
    let ids: Vec<String> = app.ids.iter().map(u32::to_string).collect();
    let runtime = app.runtime.display().to_string();
    let files: Vec<String> = logs::worker_files(app, &app.ids)
        .iter()
        .map(|log| log.path.display().to_string())
        .collect();
    let listening = app.status.as_ref().map(|status| {
        let nowhere = status.unopened.iter().filter(|_| status.listening.is_empty());
        status.listening.iter().chain(nowhere).map(String::as_str).collect::<Vec<_>>().join("\n")
    });
    let listening = listening.filter(|places| !places.is_empty()).unwrap_or_else(|| "-".to_owned());
    let pid = app.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    for (what, value) in [
        ("name", definition.name.clone()),
        ("namespace", definition.namespace.clone()),
        ("ids", ids.join(", ")),
        ("status", word(app.state).to_owned()),
        ("why", app.why.clone().unwrap_or_else(|| "-".to_owned())),
        ("script path", definition.script.display().to_string()),
        ("script args", definition.args.join(" ")),
        ("node args", definition.node_args.join(" ")),
        ("exec cwd", definition.cwd.display().to_string()),
        ("interpreter", definition.interpreter.clone()),
        ("exec mode", definition.mode.clone()),
        ("listening on", listening),
        ("options", words),
        ("bus", bus(app).unwrap_or_else(|| "-".to_owned())),
        ("router pid", pid),
        ("router restarts", app.restarts.to_string()),
        ("created at", since(&created)),
        ("log files", files.join("\n")),
        ("router log", definition.router_log.display().to_string()),
        ("runtime directory", runtime),
    ] {
        table.add_row([what.to_owned(), value]);
    }
    // The values give way, not what they are.
    if let Some(what) = table.column_mut(0) {
        what.set_constraint(ColumnConstraint::ContentWidth);
    }
    format!("{table}\n{}", self::table(std::slice::from_ref(app), looked))
}

/// How the bus stands, and who else is on it.
fn bus(app: &AppState) -> Option<String> {
    let bus = app.status.as_ref()?.bus.as_ref()?;
    let mut lines = vec![format!("{}: {}", bus.redis, bus_state(bus))];
    lines
        .push(format!("stream {}, this host {} with {} adapters", bus.stream, bus.host, bus.nodes));
    if bus.backlog > 0 {
        lines.push(format!("{} packets wait ({})", bus.backlog, size(bus.backlog_bytes)));
    }
    lines
        .extend(bus.hosts.iter().map(|host| format!("{} with {} adapters", host.name, host.nodes)));
    if bus.plain > 0 {
        lines.push(format!("{} adapters of hosts without router", bus.plain));
    }
    Some(lines.join("\n"))
}

fn bus_state(bus: &Bus) -> String {
    match (bus.connected, &bus.trouble) {
        (true, None) => "connected".to_owned(),
        (true, Some(trouble)) => trouble.clone(),
        (false, trouble) => format!("away: {}", trouble.as_deref().unwrap_or("not yet there")),
    }
}

/// One line for each app that has a bus, below the table.
fn buses(apps: &[AppState]) -> String {
    let line = |app: &AppState| {
        let bus = app.status.as_ref()?.bus.as_ref()?;
        let hosts = bus.hosts.len() + usize::from(bus.plain > 0);
        let (name, state) = (&app.definition.name, bus_state(bus));
        Some(format!("bus of {name}: {state}, {hosts} other hosts\n"))
    };
    apps.iter().filter_map(line).collect()
}

/// Seconds since 1970, as how long ago that was.
fn since(seconds: &str) -> String {
    let then =
        seconds.parse().map_or(UNIX_EPOCH, |seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    let ago = SystemTime::now().duration_since(then).unwrap_or_default();
    format!("{} ago", span(ago.as_secs_f64()))
}

/// `3s`, `12m`, `5h`, `2D`, as PM2 writes it.
pub(super) fn span(seconds: f64) -> String {
    let minutes = seconds / 60.0;
    match seconds {
        s if s < 60.0 => format!("{s:.0}s"),
        _ if minutes < 60.0 => format!("{:.0}m", minutes.floor()),
        _ if minutes < 60.0 * 24.0 => format!("{:.0}h", (minutes / 60.0).floor()),
        _ => format!("{:.0}D", (minutes / 60.0 / 24.0).floor()),
    }
}

/// `53.1mb`, as PM2 writes it.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["b", "kb", "mb", "gb", "tb"];
    let (mut size, mut unit) = (bytes, 0);
    let mut tenths = 0;
    while size >= 1024 && unit + 1 < UNITS.len() {
        tenths = size % 1024 * 10 / 1024;
        size /= 1024;
        unit += 1;
    }
    format!("{size}.{tenths}{}", UNITS[unit])
}

/// The list as JSON, with PM2's names.
///
/// # Errors
/// An app was described to another version of router.
pub(super) fn json(apps: &[AppState], looked: &Looked, pretty: bool) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut list = Vec::new();
    for app in apps {
        let definition = &app.definition;
        let described = environment::described(definition)?;
        let no_restart = definition.options.iter().any(|option| option == "--no-autorestart");
        let autorestart = described.as_ref().and_then(|app| app.autorestart);
        for Row { id, status, worker } in rows(app) {
            let busy = if worker.process.pid > 0 { looked.busy(&worker) } else { 0.0 };
            let mut env = json!({
                "name": definition.name,
                "namespace": definition.namespace,
                "status": status,
                "pm_id": id,
                "exec_mode": format!("{}_mode", definition.mode),
                "exec_interpreter": definition.interpreter,
                "pm_exec_path": definition.script,
                "pm_cwd": definition.cwd,
                "args": definition.args,
                "node_args": definition.node_args,
                "instances": app.ids.len(),
                "restart_time": worker.restarts,
                "created_at": app.created * 1000,
                "autorestart": autorestart.unwrap_or(true) && !no_restart,
                "env": environment::of(definition, described.as_ref(), worker.slot),
            });
            if let Value::Object(env) = &mut env {
                env.insert(definition.instance_var.clone(), json!(worker.slot));
                let streams = id.map(|id| definition.logs.streams(id)).unwrap_or_default();
                for (key, path) in ["pm_out_log_path", "pm_err_log_path"].into_iter().zip(streams) {
                    if let Some(path) = path {
                        env.insert(key.to_owned(), json!(logs::place(definition, &path)));
                    }
                }
            }
            if let (true, Value::Object(env)) = (worker.process.pid > 0, &mut env) {
                let started = ((now - worker.process.uptime) * 1000.0).round();
                env.insert("pm_uptime".to_owned(), json!(started));
            }
            list.push(json!({
                "pid": worker.process.pid,
                "name": definition.name,
                "pm_id": id,
                "monit": { "memory": worker.process.memory, "cpu": busy.round() },
                "pm2_env": env,
            }));
        }
    }
    let text =
        if pretty { serde_json::to_string_pretty(&list)? } else { serde_json::to_string(&list)? };
    Ok(text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_are_written_as_pm2_does() {
        for (seconds, text) in [(3.4, "3s"), (61.0, "1m"), (7300.0, "2h"), (200_000.0, "2D")] {
            assert_eq!(span(seconds), text);
        }
        for (bytes, text) in [(0, "0.0b"), (55_705_600, "53.1mb"), (1536, "1.5kb")] {
            assert_eq!(size(bytes), text);
        }
    }
}
