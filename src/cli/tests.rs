//! From words and files to a Config, with real files and a real node.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::*;

/// What the host is said to have.
const CORES: usize = 6;

/// A directory of its own that goes when the test does.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("router-cli-{}-{unique}", std::process::id());
        let path = env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("the temporary directory is ours to use");
        Self(path.canonicalize().expect("it is there"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("inside")).expect("ours");
        fs::write(path, text).expect("ours");
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Resolves a command line in a directory, with these variables over PATH.
fn resolve_line(scratch: &Scratch, line: &str, variables: &[(&str, &str)]) -> Result<Config> {
    let words = std::iter::once("router").chain(line.split_whitespace());
    let Invocation::Run(options) = parse(words.map(OsString::from))? else {
        bail!("it is a command");
    };
    resolve_in(&options, CORES, scratch.path(), &|name| {
        let found = variables.iter().find(|(variable, _)| *variable == name);
        match found {
            Some((_, value)) => Some((*value).to_owned()),
            None if name == "PATH" => env::var("PATH").ok(),
            None => None,
        }
    })
}

fn error(scratch: &Scratch, line: &str, variables: &[(&str, &str)]) -> String {
    format!("{:#}", resolve_line(scratch, line, variables).expect_err(line))
}

#[test]
fn a_script_gets_the_defaults() {
    let scratch = Scratch::new();
    scratch.write("server.js", "");
    let config = resolve_line(&scratch, "", &[]).expect("server.js is found");
    assert_eq!(config.app.name, "server");
    assert_eq!(usize::from(config.app.workers), CORES);
    assert_eq!((config.default_port, config.listen.len(), config.threads), (8080, 0, None));
    assert_eq!(config.head_timeout, config::HEAD_TIMEOUT);
    assert_eq!((config.serialization, config.handoff), (None, Handoff::Auto));
    assert_eq!((config.preload, config.adapter, config.proxy), (true, true, None));
}

#[test]
fn what_is_left_out_and_who_is_trusted() {
    let scratch = Scratch::new();
    scratch.write("index.js", "");
    let resolve = |line: &str| resolve_line(&scratch, line, &[]).expect(line);
    let config = resolve("--no-preload --no-adapter --balance least-lag --sticky ip");
    assert_eq!((config.preload, config.adapter), (false, false));
    assert_eq!((config.balance, config.sticky), (config::Balance::LeastLag, config::Sticky::Ip));
    assert_eq!(resolve("--handoff lane").handoff, Handoff::Lane);
    assert_eq!(resolve("--proxy-protocol").proxy, Some(Trust::default()));
    let trust = resolve("--proxy-protocol --trust 10.0.0.0/8,unix").proxy.expect("it is on");
    assert_eq!(trust.to_string(), "10.0.0.0/8, unix");
    for (line, part) in [
        ("--handoff lane --no-preload", "drop one"),
        ("--proxy-protocol --no-preload", "drop one"),
        ("--trust loopback", "add --proxy-protocol"),
        ("--proxy-protocol --trust loopback,here", "--trust: `here` is no address"),
    ] {
        let text = error(&scratch, line, &[]);
        assert!(text.contains(part), "{line}: {text}");
    }
}

#[test]
fn the_command_line_goes_before_the_ecosystem_file() {
    let scratch = Scratch::new();
    scratch.write("app/server.js", "");
    scratch.write(
        "app/ecosystem.config.js",
        "module.exports = { apps: [{ name: 'chat', script: 'server.js', kill_timeout: 5000,
            listen_timeout: 7000, env: { PORT: 4000 }, env_test: { MODE: 'test' } }] }",
    );
    let line = "app -w 2 --kill-timeout 3s --env test -l 127.0.0.1:0 --threads max --head-timeout 0.5 -- a b";
    let variables = [("PORT", "5000"), ("PM2_KILL_SIGNAL", "term"), ("PM2_KILL_TIMEOUT", "9")];
    let config = resolve_line(&scratch, line, &variables).expect("it resolves");
    let app = &config.app;
    assert_eq!((app.name.as_str(), app.workers, app.kill_signal), ("chat", 2, Signal::SIGTERM));
    assert_eq!(app.kill_timeout, Duration::from_secs(3));
    assert_eq!(app.listen_timeout, Duration::from_secs(7));
    assert_eq!(
        (app.args.as_slice(), app.env["MODE"].as_str()),
        (&["a".into(), "b".into()][..], "test")
    );
    assert_eq!(app.cwd, scratch.path().join("app"));
    assert_eq!(config.default_port, 4000, "what the workers see");
    assert_eq!(config.listen[0].to_string(), "127.0.0.1:0");
    assert_eq!(config.head_timeout, Duration::from_millis(500));
    assert_eq!(config.threads, Some(CORES));
}

#[test]
fn an_ecosystem_app_has_one_worker_unless_it_says() {
    let scratch = Scratch::new();
    scratch.write("a.js", "");
    scratch.write("ecosystem.config.cjs", "module.exports = { apps: [{ script: 'a.js' }] }");
    assert_eq!(resolve_line(&scratch, "", &[]).expect("resolves").app.workers, 1);
}

#[test]
fn ports_come_from_pm2s_variables() {
    let scratch = Scratch::new();
    scratch.write("index.js", "");
    for (variables, port) in
        [(&[("PORT", "81")][..], 81), (&[("PORT", "81"), ("PM2_PORT", "82")], 82), (&[], 8080)]
    {
        let config = resolve_line(&scratch, "", variables).expect("a port");
        assert_eq!(config.default_port, port);
    }
    assert!(error(&scratch, "", &[("PORT", "x")]).contains("PORT is `x`"));
}

#[test]
fn errors_say_what_was_wrong() {
    let scratch = Scratch::new();
    scratch.write("index.js", "");
    scratch.write("two.config.js", "module.exports = [{ name: 'a' }, { name: 'b' }]");
    scratch.write("gone.config.js", "module.exports = [{ name: 'a', script: 'gone.js' }]");
    for (line, part) in [
        ("-l nonsense", "--listen: `nonsense` has no port"),
        ("--interpreter no-such-node", "`no-such-node` is not installed"),
        ("--cwd nowhere", "no directory"),
        ("two.config.js", "2 apps: a, b; choose one with --only NAME"),
        ("two.config.js --only a", "names no script"),
        ("gone.config.js", "there is no script"),
        ("index.js --env test", "is a script"),
        ("deploy", "leaves out"),
        ("link a b", "leaves out"),
        ("-i many", "-N"),
    ] {
        let text = error(&scratch, line, &[]);
        assert!(text.contains(part), "{line}: {text}");
    }
    assert!(error(&scratch, "", &[("PM2_KILL_SIGNAL", "x")]).contains("is no signal"));
}
