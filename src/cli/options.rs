//! The command line's options, each also an environment variable `ROUTER_<NAME>`.
//!
//! Syntax only: what the options mean together with an ecosystem file is decided in `mod.rs`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args};

use super::given::Given;
use crate::config::{
    self, Balance, CronPattern, DateFormat, EngineChoice, Handoff, LogForm, LogFormat, RawApp,
    RawBus, RawLogs, Serialization, Sticky, Verbosity, Workers,
};

/// How an app is run.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// A script, an ecosystem file, or a directory [default: the current directory]
    #[arg(value_name = "APP", env = "ROUTER_APP")]
    pub apps: Vec<PathBuf>,

    /// Arguments for the app's script
    #[arg(last = true, value_name = "APP_ARGS")]
    pub app_args: Vec<String>,

    /// Node workers: a number, max for one per usable core, or -N for all cores but N
    /// [default: max; 1 for an ecosystem file's app that does not say]
    #[arg(
        short = 'w',
        long,
        env = "ROUTER_WORKERS",
        value_name = "N|max|-N",
        visible_short_alias = 'i',
        visible_alias = "instances",
        allow_negative_numbers = true
    )]
    pub workers: Option<Workers>,

    /// Where to listen: host:port, :port, or unix:/path; may be repeated
    /// [default: where the app listens; :8080 if it never does]
    #[arg(short, long, env = "ROUTER_LISTEN", value_name = "ADDR", value_delimiter = ',')]
    pub listen: Vec<String>,

    /// Router threads: a number, max, or auto for one for every 4 workers that have a core
    #[arg(long, env = "ROUTER_THREADS", value_name = "N|max|auto", value_parser = threads)]
    pub threads: Option<Threads>,

    /// How to talk to the kernel; auto probes io_uring
    #[arg(long, env = "ROUTER_ENGINE", value_enum, default_value_t)]
    pub engine: EngineChoice,

    /// Who gets a request that has no session
    #[arg(long, env = "ROUTER_BALANCE", value_enum, default_value_t)]
    pub balance: Balance,

    /// Who gets a connection whose session cannot be read: whom the balance picks (sid), or
    /// always the same worker for one client address (ip)
    #[arg(long, env = "ROUTER_STICKY", value_enum, default_value_t)]
    pub sticky: Sticky,

    /// Codec of the workers' channels [default: advanced; json for Bun]
    #[arg(long, env = "ROUTER_SERIALIZATION", value_enum)]
    pub serialization: Option<Serialization>,

    /// How sockets reach workers: by the preload's lane, or by Node's IPC; auto takes the lane
    /// where the worker reads it
    #[arg(long, env = "ROUTER_HANDOFF", value_enum, default_value_t)]
    pub handoff: Handoff,

    /// Inject nothing into the workers
    #[arg(long, env = "ROUTER_NO_PRELOAD", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub no_preload: bool,

    /// Do not give an unchanged app the cluster adapter
    #[arg(long, env = "ROUTER_NO_ADAPTER", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub no_adapter: bool,

    /// Every connection begins with a PROXY protocol header, version 1 or 2
    #[arg(long, env = "ROUTER_PROXY_PROTOCOL", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub proxy_protocol: bool,

    /// Whose PROXY protocol header is believed: addresses, networks (10.0.0.0/8), loopback,
    /// private, unix, any; may be repeated [default: loopback,unix]
    #[arg(long, env = "ROUTER_TRUST", value_name = "LIST", value_delimiter = ',')]
    pub trust: Vec<String>,

    /// The program that runs the script [default: node]
    #[arg(long, env = "ROUTER_INTERPRETER", value_name = "PROGRAM")]
    pub interpreter: Option<String>,

    /// Arguments for the interpreter, in one string
    #[arg(
        long,
        env = "ROUTER_NODE_ARGS",
        value_name = "ARGS",
        allow_hyphen_values = true,
        visible_alias = "interpreter-args"
    )]
    pub node_args: Option<String>,

    /// What the app is called in logs [default: the script's name]
    #[arg(short, long, env = "ROUTER_NAME")]
    pub name: Option<String>,

    /// Apps of one namespace can be named together in commands [default: default]
    #[arg(long, env = "ROUTER_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,

    /// Where the workers start [default: the current directory, or the app's if it is one]
    #[arg(long, env = "ROUTER_CWD", value_name = "DIR")]
    pub cwd: Option<PathBuf>,

    /// Do not run npm ci where there is a lockfile and no node_modules
    #[arg(long, env = "ROUTER_NO_INSTALL", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub no_install: bool,

    /// A worker is ready when it says process.send('ready'), and not before
    #[arg(long, env = "ROUTER_WAIT_READY", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub wait_ready: bool,

    /// How long a worker may take to become ready, in milliseconds or with a unit [default: 3s]
    #[arg(long, env = "ROUTER_LISTEN_TIMEOUT", value_name = "MS", value_parser = config::milliseconds)]
    pub listen_timeout: Option<Duration>,

    /// How long a worker may take to end before it is killed [default: 1600]
    #[arg(short = 'k', long, env = "ROUTER_KILL_TIMEOUT", value_name = "MS", value_parser = config::milliseconds)]
    pub kill_timeout: Option<Duration>,

    /// Ask workers to end with the message 'shutdown' instead of a signal
    #[arg(long, env = "ROUTER_SHUTDOWN_WITH_MESSAGE", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub shutdown_with_message: bool,

    /// A worker that ends sooner counts as unstable [default: 1s]
    #[arg(long, env = "ROUTER_MIN_UPTIME", value_name = "MS", value_parser = config::milliseconds)]
    pub min_uptime: Option<Duration>,

    /// Unstable restarts in a row after which a worker is given up [default: 16]
    #[arg(long, env = "ROUTER_MAX_RESTARTS", value_name = "N")]
    pub max_restarts: Option<u32>,

    /// A constant pause before each restart [default: the growing one below]
    #[arg(long, env = "ROUTER_RESTART_DELAY", value_name = "MS", value_parser = config::milliseconds)]
    pub restart_delay: Option<Duration>,

    /// First pause of the backoff, which grows by half to 15 s; 0 restarts at once [default: 10]
    #[arg(long, env = "ROUTER_EXP_BACKOFF_RESTART_DELAY", value_name = "MS", value_parser = config::milliseconds)]
    pub exp_backoff_restart_delay: Option<Duration>,

    /// Exit codes after which a worker is not started again
    #[arg(long, env = "ROUTER_STOP_EXIT_CODES", value_name = "CODES", value_delimiter = ',')]
    pub stop_exit_codes: Vec<i32>,

    /// Do not start workers again when they end
    #[arg(long, env = "ROUTER_NO_AUTORESTART", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub no_autorestart: bool,

    /// How long a client may take to send its request line, in seconds
    #[arg(long, env = "ROUTER_HEAD_TIMEOUT", value_name = "SECONDS", default_value = "10", value_parser = head_timeout)]
    pub head_timeout: Duration,

    /// How long a worker that is replaced may keep the sessions it has, in seconds
    #[arg(long, env = "ROUTER_DRAIN_TIMEOUT", value_name = "SECONDS", default_value = "30", value_parser = config::seconds)]
    pub drain_timeout: Duration,

    /// The last part of that, over which the clients that are left are disconnected, in seconds
    #[arg(long, env = "ROUTER_DISCONNECT_OVER", value_name = "SECONDS", default_value = "10", value_parser = config::seconds)]
    pub disconnect_over: Duration,

    /// Kill and restart a worker whose event loop has not turned for so long, in seconds; 0 never
    #[arg(long, env = "ROUTER_HANG_TIMEOUT", value_name = "SECONDS", default_value = "30", value_parser = config::seconds)]
    pub hang_timeout: Duration,

    /// How long workers whose router has died wait for the next one, in seconds; 0: not at all
    #[arg(long, env = "ROUTER_ORPHAN_TIMEOUT", value_name = "SECONDS", default_value = "30", value_parser = config::seconds)]
    pub orphan_timeout: Duration,

    /// Where the router keeps what must outlive it [default: a private directory for this app]
    #[arg(long, env = "ROUTER_RUNTIME_DIR", value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,

    /// Where to answer /healthz, /readyz, /status and /metrics over HTTP, and a live page:
    /// host:port, :port, or unix:/path
    #[arg(long, env = "ROUTER_ADMIN", value_name = "ADDR")]
    pub admin: Option<String>,

    /// The Redis that joins this host to others, redis://USER:PASSWORD@HOST:PORT/DATABASE: packets of
    /// the adapter travel in the format of @socket.io/redis-streams-adapter
    #[arg(long, env = "ROUTER_BUS", value_name = "URL", hide_env_values = true)]
    pub bus: Option<String>,

    /// The stream on it [default: socket.io]
    #[arg(long, env = "ROUTER_BUS_STREAM", value_name = "NAME")]
    pub bus_stream: Option<String>,

    /// What its channels begin with [default: socket.io]
    #[arg(long, env = "ROUTER_BUS_CHANNEL_PREFIX", value_name = "TEXT")]
    pub bus_channel_prefix: Option<String>,

    /// How many entries the stream keeps, about [default: 10000]
    #[arg(long, env = "ROUTER_BUS_MAX_LEN", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub bus_max_len: Option<u64>,

    /// Replace a worker whose resident memory is more than this: bytes, or with K, M, G
    /// [default: never]
    #[arg(long, env = "ROUTER_MAX_MEMORY_RESTART", value_name = "BYTES", value_parser = config::bytes)]
    pub max_memory_restart: Option<u64>,

    /// Reload at the times of this cron pattern, in local time
    #[arg(
        short,
        long,
        env = "ROUTER_CRON_RESTART",
        value_name = "PATTERN",
        visible_alias = "cron"
    )]
    pub cron_restart: Option<CronPattern>,

    /// Restart the workers when a file changes below the app's directory
    #[arg(long, env = "ROUTER_WATCH", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub watch: bool,

    /// What is not watched, besides node_modules and what begins with a dot: paths or globs
    #[arg(long, env = "ROUTER_IGNORE_WATCH", value_name = "GLOBS", value_delimiter = ',', value_parser = pattern)]
    pub ignore_watch: Vec<String>,

    /// A variable that counts up, one for each worker, from its value in the app's env or 0
    #[arg(long, env = "ROUTER_INCREMENT_VAR", value_name = "NAME")]
    pub increment_var: Option<String>,

    /// Leave a worker's own children alive when it is ended
    #[arg(long, env = "ROUTER_NO_TREEKILL", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub no_treekill: bool,

    /// Add the variables of the ecosystem file's env_NAME
    #[arg(long, env = "ROUTER_ENV", value_name = "NAME")]
    pub env: Option<String>,

    /// Which app of an ecosystem file that describes several
    #[arg(long, env = "ROUTER_ONLY", value_name = "NAME")]
    pub only: Option<String>,

    /// How logs and the workers' output look
    #[arg(long, env = "ROUTER_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// Append the log and the workers' output to this file; SIGUSR1 opens it again
    /// [default: stderr and stdout]
    #[arg(long, env = "ROUTER_LOG_FILE", value_name = "PATH")]
    pub log_file: Option<PathBuf>,

    /// Where each worker's lines go instead: to NAME-out-ID.log and NAME-error-ID.log in this
    /// directory, unless the next two say otherwise; the router's log alone stays where it is.
    /// Relative to where the workers start, as the next two are
    #[arg(long, env = "ROUTER_LOG_DIR", value_name = "DIR")]
    pub log_dir: Option<PathBuf>,

    /// Also append the workers' stdout to this file, x-ID.log for x.log; /dev/null for none
    #[arg(short, long, env = "ROUTER_OUTPUT", value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Also append the workers' stderr to this file, x-ID.log for x.log; /dev/null for none
    #[arg(short, long, env = "ROUTER_ERROR", value_name = "FILE")]
    pub error: Option<PathBuf>,

    /// One file for all workers: no ID in the names
    #[arg(long, env = "ROUTER_MERGE_LOGS", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub merge_logs: bool,

    /// Put the time before each line of the files, in the letters of Moment.js
    /// (YYYY-MM-DD HH:mm:ss Z)
    #[arg(long, env = "ROUTER_LOG_DATE_FORMAT", value_name = "FORMAT")]
    pub log_date_format: Option<DateFormat>,

    /// The same with YYYY-MM-DDTHH:mm:ss
    #[arg(long, env = "ROUTER_TIME", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub time: bool,

    /// How a line of the files looks: as the worker wrote it, or as a JSON object with PM2's fields
    /// [default: raw]
    #[arg(long, env = "ROUTER_LOG_TYPE", value_enum)]
    pub log_type: Option<LogForm>,

    /// Neither write nor show what the workers print
    #[arg(long, env = "ROUTER_DISABLE_LOGS", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub disable_logs: bool,

    /// Rotate a log file before it is larger: bytes, or with K, M, G; 0 never [default: 10M]
    #[arg(long, env = "ROUTER_LOG_MAX_SIZE", value_name = "BYTES", value_parser = config::bytes)]
    pub log_max_size: Option<u64>,

    /// Rotate it at each multiple of this time, counted from midnight: seconds, or with s, m, h, d;
    /// 0 never [default: 1d]
    #[arg(long, env = "ROUTER_LOG_MAX_AGE", value_name = "TIME", value_parser = config::age)]
    pub log_max_age: Option<Duration>,

    /// How many rotated files of each are kept [default: 30]
    #[arg(long, env = "ROUTER_LOG_KEEP", value_name = "N")]
    pub log_keep: Option<usize>,

    /// Say why, too; twice: say everything
    #[arg(short, long, env = "ROUTER_VERBOSE", action = ArgAction::Count)]
    pub verbose: u8,

    /// Only warnings and errors
    #[arg(short, long, env = "ROUTER_QUIET", conflicts_with = "verbose", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub quiet: bool,

    /// Which of these were given.
    #[arg(skip)]
    pub given: Given,
}

