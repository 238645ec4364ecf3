//! What router is to reach beside its peers, and what the records say of it: ratios round by round, since
//! the rounds are interleaved and the machine's mood drifts.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::front::Kind;
use crate::record::{Spread, number};
use crate::scenario::Scenario;

/// What is compared with what.
enum Figure {
    /// How many times as much of this the other one has as router.
    Times(Kind),
    /// How many times as much of this router has as the other one.
    Over(Kind),
    /// The measure itself, of this front.
    Of(Kind),
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

struct Target {
    what: &'static str,
    scenario: Scenario,
    measure: &'static str,
    figure: Figure,
    bound: Bound,
}

const fn target(
    what: &'static str,
    scenario: Scenario,
    measure: &'static str,
    figure: Figure,
    bound: Bound,
) -> Target {
    Target { what, scenario, measure, figure, bound }
}

const TARGETS: [Target; 20] = {
    use Bound::{AtLeast, AtMost};
    use Figure::{Of, Over, Times};
    use Kind::{
        Haproxy, Nginx, NginxKept, None, Pm2, Router, RouterAnnounced, RouterPortable,
        RouterUnchanged, Sticky,
    };
    use Scenario::{Broadcast8, Broadcast8Large, Echo, Idle, Native, Requests};
    const CPU: &str = "front us each";
    const RATE: &str = "per second";
    [
        target(
            "CPU per hand-off: @socket.io/pm2 / router",
            Requests,
            CPU,
            Times(Pm2),
            AtLeast(15.0),
        ),
        target("CPU per hand-off: nginx / router", Requests, CPU, Times(Nginx), AtLeast(8.0)),
        target(
            "CPU per hand-off: nginx, keepalive / router",
            Requests,
            CPU,
            Times(NginxKept),
            AtLeast(0.0),
        ),
        target("CPU per hand-off: HAProxy / router", Requests, CPU, Times(Haproxy), AtLeast(8.0)),
        target("requests/s: router / no front", Requests, RATE, Over(None), AtLeast(0.95)),
        target("requests/s: router / @socket.io/pm2", Requests, RATE, Over(Pm2), AtLeast(2.5)),
        target("requests/s: router / nginx", Requests, RATE, Over(Nginx), AtLeast(1.6)),
        target(
            "requests/s: router / nginx, keepalive",
            Requests,
            RATE,
            Over(NginxKept),
            AtLeast(0.0),
        ),
        target("requests/s: router / HAProxy", Requests, RATE, Over(Haproxy), AtLeast(1.6)),
        target(
            "CPU per hand-off: uring / epoll, Node workers",
            Requests,
            CPU,
            Over(RouterPortable),
            AtMost(0.75),
        ),
        target(
            "CPU per hand-off: uring / epoll, native workers",
            Native,
            CPU,
            Over(Kind::NativePortable),
            AtMost(0.75),
        ),
        target(
            "CPU per delivered packet, 8 workers, 100 bytes: Node's primary / router",
            Broadcast8,
            CPU,
            Times(Sticky),
            AtLeast(15.0),
        ),
        target(
            "CPU per delivered packet, 8 workers, 4,000 bytes: Node's primary / router",
            Broadcast8Large,
            CPU,
            Times(Sticky),
            AtLeast(10.0),
        ),
        target(
            "CPU us per echo over an established WebSocket",
            Echo,
            CPU,
            Of(Router),
            AtMost(0.05),
        ),
        target("the same, HAProxy", Echo, CPU, Of(Haproxy), AtLeast(0.0)),
        target(
            "CPU us a second for idle WebSockets",
            Idle,
            "front us a second for them",
            Of(Router),
            AtMost(100.0),
        ),
        target("the same, HAProxy", Idle, "front us a second for them", Of(Haproxy), AtLeast(0.0)),
        target("memory, MiB, idle", Idle, "front MiB alone", Of(Router), AtMost(12.0)),
        target(
            "bytes a session that routes itself",
            Idle,
            "front bytes each",
            Of(RouterUnchanged),
            AtMost(1.0),
        ),
        target(
            "bytes a session in the table",
            Idle,
            "front bytes each",
            Of(RouterAnnounced),
            AtMost(100.0),
        ),
    ]
};

/// Writes the table beside the records that it is made of; what was not measured has no row.
pub(crate) fn write(directory: &Path) -> Result<()> {
    let mut text = String::from(
        "# What is to be reached, and what was\n\nMedians of the ratios of each round, \
         [least-most]; the records beside this file have what they are made of.\n\n\
         | | target | measured | |\n|---|---|---|---|\n",
    );
    for target in &TARGETS {
        let path = directory.join(format!("{}.json", target.scenario.name()));
        let Ok(kept) = fs::read_to_string(&path) else { continue };
        let kept: Value =
            serde_json::from_str(&kept).with_context(|| format!("{}", path.display()))?;
        let Some(spread) = target.measured(&kept) else { continue };
        let (bound, met) = match target.bound {
            Bound::AtLeast(0.0) => (String::new(), ""),
            Bound::AtLeast(least) => {
                (format!(">= {}", number(least)), verdict(spread.median >= least))
            }
            Bound::AtMost(most) => (format!("<= {}", number(most)), verdict(spread.median <= most)),
        };
        let _infallible = writeln!(
            text,
            "| {} | {bound} | {} [{}-{}] | {met} |",
            target.what,
            number(spread.median),
            number(spread.least),
            number(spread.most)
        );
    }
    Ok(fs::write(directory.join("README.md"), text)?)
}

const fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

impl Target {
    /// By rounds; none: the record does not have it.
    fn measured(&self, kept: &Value) -> Option<Spread> {
        let of = |kind: Kind| -> Option<Vec<f64>> {
            let samples = kept.get("samples")?.get(kind.name())?.as_array()?;
            samples.iter().map(|sample| sample.get(self.measure)?.as_f64()).collect()
        };
        let measure =
            if self.scenario == Scenario::Native { Kind::NativeRouter } else { Kind::Router };
        let ratios = |above: Vec<f64>, below: Vec<f64>| {
            Spread::of(above.iter().zip(&below).map(|(above, below)| above / below).collect())
        };
        match self.figure {
            Figure::Times(other) => ratios(of(other)?, of(measure)?),
            Figure::Over(other) => ratios(of(measure)?, of(other)?),
            Figure::Of(kind) => Spread::of(of(kind)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let kept = serde_json::json!({ "samples": {
            "router": [{ "front us each": 10.0 }, { "front us each": 20.0 }, { "front us each": 10.0 }],
            "@socket.io/pm2": [{ "front us each": 200.0 }, { "front us each": 300.0 }, { "front us each": 170.0 }],
        }});
        let spread = TARGETS[0].measured(&kept);
        assert_eq!(spread, Some(Spread { least: 15.0, median: 17.0, most: 20.0 }));
        assert_eq!(TARGETS[1].measured(&kept), None);
    }
}
