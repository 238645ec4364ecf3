//! Which JavaScript runs the workers, and what can be done with it.
//!
//! Owns the knowledge of what Node, Bun and Deno can and cannot do; [`plan`] turns it and what the
//! operator asked for into what is done, in one place. It asks no program anything: what
//! `<interpreter> --version` printed is handed in.

use std::path::Path;

use super::{Config, Handoff, Mode, Serialization};

/// The program that runs a worker's script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpreter {
    /// Node.
    Node {
        /// Of its version.
        major: u32,
        /// Of its version.
        minor: u32,
    },
    /// Bun.
    Bun,
    /// Deno.
    Deno,
    /// Some other program, or one that does not say what it is.
    Unknown,
}

impl Interpreter {
    /// By what it prints for `--version`, and where that says too little, by its file's name.
    pub fn recognise(program: &str, printed: &str) -> Self {
        let printed = printed.trim();
        let name = Path::new(program).file_name().and_then(|name| name.to_str());
        let called = |prefix| name.is_some_and(|name| name.starts_with(prefix));
        if let Some((major, minor)) = printed.strip_prefix('v').and_then(version) {
            return Self::Node { major, minor };
        }
        if printed.strip_prefix("deno ").and_then(version).is_some() {
            return Self::Deno;
        }
        // Bun prints a number and nothing else, as many programs do.
        let nothing_against = printed.is_empty() || version(printed).is_some();
        match nothing_against {
            true if called("bun") => Self::Bun,
            true if called("deno") => Self::Deno,
            _ => Self::Unknown,
        }
    }

    /// Whether it is a Node whose reader stalls for ever when a frame's length arrives in two
    /// reads (nodejs/node#55834; mended in 20.19, 22.14 and 23.6, never in 18).
    pub const fn reads_lengths_whole(self) -> bool {
        match self {
            Self::Node { major, minor } => match major {
                0..20 | 21 => true,
                20 => minor < 19,
                22 => minor < 14,
                23 => minor < 6,
                _ => false,
            },
            Self::Bun | Self::Deno | Self::Unknown => false,
        }
    }

    /// What to call it in a sentence.
    const fn name(self) -> &'static str {
        match self {
            Self::Node { .. } => "Node",
            Self::Bun => "Bun",
            Self::Deno => "Deno",
            Self::Unknown => {
                "a program that does not say it is Node (if it takes Node's options, add --handoff lane)"
            }
        }
    }
}

/// The first two numbers of a version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// How the workers are run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The preload is put into them.
    pub preload: bool,
    /// They get a lane for their sockets; whoever does not read it gets them over Node's IPC.
    pub lane: bool,
    /// The codec of their channels.
    pub serialization: Serialization,
    /// Frames' lengths must reach them in one piece ([`Interpreter::reads_lengths_whole`]).
    pub whole_lengths: bool,
    /// The interpreter's arguments, before the script.
    pub arguments: Vec<String>,
    /// A line for the operator, where the interpreter decided something.
    pub notice: Option<String>,
}

impl Plan {
    /// For processes that are kept running and nothing else.
    fn fork(config: &Config) -> Self {
        Self {
            preload: false,
            lane: false,
            // As `child_process.fork` of Node's has it, and PM2.
            serialization: config.serialization.unwrap_or(Serialization::Json),
            whole_lengths: false,
            arguments: config.app.node_args.clone(),
            notice: None,
        }
    }
}

/// What was asked for and this interpreter cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// `--handoff lane`.
    #[error(
        "--handoff lane needs the preload, which {0} does not load; leave --handoff at auto, or \
         run the app with --interpreter node"
    )]
    Lane(&'static str),
    /// `--proxy-protocol`.
    #[error(
        "--proxy-protocol needs the preload, which tells a worker its client's address, and {0} \
         does not load it; run the app with --interpreter node"
    )]
    Proxy(&'static str),
    /// `--serialization advanced`.
    #[error(
        "--serialization advanced is V8's format, and Bun has another under that name; leave \
         --serialization away (Bun gets json), or run the app with --interpreter node"
    )]
    Advanced,
}

