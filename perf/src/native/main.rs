//! The other side of the `native` scenario: workers that answer at once, so that what stands in front is
//! what limits; and the least that could stand there, as loops that accept, peek and hand over, on what
//! else there is.

mod contender;
mod worker;

use std::os::fd::RawFd;

use anyhow::Result;
use clap::{Parser, ValueEnum};

#[derive(Debug, Parser)]
enum Arguments {
    /// Answers what comes over a lane
    Worker {
        /// The lane's descriptor
        #[arg(long)]
        lane: RawFd,
    },
    /// Hands connections to workers in turn
    Contender {
        /// On what it runs
        on: On,
        /// Where it listens, on 127.0.0.1
        #[arg(long)]
        port: u16,
        /// How many workers it starts
        #[arg(long)]
        workers: usize,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum On {
    /// epoll, level-triggered
    Epoll,
    /// monoio's io_uring driver
    Monoio,
    /// tokio-uring
    TokioUring,
}

fn main() -> Result<()> {
    // By router it is started as a Node worker is, with words that mean Node's.
    if let Ok(part) = std::env::var("ROUTER_WORKER") {
        return worker::by_router(&part);
    }
    match Arguments::parse() {
        Arguments::Worker { lane } => worker::serve(lane),
        Arguments::Contender { on, port, workers } => contender::run(on, port, workers),
    }
}