/// What `--threads` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The daemon decides.
    Auto,
    /// One for every usable core.
    Max,
    /// This many.
    Exactly(usize),
}

/// The most router threads; more than cores is of no use, and no host has more cores than this.
const THREADS_MAX: usize = 1024;

fn threads(text: &str) -> Result<Threads, String> {
    match text {
        "auto" => Ok(Threads::Auto),
        "max" => Ok(Threads::Max),
        number => match number.parse() {
            Ok(threads @ 1..=THREADS_MAX) => Ok(Threads::Exactly(threads)),
            _ => Err(format!("write 1 to {THREADS_MAX}, max, or auto")),
        },
    }
}

fn head_timeout(text: &str) -> Result<Duration, String> {
    match config::seconds(text)? {
        Duration::ZERO => Err("a client needs some time; write more than 0".to_owned()),
        timeout => Ok(timeout),
    }
}

fn pattern(text: &str) -> Result<String, String> {
    config::glob(text).map(|_| text.to_owned())
}

impl Options {
    /// How much to say.
    pub const fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, 0) => Verbosity::Normal,
            (_, 1) => Verbosity::Verbose,
            (_, _) => Verbosity::Trace,
        }
    }

    /// What the options say of the app, as the uppermost layer of settings.
    pub(super) fn layer(&self) -> RawApp {
        RawApp {
            // ROUTER_NAME= in a file of variables says nothing.
            name: self.name.clone().filter(|name| !name.is_empty()),
            namespace: self.namespace.clone().filter(|name| !name.is_empty()),
            args: Some(self.app_args.clone()).filter(|args| !args.is_empty()),
            interpreter: self.interpreter.clone(),
            node_args: self.node_args.as_deref().map(config::split_words),
            instances: self.workers,
            wait_ready: self.wait_ready.then_some(true),
            listen_timeout: self.listen_timeout,
            kill_timeout: self.kill_timeout,
            shutdown_with_message: self.shutdown_with_message.then_some(true),
            autorestart: self.no_autorestart.then_some(false),
            stop_exit_codes: Some(self.stop_exit_codes.clone()).filter(|codes| !codes.is_empty()),
            min_uptime: self.min_uptime,
            max_restarts: self.max_restarts,
            restart_delay: self.restart_delay,
            exp_backoff_restart_delay: self.exp_backoff_restart_delay,
            max_memory_restart: self.max_memory_restart,
            cron_restart: self.cron_restart.clone(),
            watch: self.watch.then(|| vec![".".into()]),
            ignore_watch: Some(self.ignore_watch.clone()).filter(|globs| !globs.is_empty()),
            increment_var: self.increment_var.clone(),
            treekill: self.no_treekill.then_some(false),
            logs: self.logs(),
            bus: self.bus(),
            ..RawApp::default()
        }
    }

    /// Whether `--bus` says what a URL is. It is no parser of clap's, which would repeat what it
    /// refuses, and with it a password.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn check_bus(&self) -> Result<(), String> {
        let said = self.bus.as_deref().filter(|url| !url.is_empty());
        let parsed = said.map(str::parse::<config::Redis>).transpose();
        parsed.map(drop).map_err(|error| format!("--bus: {error}"))
    }

    fn bus(&self) -> RawBus {
        let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        RawBus {
            redis: self.bus.as_deref().and_then(|url| url.parse().ok()),
            stream: said(&self.bus_stream),
            channel_prefix: said(&self.bus_channel_prefix),
            max_len: self.bus_max_len,
        }
    }

    fn logs(&self) -> RawLogs {
        // ROUTER_OUTPUT= in a file of variables says nothing.
        let said =
            |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        RawLogs {
            out_file: said(&self.output),
            error_file: said(&self.error),
            directory: said(&self.log_dir),
            merge_logs: self.merge_logs.then_some(true),
            date_format: self.log_date_format.clone(),
            time: self.time.then_some(true),
            form: self.log_type,
            disabled: self.disable_logs.then_some(true),
            max_size: self.log_max_size,
            max_age: self.log_max_age,
            keep: self.log_keep,
            ..RawLogs::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    fn command() -> clap::Command {
        Options::augment_args(clap::Command::new("router"))
    }

    fn parse(line: &str) -> Result<Options, String> {
        let words = std::iter::once("router").chain(line.split_whitespace());
        let matches = command().try_get_matches_from(words).map_err(|error| error.to_string())?;
        Options::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn the_table_of_options_is_sound_and_each_has_its_variable() {
        let command = command();
        command.clone().debug_assert();
        for option in command.get_arguments().filter(|option| option.get_long().is_some()) {
            let long = option.get_long().expect("filtered");
            if ["help", "version"].contains(&long) {
                continue;
            }
            let variable = format!("ROUTER_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(option.get_env(), Some(variable.as_ref()), "--{long}");
        }
    }

    #[test]
    fn workers_have_many_spellings() {
        for (line, workers) in [
            ("-w 3", Workers::Exactly(3)),
            ("-i max", Workers::MAX),
            ("--instances 0", Workers::MAX),
            ("--workers -1", Workers::CoresLess(1)),
            ("-w -2 app.js", Workers::CoresLess(2)),
        ] {
            assert_eq!(parse(line).expect(line).workers, Some(workers), "{line}");
        }
    }

    #[test]
    fn lists_repeat_and_take_commas() {
        let line = "-l :1 --listen :2,unix:/x --stop-exit-codes 0,3 --trust private --trust ::1,unix \
                    a.js -- -x y";
        let options = parse(line).expect("fine");
        assert_eq!(options.listen, [":1", ":2", "unix:/x"]);
        assert_eq!(options.stop_exit_codes, [0, 3]);
        assert_eq!(options.trust, ["private", "::1", "unix"]);
        assert_eq!(
            (options.apps, options.app_args),
            (vec!["a.js".into()], vec!["-x".into(), "y".into()])
        );
    }

    #[test]
    fn wrong_options_say_what_would_do() {
        for (line, part) in [
            ("-w many", "max, or -N"),
            ("--threads 0", "1 to 1024"),
            ("--handoff street", "lane"),
            ("--sticky cookie", "sid"),
            ("--head-timeout 0", "more than 0"),
            ("--kill-timeout soon", "500ms"),
            ("--balance best", "least-connection"),
            ("-q -v", "cannot be used with"),
            ("--log-date-format MMM", "`MMM` stands for nothing"),
            ("--log-max-size 10MB", "K, M, G"),
            ("--log-max-age 1y", "30d"),
            ("--log-type xml", "json"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