/// What is done for this interpreter with what the operator asked for.
///
/// # Errors
/// The operator asked for something that the interpreter cannot do.
pub fn plan(config: &Config, interpreter: Interpreter) -> Result<Plan, PlanError> {
    if config.app.mode == Mode::Fork {
        return Ok(Plan::fork(config));
    }
    // Whoever asks for the lane says with it that the program is a Node, whatever it prints.
    let insisted = interpreter == Interpreter::Unknown && config.handoff == Handoff::Lane;
    let loads = matches!(interpreter, Interpreter::Node { .. }) || insisted;
    if !loads && config.handoff == Handoff::Lane {
        return Err(PlanError::Lane(interpreter.name()));
    }
    if !loads && config.proxy.is_some() {
        return Err(PlanError::Proxy(interpreter.name()));
    }
    let serialization = match (interpreter, config.serialization) {
        (Interpreter::Bun, Some(Serialization::Advanced)) => return Err(PlanError::Advanced),
        (Interpreter::Bun, _) => Serialization::Json,
        (_, asked) => asked.unwrap_or_default(),
    };
    let preload = loads && config.preload;
    Ok(Plan {
        preload,
        lane: preload && config.handoff != Handoff::Ipc,
        serialization,
        whole_lengths: serialization == Serialization::Advanced
            && interpreter.reads_lengths_whole(),
        arguments: arguments(interpreter, &config.app.node_args),
        notice: (!loads).then(|| notice(config, interpreter, serialization)).flatten(),
    })
}

/// What stands between the interpreter and the script.
fn arguments(interpreter: Interpreter, asked: &[String]) -> Vec<String> {
    let mut arguments = Vec::new();
    if interpreter == Interpreter::Deno && !asked.iter().any(|word| is_subcommand(word)) {
        arguments.push("run".to_owned());
        // Deno asks at a terminal for what it was not allowed, and a worker has none. Permissions
        // that the operator chose are left alone.
        if !asked.iter().any(|word| is_permission(word)) {
            arguments.push("-A".to_owned());
        }
    }
    arguments.extend_from_slice(asked);
    arguments
}

/// The subcommands of Deno's that run a script.
fn is_subcommand(word: &str) -> bool {
    ["run", "serve", "test", "bench", "task", "eval"].contains(&word)
}

/// Deno's options that allow something.
fn is_permission(word: &str) -> bool {
    let name = word.split('=').next().unwrap_or_default();
    let short = |letters: &str| letters.chars().all(|letter| "APRWNESI".contains(letter));
    match name.strip_prefix("--") {
        Some(long) => long.starts_with("allow-") || long == "permission-set",
        None => name.strip_prefix('-').is_some_and(short),
    }
}

/// What this interpreter does without, in one line with what it runs on.
fn notice(
    config: &Config,
    interpreter: Interpreter,
    serialization: Serialization,
) -> Option<String> {
    let program = &config.app.interpreter;
    let (who, more) = match interpreter {
        // The operator has chosen what the notice would suggest.
        Interpreter::Unknown if !config.preload => return None,
        Interpreter::Unknown => (
            format!("`{program} --version` does not say that it is Node: its workers run"),
            "; if it takes Node's options, say --handoff lane",
        ),
        Interpreter::Bun => (
            "workers on Bun run".to_owned(),
            ", and an app that listens opens its port itself, past the router",
        ),
        known => (format!("workers on {} run", known.name()), ""),
    };
    Some(format!(
        "{who} without the preload, on the hand-off ipc with {} channels: an unchanged app, session \
         ids that route themselves and handing a keep-alive connection back need Node{more}",
        serialization.as_str()
    ))
}

