//! Commands, carried out: what is asked of the daemon, and what is said of its answer.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as Program, ExitCode, Stdio};
use std::slice::from_ref;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use super::commands::{self, Command};
use super::define::{self, Context};
use super::list::Found;
use super::logs::{self, Log, Tail};
use super::{discover, list, monit, print, print_some, startup};
use crate::config::service::DIRECTORIES;
use crate::control::apps::{Action, Anew, AppState, Definition, Order, Outcome, Pong};
use crate::control::home::Home;
use crate::control::protocol::AskError;
use crate::control::socket;

/// Where systemd makes the directories of a unit that says `StateDirectory=router`,
/// `RuntimeDirectory=router` and `LogsDirectory=router`.
const SERVICE: [&str; 3] = ["/var/lib/router", "/run/router", "/var/log/router"];

/// How long the daemon may take to start.
const START_TIME: Duration = Duration::from_secs(10);
/// How soon a daemon that starts is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// How much is told of what a daemon says that cannot start, in bytes.
const WORDS_MAX: u64 = 8 << 10;

/// Between the two looks by which it is told how busy a worker is.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How often logs are looked at for more, and after how many looks for other apps.
const LOG_LOOK: Duration = Duration::from_millis(100);
const LIST_EVERY: u64 = 20;

/// What a new ecosystem file says.
const ECOSYSTEM: &str = include_str!("ecosystem.config.js");

/// Where the daemon of this user keeps its things.
///
/// # Errors
/// Nothing says where.
pub fn home() -> Result<Home> {
    let directory =
        |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(home) = directory("ROUTER_HOME") {
        return Ok(Home::at(env::current_dir()?.join(home)));
    }
    // The daemon itself, as a system service.
    if let [Some(state), Some(run), Some(logs)] = DIRECTORIES.map(directory) {
        return Ok(Home::service(state, run, logs));
    }
    let service = Home::service(SERVICE[0].into(), SERVICE[1].into(), SERVICE[2].into());
    if nix::unistd::geteuid().is_root() && service.socket().exists() {
        return Ok(service);
    }
    let user = directory("HOME").context("HOME is not set; name a directory with ROUTER_HOME")?;
    Ok(Home::at(user.join(".router")))
}

/// Carries a command out, on a host with this many usable cores. `given` are the options of `start`.
///
/// # Errors
/// What was wrong, for a person.
pub fn run(command: &Command, given: &[String], cores: usize) -> Result<ExitCode> {
    let home = home()?;
    home.check("").map_err(|error| anyhow!(error))?;
    let client = Client {
        home,
        cores,
        tokio: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
    };
    client.carry_out(command, given)
}

struct Client {
    home: Home,
    cores: usize,
    tokio: tokio::runtime::Runtime,
}

