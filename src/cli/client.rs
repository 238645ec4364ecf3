//! Commands, carried out: what is asked of the daemon, and what is said of its answer.

use std::convert::Infallible;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, ExitCode, Stdio};
use std::slice::from_ref;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::commands::{self, Command};
use super::define::{self, Context};
use super::discover::{discover, is_ecosystem};
use super::list::Found;
use super::logs::{self, Log, Tail};
use super::{environment, list, monit, print, print_some, startup};
use crate::config::nearest;
use crate::config::service::DIRECTORIES;
use crate::control::apps::{Action, Anew, AppState, Definition, Order, Outcome, Pong, Source};
use crate::control::home::Home;
use crate::control::protocol::AskError;
use crate::control::socket::{self, SILENCE_MAX};

/// Where systemd makes the directories of a unit that says `StateDirectory=router`,
/// `RuntimeDirectory=router` and `LogsDirectory=router`.
const SERVICE: [&str; 3] = ["/var/lib/router", "/run/router", "/var/log/router"];

/// How long the daemon may take to start.
const START_TIME: Duration = Duration::from_secs(10);
/// How soon a daemon that starts is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// How long a command waits before it says for what.
const WAIT_QUIETLY: Duration = Duration::from_secs(5);

/// How long it may take to say what it is doing.
const SAY_DOING: Duration = Duration::from_secs(1);

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

/// Carries a command out, on a host with this many usable cores.
///
/// # Errors
/// What was wrong, for a person.
pub fn run(command: &Command, cores: usize) -> Result<ExitCode> {
    let home = home()?;
    home.check("").map_err(|error| anyhow!(error))?;
    let client = Client {
        home,
        cores,
        tokio: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
    };
    client.carry_out(command)
}

struct Client {
    home: Home,
    cores: usize,
    tokio: tokio::runtime::Runtime,
}

