//! A snapshot as OpenMetrics text, which Prometheus asks for, and as the older text that everybody else
//! reads.
//!
//! Names follow the rules of <https://prometheus.io/docs/practices/naming>: a prefix, the unit, and
//! `_total` behind what only grows.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric, MetricEncoder,
    NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::latency::Recorded;
use super::snapshot::{Queues, STATES, Snapshot, Worker};
use super::{Counter, FAMILIES};

/// How the values are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// <https://prometheus.io/docs/specs/om/open_metrics_spec>.
    OpenMetrics,
    /// Prometheus' own text format 0.0.4.
    Prometheus,
}

impl Format {
    /// What somebody gets who accepts this (the header of his request).
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let kinds = accept.split(',').filter_map(|kind| kind.split(';').next());
        let named = kinds.map(str::trim).any(|kind| kind == "application/openmetrics-text");
        if named { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// What the body of such an answer is called.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Before every name.
const PREFIX: &str = "router";

/// The text.
///
/// # Errors
/// None is known: text is written to memory.
pub fn encode(snapshot: Snapshot, format: Format) -> Result<String, fmt::Error> {
    let text = open_metrics(snapshot)?;
    Ok(match format {
        Format::OpenMetrics => text,
        Format::Prometheus => prometheus(&text),
    })
}

/// The same in the older format, where a counter's family is called as its value is, and which knows
/// neither units nor an end.
fn prometheus(text: &str) -> String {
    let mut older = String::with_capacity(text.len());
    // A counter is known by its type, which comes after its help.
    let mut help = None;
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), Some(what)) => help = Some((name, what)),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let suffix = if kind == "counter" { "_total" } else { "" };
                if let Some((name, what)) = help.take() {
                    older.extend(["# HELP ", name, suffix, " ", what, "\n"]);
                }
                older.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
            }
            (Some("#"), ..) => {}
            _ => older.extend([line, "\n"]),
        }
    }
    older
}

fn open_metrics(snapshot: Snapshot) -> Result<String, fmt::Error> {
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
        let info = vec![
            ("version", now.version.clone()),
            ("engine", now.engine.clone()),
            ("app", now.app.clone()),
        ];
        gauge(
            &mut to,
            "build_info",
            "The router's version, its engine and its app; always 1",
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
        let reloads = [("done", now.reloads.done), ("failed", now.reloads.failed)];
        let reloads = reloads.map(|(outcome, n)| (vec![("outcome", outcome.to_owned())], n));
        counter(
            &mut to,
            "reloads",
            "Reloads that were asked for, by how they ended",
            None,
            reloads,
        )?;
        let help = "Sessions known by announcement; ids that name their worker need none";
        gauge(&mut to, "announced_sessions", help, None, alone(int(now.announced_sessions)))?;
        self.queues(&mut to)?;
        self.bus(&mut to)?;
        let help = "Lines of workers that their log files were too slow for";
        let lines = [(Labels::new(), now.log_lines_dropped)];
        counter(&mut to, "log_lines_dropped", help, None, lines)?;
        let help = "Writes to workers' log files that failed, and were tried again";
        let writes = [(Labels::new(), now.log_writes_failed)];
        counter(&mut to, "log_writes_failed", help, None, writes)?;
        self.totals(&mut to)?;
        let latency = now.latency.iter();
        let latency =
            latency.map(|(way, recorded)| (vec![("handoff", way.clone())], Buckets(recorded)));
        let help = "How long connections were in the router's hands before a worker took them";
        family(&mut to, "handoff_latency", help, Some(Unit::Seconds), latency)?;
        self.workers(&mut to)
    }
}

impl Exposition {
    fn queues(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let queues = || self.0.queues.iter().enumerate();
        let each = |value: fn(&Queues) -> u64| {
            queues().map(move |(shard, queues)| (vec![("shard", shard.to_string())], value(queues)))
        };
        let help = "Connections in the router's hands";
        gauge(to, "connections_held", help, None, each(|queues| queues.held))?;
        let waiting = queues().flat_map(|(shard, queues)| {
            let waits = [("session", queues.awaiting_session), ("worker", queues.awaiting_worker)];
            waits.map(|(reason, n)| {
                (vec![("shard", shard.to_string()), ("reason", reason.to_owned())], n)
            })
        });
        gauge(to, "connections_waiting", "Connections that wait, by what for", None, waiting)?;
        let help = "What other threads have for a shard, and it has yet to take";
        gauge(to, "ring_mail", help, None, each(|queues| queues.ring_mail))?;
        let help = "Bytes of the packets that a shard has yet to take";
        gauge(to, "ring", help, Some(Unit::Bytes), each(|queues| queues.ring_bytes))
    }