impl Plan {
    /// How the workers are offered their sockets, as `--handoff` names it.
    pub const fn handoff(&self) -> &'static str {
        if self.lane { "lane" } else { "ipc" }
    }

    /// Lays the plan over what was asked for: from now on the configuration says what is done.
    pub fn apply(&self, config: &mut Config) {
        config.preload = self.preload;
        // The preload is what gives the sign of life, and what waits for the next router.
        config.hang_timeout = config.hang_timeout.filter(|_| self.preload);
        // An ordinary process need not wait: it knows nothing of its router. Those of another user
        // cannot come back: the way is for the router's own alone.
        let waits = self.preload && config.app.account.is_none();
        let outlives = waits || config.app.mode == Mode::Fork;
        config.orphan_timeout = config.orphan_timeout.filter(|_| outlives);
        config.handoff = if self.lane { config.handoff } else { Handoff::Ipc };
        config.serialization = Some(self.serialization);
        config.app.node_args.clone_from(&self.arguments);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{App, Trust};

    const NODE: Interpreter = Interpreter::Node { major: 24, minor: 1 };

    fn config() -> Config {
        Config::fixture(App::fixture())
    }

    fn planned(
        change: impl FnOnce(&mut Config),
        interpreter: Interpreter,
    ) -> Result<Plan, PlanError> {
        let mut config = config();
        change(&mut config);
        plan(&config, interpreter)
    }

    fn node_args(words: &str) -> Vec<String> {
        words.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn programs_are_recognised() {
        let node = |major, minor| Interpreter::Node { major, minor };
        for (program, printed, expected) in [
            ("node", "v20.20.2\n", node(20, 20)),
            ("/opt/wrapper.sh", "v18.20.8", node(18, 20)),
            ("nodejs", "v27.0.0-nightly20260101abc", node(27, 0)),
            ("bun", "1.4.5\n", Interpreter::Bun),
            ("/usr/local/bin/bun", "1.5.0-canary.3+abc", Interpreter::Bun),
            ("bun-1.4", "1.4.5", Interpreter::Bun),
            // Under another name its number could be anybody's.
            ("javascript", "1.4.5", Interpreter::Unknown),
            (
                "deno",
                "deno 2.9.6 (stable, release, x86_64-unknown-linux-gnu)\nv8 15.0\n",
                Interpreter::Deno,
            ),
            ("/opt/d", "deno 2.9.6", Interpreter::Deno),
            // It could not be asked.
            ("bun", "", Interpreter::Bun),
            ("deno", "", Interpreter::Deno),
            ("node", "", Interpreter::Unknown),
            ("bunyan", "usage: bunyan", Interpreter::Unknown),
            ("tsx", "tsx v4.0.0\nnode v20.20.2", Interpreter::Unknown),
            ("python3", "Python 3.13.0", Interpreter::Unknown),
            ("x", "v", Interpreter::Unknown),
            ("x", "v20", Interpreter::Unknown),
            ("x", "deno", Interpreter::Unknown),
        ] {
            assert_eq!(Interpreter::recognise(program, printed), expected, "{program}: {printed}");
        }
    }

    #[test]
    fn only_old_nodes_read_lengths_whole() {
        let reads = |printed| Interpreter::recognise("node", printed).reads_lengths_whole();
        for old in ["v16.20.2", "v18.20.8", "v20.18.3", "v21.7.0", "v22.13.1", "v23.5.0"] {
            assert!(reads(old), "{old}");
        }
        for new in ["v20.19.0", "v20.20.2", "v22.23.3", "v24.21.0", "v26.10.0", "1.4.5", ""] {
            assert!(!reads(new), "{new}");
        }
        let old = Interpreter::Node { major: 18, minor: 20 };
        assert!(planned(|_| {}, old).expect("a Node").whole_lengths);
        let json = |config: &mut Config| config.serialization = Some(Serialization::Json);
        assert!(!planned(json, old).expect("a Node").whole_lengths, "json has no lengths");
    }

    #[test]
    fn node_gets_the_preload_and_the_lane_unless_told_otherwise() {
        let told = |preload, handoff| {
            let plan =
                planned(|config| (config.preload, config.handoff) = (preload, handoff), NODE);
            let plan = plan.expect("a Node does it all");
            assert_eq!((plan.serialization, plan.notice), (Serialization::Advanced, None));
            (plan.preload, plan.lane)
        };
        assert_eq!(told(true, Handoff::Auto), (true, true));
        assert_eq!(told(true, Handoff::Lane), (true, true));
        assert_eq!(told(true, Handoff::Ipc), (true, false));
        assert_eq!(told(false, Handoff::Auto), (false, false));
    }

    #[test]
    fn bun_and_deno_run_on_ipc_and_one_line_says_so() {
        for (interpreter, name, serialization) in [
            (Interpreter::Bun, "Bun", Serialization::Json),
            (Interpreter::Deno, "Deno", Serialization::Advanced),
        ] {
            let plan = planned(|_| {}, interpreter).expect("the default suits all");
            assert_eq!(
                (plan.preload, plan.lane, plan.serialization),
                (false, false, serialization)
            );
            let notice = plan.notice.expect("it can do less than Node");
            for part in
                [name, "hand-off ipc", serialization.as_str(), "unchanged app", "keep-alive"]
            {
                assert!(notice.contains(part), "{part}: {notice}");
            }
            assert!(!notice.contains('\n'), "{notice}");
            let lane = planned(|config| config.handoff = Handoff::Lane, interpreter);
            assert!(
                lane.expect_err("no lane").to_string().contains("--interpreter node"),
                "{name}"
            );
            let proxy = planned(|config| config.proxy = Some(Trust::default()), interpreter);
            assert_eq!(proxy, Err(PlanError::Proxy(name)));
        }
    }

    #[test]
    fn bun_takes_json_only_and_deno_takes_both() {
        let with = |serialization, interpreter| {
            planned(|config| config.serialization = Some(serialization), interpreter)
        };
        assert_eq!(with(Serialization::Advanced, Interpreter::Bun), Err(PlanError::Advanced));
        for (serialization, interpreter) in [
            (Serialization::Json, Interpreter::Bun),
            (Serialization::Json, Interpreter::Deno),
            (Serialization::Advanced, Interpreter::Deno),
        ] {
            let plan = with(serialization, interpreter).expect("it is known to work");
            assert_eq!(plan.serialization, serialization, "{interpreter:?}");
        }
    }

    #[test]
    fn an_unknown_program_is_left_alone_unless_the_operator_insists() {
        let unknown = Interpreter::Unknown;
        let plan = planned(|_| {}, unknown).expect("it may be anything");
        assert_eq!((plan.preload, plan.lane), (false, false));
        assert!(plan.notice.expect("a hint").contains("--handoff lane"));
        let plan = planned(|config| config.handoff = Handoff::Lane, unknown).expect("insisted");
        assert_eq!((plan.preload, plan.lane, plan.notice), (true, true, None));
        let plan = planned(|config| config.preload = false, unknown).expect("asked for");
        assert_eq!((plan.preload, plan.notice), (false, None));
        let proxy = planned(|config| config.proxy = Some(Trust::default()), unknown);
        assert!(proxy.expect_err("no preload").to_string().contains("--handoff lane"));
    }

    #[test]
    fn deno_is_told_to_run_and_what_it_may_unless_the_operator_has() {
        for (given, passed) in [
            ("", "run -A"),
            ("--no-check", "run -A --no-check"),
            ("--allow-net --allow-env", "run --allow-net --allow-env"),
            ("-RN=localhost", "run -RN=localhost"),
            ("--deny-net --config run.json", "run -A --deny-net --config run.json"),
            ("run --allow-net", "run --allow-net"),
            ("--quiet serve", "--quiet serve"),
        ] {
            let arguments = |interpreter| {
                let plan = planned(|config| config.app.node_args = node_args(given), interpreter);
                plan.expect("arguments are no fault").arguments
            };
            assert_eq!(arguments(Interpreter::Deno), node_args(passed), "{given}");
            assert_eq!(arguments(Interpreter::Bun), node_args(given), "Bun needs none");
            assert_eq!(arguments(NODE), node_args(given), "Node needs none");
        }
    }

    #[test]
    fn a_plan_applied_is_what_the_configuration_says() {
        let mut config = config();
        planned(|_| {}, Interpreter::Deno).expect("fine").apply(&mut config);
        assert_eq!((config.preload, config.handoff), (false, Handoff::Ipc));
        assert_eq!(config.hang_timeout, None, "nobody gives a sign of life");
        assert_eq!(config.serialization, Some(Serialization::Advanced));
        assert_eq!(config.app.node_args, ["run", "-A"]);
        let mut config = self::config();
        planned(|_| {}, NODE).expect("fine").apply(&mut config);
        assert_eq!((config.preload, config.handoff), (true, Handoff::Auto));
        assert!(config.hang_timeout.is_some());
    }
}
