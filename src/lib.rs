//! `router` puts Socket.IO on every core of a host.
//!
//! The house, from the wire up. Arrows go down only (`tests/tidy.rs` keeps them):
//!
//! | room | what it is | may use |
//! |---|---|---|
//! | [`daemon`] | wiring and stop order | everything |
//! | [`manager`] | the daemon that keeps many apps: a router process for each | control, supervisor's output, config, sys |
//! | [`cli`] | the command line: options, and the commands that speak to the manager | config, control, metrics |
//! | [`control`] | how it is looked at and spoken to from outside: admin address, control sockets | config, metrics, sys |
//! | [`bus`] | the road to other hosts: a thread that speaks to a Redis | shard, ipc, route, config, metrics, sys |
//! | [`supervisor`] | the workers' processes: spawn, states, backoff, output | sys, ipc, route, config, metrics |
//! | [`shard`] | the data plane, one thread per core: accept, peek, route, hand off, relay | sys, http, ipc, route, metrics |
//! | [`config`] | what the operator asked for, raw then resolved | |
//! | [`route`] | which worker: roster, session table, balance | |
//! | [`ipc`] | pure: the frames and messages of Node's child channel | |
//! | [`http`] | pure: request line and `sid` | |
//! | [`metrics`] | what is counted, and its names | |
//! | [`sys`] | the only unsafe code and the only libc | |
//!
//! `http`, `ipc`, `route` and `config` know no file descriptor, no clock and no randomness:
//! bytes and `now` come in, decisions go out.
#![deny(unsafe_code)]

pub mod bus;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod http;
pub mod ipc;
pub mod manager;
pub mod metrics;
pub mod route;
pub mod shard;
pub mod supervisor;
pub mod sys;
