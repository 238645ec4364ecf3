//! The integration tests: the real router with real Node workers and real clients, one binary.
//!
//! | module | what it shows |
//! |---|---|
//! | `allocations` | what the hot path asks of the allocator |
//! | `admin` | the admin address: probes, status, metrics, and the page in a browser |
//! | `apps` | many apps in the background: the daemon and its commands |
//! | `bus` | several hosts on one Redis, with router and without; what goes wrong between them |
//! | `core` | what must hold on every Node version: the cluster, sessions, bodies, Node's own cluster |
//! | `edges` | what arrives that is no ordinary request |
//! | `failures` | workers that die, stop, run out or misbehave |
//! | `interpreters` | Bun and Deno in Node's place |
//! | `lane` | how sockets reach workers: hand-off modes, several servers, workers that stop or run out |
//! | `lifecycle` | starting, restarting and stopping workers |
//! | `proxy` | the PROXY protocol: whom the workers see, and who is turned away |
//! | `tls` | what the router cannot read: TLS on an application's own port, and `--sticky ip` |
//! | `unchanged` | applications that know nothing of the router, under `node` and under it |
//! | `logs` | the workers' log files: names, rotation, and disks that are full or stuck |
//! | `limits` | memory, time, changed files; descendants |
//! | `reload` | new workers for old ones, under load |
//! | `systemd` | what a service manager passes to the router, and is told by it; logs that move |
//! | `upgrade` | another program in the same process, under load |
//! | `cli` | flags, errors and the README |
//! | `tidy` | rules over the source text |
//!
//! | variable | meaning |
//! |---|---|
//! | `ROUTER_TEST_NODE` | 18, 20, 22, 24 or 26: the Node the workers run on; unset: the `node` on PATH |
//! | `ROUTER_TEST_ENGINE` | `uring` or `portable`: only this engine's tests |
//! | `ROUTER_TEST_BINARY` | the router to test instead of this build's (a release build, say) |
//! | `ROUTER_TEST_SEED` | repeats a random test; each prints its own |
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    missing_debug_implementations,
    missing_docs,
    unreachable_pub,
    reason = "tests wait for real processes, print what they saw, and fail by panicking"
)]

mod harness;

mod admin;
mod allocations;
mod apps;
mod bus;
mod cli;
mod core;
mod edges;
mod failures;
mod interpreters;
mod lane;
mod lifecycle;
mod limits;
mod logs;
mod orphans;
mod proxy;
mod reload;
mod systemd;
mod tidy;
mod tls;
mod unchanged;
mod upgrade;
