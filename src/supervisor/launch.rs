//! A worker's command line, environment and output pipes: from [`App`] to a running process.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use super::LanePair;
use super::lines::{Lines, Tail};
use super::output::{Printer, Stream};
use super::preload::{self, Preload};
use crate::config::{App, Config, LogFormat};
use crate::route::WorkerId;
use crate::sys::process::{self, Spawn, Spawned};

/// How much of a worker's output is read at once, in bytes.
const READ_SIZE: usize = 16 * 1024;

/// A started worker.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) pid: Pid,
    /// Our end of its channel.
    pub(super) channel: OwnedFd,
    /// Its lane.
    pub(super) lane: Option<LanePair>,
    /// Its last lines on stderr.
    pub(super) tail: Arc<Mutex<Tail>>,
    /// They end with the pipes.
    pub(super) readers: [JoinHandle<()>; 2],
}

/// Starts a worker's process. `unique` is a number no other process of this run has had.
pub(super) fn launch(
    config: &Config,
    id: WorkerId,
    unique: u32,
    printer: &Printer,
    preload: Option<&Preload>,
) -> io::Result<Launched> {
    let (ours, theirs) = process::channel_pair()?;
    let lane = match preload {
        Some(preload) if preload.lane() => {
            let (ours, theirs) = process::channel_pair()?;
            Some(LanePair { ours, theirs })
        }
        _ => None,
    };
    let Spawned { pid, stdout, stderr } = process::spawn(Spawn {
        program: OsStr::new(&config.app.interpreter),
        args: &arguments(&config.app, preload),
        env: &environment(config, id, unique, preload),
        cwd: &config.app.cwd,
        channel: theirs,
        lane: lane.as_ref().map(|lane| lane.theirs.as_fd()),
    })?;
    let tail = Arc::new(Mutex::new(Tail::default()));
    let reader = |stream, fd: OwnedFd, tail| -> io::Result<JoinHandle<()>> {
        let pipe = pipe::Receiver::from_owned_fd(fd)?;
        let label = Label::new(config.log, &config.app.name, id.slot, stream);
        Ok(tokio::spawn(read(pipe, label, printer.clone(), tail)))
    };
    let out = reader(Stream::Stdout, stdout, None)?;
    let err = reader(Stream::Stderr, stderr, Some(Arc::clone(&tail)))?;
    Ok(Launched { pid, channel: ours, lane, tail, readers: [out, err] })
}

/// As Node's own fork builds them: the interpreter's arguments, the script, its arguments. The
/// preload comes first, so that it is there before any other the operator has.
fn arguments(app: &App, preload: Option<&Preload>) -> Vec<OsString> {
    let preload = preload.map(|preload| ["--require".into(), preload.entry().into()]);
    let preload = preload.into_iter().flatten();
    let before = preload.chain(app.node_args.iter().map(OsString::from));
    let after = app.args.iter().map(OsString::from);
    before.chain([app.script.clone().into_os_string()]).chain(after).collect()
}

fn environment(
    config: &Config,
    id: WorkerId,
    unique: u32,
    preload: Option<&Preload>,
) -> Vec<(OsString, OsString)> {
    let slot = id.slot.to_string();
    let operators = config.app.env.iter().map(|(name, value)| (name.clone(), value.clone()));
    // Last, so that nothing the operator sets can take a worker's channel away.
    let ours = [
        (config.app.instance_var.as_str(), slot.clone()),
        ("pm_id", slot),
        ("name", config.app.name.clone()),
        ("NODE_UNIQUE_ID", unique.to_string()),
        ("NODE_CHANNEL_FD", process::CHANNEL_FD.to_string()),
        (
            "NODE_CHANNEL_SERIALIZATION_MODE",
            config.serialization.unwrap_or_default().as_str().to_owned(),
        ),
    ];
    let preload = preload.map(|preload| (preload::VARIABLE, preload.instruction(id)));
    let ours = ours.into_iter().chain(preload).map(|(name, value)| (name.to_owned(), value));
    operators.chain(ours).map(|(name, value)| (name.into(), value.into())).collect()
}

/// Reads a pipe to its end, prints its lines.
async fn read(
    mut pipe: pipe::Receiver,
    label: Label,
    printer: Printer,
    tail: Option<Arc<Mutex<Tail>>>,
) {
    let mut lines = Lines::default();
    let mut buffer = vec![0; READ_SIZE];
    loop {
        let read = pipe.read(&mut buffer).await.unwrap_or(0);
        let (mut printed, mut count) = (Vec::new(), 0);
        let mut take = |line: &[u8]| {
            label.render(line, &mut printed);
            count += 1;
            if let Some(tail) = &tail {
                tail.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        };
        if read == 0 {
            lines.finish(&mut take);
        } else {
            lines.push(&buffer[..read], &mut take);
        }
        if count > 0 {
            printer.print(label.stream, printed, count);
        }
        if read == 0 {
            return;
        }
    }
}

/// What stands before a worker's line.
#[derive(Clone, Debug)]
struct Label {
    format: LogFormat,
    app: String,
    slot: u16,
    stream: Stream,
}

impl Label {
    fn new(format: LogFormat, app: &str, slot: u16, stream: Stream) -> Self {
        Self { format, app: app.to_owned(), slot, stream }
    }

    /// PM2's form, or a JSON object; with its line end.
    fn render(&self, line: &[u8], out: &mut Vec<u8>) {
        match self.format {
            LogFormat::Pretty => {
                out.extend_from_slice(format!("{}|{} | ", self.slot, self.app).as_bytes());
                out.extend_from_slice(line);
            }
            LogFormat::Json => {
                let object = serde_json::json!({
                    "app": self.app,
                    "slot": self.slot,
                    "stream": self.stream.name(),
                    "message": String::from_utf8_lossy(line),
                });
                out.extend_from_slice(object.to_string().as_bytes());
            }
        }
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_labelled() {
        let render = |format, line: &[u8]| {
            let mut out = Vec::new();
            Label::new(format, "chat", 3, Stream::Stderr).render(line, &mut out);
            out
        };
        assert_eq!(render(LogFormat::Pretty, b"a \xff"), b"3|chat | a \xff\n");
        let json: serde_json::Value =
            serde_json::from_slice(&render(LogFormat::Json, b"a \"\xff")).expect("is JSON");
        assert_eq!(json["message"], "a \"\u{fffd}");
        assert_eq!(
            (&json["slot"], &json["stream"], &json["app"]),
            (&3.into(), &"stderr".into(), &"chat".into())
        );
    }

    #[test]
    fn the_operators_environment_cannot_take_the_channel() {
        let mut app = App::fixture();
        app.env.insert("NODE_CHANNEL_FD".into(), "9".into());
        app.args = vec!["--x".into()];
        app.node_args = vec!["--inspect".into()];
        assert_eq!(arguments(&app, None), ["--inspect", "/srv/app.js", "--x"]);
        let config = Config::fixture(app);
        let id = WorkerId { slot: 2, generation: 5 };
        let environment = environment(&config, id, 7, None);
        let last = |name: &str| {
            let found = environment.iter().rfind(|(key, _)| key == name);
            found.map(|(_, value)| value.to_string_lossy().into_owned())
        };
        assert_eq!(last("NODE_CHANNEL_FD").as_deref(), Some("3"));
        assert_eq!(last("NODE_UNIQUE_ID").as_deref(), Some("7"));
        assert_eq!(last("NODE_APP_INSTANCE").as_deref(), Some("2"));
        assert_eq!(last("NODE_CHANNEL_SERIALIZATION_MODE").as_deref(), Some("advanced"));
    }
}
