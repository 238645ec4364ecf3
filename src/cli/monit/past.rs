//! What was seen of an app or of a worker, second after second, to be plotted. Pure.

use std::collections::VecDeque;

use crate::metrics::snapshot::{Snapshot, Worker};

/// How many looks are remembered: as many as the widest terminal has columns for.
const LOOKS_MAX: usize = 240;

/// What is plotted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// Connections handed to workers, a second.
    HandOffs,
    /// Packets relayed, a second.
    Packets,
    /// Bytes that wait for the worker on its channel.
    Queue,
    /// Sessions open.
    Sessions,
    /// How late the event loop's timers are, in seconds; of an app, the latest worker's.
    Lag,
    /// Share of one core; of an app, its workers' sum.
    Cpu,
    /// Resident bytes; of an app, its workers' sum.
    Memory,
}

/// How many measures there are.
const MEASURES: usize = 7;

impl Measure {
    /// What an app is measured by.
    pub(super) const APP: [Self; 6] =
        [Self::HandOffs, Self::Packets, Self::Sessions, Self::Lag, Self::Cpu, Self::Memory];
    /// What a worker is measured by.
    pub(super) const WORKER: [Self; 6] =
        [Self::HandOffs, Self::Queue, Self::Sessions, Self::Lag, Self::Cpu, Self::Memory];

    /// The highest value of a plot, at least: what is smaller than this is drawn small.
    pub(super) const fn least_top(self) -> f64 {
        match self {
            Self::HandOffs | Self::Packets => 10.0,
            Self::Queue | Self::Memory => 1_048_576.0,
            Self::Sessions => 4.0,
            Self::Lag => 0.010,
            Self::Cpu => 0.1,
        }
    }
}

/// Sums that only grow, as a process has counted them; and for how long it had lived.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    uptime: f64,
    hand_offs: u64,
    packets: u64,
    cpu: f64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Past {
    values: [VecDeque<Option<f64>>; MEASURES],
    counted: Option<Counted>,
    /// Share of one core that the app's router itself uses.
    router_cpu: Option<f64>,
}

impl Past {
    /// The last looks, the newest last; none where there was nothing to measure.
    pub(super) fn of(&self, measure: Measure) -> &VecDeque<Option<f64>> {
        &self.values[measure as usize]
    }

    /// The last look.
    pub(super) fn now(&self, measure: Measure) -> Option<f64> {
        self.of(measure).back().copied().flatten()
    }

    /// See the field.
    pub(super) const fn router_cpu(&self) -> Option<f64> {
        self.router_cpu
    }

    /// A look at an app, whose workers were looked at before: their pasts give what they use.
    pub(super) fn see_app(&mut self, status: Option<&Snapshot>, cpu: Option<f64>) {
        let Some(status) = status else { return self.see_nothing() };
        let total = |name: &str| status.totals.get(name).copied().unwrap_or_default();
        let now = Counted {
            uptime: status.process.uptime,
            hand_offs: total("handed_off"),
            packets: total("packets_out"),
            cpu: status.process.cpu,
        };
        let before = self.counted.replace(now);
        self.router_cpu = rate(before, now, |counted| counted.cpu);
        self.add(Measure::HandOffs, rate(before, now, |counted| counted.hand_offs as f64));
        self.add(Measure::Packets, rate(before, now, |counted| counted.packets as f64));
        self.add(Measure::Queue, None);
        let living = || status.workers.iter().filter(|worker| worker.process.pid > 0);
        let sessions = living().map(|worker| f64::from(worker.sessions)).sum();
        self.add(Measure::Sessions, Some(sessions));
        self.add(
            Measure::Lag,
            living().filter_map(|worker| worker.event_loop_delay).reduce(f64::max),
        );
        self.add(Measure::Cpu, cpu);
        self.add(Measure::Memory, Some(living().map(|worker| worker.process.memory as f64).sum()));
    }

    /// A look at a worker.
    pub(super) fn see_worker(&mut self, worker: &Worker) {
        if worker.process.pid <= 0 {
            return self.see_nothing();
        }
        let now = Counted {
            uptime: worker.process.uptime,
            hand_offs: worker.handed_off,
            packets: 0,
            cpu: worker.process.cpu,
        };
        let before = self.counted.replace(now);
        self.add(Measure::HandOffs, rate(before, now, |counted| counted.hand_offs as f64));
        self.add(Measure::Packets, None);
        self.add(Measure::Queue, Some(worker.queue as f64));
        self.add(Measure::Sessions, Some(f64::from(worker.sessions)));
        self.add(Measure::Lag, worker.event_loop_delay);
        self.add(Measure::Cpu, rate(before, now, |counted| counted.cpu));
        self.add(Measure::Memory, Some(worker.process.memory as f64));
    }

    fn see_nothing(&mut self) {
        self.counted = None;
        self.router_cpu = None;
        for values in &mut self.values {
            push(values, None);
        }
    }

    fn add(&mut self, measure: Measure, value: Option<f64>) {
        push(&mut self.values[measure as usize], value);
    }
}

fn push(values: &mut VecDeque<Option<f64>>, value: Option<f64>) {
    if values.len() == LOOKS_MAX {
        values.pop_front();
    }
    values.push_back(value);
}

/// How fast a sum grows, by the clock of the process that counts; none over its beginning anew.
fn rate(before: Option<Counted>, now: Counted, of: fn(Counted) -> f64) -> Option<f64> {
    let before = before?;
    let elapsed = now.uptime - before.uptime;
    let grown = of(now) - of(before);
    (elapsed > 0.0 && grown >= 0.0).then(|| grown / elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::snapshot::Process;

    fn worker(uptime: f64, cpu: f64, handed_off: u64) -> Worker {
        let process = Process { pid: 7, uptime, cpu, memory: 1 };
        Worker { process, handed_off, ..Worker::default() }
    }

    #[test]
    fn rates_go_by_the_clock_of_the_process_and_not_over_its_beginning() {
        let mut past = Past::default();
        past.see_worker(&worker(10.0, 1.0, 100));
        assert_eq!(past.now(Measure::HandOffs), None, "one look shows no rate");
        past.see_worker(&worker(12.0, 2.0, 130));
        assert_eq!(past.now(Measure::HandOffs), Some(15.0));
        assert_eq!(past.now(Measure::Cpu), Some(0.5));
        past.see_worker(&worker(0.5, 0.1, 3));
        assert_eq!(past.now(Measure::Cpu), None, "another process");
        past.see_worker(&Worker::default());
        assert_eq!(past.now(Measure::Memory), None, "nobody is there");
        past.see_worker(&worker(3.0, 0.2, 9));
        assert_eq!(past.now(Measure::Cpu), None, "nothing to compare with");
        assert_eq!(past.of(Measure::Memory).len(), 5);
    }

    #[test]
    fn the_past_is_bounded() {
        let mut past = Past::default();
        for n in 0..LOOKS_MAX + 7 {
            past.see_worker(&worker(n as f64, 0.0, 0));
        }
        assert_eq!(past.of(Measure::Sessions).len(), LOOKS_MAX);
    }
}
