//! What `monit` knows and what is chosen in it, and what a key asks for. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::list::{self, Row};
use super::past::{Measure, Past};
use crate::control::apps::{Action, AppState, Order, Outcome, Scale};

/// An app, or one of its workers by slot and generation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    pub(super) app: String,
    pub(super) worker: Option<(u16, u32)>,
}

/// A line of the table.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) subject: Subject,
    /// The app's place in [`Model::apps`].
    pub(super) app: usize,
    /// None: the app as a whole.
    pub(super) row: Option<Row>,
}

/// What a key asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Wish {
    Nothing,
    Leave,
    /// To ask the daemon this; and the word for when it is done.
    Order(Order, &'static str),
}

/// Something that ends clients' connections, and waits for a yes.
#[derive(Debug)]
struct Doubt {
    question: String,
    order: Order,
    done: &'static str,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) apps: Vec<AppState>,
    pub(super) lines: Vec<Line>,
    chosen: usize,
    pasts: HashMap<Subject, Past>,
    doubt: Option<Doubt>,
    /// What became of the last order.
    pub(super) said: String,
    /// Why the daemon does not answer, if it does not.
    pub(super) lost: Option<String>,
    /// The logs stand still.
    pub(super) held: bool,
    /// A look has been had.
    pub(super) looked: bool,
}

impl Model {
    /// How things stand now.
    pub(super) fn see(&mut self, apps: Vec<AppState>) {
        let chosen = self.chosen().map(|line| line.subject.clone());
        self.lost = None;
        self.looked = true;
        self.lines.clear();
        for (at, app) in apps.iter().enumerate() {
            let name = &app.definition.name;
            let subject = Subject { app: name.clone(), worker: None };
            self.lines.push(Line { subject, app: at, row: None });
            let mut cpu = None;
            for row in list::rows(app) {
                let worker = Some((row.worker.slot, row.worker.generation));
                let subject = Subject { app: name.clone(), worker };
                let past = self.pasts.entry(subject.clone()).or_default();
                past.see_worker(&row.worker);
                cpu = match (cpu, past.now(Measure::Cpu)) {
                    (Some(sum), Some(more)) => Some(sum + more),
                    (sum, more) => sum.or(more),
                };
                self.lines.push(Line { subject, app: at, row: Some(row) });
            }
            let subject = Subject { app: name.clone(), worker: None };
            self.pasts.entry(subject).or_default().see_app(app.status.as_ref(), cpu);
        }
        self.apps = apps;
        let there: HashSet<&Subject> = self.lines.iter().map(|line| &line.subject).collect();
        self.pasts.retain(|subject, _| there.contains(subject));
        self.choose_again(chosen);
    }

    /// What was chosen is chosen still; if it is gone, its app; if that is, what stands there now.
    fn choose_again(&mut self, chosen: Option<Subject>) {
        let Some(subject) = chosen else { return };
        let app = Subject { app: subject.app.clone(), worker: None };
        let place = |wanted: &Subject| self.lines.iter().position(|line| line.subject == *wanted);
        let found = place(&subject).or_else(|| {
            // The slot's next process.
            let slot = |worker: Option<(u16, u32)>| worker.map(|(slot, _)| slot);
            let same = |line: &Line| {
                line.subject.app == subject.app && slot(line.subject.worker) == slot(subject.worker)
            };
            self.lines.iter().rposition(same).or_else(|| place(&app))
        });
        self.chosen = found.unwrap_or(self.chosen).min(self.lines.len().saturating_sub(1));
    }

    /// The daemon does not answer.
    pub(super) fn lose(&mut self, why: String) {
        self.lost = Some(why);
    }

    /// What became of an order.
    pub(super) fn hear(&mut self, outcomes: &[Outcome], done: &str) {
        let told = outcomes.iter().map(|outcome| match &outcome.error {
            None => format!("{} {done}", outcome.name),
            Some(error) => format!("{} not {done}: {error}", outcome.name),
        });
        self.said = told.collect::<Vec<_>>().join("; ");
    }

    pub(super) fn chosen(&self) -> Option<&Line> {
        self.lines.get(self.chosen)
    }

    /// The place of what is chosen.
    pub(super) fn chosen_at(&self) -> Option<usize> {
        self.chosen().map(|_| self.chosen)
    }

    pub(super) fn past(&self, subject: &Subject) -> Option<&Past> {
        self.pasts.get(subject)
    }

    /// What is to be answered with yes or no.
    pub(super) fn question(&self) -> Option<&str> {
        self.doubt.as_ref().map(|doubt| doubt.question.as_str())
    }

