//! A snapshot as OpenMetrics text, which Prometheus reads.
//!
//! Names follow the rules of <https://prometheus.io/docs/practices/naming>: a prefix, the unit, and
//! `_total` behind what only grows.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric, text,
};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::snapshot::{STATES, Snapshot, Worker};
use super::{Counter, FAMILIES};

/// What the body of such an answer is called.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Before every name.
const PREFIX: &str = "router";

/// The text.
///
/// # Errors
/// None is known: text is written to memory.
pub fn encode(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Exposition(snapshot)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Exposition(Snapshot);

/// The labels of one value.
type Labels = Vec<(&'static str, String)>;

impl Collector for Exposition {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(now) = self;
        let info = vec![("version", now.version.to_owned()), ("engine", now.engine.clone())];
        gauge(
            &mut to,
            "build_info",
            "The router's version and its engine; always 1",
            None,
            [(info, 1)],
        )?;
        let alone = |value| [(Labels::new(), value)];
        gauge(&mut to, "shards", "Threads of the data plane", None, alone(int(now.shards)))?;
        counter(
            &mut to,
            "cpu",
            "Time of the router on a core",
            Some(Unit::Seconds),
            [(Labels::new(), now.process.cpu)],
        )?;
        let memory = i64::try_from(now.process.memory).unwrap_or(i64::MAX);
        let help = "Memory of the router";
        gauge(&mut to, "resident_memory", help, Some(Unit::Bytes), alone(memory))?;
        let help = "For how long the router's process has run";
        gauge(&mut to, "uptime", help, Some(Unit::Seconds), [(Labels::new(), now.process.uptime)])?;
        gauge(
            &mut to,
            "workers_wanted",
            "Workers that shall be ready",
            None,
            alone(int(now.wanted)),
        )?;
        let states = STATES.map(|state| (vec![("state", state.to_owned())], int(now.count(state))));
        gauge(&mut to, "workers", "Workers by state", None, states)?;
        let reloading = alone(i64::from(now.reloading));
        gauge(
            &mut to,
            "reloading",
            "1 while a reload that was asked for goes on",
            None,
            reloading,
        )?;
        let help = "Sessions known by announcement; ids that name their worker need none";
        gauge(&mut to, "announced_sessions", help, None, alone(int(now.announced_sessions)))?;
        let help = "Lines of workers that their log files were too slow for";
        let lines = [(Labels::new(), now.log_lines_dropped)];
        counter(&mut to, "log_lines_dropped", help, None, lines)?;
        let help = "Writes to workers' log files that failed, and were tried again";
        let writes = [(Labels::new(), now.log_writes_failed)];
        counter(&mut to, "log_writes_failed", help, None, writes)?;
        self.totals(&mut to)?;
        self.workers(&mut to)
    }
}

impl Exposition {
    fn totals(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (family, help) in FAMILIES {
            let of = Counter::ALL.iter().filter(|counter| counter.metric().0 == *family);
            let values = of.map(|counter| {
                let reason = counter.metric().1;
                let labels = reason.map(|reason| ("reason", reason.to_owned()));
                let total = self.0.totals.get(counter.name()).copied().unwrap_or(0);
                (labels.into_iter().collect(), total)
            });
            counter(to, family, help, None, values)?;
        }
        Ok(())
    }

    fn workers(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let each = |value: fn(&Worker) -> Option<f64>| {
            let workers = self.0.workers.iter();
            workers.filter_map(move |worker| Some((labels(worker), value(worker)?)))
        };
        let help = "Sessions of a worker, and hand-offs that may become some";
        gauge(to, "worker_sessions", help, None, each(|worker| Some(worker.sessions.into())))?;
        let help = "How much of its time a worker's event loop works, 0 to 1";
        let values = each(|worker| worker.event_loop_utilisation);
        let ratio = Unit::Other("ratio".to_owned());
        gauge(to, "worker_event_loop_utilisation", help, Some(ratio), values)?;
        let help = "How late a worker's timers are";
        let values = each(|worker| worker.event_loop_delay);
        gauge(to, "worker_event_loop_delay", help, Some(Unit::Seconds), values)?;
        let help = "Time of a worker on a core";
        let values = each(|worker| Some(worker.process.cpu));
        counter(to, "worker_cpu", help, Some(Unit::Seconds), values)?;
        let help = "Memory of a worker";
        #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 bytes of memory")]
        let values = each(|worker| Some(worker.process.memory as f64));
        gauge(to, "worker_resident_memory", help, Some(Unit::Bytes), values)?;
        let help = "For how long a worker has run";
        let values = each(|worker| Some(worker.process.uptime));
        gauge(to, "worker_uptime", help, Some(Unit::Seconds), values)
    }
}

fn labels(worker: &Worker) -> Labels {
    vec![("slot", worker.slot.to_string()), ("generation", worker.generation.to_string())]
}

fn int(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn gauge<V: EncodeGaugeValue>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    values: impl IntoIterator<Item = (Labels, V)>,
) -> fmt::Result {
    family(to, name, help, unit, values.into_iter().map(|(labels, v)| (labels, ConstGauge::new(v))))
}

fn counter<V: EncodeCounterValue>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    values: impl IntoIterator<Item = (Labels, V)>,
) -> fmt::Result {
    let values = values.into_iter().map(|(labels, v)| (labels, ConstCounter::new(v)));
    family(to, name, help, unit, values)
}

/// One metric and its values; none of it where there are no values.
fn family<M: EncodeMetric>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    values: impl Iterator<Item = (Labels, M)>,
) -> fmt::Result {
    let mut values = values.peekable();
    let Some((_, first)) = values.peek() else { return Ok(()) };
    let kind = first.metric_type();
    let mut to = to.encode_descriptor(name, help, unit.as_ref(), kind)?;
    for (labels, value) in values {
        if labels.is_empty() {
            // The only one.
            return value.encode(to);
        }
        value.encode(to.encode_family(&labels)?)?;
    }
    Ok(())
}
