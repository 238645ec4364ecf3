//! What the service manager is told (`NOTIFY_SOCKET`): ready, reloading, stopping, and, as long as
//! it is true, that the router is alive (`WATCHDOG_USEC`).
//!
//! A reload and an upgrade are both "reloading" to the manager; it is over when neither goes on.

use std::cell::RefCell;
use std::convert::Infallible;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::shards::{clock, post};
use crate::shard::Shared;
use crate::shard::ring::Mail;
use crate::supervisor::Standing;
use crate::sys::clock::monotonic;
use crate::sys::socket;

/// The time between two reports on how the workers stand. What changes sooner is held back.
const STATUS_GAP: Duration = Duration::from_secs(1);
/// How often it is looked whether the shards have answered.
const LOOK: Duration = Duration::from_millis(10);

/// What the manager knows. It crosses an upgrade.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    ready: bool,
    reloading: bool,
    upgrading: bool,
    stopping: bool,
}

impl Told {
    /// How the workers stand: what there is to say at once.
    fn stands(&mut self, standing: Standing) -> Vec<String> {
        let before = self.clone();
        self.ready |= standing.ready > 0;
        self.reloading = standing.reloading;
        self.since(&before)
    }

    fn upgrades(&mut self, upgrading: bool) -> Vec<String> {
        let before = self.clone();
        self.upgrading = upgrading;
        self.since(&before)
    }

    fn stops(&mut self) -> Vec<String> {
        let first = !std::mem::replace(&mut self.stopping, true);
        if first { vec!["STOPPING=1".to_owned()] } else { vec![] }
    }

    fn changes(&self) -> bool {
        self.reloading || self.upgrading
    }

    /// What has changed. Before it is ready and once it stops there is no reload to the manager.
    fn since(&self, before: &Self) -> Vec<String> {
        if !self.ready || self.stopping {
            return vec![];
        }
        let mut words = Vec::new();
        if !before.ready {
            words.push("READY=1".to_owned());
        }
        match (before.ready && before.changes(), self.changes()) {
            (false, true) => words.push("RELOADING=1".to_owned()),
            (true, false) => words.push("READY=1".to_owned()),
            _ => {}
        }
        words
    }
}

/// The reports on how the workers stand: at most one within [`STATUS_GAP`], and the last of them in
/// any case.
#[derive(Debug, Default)]
struct Reports {
    /// The last one, and when it was made.
    made: Option<(Instant, String)>,
    /// What is still to be reported; not what was reported last.
    held: Option<String>,
}

impl Reports {
    /// In place of what was held.
    fn hold(&mut self, standing: Standing) {
        let Standing { ready, wanted, draining, .. } = standing;
        let draining = if draining > 0 { format!(", {draining} draining") } else { String::new() };
        let report = format!("STATUS={ready} of {wanted} workers ready{draining}");
        let known = self.made.as_ref().is_some_and(|(_, made)| *made == report);
        self.held = (!known).then_some(report);
    }

    /// For how long what is held must still wait; `None`: nothing is.
    fn wait(&self, now: Instant) -> Option<Duration> {
        self.held.as_ref()?;
        let past = self.made.as_ref().map_or(STATUS_GAP, |(at, _)| now.duration_since(*at));
        Some(STATUS_GAP.saturating_sub(past))
    }

    /// What is to be reported now.
    fn take(&mut self, now: Instant) -> Option<String> {
        let due = self.wait(now)?.is_zero();
        if due { self.take_early(now) } else { None }
    }

    /// What is held, for there will be no other time for it.
    fn take_early(&mut self, now: Instant) -> Option<String> {
        let report = self.held.take()?;
        self.made = Some((now, report.clone()));
        Some(report)
    }
}

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    told: Told,
    reports: Reports,
    /// Wakes [`make_reports`] up.
    held: Rc<tokio::sync::Notify>,
    /// The last message could not be sent: said once.
    failing: bool,
}

/// Shared by all on the control thread who have something to say.
pub type Notify = Rc<RefCell<Notifier>>;

impl Notifier {
    /// To the manager that the environment names, who knows this much.
    #[must_use]
    pub fn from_environment(told: Told) -> Notify {
        let manager = socket::service_manager().unwrap_or_else(|error| {
            tracing::warn!(%error, "the service manager cannot be told anything");
            None
        });
        Self::new(manager, told)
    }

