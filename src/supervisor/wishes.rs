//! What the settings wish for by themselves: a reload at a time, a restart when a file changes, a new
//! worker when one has grown too large.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use globset::GlobMatcher;
use jiff::Zoned;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::Wish;
use crate::config::{self, App, CronPattern};

/// The longest sleep before a pattern's next time is looked up again: clocks are set.
const CRON_SLEEP: Duration = Duration::from_secs(3600);
/// How long nothing more must change before a restart, at least: one save is several changes.
const WATCH_DELAY: Duration = Duration::from_millis(100);
/// How long after the first change the restart comes at the latest, if changes never cease, and if
/// the delay that was asked for is not longer.
const WATCH_LIMIT: Duration = Duration::from_secs(10);

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
                Err(error) => tracing::error!(%error, "no file is watched"),
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
    changes: UnboundedReceiver<PathBuf>,
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
        for (path, mode) in places(&app.watch) {
            // One that cannot be watched says nothing about the others.
            if let Err(error) = watcher.watch(&path, mode) {
                tracing::warn!(path = %path.display(), %error, "the path is not watched");
            }
        }
        Ok(Self { _watcher: watcher, changes, delay: app.watch_delay.max(WATCH_DELAY) })
    }

    /// Wishes for a restart when files have changed and no more do.
    async fn run(mut self, wishes: UnboundedSender<Wish>) {
        while let Some(path) = self.changes.recv().await {
            quiet(&mut self.changes, self.delay, WATCH_LIMIT.max(self.delay)).await;
            let why = format!("{} has changed", path.display());
            if wishes.send(Wish::Restart { why }).is_err() {
                return;
            }
        }
    }
}

/// Waits until nothing has changed for so long, but no longer than the limit.
async fn quiet(changes: &mut UnboundedReceiver<PathBuf>, delay: Duration, limit: Duration) {
    let latest = Instant::now() + limit;
    // Changes that are there already are received without a look at the clock: it is looked at here.
    while Instant::now() < latest {
        let end = latest.min(Instant::now() + delay);
        let Ok(Some(_)) = timeout_at(end, changes.recv()).await else { return };
    }
}

/// What is to be watched, and how, so that these paths are seen to change.
///
/// A file is watched by its directory: whoever saves it may replace it by another, and a watch on
/// the old one ends with that. Of a link, what it leads to is watched as well.
fn places(paths: &[PathBuf]) -> Vec<(PathBuf, RecursiveMode)> {
    let (directories, files): (Vec<&PathBuf>, Vec<&PathBuf>) =
        paths.iter().partition(|path| path.is_dir());
    // A directory may be reached by several names; the kernel has one watch for it.
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let watched: Vec<PathBuf> = directories.iter().map(|path| real(path)).collect();
    let parents = files.into_iter().flat_map(|file| names(file)).filter_map(|name| {
        let parent = name.parent()?.to_owned();
        // To watch a directory a second time would make its watch no longer recursive.
        let covered = watched.iter().any(|directory| real(&parent).starts_with(directory));
        (!covered).then_some((parent, RecursiveMode::NonRecursive))
    });
    let directories = directories.iter().map(|path| ((*path).clone(), RecursiveMode::Recursive));
    directories.chain(parents).collect()
}