impl Client {
    fn carry_out(&self, command: &Command, given: &[String]) -> Result<ExitCode> {
        let here = env::current_dir().context("the current directory is gone")?;
        match command {
            Command::Start(start) => self.start(start, given, &here),
            Command::Stop(to) => {
                let targets = targets(&to.targets, to.only.as_deref(), &here)?;
                self.act(Action::Stop, targets, false)
            }
            Command::Delete(to) => {
                let targets = targets(&to.targets, to.only.as_deref(), &here)?;
                self.act(Action::Delete, targets, false)
            }
            Command::Restart(again) => self.again(again, Action::Restart, &here),
            Command::Reload(again) => self.again(again, Action::Reload, &here),
            Command::Scale(scale) => {
                let order = Order::Scale { target: scale.target.clone(), to: scale.to };
                let outcomes: Vec<Outcome> = self.ask(&order)?;
                self.tell(&outcomes, "scaled")
            }
            Command::List => {
                let (apps, looked) = self.look_twice(self.apps_or_none()?)?;
                print(&list::table(&apps, &looked))
            }
            Command::Describe(target) => {
                let (apps, looked) = self.look_twice(self.apps_or_none()?)?;
                for found in list::find(&apps, from_ref(&target.target))? {
                    print(&list::describe(found.app, &looked))?;
                }
                Ok(ExitCode::SUCCESS)
            }
            Command::Jlist => print(&list::json(&self.apps_or_none()?, false)?),
            Command::Prettylist => print(&list::json(&self.apps_or_none()?, true)?),
            Command::Env(target) => {
                let apps = self.apps_or_none()?;
                let mut text = String::new();
                for found in list::find(&apps, from_ref(&target.target))? {
                    for (name, value) in list::environment(&found.app.definition) {
                        writeln!(text, "{name}: {value}")?;
                    }
                }
                print(&text)
            }
            Command::Pid(target) => self.pid(target.target.as_deref()),
            Command::Id(target) => {
                let apps = self.apps_or_none()?;
                let found = list::find(&apps, from_ref(&target.target))?;
                let ids: Vec<String> =
                    found.iter().flat_map(Found::ids).map(|id| id.to_string()).collect();
                print(&(ids.join(" ") + "\n"))
            }
            Command::SendSignal(send) => {
                let (signal, targets) = (send.signal as i32, send.targets.clone());
                let outcomes: Vec<Outcome> = self.ask(&Order::Signal { signal, targets })?;
                self.tell(&outcomes, &format!("sent {}", send.signal.as_str()))
            }
            Command::Reset(to) => {
                let targets = targets(&to.targets, to.only.as_deref(), &here)?;
                let outcomes: Vec<Outcome> = self.ask(&Order::Reset { targets })?;
                self.tell(&outcomes, "reset")
            }
            Command::LogLevel(level) => {
                let (filter, targets) = (level.level.clone(), or_all(&level.targets));
                let outcomes: Vec<Outcome> = self.ask(&Order::LogLevel { filter, targets })?;
                self.tell(&outcomes, "says what it is to say")
            }
            Command::ReloadLogs => {
                let _null: Value = self.ask(&Order::ReopenLogs)?;
                print("logs reopened\n")
            }
            Command::Ping => {
                let pong: Pong = self.ask_started(&Order::Ping)?;
                print(&format!("pong: router {} of process {}\n", pong.version, pong.pid))
            }
            Command::Kill => self.kill(),
            Command::Save => {
                let apps: usize = self.ask(&Order::Save)?;
                let path = self.home.dump();
                print(&format!("saved {apps} apps in {}\n", path.display()))
            }
            Command::Resurrect => {
                let outcomes: Vec<Outcome> = self.ask_started(&Order::Resurrect)?;
                self.tell(&outcomes, "started")
            }
            Command::Cleardump => match fs::remove_file(self.home.dump()) {
                Ok(()) => print("nothing is saved any more\n"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    print("nothing was saved\n")
                }
                Err(error) => Err(error).context(self.home.dump().display().to_string()),
            },
            Command::Init => init(&here),
            Command::Update => {
                let outcomes: Vec<Outcome> = self.ask(&Order::Update)?;
                // A program that a router could not become is none for the daemon, either.
                if outcomes.iter().all(|outcome| outcome.error.is_none()) {
                    self.renew_daemon()?;
                }
                self.tell(&outcomes, "updated")
            }
            Command::Completions(completions) => {
                let mut text = Vec::new();
                clap_complete::generate(
                    completions.shell,
                    &mut commands::table(),
                    "router",
                    &mut text,
                );
                print(&String::from_utf8_lossy(&text))
            }
            Command::Man => {
                let mut text = Vec::new();
                clap_mangen::Man::new(commands::table()).render(&mut text)?;
                print(&String::from_utf8_lossy(&text))
            }
            Command::Monit => {
                let apps = self.ask(&Order::List)?;
                monit::run(&self.tokio, &self.home.socket(), apps)?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Logs(wanted) => self.logs(wanted),
            Command::Flush(which) => self.flush(&which.targets),
            Command::Startup(startup) => startup::install(startup),
            Command::Unstartup(unstartup) => startup::remove(unstartup),
            Command::Daemon(_) => bail!("the daemon is no command to itself"),
        }
    }

    fn start(&self, start: &commands::Start, given: &[String], here: &Path) -> Result<ExitCode> {
        // `router start chat`: an app that is there, unless a file is called so.
        if let Some(app) = &start.options.app
            && !here.join(app).exists()
            && let Some(name) = app.to_str()
            && self.knows(name)?
        {
            return self.act(Action::Start, vec![name.to_owned()], false);
        }
        let apps = self.define_all(&start.options, given, here)?;
        let of_a_file = matches!(
            apps.first().map(|app| &app.app),
            Some(crate::control::apps::Source::Described(_))
        );
        let anew = if start.force || of_a_file { Anew::Restart } else { Anew::Refuse };
        self.run_apps(apps, anew, "started")
    }

    fn define_all(
        &self,
        options: &super::Options,
        given: &[String],
        here: &Path,
    ) -> Result<Vec<Definition>> {
        let environment = define::environment();
        let context = Context {
            here,
            cores: self.cores,
            variable: &|name| env::var(name).ok(),
            environment: &environment,
            home: &self.home,
        };
        define::define(options, given, context)
    }

    /// Restarts or reloads.
    fn again(&self, again: &commands::Again, action: Action, here: &Path) -> Result<ExitCode> {
        if let Some(file) = ecosystem(&again.targets, here) {
            // As it is defined now.
            let mut words = vec!["router".into(), "start".into(), file.into_os_string()];
            for (option, value) in [("--only", &again.only), ("--env", &again.env)] {
                words.extend(value.iter().map(|value| format!("{option}={value}").into()));
            }
            let super::Invocation::Command(command, given) = super::parse(words)? else {
                bail!("no app is meant");
            };
            let Command::Start(start) = &*command else { bail!("no app is meant") };
            let apps = self.define_all(&start.options, &given, here)?;
            return match action {
                Action::Reload => self.run_apps(apps, Anew::Reload, "reloaded"),
                _ => self.run_apps(apps, Anew::Restart, "restarted"),
            };
        }
        if again.only.is_some() || again.env.is_some() {
            bail!("--only and --env choose from an ecosystem file, and none is named");
        }
        self.act(action, again.targets.clone(), again.update_env)
    }

    fn run_apps(&self, apps: Vec<Definition>, anew: Anew, done: &str) -> Result<ExitCode> {
        let outcomes: Vec<Outcome> = self.ask_started(&Order::Run { apps, anew })?;
        self.tell(&outcomes, done)
    }

    fn act(&self, action: Action, targets: Vec<String>, update_env: bool) -> Result<ExitCode> {
        let done = match action {
            Action::Start => "started",
            Action::Stop => "stopped",
            Action::Restart => "restarted",
            Action::Reload => "reloaded",
            Action::Delete => "deleted",
        };
        let environment = update_env.then(define::environment);
        let outcomes: Vec<Outcome> = self.ask(&Order::Act { action, targets, environment })?;
        self.tell(&outcomes, done)
    }

    /// What became of an order, and how things stand now.
    fn tell(&self, outcomes: &[Outcome], done: &str) -> Result<ExitCode> {
        let mut text = String::new();
        for Outcome { name, ids, error } in outcomes {
            let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
            let ids = ids.join(", ");
            match error {
                None => writeln!(text, "[{name}]({ids}) {done}")?,
                Some(error) => writeln!(text, "[{name}]({ids}) not {done}: {error}")?,
            }
        }
        if outcomes.is_empty() {
            text.push_str("there is no app\n");
        }
        // Nobody waits for a second look at what has just begun.
        text += &list::table(&self.apps_or_none()?, &list::Looked::default());
        print(&text)?;
        let failed = outcomes.iter().any(|outcome| outcome.error.is_some());
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// A second look, a little later: between the two it shows how busy the workers are.
    fn look_twice(&self, first: Vec<AppState>) -> Result<(Vec<AppState>, list::Looked)> {
        if !first.iter().any(|app| app.status.is_some()) {
            return Ok((first, list::Looked::default()));
        }
        let began = Instant::now();
        pause(LOOK_AGAIN);
        let second = self.apps_or_none()?;
        let looked = list::Looked::new(&first, began.elapsed());
        Ok((second, looked))
    }

    /// Shows logs until somebody has seen enough.
    fn logs(&self, wanted: &commands::Logs) -> Result<ExitCode> {
        let words = or_all(wanted.target.as_slice());
        let files = || -> Result<Vec<Log>> {
            let apps = self.apps_or_none()?;
            Ok(list::find(&apps, &words)?.iter().flat_map(logs::files).collect())
        };
        let mut tail = Tail::new(wanted, io::stdout().is_terminal());
        tail.add(files()?)?;
        if !print_some(&tail.last()?)? || wanted.nostream {
            return Ok(ExitCode::SUCCESS);
        }
        for turn in 1_u64.. {
            pause(LOG_LOOK);
            if turn % LIST_EVERY == 0 {
                // Those that came since; none when the daemon is gone.
                tail.add(files().unwrap_or_default())?;
            }
            if !print_some(&tail.more()?)? {
                break;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn flush(&self, targets: &[String]) -> Result<ExitCode> {
        let apps = self.apps_or_none()?;
        let found = list::find(&apps, &or_all(targets))?;
        let mut files: Vec<PathBuf> =
            found.iter().flat_map(logs::files).map(|log| log.path).collect();
        if targets.is_empty() {
            files.push(self.home.log());
        }
        let mut text = String::new();
        for file in files {
            match fs::OpenOptions::new().write(true).open(&file).and_then(|file| file.set_len(0)) {
                Ok(()) => writeln!(text, "emptied {}", file.display())?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).context(format!("cannot empty {}", file.display()));
                }
            }
        }
        if !apps.is_empty() {
            // Whoever writes there counts from what he finds.
            let _null: Value = self.ask(&Order::ReopenLogs)?;
        }
        print(&text)
    }

    fn pid(&self, target: Option<&str>) -> Result<ExitCode> {
        let Some(target) = target else {
            let pong: Pong = self.ask(&Order::Ping)?;
            return print(&format!("{}\n", pong.pid));
        };
        let apps = self.apps_or_none()?;
        let found = list::find(&apps, &[target.to_owned()])?;
        let pids = found.iter().flat_map(Found::pids);
        print(&pids.map(|pid| format!("{pid}\n")).collect::<String>())
    }

    fn kill(&self) -> Result<ExitCode> {
        match self.ask_for::<Value>(&Order::Kill) {
            // It may end before its answer has left.
            Ok(_) | Err(AskError::Ended) => {}
            Err(AskError::Nobody(_)) => return print("no daemon runs\n"),
            Err(error) => return Err(error.into()),
        }
        let deadline = Instant::now() + START_TIME;
        while self.home.socket().exists() && Instant::now() < deadline {
            pause(ASK_AGAIN);
        }
        print("all apps have ended, and the daemon\n")
    }

    /// Whether the daemon keeps something of this name.
    fn knows(&self, name: &str) -> Result<bool> {
        let apps = self.apps_or_none()?;
        Ok(list::find(&apps, &[name.to_owned()]).is_ok())
    }

    /// All apps; none when there is no daemon.
    fn apps_or_none(&self) -> Result<Vec<AppState>> {
        match self.ask_for(&Order::List) {
            Err(AskError::Nobody(_)) => Ok(Vec::new()),
            answer => Ok(answer?),
        }
    }

    fn ask<T: DeserializeOwned>(&self, order: &Order) -> Result<T> {
        self.ask_for(order).map_err(|error| match error {
            AskError::Nobody(_) => anyhow!(
                "no daemon keeps apps in {}; `router start app.js` starts one, and the app",
                self.home.directory().display()
            ),
            other => other.into(),
        })
    }

    /// Asks, having started the daemon if there is none.
    fn ask_started<T: DeserializeOwned>(&self, order: &Order) -> Result<T> {
        match self.ask_for::<Value>(&Order::Ping) {
            Err(AskError::Nobody(_)) => self.start_daemon()?,
            other => drop(other?),
        }
        self.ask(order)
    }

    fn ask_for<T: DeserializeOwned>(&self, order: &Order) -> Result<T, AskError> {
        self.tokio.block_on(socket::ask_for(&self.home.socket(), order))
    }

    fn renew_daemon(&self) -> Result<()> {
        match self.ask_for::<Value>(&Order::Renew) {
            Ok(_) | Err(AskError::Ended) => {}
            Err(error) => return Err(error.into()),
        }
        let deadline = Instant::now() + START_TIME;
        while !self.answers()? {
            if Instant::now() >= deadline {
                return Err(self.silent());
            }
            pause(ASK_AGAIN);
        }
        Ok(())
    }

    /// Whether the daemon does.
    fn answers(&self) -> Result<bool> {
        match self.ask_for::<Pong>(&Order::Ping) {
            Ok(_) => Ok(true),
            Err(AskError::Nobody(_) | AskError::Ended) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn silent(&self) -> anyhow::Error {
        let log = self.home.log();
        anyhow!("the daemon does not answer within {START_TIME:?}; {} says why", log.display())
    }

    fn start_daemon(&self) -> Result<()> {
        let directory = self.home.directory();
        fs::create_dir_all(directory.join("logs"))
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let mut child = Program::new("/proc/self/exe")
            .args(["daemon", "--log-file"])
            .arg(self.home.log())
            .env("ROUTER_HOME", directory)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("the daemon cannot be started")?;
        let deadline = Instant::now() + START_TIME;
        while Instant::now() < deadline {
            if self.answers()? {
                return Ok(());
            }
            if child.try_wait()?.is_some() {
                // Another may have been faster.
                if self.answers()? {
                    return Ok(());
                }
                let mut said = Vec::new();
                if let Some(stderr) = child.stderr.take() {
                    stderr.take(WORDS_MAX).read_to_end(&mut said)?;
                }
                let said = String::from_utf8_lossy(&said);
                bail!("the daemon ended: {}", said.trim().trim_start_matches("router: "));
            }
            pause(ASK_AGAIN);
        }
        Err(self.silent())
    }
}

/// The ecosystem file, if one is named instead of apps.
fn ecosystem(targets: &[String], here: &Path) -> Option<PathBuf> {
    let [only] = targets else { return None };
    let file = here.join(only);
    (file.is_file() && discover::is_ecosystem(&file)).then_some(file)
}

/// Those that were named, or that are in the file that was.
fn targets(given: &[String], only: Option<&str>, here: &Path) -> Result<Vec<String>> {
    match ecosystem(given, here) {
        Some(file) => define::names(&file, only),
        None if only.is_some() => bail!("--only chooses from an ecosystem file, and none is named"),
        None => Ok(given.to_vec()),
    }
}

fn or_all(targets: &[String]) -> Vec<String> {
    if targets.is_empty() { vec!["all".to_owned()] } else { targets.to_vec() }
}

fn init(here: &Path) -> Result<ExitCode> {
    let path = here.join("ecosystem.config.js");
    let file = fs::OpenOptions::new().write(true).create_new(true).open(&path);
    let mut file = file.with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(ECOSYSTEM.as_bytes())?;
    print(&format!("{} is there; put your script in it\n", path.display()))
}

#[expect(clippy::disallowed_methods, reason = "a command has nothing else to do")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
