//! The words the tests are told with: start a router, talk to it, look at its processes.
//! Everything waits with a deadline and ends what it started, by id.

pub mod browser;
pub mod cluster;
pub mod debian;
pub mod home;
pub mod http;
pub mod load;
pub mod log;
pub mod nginx;
pub mod node;
pub mod plain;
pub mod pm2;
pub mod polling;
pub mod process;
pub mod redis;
pub mod router;
pub mod terminal;

pub use cluster::Cluster;
pub use home::Home;
pub use http::{Connection, Response};
pub use nginx::Nginx;
pub use plain::PlainNode;
pub use polling::Session;
pub use redis::Redis;
pub use router::{Builder, Router};

use serde_json::Value;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// The two ways the data plane reaches the kernel; every test runs on both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Uring,
    Portable,
}

impl Engine {
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Portable => "portable",
        }
    }

    /// False when `ROUTER_TEST_ENGINE` restricts the run to the other one.
    pub fn wanted(self) -> bool {
        match std::env::var("ROUTER_TEST_ENGINE") {
            Ok(only) if !only.is_empty() => only == self.name(),
            _ => true,
        }
    }
}

/// One behaviour, two tests: `name::uring` and `name::portable`.
#[macro_export]
macro_rules! both_engines {
    ($($(#[$meta:meta])* fn $name:ident($engine:ident) $body:block)+) => {$(
        mod $name {
            #[allow(unused_imports, reason = "not every behaviour needs all of its file's words")]
            use super::*;

            #[test]
            fn uring() {
                behaves($crate::harness::Engine::Uring);
            }

            #[test]
            fn portable() {
                behaves($crate::harness::Engine::Portable);
            }

            $(#[$meta])*
            fn behaves($engine: $crate::harness::Engine) {
                if $engine.wanted() {
                    $body
                } else {
                    eprintln!("skipped: ROUTER_TEST_ENGINE asks for the other engine");
                }
            }
        }
    )+};
}

/// How long anything ordinary may take before the test says what it was waiting for. Generous:
/// the machine may be busy, and a passing test never waits this long.
pub const SOON: Duration = Duration::from_secs(20);

/// Looks again and again until `check` gives something; panics with `what` after `limit`.
pub fn until<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The router under test: this build's, or the one ROUTER_TEST_BINARY names.
pub fn binary() -> std::ffi::OsString {
    std::env::var_os("ROUTER_TEST_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_router").into())
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn fixture(app: &str) -> PathBuf {
    repository().join("tests/node/apps").join(format!("{app}.js"))
}

/// A directory of one test's own, gone with it.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("router-it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in it and gives its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The same, executable.
    pub fn write_script(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.write(name, text);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a scenario of `tests/node/clients` to its end and gives what it printed.
#[track_caller]
pub fn client(scenario: &str, url: &str, options: &Value) -> Value {
    let output = Command::new("node")
        .arg(repository().join("tests/node/clients/run.js"))
        .args([scenario, url, &options.to_string()])
        .stdin(Stdio::null())
        .output()
        .expect("node is on PATH");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "scenario {scenario} {options}: {err}{out}");
    serde_json::from_str(out.trim()).unwrap_or_else(|e| panic!("{scenario} printed {out:?}: {e}"))
}

/// The counts of a scenario's `pids`, sorted: `[8, 8]` for 16 clients shared evenly.
pub fn shares(seen: &Value) -> Vec<u64> {
    let mut counts: Vec<u64> =
        seen["pids"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).collect();
    counts.sort_unstable();
    counts
}

/// A small generator with a printed seed: enough for bytes that have no pattern.
pub struct Random(u64);

impl Random {
    pub fn new() -> Self {
        let seed = std::env::var("ROUTER_TEST_SEED").ok().and_then(|s| s.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            now.as_nanos() as u64
        });
        println!("ROUTER_TEST_SEED={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

/// Two routers with their workers are all that two cores carry without timing out: the other
/// tests wait. A thread that holds a place may start a second router in it.
pub struct Place;

const PLACES: usize = 2;
static TAKEN: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

impl Place {
    pub fn take() -> Self {
        let held = HELD.get();
        if held == 0 {
            let mut taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            while *taken >= PLACES {
                taken = FREED.wait(taken).unwrap_or_else(std::sync::PoisonError::into_inner);
            }
            *taken += 1;
        }
        HELD.set(held + 1);
        Self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
        if HELD.get() == 0 {
            *TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner) -= 1;
            FREED.notify_one();
        }
    }
}