    /// How many of the workers of all apps serve.
    pub(super) fn serving(&self) -> (usize, usize) {
        let statuses = self.apps.iter().filter_map(|app| app.status.as_ref());
        statuses.fold((0, 0), |(ready, wanted), status| {
            (ready + status.count("ready"), wanted + status.wanted)
        })
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: KeyEvent) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Wish::Leave } else { Wish::Nothing };
        }
        if let Some(doubt) = self.doubt.take() {
            // Anything but a yes is a no.
            return match key.code {
                KeyCode::Char('y' | 'Y') => self.order(doubt.order, doubt.done),
                _ => Wish::Nothing,
            };
        }
        let last = self.lines.len().saturating_sub(1);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Leave,
            KeyCode::Char('r') => return self.act(Action::Reload, "reloaded"),
            KeyCode::Char('R') => self.doubt("restart", Action::Restart, "restarted"),
            KeyCode::Char('s') if self.runs() => self.doubt("stop", Action::Stop, "stopped"),
            KeyCode::Char('s') => return self.act(Action::Start, "started"),
            KeyCode::Char('+' | '=') => return self.scale(1),
            KeyCode::Char('-') => return self.scale(-1),
            KeyCode::Char(' ') => self.held = !self.held,
            KeyCode::Down | KeyCode::Char('j') => self.chosen = (self.chosen + 1).min(last),
            KeyCode::Up | KeyCode::Char('k') => self.chosen = self.chosen.saturating_sub(1),
            KeyCode::Home => self.chosen = 0,
            KeyCode::End => self.chosen = last,
            KeyCode::Tab => self.next_app(),
            _ => {}
        }
        Wish::Nothing
    }

    /// To the next app, and around.
    fn next_app(&mut self) {
        let apps: BTreeSet<usize> =
            (0..self.lines.len()).filter(|at| self.lines[*at].row.is_none()).collect();
        let next = apps.range(self.chosen + 1..).next().or_else(|| apps.first());
        self.chosen = next.copied().unwrap_or(0);
    }

    /// Whether what is chosen has, or is to have, a process.
    fn runs(&self) -> bool {
        let Some(line) = self.chosen() else { return false };
        let of_app = || list::word(self.apps[line.app].state);
        !list::is_down(line.row.as_ref().map_or_else(of_app, |row| row.status))
    }

    /// What a command would call what is chosen.
    fn target(&self) -> Option<String> {
        let line = self.chosen()?;
        match &line.row {
            // One that drains has a successor of the same number.
            Some(row) => row.id.map(|id| id.to_string()),
            None => Some(line.subject.app.clone()),
        }
    }

    fn doubt(&mut self, word: &str, action: Action, done: &'static str) {
        let Some(target) = self.target() else { return };
        let whole = self.chosen().is_some_and(|line| line.row.is_none());
        let what = if whole { target.clone() } else { format!("worker {target}") };
        let question = format!("{word} {what}, and drop its clients?");
        let order = Order::Act { action, targets: vec![target], environment: None };
        self.doubt = Some(Doubt { question, order, done });
    }

    fn act(&mut self, action: Action, done: &'static str) -> Wish {
        let Some(target) = self.target() else { return Wish::Nothing };
        self.order(Order::Act { action, targets: vec![target], environment: None }, done)
    }

    fn scale(&mut self, by: i16) -> Wish {
        let Some(line) = self.chosen() else { return Wish::Nothing };
        let target = line.subject.app.clone();
        self.order(Order::Scale { target, to: Scale::By(by) }, "scaled")
    }

    fn order(&mut self, order: Order, done: &'static str) -> Wish {
        self.said = "…".to_owned();
        Wish::Order(order, done)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::app;
    use super::*;

    fn key(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    fn chosen(model: &Model) -> (String, Option<(u16, u32)>) {
        let subject = &model.chosen().expect("something is chosen").subject;
        (subject.app.clone(), subject.worker)
    }

    #[test]
    fn what_is_chosen_stays_chosen() {
        let mut model = Model::default();
        assert_eq!(model.press(key(KeyCode::Char('r'))), Wish::Nothing, "nothing to reload");
        model.see(vec![app("a", &[(0, 1), (1, 1)]), app("b", &[(0, 1)])]);
        assert_eq!(chosen(&model), ("a".to_owned(), None));
        model.press(key(KeyCode::Tab));
        assert_eq!(chosen(&model), ("b".to_owned(), None));
        model.press(key(KeyCode::Down));
        assert_eq!(chosen(&model), ("b".to_owned(), Some((0, 1))));
        model.press(key(KeyCode::Down));
        // Another app comes before it, and the worker is replaced.
        model.see(vec![app("0", &[]), app("a", &[(0, 1)]), app("b", &[(0, 2)])]);
        assert_eq!(chosen(&model), ("b".to_owned(), Some((0, 2))));
        model.see(vec![app("a", &[(0, 1)])]);
        assert!(model.chosen().is_some());
        model.see(Vec::new());
        assert!(model.chosen().is_none());
        assert_eq!(model.press(key(KeyCode::Tab)), Wish::Nothing);
    }

    #[test]
    fn what_drops_clients_is_asked_twice() {
        let mut model = Model::default();
        model.see(vec![app("a", &[(0, 1), (1, 1)])]);
        let reload =
            Order::Act { action: Action::Reload, targets: vec!["a".to_owned()], environment: None };
        assert_eq!(model.press(key(KeyCode::Char('r'))), Wish::Order(reload, "reloaded"));
        model.press(key(KeyCode::End));
        assert_eq!(model.press(key(KeyCode::Char('s'))), Wish::Nothing);
        assert_eq!(model.question(), Some("stop worker 1, and drop its clients?"));
        assert_eq!(model.press(key(KeyCode::Char('s'))), Wish::Nothing, "that is no yes");
        assert_eq!(model.question(), None);
        model.press(key(KeyCode::Char('R')));
        let restart = Order::Act {
            action: Action::Restart,
            targets: vec!["1".to_owned()],
            environment: None,
        };
        assert_eq!(model.press(key(KeyCode::Char('y'))), Wish::Order(restart, "restarted"));
        let more = Order::Scale { target: "a".to_owned(), to: Scale::By(1) };
        assert_eq!(model.press(key(KeyCode::Char('+'))), Wish::Order(more, "scaled"));
    }
}
