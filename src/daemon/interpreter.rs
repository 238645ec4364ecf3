//! Asks the interpreter what it is.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::config::{App, Interpreter};

/// How long it may take to print its version. Past that it is taken for what its name says.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// How much of what it prints is read, in bytes; a version is in its first line.
const ANSWER_MAX: u64 = 4096;

/// Runs `<interpreter> --version` as a worker would be run: in its directory, with its variables.
pub(super) fn ask(app: &App) -> Interpreter {
    let printed = print_version(app, ANSWER_TIME);
    let printed = printed.unwrap_or_else(|problem| {
        tracing::debug!(program = app.interpreter, problem, "it does not say its version");
        String::new()
    });
    Interpreter::recognise(&app.interpreter, &printed)
}

fn print_version(app: &App, limit: Duration) -> Result<String, String> {
    let mut child = Command::new(&app.interpreter)
        .arg("--version")
        .envs(&app.env)
        .current_dir(&app.cwd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let answer = child.stdout.take().ok_or_else(|| "it has no output".to_owned()).and_then(|out| {
        let (sender, answer) = mpsc::sync_channel(1);
        // A program that never ends leaves this thread behind, and nothing else: it is asked once.
        std::thread::spawn(move || {
            let mut printed = Vec::new();
            let read = out.take(ANSWER_MAX).read_to_end(&mut printed).map(|_| printed);
            // Nobody waits any more when it took too long.
            let _waited_for = sender.send(read);
        });
        match answer.recv_timeout(limit) {
            Ok(Ok(printed)) => Ok(String::from_utf8_lossy(&printed).into_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {limit:?}")),
        }
    });
    // It has ended by itself when all is well; one that lingers has nothing more to say.
    _ = child.kill();
    _ = child.wait();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RawApp, Surroundings, Workers};
    use std::path::Path;

    fn app(interpreter: &str) -> App {
        let raw = RawApp {
            script: Some("x.js".into()),
            interpreter: Some(interpreter.to_owned()),
            ..RawApp::default()
        };
        let (base, workers) = (Path::new("/"), Workers::Exactly(1));
        raw.resolve(&Surroundings { base, cores: 1, workers, env: None }).expect("a script")
    }

    #[test]
    fn node_says_what_it_is() {
        assert!(matches!(ask(&app("node")), Interpreter::Node { major: 18.., .. }));
    }

    #[test]
    fn what_cannot_be_asked_is_unknown() {
        assert_eq!(ask(&app("no-such-program")), Interpreter::Unknown);
        assert_eq!(ask(&app("false")), Interpreter::Unknown);
    }

    #[test]
    fn a_program_that_does_not_answer_is_waited_for_no_longer_than_that() {
        use std::os::unix::fs::PermissionsExt;
        let script = std::env::temp_dir().join(format!("router-silent-{}", std::process::id()));
        std::fs::write(&script, "#!/bin/sh\nexec sleep 60\n").expect("ours to use");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&script, executable).expect("ours");
        let program = script.to_str().expect("a plain name");
        let outcome = print_version(&app(program), Duration::from_millis(50));
        std::fs::remove_file(&script).expect("ours");
        assert_eq!(outcome, Err("no answer within 50ms".to_owned()));
    }
}
