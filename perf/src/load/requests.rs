//! One request to a connection.

use anyhow::{Result, ensure};

use super::http::Client;
use super::{Doer, Target};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Once {
    pub(crate) target: Target,
    pub(crate) number: usize,
}

impl Doer for Once {
    async fn once(&mut self) -> Result<()> {
        let request = b"GET / HTTP/1.1\r\nHost: perf\r\nConnection: close\r\n\r\n";
        let body = Client::new(self.target, self.number).ask(request).await?;
        ensure!(body.starts_with(b"pid "), "another answer than the worker's");
        Ok(())
    }
}