impl Client {
    fn carry_out(&self, command: &Command) -> Result<ExitCode> {
        let here = env::current_dir().context("the current directory is gone")?;
        match command {
            Command::Start(start) => self.start(start, &here),
            Command::Stop(to) => {
                let targets = self.targets(to, &here)?;
                self.act(Action::Stop, targets, false)
            }
            Command::Delete(to) => {
                let targets = self.targets(to, &here)?;
                self.act(Action::Delete, targets, false)
            }
            Command::Restart(again) => self.again(again, Action::Restart, &here),
            Command::Reload(again) => self.again(again, Action::Reload, &here),
            Command::Scale(scale) => {
                let order = Order::Scale { target: self.one(&scale.target)?, to: scale.to };
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
            Command::Jlist | Command::Prettylist => {
                let (apps, looked) = self.look_twice(self.apps_or_none()?)?;
                let pretty = matches!(command, Command::Prettylist);
                print(&list::json(&apps, &looked, pretty)?)
            }
            Command::Env(target) => {
                let apps = self.apps_or_none()?;
                let mut text = String::new();
                for found in list::find(&apps, from_ref(&target.target))? {
                    let definition = &found.app.definition;
                    let described = environment::described(definition)?;
                    let slot = found.slots().first().copied().unwrap_or_default();
                    for (name, value) in environment::of(definition, described.as_ref(), slot) {
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
                let targets = self.targets(to, &here)?;
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
            Command::Cleardump => {
                let mut cleared = false;
                // What was saved before would be run instead.
                for path in [self.home.dump(), self.home.dump_before()] {
                    match fs::remove_file(&path) {
                        Ok(()) => cleared = true,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(error).context(path.display().to_string()),
                    }
                }
                print(if cleared { "nothing is saved any more\n" } else { "nothing was saved\n" })
            }
            Command::Init => init(&here),
            Command::Update => self.update(),
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
            Command::Startup(startup) => {
                let home = env::var_os("ROUTER_HOME").filter(|home| !home.is_empty());
                startup::install(startup, home.map(|home| here.join(home)).as_deref())
            }
            Command::Unstartup(unstartup) => startup::remove(unstartup),
            Command::Daemon(_) => bail!("the daemon is no command to itself"),
        }
    }

    fn start(&self, start: &commands::Start, here: &Path) -> Result<ExitCode> {
        let options = &start.options;
        // `router start chat`: an app that is there, unless a file is called so.
        let (files, words): (Vec<PathBuf>, Vec<PathBuf>) =
            options.apps.iter().cloned().partition(|app| here.join(app).exists());
        let listed = if words.is_empty() { Vec::new() } else { self.apps_or_none()? };
        let mut names = Vec::new();
        for word in words {
            let name = word.to_string_lossy().into_owned();
            if list::find(&listed, from_ref(&name)).is_err() {
                // Says what was looked for.
                discover(Some(&word), here).map_err(|error| {
                    let known = listed.iter().map(|app| app.definition.name.as_str());
                    let near = nearest(&name, known);
                    let near = near.map(|near| format!(". Or did you mean the app {near}?"));
                    anyhow!("{error}{}", near.unwrap_or_default())
                })?;
            }
            names.push(name);
        }
        if !names.is_empty() {
            as_defined(&names, start, &listed)?;
        }
        let mut outcomes: Vec<Outcome> = Vec::new();
        if names.is_empty() || !files.is_empty() {
            let apps = self.define_all(options, &files, here)?;
            let of_a_file = |app: &Definition| matches!(app.app, Source::Described(_));
            let (described, scripts): (Vec<_>, Vec<_>) = apps.into_iter().partition(of_a_file);
            let anew = if start.force { Anew::Restart } else { Anew::Refuse };
            for (apps, anew) in [(scripts, anew), (described, Anew::Restart)] {
                if !apps.is_empty() {
                    outcomes.extend(self.ask_started::<Vec<_>>(&Order::Run { apps, anew })?);
                }
            }
        }
        if !names.is_empty() {
            let (action, environment) = (Action::Start, None);
            let order = Order::Act { action, targets: names, environment };
            outcomes.extend(self.ask::<Vec<_>>(&order)?);
        }
        self.tell(&outcomes, "started")
    }

    fn define_all(
        &self,
        options: &super::Options,
        apps: &[PathBuf],
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
        define::define(options, apps, context)
    }

    /// The name of the one app that is meant.
    fn one(&self, target: &str) -> Result<String> {
        let apps: Vec<AppState> = self.ask(&Order::List)?;
        let found = list::find(&apps, &[target.to_owned()])?;
        let names: Vec<&str> =
            found.iter().map(|found| found.app.definition.name.as_str()).collect();
        match names.as_slice() {
            [name] => Ok((*name).to_owned()),
            _ => bail!("`{target}` means {} apps ({}); name one", names.len(), names.join(", ")),
        }
    }

    /// Those that were named, or that are in the files that were; of these, those that are in the list.
    fn targets(&self, to: &commands::Targets, here: &Path) -> Result<Vec<String>> {
        let mut targets = Vec::new();
        let mut of_a_file = false;
        for word in &to.targets {
            let Some(file) = ecosystem(word, here) else {
                targets.push(word.clone());
                continue;
            };
            of_a_file = true;
            let apps = self.apps_or_none()?;
            let there = |name: &String| apps.iter().any(|app| app.definition.name == *name);
            let names = define::names(&file, to.only.as_deref(), to.env.as_deref())?;
            let (found, missing): (Vec<_>, Vec<_>) =
                names.into_iter().partition(|names| names.iter().any(there));
            let missing: Vec<String> = missing.iter().map(|names| names.join(" or ")).collect();
            if found.is_empty() {
                bail!(
                    "no app of {} is in the list: {} (router list shows which are)",
                    file.display(),
                    missing.join(", ")
                );
            }
            if !missing.is_empty() {
                print(&format!("not in the list: {}\n", missing.join(", ")))?;
            }
            targets.extend(found.into_iter().flatten().filter(there));
        }
        if !of_a_file && (to.only.is_some() || to.env.is_some()) {
            bail!("--only and --env choose from an ecosystem file, and none is named");
        }
        Ok(targets)
    }

    /// Restarts or reloads.
    fn again(&self, again: &commands::Again, action: Action, here: &Path) -> Result<ExitCode> {
        let file = again.targets.iter().find_map(|word| ecosystem(word, here));
        if let Some(file) = file {
            if again.targets.len() > 1 {
                bail!("{} is a file: name it alone, or the apps by their names", file.display());
            }
            // As it is defined now.
            let mut words = vec!["router".into(), "start".into(), file.into_os_string()];
            for (option, value) in [("--only", &again.only), ("--env", &again.env)] {
                words.extend(value.iter().map(|value| format!("{option}={value}").into()));
            }
            let super::Invocation::Command(command) = super::parse(words)? else {
                bail!("no app is meant");
            };
            let Command::Start(start) = &*command else { bail!("no app is meant") };
            let apps = self.define_all(&start.options, &start.options.apps, here)?;
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
        said(&mut text, outcomes, done)?;
        if outcomes.is_empty() {
            text.push_str("there is no app\n");
        }
        let apps = self.apps_or_none()?;
        for app in
            apps.iter().filter(|app| outcomes.iter().any(|one| one.name == app.definition.name))
        {
            if let Some(why) = app.status.as_ref().and_then(|status| status.unopened.as_ref()) {
                writeln!(text, "[{}] has no port: {why}", app.definition.name)?;
            }
        }
        // Nobody waits for a second look at what has just begun.
        text += &list::table(&apps, &list::Looked::default());
        print(&text)?;
        Ok(if failed(outcomes) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
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
            // Whoever reads may have had enough before another line comes.
            if !is_read_for(LOG_LOOK)? {
                break;
            }
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
        let outcomes: Vec<Outcome> = match self.ask_for::<Value>(&Order::Kill) {
            // One of another version may say no more than that it is done.
            Ok(outcomes) => serde_json::from_value(outcomes).unwrap_or_default(),
            // It may end before its answer has left.
            Err(AskError::Ended) => Vec::new(),
            Err(AskError::Nobody(_)) => return print("no daemon runs\n"),
            Err(error) => return Err(self.told(error)),
        };
        let mut text = String::new();
        said(&mut text, &outcomes, "ended")?;
        if failed(&outcomes) {
            print(&text)?;
            bail!("the daemon stays with what has not ended; `router kill` tries again");
        }
        let deadline = Instant::now() + START_TIME;
        while self.home.socket().exists() {
            if Instant::now() >= deadline {
                print(&text)?;
                let log = self.home.log();
                bail!("the daemon has not ended within {START_TIME:?}; {} says why", log.display());
            }
            pause(ASK_AGAIN);
        }
        if self.home.has_apps() {
            print(&text)?;
            bail!("the daemon ended before all its apps had; `router kill` once more ends them");
        }
        print(&(text + "all apps have ended, and the daemon\n"))
    }

    /// All apps; none when there is no daemon, and nothing that one would keep.
    fn apps_or_none(&self) -> Result<Vec<AppState>> {
        match self.ask_for(&Order::List) {
            Err(AskError::Nobody(_)) => Ok(Vec::new()),
            answer => answer.map_err(|error| self.told(error)),
        }
    }

    fn ask<T: DeserializeOwned>(&self, order: &Order) -> Result<T> {
        self.ask_for(order).map_err(|error| self.told(error))
    }

    /// What is wrong, and what to do, for a person.
    fn told(&self, error: AskError) -> anyhow::Error {
        match error {
            AskError::Nobody(_) => anyhow!(
                "no daemon keeps apps in {}; `router start app.js` starts one, and the app",
                self.home.directory().display()
            ),
            AskError::Silent(_) => {
                let daemon = self.daemon();
                anyhow!(
                    "the daemon{} has not answered, and gave no sign of life within \
                     {SILENCE_MAX:?}: it may be stopped (`kill -CONT` has it go on), or stuck \
                     (`kill -KILL` ends it; the apps go on, and the next command starts another)",
                    daemon.map(|pid| format!(", process {pid},")).unwrap_or_default()
                )
            }
            other => other.into(),
        }
    }

    /// The daemon's process, as it has written it down.
    fn daemon(&self) -> Option<String> {
        let pid = fs::read_to_string(self.home.lock()).ok()?;
        Some(pid.trim().to_owned()).filter(|pid| !pid.is_empty())
    }

    /// Asks, having started the daemon if there is none.
    fn ask_started<T: DeserializeOwned>(&self, order: &Order) -> Result<T> {
        match self.ask_for::<Value>(&Order::Ping) {
            Err(AskError::Nobody(_)) => self.start_daemon()?,
            other => drop(other.map_err(|error| self.told(error))?),
        }
        self.ask(order)
    }

    /// Asks the daemon. One that has died while its apps live is started again first: whoever asks
    /// means them.
    fn ask_for<T: DeserializeOwned>(&self, order: &Order) -> Result<T, AskError> {
        match self.ask_once(order) {
            Err(AskError::Nobody(_)) if self.home.has_apps() => {
                self.start_daemon().map_err(|error| AskError::Refused(format!("{error:#}")))?;
                self.ask_once(order)
            }
            answer => answer,
        }
    }

    fn ask_once<T: DeserializeOwned>(&self, order: &Order) -> Result<T, AskError> {
        let socket = self.home.socket();
        let answer = self.tokio.block_on(async {
            tokio::select! {
                biased;
                answer = socket::ask_while_it_answers(&socket, None, order, &Order::Ping) => answer,
                never = self.say_what_is_waited_for(&socket) => match never {},
            }
        })?;
        socket::read(&socket, answer)
    }

    /// Whoever waits shall know for what.
    async fn say_what_is_waited_for(&self, socket: &Path) -> Infallible {
        sleep(WAIT_QUIETLY).await;
        let pid = self.daemon().map(|pid| format!(" of process {pid}")).unwrap_or_default();
        // It says what it is doing; or nothing, and that is told in time.
        let pong = timeout(SAY_DOING, socket::ask_for::<Pong>(socket, Order::Ping)).await;
        let doing = pong.ok().and_then(Result::ok).map(|pong| pong.doing).unwrap_or_default();
        let doing =
            if doing.is_empty() { String::new() } else { format!(": {}", doing.join(", ")) };
        // A closed stderr is nobody to be told.
        let _closed = writeln!(io::stderr(), "router: waiting for the daemon{pid}{doing}");
        std::future::pending().await
    }

    /// Has the routers go on as the program that lies where theirs lay, and the daemon.
    fn update(&self) -> Result<ExitCode> {
        let outcomes: Vec<Outcome> = match self.ask_for(&Order::Update) {
            // One of another version is brought to this one before it can be asked for more.
            Err(AskError::Version { .. }) => {
                self.renew_daemon()?;
                self.ask(&Order::Update)?
            }
            outcomes => {
                let outcomes: Vec<Outcome> = outcomes.map_err(|error| self.told(error))?;
                // A program that a router could not become is none for the daemon, either.
                if !failed(&outcomes) {
                    self.renew_daemon()?;
                }
                outcomes
            }
        };
        self.tell(&outcomes, "updated")
    }

    fn renew_daemon(&self) -> Result<()> {
        match self.ask_once::<Value>(&Order::Renew) {
            Ok(_) | Err(AskError::Ended) => {}
            Err(error) => return Err(self.told(error)),
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
        match self.ask_once::<Pong>(&Order::Ping) {
            Ok(_) => Ok(true),
            Err(AskError::Nobody(_) | AskError::Ended) => Ok(false),
            Err(error) => Err(self.told(error)),
        }
    }

    fn silent(&self) -> anyhow::Error {
        let log = self.home.log();
        anyhow!("the daemon does not answer within {START_TIME:?}; {} says why", log.display())
    }

    fn start_daemon(&self) -> Result<()> {
        // Its log is opened there before it does anything else.
        self.home.make()?;
        let directory = self.home.directory();
        // By its own name, as ps shows it; unless another program has been put there, or none.
        let own = Path::new("/proc/self/exe");
        let named = fs::read_link(own).ok().filter(|path| path.exists());
        let mut child = Program::new(named.as_deref().unwrap_or(own))
            .arg0("router")
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

/// What became of an order.
fn said(text: &mut String, outcomes: &[Outcome], done: &str) -> Result<()> {
    for Outcome { name, ids, error, warning } in outcomes {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        let ids = ids.join(", ");
        match error {
            None => writeln!(text, "[{name}]({ids}) {done}")?,
            Some(error) => writeln!(text, "[{name}]({ids}) not {done}: {error}")?,
        }
        if let Some(warning) = warning {
            writeln!(text, "[{name}]({ids}) {warning}")?;
        }
    }
    Ok(())
}

fn failed(outcomes: &[Outcome]) -> bool {
    outcomes.iter().any(|outcome| outcome.error.is_some())
}

/// The ecosystem file, if this is one and no app.
fn ecosystem(word: &str, here: &Path) -> Option<PathBuf> {
    let file = here.join(word);
    (file.is_file() && is_ecosystem(&file)).then_some(file)
}

/// Apps that are there start as they were defined: what else is asked for is refused.
fn as_defined(names: &[String], start: &commands::Start, listed: &[AppState]) -> Result<()> {
    let options = &start.options;
    let mut given = options.given.words.clone();
    given.extend(start.force.then(|| "--force".to_owned()));
    given.extend((!options.app_args.is_empty()).then(|| "--".to_owned()));
    let Some(first) = given.first() else { return Ok(()) };
    let name = names.join(" ");
    if options.env.is_some() || options.only.is_some() {
        bail!("--env and --only choose from an ecosystem file; {name} is in the list already");
    }
    if given.iter().all(|word| word.starts_with("--workers=")) {
        bail!(
            "{name} starts with the workers it has: `router scale {name} N` changes their number"
        );
    }
    let found = list::find(listed, names)?;
    let anew = found.first().map(|found| match &found.app.definition.app {
        Source::Path(_) => format!(
            "router start {} --name {} {first} --force",
            found.app.definition.script.display(),
            found.app.definition.name
        ),
        Source::Described(_) => "change its ecosystem file, and router reload FILE".to_owned(),
    });
    bail!(
        "{name} is in the list and starts as it was defined: {} would change nothing. To define it \
         anew: {}",
        given.join(" "),
        anew.unwrap_or_default()
    )
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

/// Waits so long; or until nobody reads what is printed any more.
fn is_read_for(time: Duration) -> Result<bool> {
    let stdout = io::stdout();
    // Asked for nothing: that the other end is closed is told in any case.
    let mut watched = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let began = Instant::now();
    loop {
        let left = time.saturating_sub(began.elapsed());
        match poll(&mut watched, PollTimeout::try_from(left)?) {
            Ok(0) => return Ok(true),
            Ok(_) => return Ok(false),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a command has nothing else to do")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