    fn new(manager: Option<(UnixDatagram, SocketAddr)>, told: Told) -> Notify {
        let (reports, held) = (Reports::default(), Rc::default());
        Rc::new(RefCell::new(Self { manager, told, reports, held, failing: false }))
    }

    /// What the manager knows.
    #[must_use]
    pub fn told(&self) -> Told {
        self.told.clone()
    }

    /// How the workers stand.
    pub fn stands(&mut self, standing: Standing, now: Instant) {
        let mut words = self.told.stands(standing);
        if !self.told.stopping {
            self.reports.hold(standing);
            words.extend(self.reports.take(now));
            self.held.notify_one();
        }
        self.say(words);
    }

    /// Makes the report that is due; says when to look for the next, if there will be one.
    fn report(&mut self, now: Instant) -> Option<Duration> {
        let report = self.reports.take(now);
        self.say(report.into_iter().collect());
        self.reports.wait(now)
    }

    /// There will be no more reports: makes the one that was held back.
    pub fn last_report(&mut self, now: Instant) {
        let report = self.reports.take_early(now);
        self.say(report.into_iter().collect());
    }

    /// An upgrade begins, or is over, done or not.
    pub fn upgrades(&mut self, upgrading: bool) {
        let words = self.told.upgrades(upgrading);
        self.say(words);
    }

    /// The router is to end.
    pub fn stops(&mut self, now: Instant) {
        self.last_report(now);
        let words = self.told.stops();
        self.say(words);
    }

    fn say(&mut self, mut words: Vec<String>) {
        if self.manager.is_none() || words.is_empty() {
            return;
        }
        if words.iter().any(|word| word == "RELOADING=1") {
            match monotonic() {
                Ok(now) => words.push(format!("MONOTONIC_USEC={}", now.as_micros())),
                Err(error) => tracing::warn!(%error, "the reload is announced without its time"),
            }
        }
        self.send(&words.join("\n"));
    }

    fn send(&mut self, text: &str) {
        let Some((socket, address)) = &self.manager else { return };
        match socket.send_to_addr(text.as_bytes(), address) {
            Ok(_) => self.failing = false,
            Err(error) if self.failing => tracing::debug!(%error, text, "not told"),
            Err(error) => {
                self.failing = true;
                tracing::warn!(%error, text, "the service manager could not be told");
            }
        }
    }
}

/// How long the manager waits for a sign of life; `None`: it wants none, or another process's.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    let (microseconds, pid) = (variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
    limit(microseconds.as_deref(), pid.as_deref(), std::process::id()).unwrap_or_else(|wrong| {
        tracing::warn!(
            "{wrong}: the service manager's watchdog is not fed, and may end the router"
        );
        None
    })
}

/// As sd_watchdog_enabled(3) reads the two variables. The error is what is wrong with one of them.
fn limit(
    microseconds: Option<&str>,
    pid: Option<&str>,
    ours: u32,
) -> Result<Option<Duration>, String> {
    let Some(microseconds) = microseconds else { return Ok(None) };
    let wanted = match pid.map(str::parse) {
        None => ours,
        Some(Ok(pid)) => pid,
        Some(Err(_)) => return Err(format!("WATCHDOG_PID={} is no pid", pid.unwrap_or_default())),
    };
    match microseconds.parse() {
        _ if wanted != ours => Ok(None),
        Ok(0) => Ok(None),
        Ok(limit) => Ok(Some(Duration::from_micros(limit))),
        Err(_) => Err(format!("WATCHDOG_USEC={microseconds} is not a number of microseconds")),
    }
}

/// Makes the reports that were held back, each when its time has come.
pub async fn make_reports(notify: Notify) -> Infallible {
    let held = Rc::clone(&notify.borrow().held);
    loop {
        let wait = notify.borrow_mut().report(clock());
        match wait {
            Some(wait) => sleep(wait).await,
            None => held.notified().await,
        }
    }
}