    /// Nothing where there is none.
    fn bus(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(bus) = &self.0.bus else { return Ok(()) };
        let alone = |value: u64| [(Labels::new(), value)];
        let connected = alone(u64::from(bus.connected));
        gauge(to, "bus_connected", "1 while the bus has a connection to Redis", None, connected)?;
        let help = "Packets that wait for Redis to take them";
        gauge(to, "bus_backlog_packets", help, None, alone(bus.backlog))?;
        let help = "Bytes of the packets that wait for Redis";
        gauge(to, "bus_backlog", help, Some(Unit::Bytes), alone(bus.backlog_bytes))?;
        let help = "Other hosts on the bus that run router";
        gauge(to, "bus_hosts", help, None, alone(bus.hosts.len() as u64))?;
        let remote = bus.hosts.iter().map(|host| host.nodes).sum::<usize>();
        let nodes = [("here", bus.nodes), ("router", remote), ("plain", bus.plain)];
        let nodes = nodes.map(|(of, n)| (vec![("of", of.to_owned())], n as u64));
        gauge(to, "bus_nodes", "Adapters on the bus, by whose they are", None, nodes)
    }

    fn totals(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (family, help) in FAMILIES {
            let (name, unit) = match family.strip_suffix("_bytes") {
                Some(name) => (name, Some(Unit::Bytes)),
                None => (*family, None),
            };
            let of = Counter::ALL.iter().filter(|counter| counter.metric().0 == *family);
            let values = of.map(|counter| {
                let reason = counter.metric().1;
                let labels = reason.map(|reason| ("reason", reason.to_owned()));
                let total = self.0.totals.get(counter.name()).copied().unwrap_or(0);
                (labels.into_iter().collect(), total)
            });
            counter(to, name, help, unit, values)?;
        }
        Ok(())
    }

    fn workers(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let each = |value: fn(&Worker) -> Option<f64>| {
            let workers = self.0.workers.iter().filter(|worker| worker.process.pid != 0);
            workers.filter_map(move |worker| Some((labels(worker), value(worker)?)))
        };
        let help = "Sessions of a worker, and hand-offs that may become some";
        gauge(to, "worker_sessions", help, None, each(|worker| Some(worker.sessions.into())))?;
        let help = "Connections that a worker took";
        let workers = self.0.workers.iter().filter(|worker| worker.process.pid != 0);
        let values = workers.map(|worker| (labels(worker), worker.handed_off));
        counter(to, "worker_connections_handed_off", help, None, values)?;
        let help = "Bytes that wait for a worker on its channel";
        let values = each(|worker| Some(float(worker.queue)));
        gauge(to, "worker_queue", help, Some(Unit::Bytes), values)?;
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
        let values = each(|worker| Some(float(worker.process.memory)));
        gauge(to, "worker_resident_memory", help, Some(Unit::Bytes), values)?;
        let help = "For how long a worker has run";
        let values = each(|worker| Some(worker.process.uptime));
        gauge(to, "worker_uptime", help, Some(Unit::Seconds), values)?;
        // Two processes of one slot share its count.
        let by_slot: BTreeMap<_, _> =
            self.0.workers.iter().map(|worker| (worker.slot, worker.restarts)).collect();
        let values = by_slot.into_iter();
        let values = values.map(|(slot, n)| (vec![("slot", slot.to_string())], u64::from(n)));
        counter(to, "worker_restarts", "Processes started in a slot after the first", None, values)
    }
}

fn labels(worker: &Worker) -> Labels {
    vec![("slot", worker.slot.to_string()), ("generation", worker.generation.to_string())]
}

#[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 bytes of memory")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

fn int(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The latencies of one way.
struct Buckets<'a>(&'a Recorded);

impl EncodeMetric for Buckets<'_> {
    fn encode(&self, mut to: MetricEncoder<'_>) -> fmt::Result {
        let Self(recorded) = self;
        // How the library wants to be told of what is above all bounds.
        let bounds = recorded.bounds.iter().copied().chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds.zip(recorded.counts.iter().copied()).collect();
        to.encode_histogram::<NoLabelSet>(recorded.sum, recorded.count(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
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