/// The path; and what it leads to, if it is a link.
fn names(path: &Path) -> Vec<PathBuf> {
    let target = path.is_symlink().then(|| path.canonicalize().ok()).flatten();
    [path.to_owned()].into_iter().chain(target).collect()
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
        let roots = app.watch.iter().flat_map(|path| names(path));
        Self { roots: roots.collect(), ignored: ignored.collect() }
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
    use tokio::time::timeout;

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

    /// The wishes of these settings, one after each thing that is done.
    fn wishes(app: &App, acts: &mut [&mut dyn FnMut()]) -> Vec<Wish> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        LocalSet::new().block_on(&runtime.expect("a runtime"), async {
            let (sender, mut wishes) = unbounded_channel();
            let _wishers = Wishers::start(app, &sender);
            let mut all = Vec::new();
            for act in acts {
                act();
                all.push(timeout(SOON, wishes.recv()).await.expect("in time").expect("a wish"));
            }
            all
        })
    }

    /// A directory of one test's own, gone with it.
    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            let path = nix::unistd::mkdtemp(&std::env::temp_dir().join("router-XXXXXX"));
            Self(path.expect("writable").canonicalize().expect("it is there"))
        }

        /// Puts a new file in the place of the old one, as editors do.
        fn replace(&self, file: &Path) {
            let draft = self.0.join("draft");
            std::fs::write(&draft, "new").expect("writable");
            std::fs::rename(&draft, file).expect("ours");
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).expect("ours");
        }
    }

    fn changed(file: &Path) -> Wish {
        Wish::Restart { why: format!("{} has changed", file.display()) }
    }

    #[test]
    fn a_changed_file_is_a_restart() {
        let directory = Directory::new();
        let app = App { watch: vec![directory.0.clone()], ..App::fixture() };
        let file = directory.0.join("index.js");
        let seen = wishes(&app, &mut [&mut || std::fs::write(&file, "changed").expect("writable")]);
        assert_eq!(seen, [changed(&file)]);
    }

    #[test]
    fn a_file_that_is_replaced_is_watched_on() {
        let directory = Directory::new();
        let file = directory.0.join("chat.conf");
        std::fs::write(&file, "old").expect("writable");
        let app = App { watch: vec![file.clone()], ..App::fixture() };
        let seen = wishes(
            &app,
            &mut [
                &mut || directory.replace(&file),
                &mut || directory.replace(&file),
                &mut || std::fs::remove_file(&file).expect("ours"),
                &mut || std::fs::write(&file, "again").expect("writable"),
            ],
        );
        assert_eq!(seen, [(); 4].map(|()| changed(&file)));
    }

    #[test]
    fn a_path_that_cannot_be_watched_is_no_harm_to_the_others() {
        let (directory, other) = (Directory::new(), Directory::new());
        let missing = directory.0.join("no/such/file");
        let (link, target) = (directory.0.join("link"), other.0.join("target"));
        std::fs::write(&target, "old").expect("writable");
        std::os::unix::fs::symlink(&target, &link).expect("writable");
        let app = App { watch: vec![missing, link], ..App::fixture() };
        let seen = wishes(&app, &mut [&mut || std::fs::write(&target, "new").expect("writable")]);
        assert_eq!(seen, [changed(&target)]);
    }

    #[test]
    fn a_file_in_a_watched_directory_does_not_narrow_its_watch() {
        let directory = Directory::new();
        let (file, below) = (directory.0.join("chat.conf"), directory.0.join("src"));
        std::fs::create_dir(&below).expect("writable");
        std::fs::write(&file, "old").expect("writable");
        let paths = [file, directory.0.clone()];
        assert_eq!(places(&paths), [(directory.0.clone(), RecursiveMode::Recursive)]);
        let elsewhere = (below.clone(), RecursiveMode::NonRecursive);
        assert_eq!(places(&[below.join("a.js")]), [elsewhere]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn changes_that_never_cease_are_not_waited_for() {
        let (sender, mut changes) = unbounded_channel();
        let never = Duration::from_secs(3600);
        let limit = Duration::from_millis(30);
        let flood = async {
            while sender.send(PathBuf::new()).is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = quiet(&mut changes, never, limit) => {}
            () = flood => panic!("somebody listens"),
            () = sleep(SOON) => panic!("it waits on"),
        }
        // And when they have ceased, the delay is all that is waited for.
        while changes.try_recv().is_ok() {}
        timeout(SOON, quiet(&mut changes, limit, never)).await.expect("it does not wait on");
    }

    #[test]
    fn a_time_that_comes_is_a_reload() {
        let every_second = Some("* * * * * *".parse().expect("a pattern"));
        let app = App { cron_restart: every_second, ..App::fixture() };
        let seen = wishes(&app, &mut [&mut || {}]);
        assert!(matches!(seen[..], [Wish::Reload { why: Some(_) }]), "{seen:?}");
    }
}