/// Gives the sign of life twice within `limit`, each time after every shard has taken a piece of mail
/// and this thread has come to look for it.
pub async fn feed(notify: Notify, shared: &Shared, limit: Duration) -> Infallible {
    let mut turns = interval((limit / 2).max(Duration::from_millis(1)));
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let answered = |beats: u64| {
        move |shared: &Shared| shared.beats.iter().all(|beat| beat.load(Ordering::Acquire) >= beats)
    };
    for asked in 1.. {
        turns.tick().await;
        // All have answered the one before: no mailbox is filled up with these.
        for shard in 0..shared.mailboxes.len() {
            post(shared, shard, Mail::Beat);
        }
        while !answered(asked)(shared) {
            sleep(LOOK.min(limit / 8)).await;
        }
        notify.borrow_mut().send("WATCHDOG=1");
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::timeout;

    use super::*;
    use crate::route::balance::Balance;
    use crate::shard::ring::Mailbox;
    use crate::shard::{MAX_OUT_QUEUE, Settings};
    use crate::sys::wake::Wake;
    use std::os::linux::net::SocketAddrExt;

    const fn standing(ready: usize, reloading: bool) -> Standing {
        Standing { ready, draining: 0, wanted: 2, reloading }
    }

    /// A manager of this test's own, and the way to it.
    fn manager(test: &str) -> (UnixDatagram, Notify) {
        let name = format!("router-test-{}-{test}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("short");
        let manager = UnixDatagram::bind_addr(&address).expect("nobody else's");
        manager.set_nonblocking(true).expect("ours");
        let reached = socket::reach_manager(format!("@{name}").as_ref()).expect("it is there");
        (manager, Notifier::new(Some(reached), Told::default()))
    }

    /// Of two shards that nobody runs.
    fn shared() -> Arc<Shared> {
        let mailbox = || Mailbox::new(Arc::new(Wake::new().expect("a descriptor is left")));
        let settings = Settings {
            balance: Balance::LeastConnection,
            head_timeout: Duration::from_secs(1),
            out_queue: MAX_OUT_QUEUE,
            lanes: false,
            self_routing: false,
            by_address: false,
        };
        Shared::new(vec![mailbox(), mailbox()], None, settings, None, clock())
    }

    #[test]
    fn ready_is_said_once_and_after_each_reload() {
        let mut told = Told::default();
        assert!(told.stands(standing(0, false)).is_empty());
        assert_eq!(told.stands(standing(1, false)), ["READY=1"]);
        assert!(told.stands(standing(2, false)).is_empty());
        assert_eq!(told.stands(standing(2, true)), ["RELOADING=1"]);
        // An upgrade in the midst of a reload: all of it is one to the manager.
        assert!(told.upgrades(true).is_empty());
        assert!(told.stands(standing(2, false)).is_empty());
        assert_eq!(told.upgrades(false), ["READY=1"]);
        assert!(told.upgrades(false).is_empty());
        assert_eq!(told.upgrades(true), ["RELOADING=1"]);
        assert_eq!(told.stops(), ["STOPPING=1"]);
        assert!(told.stops().is_empty() && told.upgrades(false).is_empty());
        assert!(told.stands(standing(0, false)).is_empty());
    }

    #[test]
    fn reports_keep_their_distance_and_the_last_is_made() {
        let start = clock();
        let ms = |ms| start + Duration::from_millis(ms);
        let mut reports = Reports::default();
        assert_eq!((reports.wait(start), reports.take(start)), (None, None));
        reports.hold(standing(0, false));
        assert_eq!(reports.take(start).as_deref(), Some("STATUS=0 of 2 workers ready"));
        reports.hold(standing(1, false));
        assert_eq!(reports.take(ms(200)), None);
        assert_eq!(reports.wait(ms(200)), Some(Duration::from_millis(800)));
        reports.hold(Standing { draining: 3, ..standing(2, false) });
        assert_eq!(reports.take(ms(999)), None);
        let last = "STATUS=2 of 2 workers ready, 3 draining";
        assert_eq!(reports.take(ms(1000)).as_deref(), Some(last));
        assert_eq!((reports.wait(ms(1000)), reports.take(ms(5000))), (None, None));
        // There and back again is nothing to report.
        reports.hold(standing(1, false));
        reports.hold(Standing { draining: 3, ..standing(2, false) });
        assert_eq!((reports.wait(ms(1500)), reports.take_early(ms(1500))), (None, None));
        reports.hold(standing(2, false));
        assert_eq!(reports.take(ms(1500)), None);
        let early = reports.take_early(ms(1500));
        assert_eq!(early.as_deref(), Some("STATUS=2 of 2 workers ready"));
        assert_eq!(reports.wait(ms(1500)), None);
    }

    #[test]
    fn what_was_held_back_is_reported_in_time_or_at_the_end() {
        let (manager, notify) = manager("reports");
        let heard = || {
            let mut text = [0; 99];
            let length = manager.recv(&mut text).ok()?;
            Some(String::from_utf8_lossy(&text[..length]).into_owned())
        };
        let start = clock();
        let stands = |ready| notify.borrow_mut().stands(standing(ready, false), start);
        stands(0);
        assert_eq!(heard().as_deref(), Some("STATUS=0 of 2 workers ready"));
        stands(1);
        assert_eq!(heard().as_deref(), Some("READY=1"));
        assert_eq!(notify.borrow_mut().report(start), Some(STATUS_GAP));
        assert_eq!(heard(), None);
        assert_eq!(notify.borrow_mut().report(start + STATUS_GAP), None);
        assert_eq!(heard().as_deref(), Some("STATUS=1 of 2 workers ready"));
        stands(2);
        assert_eq!(heard(), None);
        notify.borrow_mut().stops(start);
        assert_eq!(heard().as_deref(), Some("STATUS=2 of 2 workers ready"));
        assert_eq!(heard().as_deref(), Some("STOPPING=1"));
        stands(0);
        notify.borrow_mut().last_report(start);
        assert_eq!(heard(), None);
    }

    #[test]
    fn an_upgrade_before_it_is_ready_does_not_make_it_so() {
        let mut told = Told::default();
        assert!(told.upgrades(true).is_empty() && told.upgrades(false).is_empty());
        assert_eq!(told.stands(standing(1, false))[0], "READY=1");
    }

    #[test]
    fn the_watchdog_of_another_process_is_not_fed() {
        let asked = |usec, pid| limit(usec, pid, 7);
        assert_eq!(asked(Some("2000"), None), Ok(Some(Duration::from_millis(2))));
        assert_eq!(asked(Some("2000"), Some("7")), Ok(Some(Duration::from_millis(2))));
        for (usec, pid) in [(None, None), (Some("2000"), Some("8")), (Some("0"), None)] {
            assert_eq!(asked(usec, pid), Ok(None), "{usec:?} {pid:?}");
        }
        for (usec, pid) in [("2s", None), ("", None), ("-1", Some("7")), ("2000", Some("x"))] {
            let wrong = asked(Some(usec), pid).expect_err("it is malformed");
            assert!(wrong.starts_with("WATCHDOG_"), "{wrong}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn it_is_fed_only_when_every_shard_answers() {
        const LIMIT: Duration = Duration::from_millis(4);
        const LONG: Duration = Duration::from_millis(100);
        let (manager, notify) = manager("watchdog");
        let shared = shared();
        shared.beats[0].store(u64::MAX, Ordering::Relaxed);
        let hungry = timeout(LONG, feed(Rc::clone(&notify), &shared, LIMIT)).await;
        assert!(hungry.is_err() && manager.recv(&mut [0; 99]).is_err(), "one has not answered");
        // Nobody is asked again who has not answered.
        let held =
            shared.mailboxes.iter().map(|mailbox| std::iter::from_fn(|| mailbox.take()).count());
        assert_eq!(held.collect::<Vec<_>>(), [1, 1]);
        shared.beats[1].store(u64::MAX, Ordering::Relaxed);
        let fed = timeout(LONG, feed(notify, &shared, LIMIT)).await;
        let mut text = [0; 99];
        for _ in 0..2 {
            let length = manager.recv(&mut text).expect("it was fed");
            assert_eq!(&text[..length], b"WATCHDOG=1");
        }
        assert!(fed.is_err(), "it never ends");
    }

    #[test]
    fn a_manager_is_a_path_or_an_abstract_name() {
        let address = |name: &str| socket::reach_manager(name.as_ref()).map(|(_, address)| address);
        assert!(address("/run/x").expect("a path").as_pathname().is_some());
        assert_eq!(address("@x").expect("a name").as_abstract_name(), Some(&b"x"[..]));
        address("vsock:2:1").expect_err("neither");
    }
}
