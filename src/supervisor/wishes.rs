//! What the settings wish for by themselves: a reload at a time, a restart when a file changes, a new
//! worker when one has grown too large.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use globset::GlobMatcher;
use jiff::Zoned;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::Wish;
use crate::config::{self, App, CronPattern};

/// The longest sleep before a pattern's next time is looked up again: clocks are set.
const CRON_SLEEP: Duration = Duration::from_secs(3600);
/// How long nothing more must change before a restart, at least: one save is several changes.
const WATCH_DELAY: Duration = Duration::from_millis(100);

/// The tasks that wish; they end with this value.
#[derive(Debug)]
pub(super) struct Wishers {
    tasks: Vec<JoinHandle<()>>,
}

impl Wishers {
    /// Starts those that the app's settings ask for.
    pub(super) fn start(app: &App, wishes: &UnboundedSender<Wish>) -> Self {
        let mut tasks = Vec::new();
        if let Some(pattern) = &app.cron_restart {
            tasks.push(tokio::task::spawn_local(at_times(pattern.clone(), wishes.clone())));
        }
        if !app.watch.is_empty() {
            match Watch::start(app) {
                Ok(watch) => tasks.push(tokio::task::spawn_local(watch.run(wishes.clone()))),
                Err(error) => tracing::error!(%error, "files are not watched"),
            }
        }
        Self { tasks }
    }
}

impl Drop for Wishers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Wishes for a reload at each time that the pattern means.
async fn at_times(pattern: CronPattern, wishes: UnboundedSender<Wish>) {
    let mut last = Zoned::now();
    while let Some(next) = pattern.next(&last) {
        loop {
            // Negative when the time has come meanwhile.
            let left = Zoned::now().duration_until(&next);
            let Ok(left) = Duration::try_from(left) else { break };
            if left.is_zero() {
                break;
            }
            sleep(left.min(CRON_SLEEP)).await;
        }
        let why = Some(format!("it is {next}"));
        if wishes.send(Wish::Reload { why }).is_err() {
            return;
        }
        // A clock that was set far ahead makes up for one time, not for all of them.
        last = next.max(Zoned::now());
    }
    tracing::warn!(%pattern, "the pattern means no time any more");
}

/// The files whose changes are wished to be seen.
struct Watch {
    /// Watches as long as it is kept.
    _watcher: RecommendedWatcher,
    changes: mpsc::UnboundedReceiver<PathBuf>,
    delay: Duration,
}

impl Watch {
    fn start(app: &App) -> notify::Result<Self> {
        let (sender, changes) = mpsc::unbounded_channel();
        let scope = Scope::of(app);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            match event {
                Ok(event) if matters(&event.kind) => {
                    let seen = event.paths.into_iter().find(|path| scope.contains(path));
                    // Nobody listens when the router is ending.
                    seen.map(|path| sender.send(path));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "a change may have been missed"),
            }
        })?;
        for path in &app.watch {
            watcher.watch(path, RecursiveMode::Recursive)?;
        }
        Ok(Self { _watcher: watcher, changes, delay: app.watch_delay.max(WATCH_DELAY) })
    }

    /// Wishes for a restart when files have changed and no more do.
    async fn run(mut self, wishes: UnboundedSender<Wish>) {
        while let Some(path) = self.changes.recv().await {
            while let Ok(Some(_)) = timeout(self.delay, self.changes.recv()).await {}
            let why = format!("{} has changed", path.display());
            if wishes.send(Wish::Restart { why }).is_err() {
                return;
            }
        }
    }
}

/// Reading a file changes nothing.
fn matters(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_))
}

/// What is watched and what is not.
struct Scope {
    roots: Vec<PathBuf>,
    ignored: Vec<GlobMatcher>,
}

impl Scope {
    fn of(app: &App) -> Self {
        // Those that are no globs were refused with the settings.
        let ignored = app.ignore_watch.iter().filter_map(|pattern| config::glob(pattern).ok());
        Self { roots: app.watch.clone(), ignored: ignored.collect() }
    }

    /// Whether a change of this file counts. Below a root, `node_modules`, names that begin with a
    /// dot, and what a glob names (a directory with all that is in it) do not.
    fn contains(&self, path: &Path) -> bool {
        let below = self.roots.iter().filter_map(|root| path.strip_prefix(root).ok());
        below.into_iter().any(|below| {
            let hidden = |part: Component<'_>| {
                let name = part.as_os_str();
                name == OsStr::new("node_modules") || name.as_encoded_bytes().starts_with(b".")
            };
            let named = |part: &Path| {
                let name = part.file_name().unwrap_or_default();
                self.ignored.iter().any(|glob| glob.is_match(part) || glob.is_match(name))
            };
            !below.components().any(hidden)
                && !below.ancestors().filter(|part| *part != Path::new("")).any(named)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::unbounded_channel;
    use tokio::task::LocalSet;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn what_is_watched_and_what_is_not() {
        let app = App {
            watch: vec!["/srv/app".into(), "/etc/chat.conf".into()],
            ignore_watch: vec!["*.log".into(), "public/uploads".into()],
            ..App::fixture()
        };
        let scope = Scope::of(&app);
        for (path, counts) in [
            ("/srv/app/index.js", true),
            ("/srv/app/src/a/b.js", true),
            ("/etc/chat.conf", true),
            ("/etc/other.conf", false),
            ("/srv/app/node_modules/x/index.js", false),
            ("/srv/app/.git/HEAD", false),
            ("/srv/app/src/.b.js.swp", false),
            ("/srv/app/logs/out.log", false),
            ("/srv/app/public/uploads/cat.png", false),
            ("/srv/app/public/index.html", true),
        ] {
            assert_eq!(scope.contains(Path::new(path)), counts, "{path}");
        }
    }

    /// The first wish of these settings, after something was done.
    fn wish(app: &App, act: impl FnOnce()) -> Wish {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        LocalSet::new().block_on(&runtime.expect("a runtime"), async {
            let (sender, mut wishes) = unbounded_channel();
            let _wishers = Wishers::start(app, &sender);
            act();
            timeout(SOON, wishes.recv()).await.expect("in time").expect("a wish")
        })
    }

    #[test]
    fn a_changed_file_is_a_restart() {
        let directory = nix::unistd::mkdtemp(&std::env::temp_dir().join("router-XXXXXX"));
        let directory = directory.expect("writable");
        let app = App { watch: vec![directory.clone()], ..App::fixture() };
        let file = directory.join("index.js");
        let wish = wish(&app, || std::fs::write(&file, "changed").expect("writable"));
        assert_eq!(wish, Wish::Restart { why: format!("{} has changed", file.display()) });
        std::fs::remove_dir_all(directory).expect("ours");
    }

    #[test]
    fn a_time_that_comes_is_a_reload() {
        let every_second = Some("* * * * * *".parse().expect("a pattern"));
        let wish = wish(&App { cron_restart: every_second, ..App::fixture() }, || {});
        assert!(matches!(wish, Wish::Reload { why: Some(_) }), "{wish:?}");
    }
}
