//! The picture of a [`Model`].

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{
    Block, Cell as TableCell, Paragraph, RenderDirection, Row, Sparkline, Table, TableState,
};

use super::super::columns::{self, Column};
use super::super::list::{self, size, span};
use super::model::{Line, Model};
use super::past::{Measure, Past};

/// The columns of a plot inside the table.
const SMALL_PLOT: usize = 8;
/// Plots inside the table need a terminal so wide, in columns.
const WIDE: u16 = 108;
/// All plots stand side by side in a terminal so wide, in columns.
const VERY_WIDE: u16 = 132;
/// A lower terminal shows no plots, in lines.
const LOW: u16 = 20;
/// In a lower terminal plots are one line high, in lines.
const HIGH: u16 = 32;
/// How high a value can be drawn, in steps.
const STEPS: u32 = 1000;

/// Of the log there is one line at least, with a frame around it.
const LOG_LEAST: u16 = 3;

/// The keys; where there is no room for all of them, those that cannot be guessed.
const KEYS: [&str; 2] = [
    "↑↓ choose  r reload  R restart  s stop/start  + - scale  space hold  q leave",
    "r reload  s stop  + - scale  q leave",
];

/// The columns of the table, how wide they are, and which go first where the terminal is narrow. What
/// is chosen is told by its id and name; these two and the status have a width of their own.
const COLUMNS: [(&str, usize, Option<u8>); 13] = [
    ("id", 0, None),
    ("name", 0, None),
    ("status", 0, None),
    ("pid", 7, Some(9)),
    ("up", 4, Some(4)),
    ("↺", 3, Some(5)),
    ("sess", 6, Some(8)),
    ("conn/s", 6, Some(3)),
    ("lag", 6, Some(2)),
    ("cpu", 5, Some(7)),
    ("", SMALL_PLOT, Some(1)),
    ("mem", 8, Some(6)),
    ("", SMALL_PLOT, Some(0)),
];
/// The place of the names among them.
const NAME: usize = 1;

/// Draws it; the logs are the last lines that fit.
pub(super) fn draw<'a>(
    frame: &mut Frame<'_>,
    model: &Model,
    logs: impl DoubleEndedIterator<Item = &'a str>,
) {
    let area = frame.area();
    let rows_of_plots = if area.width < VERY_WIDE { 2 } else { 1 };
    let plots = rows_of_plots
        * match area.height {
            0..LOW => 0,
            LOW..HIGH => 3,
            _ => 4,
        };
    // The logs have what is left, and a quarter of the screen at least.
    let lines = u16::try_from(model.lines.len()).unwrap_or(u16::MAX);
    let log = LOG_LEAST.max(area.height / 4);
    let most = area.height.saturating_sub(plots + 2 + log).max(4);
    let table = lines.saturating_add(3).min(most);
    let [head, apps, measures, log, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(table),
        Constraint::Length(plots),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_head(frame, head, model);
    draw_apps(frame, apps, model);
    if let Some(line) = model.chosen() {
        draw_plots(frame, measures, model, line);
    }
    draw_logs(frame, log, model, logs);
    draw_foot(frame, foot, model);
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let (ready, wanted) = model.serving();
    let apps = model.apps.len();
    let mut head = vec![
        Span::from(format!(" router {} ", env!("CARGO_PKG_VERSION"))).bold().reversed(),
        Span::from(format!("  {apps} {}", if apps == 1 { "app" } else { "apps" })),
        Span::from(format!("  {ready} of {wanted} workers online")).fg(if ready < wanted {
            Color::Yellow
        } else {
            Color::Green
        }),
    ];
    if let Some(why) = &model.lost {
        head.push(Span::from(format!("  no answer: {why}")).fg(Color::Red).bold());
    }
    frame.render_widget(Text::from(head), area);
}

fn draw_apps(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let rows: Vec<[Cell; COLUMNS.len()]> =
        model.lines.iter().map(|line| row(model, line)).collect();
    let columns: Vec<Column> = (0..COLUMNS.len())
        .map(|at| {
            let (title, width, rank) = COLUMNS[at];
            let cells = rows.iter().map(|row| columns::width(&row[at].text));
            let widest = cells.chain([columns::width(title)]).max().unwrap_or_default();
            match (at, width) {
                (NAME, _) => Column::cut(widest, list::NAME_LEAST),
                (_, 0) => Column::whole(widest, rank),
                (_, width) => Column::whole(width, rank),
            }
        })
        .collect();
    let plots = area.width >= WIDE;
    // Between two columns is a blank, around them all a frame.
    let widths = columns::fit(&columns, area.width.into(), 1, 1);
    let there = |at: usize| widths[at].filter(|_| plots || !COLUMNS[at].0.is_empty());
    let shown = || (0..COLUMNS.len()).filter_map(|at| Some((at, there(at)?)));
    let constraint = |(at, width): (usize, usize)| match at {
        NAME => Constraint::Fill(1),
        _ => Constraint::Length(width.try_into().unwrap_or(u16::MAX)),
    };
    let header = Row::new(shown().map(|(at, _)| COLUMNS[at].0)).style(Modifier::BOLD);
    let rows = rows.iter().zip(&model.lines).map(|(row, line)| {
        let cell = |(at, width): (usize, usize)| {
            let text =
                if at == NAME { columns::cut(&row[at].text, width) } else { row[at].text.clone() };
            TableCell::new(text).style(row[at].style)
        };
        let row = Row::new(shown().map(cell));
        if line.row.is_none() { row.style(Modifier::BOLD) } else { row }
    });
    let table = Table::new(rows, shown().map(constraint))
        .header(header)
        .row_highlight_style(Style::new().reversed())
        .block(Block::bordered().title(" apps and workers "));
    let mut state = TableState::new().with_selected(model.chosen_at());
    frame.render_stateful_widget(table, area, &mut state);
    if model.looked && model.lines.is_empty() {
        let inner = area.inner(ratatui::layout::Margin::new(2, 2));
        frame.render_widget("there is no app: router start app.js", inner);
    }
}

/// What stands in a place of the table.
struct Cell {
    text: String,
    style: Style,
}

/// What a line says, in the order of [`COLUMNS`].
fn row(model: &Model, line: &Line) -> [Cell; COLUMNS.len()] {
    let app = &model.apps[line.app];
    let past = model.past(&line.subject);
    let number = |measure| text(measure, past.and_then(|past| past.now(measure)));
    let plot = |measure| past.map_or_else(String::new, |past| small_plot(past, measure));
    let ids = match &line.row {
        Some(row) => row.id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
        None => String::new(),
    };
    let (name, status, pid, uptime, restarts) = match &line.row {
        None => {
            let process = app.status.as_ref().map(|status| status.process);
            let uptime = process.map_or(0.0, |process| process.uptime);
            let pid = app.pid.unwrap_or_default();
            (app.definition.name.clone(), list::word(app.state), pid, uptime, app.restarts)
        }
        Some(row) => {
            let process = &row.worker.process;
            let pid = u32::try_from(process.pid).unwrap_or_default();
            let name = format!("  {}#{}", row.worker.slot, row.worker.generation);
            (name, row.status, pid, process.uptime, row.worker.restarts)
        }
    };
    let lives = |text: String| if pid == 0 { "-".to_owned() } else { text };
    let color = match status {
        "online" => Color::Green,
        down if list::is_down(down) => Color::Red,
        _ => Color::Yellow,
    };
    let plain = |text: String| Cell { text, style: Style::new() };
    let colored = |text: String, color: Color| Cell { text, style: color.into() };
    [
        plain(ids),
        plain(name),
        colored(status.to_owned(), color),
        plain(lives(pid.to_string())),
        plain(lives(span(uptime))),
        plain(restarts.to_string()),
        plain(number(Measure::Sessions)),
        plain(number(Measure::HandOffs)),
        plain(number(Measure::Lag)),
        plain(number(Measure::Cpu)),
        colored(plot(Measure::Cpu), Color::Cyan),
        plain(number(Measure::Memory)),
        colored(plot(Measure::Memory), Color::Cyan),
    ]
}

/// The last looks in eight heights, the newest to the right.
fn small_plot(past: &Past, measure: Measure) -> String {
    const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values = past.of(measure);
    let shown = SMALL_PLOT;
    let top = top(past, measure, shown);
    let last = values.iter().skip(values.len().saturating_sub(shown));
    let drawn = last.map(|value| {
        value.map_or(' ', |value| {
            let height = (value / top * 7.0).round().clamp(0.0, 7.0);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 0 and 7"
            )]
            HEIGHTS[height as usize]
        })
    });
    drawn.collect()
}

/// The highest of the last so many looks.
fn top(past: &Past, measure: Measure, looks: usize) -> f64 {
    let last = past.of(measure).iter().rev().take(looks).flatten();
    last.copied().fold(measure.least_top(), f64::max)
}

fn draw_plots(frame: &mut Frame<'_>, area: Rect, model: &Model, line: &Line) {
    if area.height == 0 {
        return;
    }
    let measures = if line.row.is_some() { Measure::WORKER } else { Measure::APP };
    let across = if area.width >= VERY_WIDE { 6 } else { 3 };
    let rows = Layout::vertical(vec![Constraint::Fill(1); measures.len() / across]).split(area);
    let places = rows
        .iter()
        .flat_map(|row| Layout::horizontal(vec![Constraint::Fill(1); across]).split(*row).to_vec());
    let Some(past) = model.past(&line.subject) else { return };
    for (place, measure) in places.zip(measures) {
        let title = format!(" {} {} ", title(measure), text(measure, past.now(measure)));
        let width = usize::from(place.width.saturating_sub(2));
        let top = top(past, measure, width);
        let heights = past.of(measure).iter().rev().take(width).map(|value| {
            let steps = f64::from(STEPS);
            let height = (value.unwrap_or_default() / top * steps).round().clamp(0.0, steps);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 0 and STEPS"
            )]
            let height = height as u64;
            height
        });
        let plot = Sparkline::default()
            .data(heights.collect::<Vec<u64>>())
            .max(STEPS.into())
            .direction(RenderDirection::RightToLeft)
            .style(Color::Cyan)
            .block(Block::bordered().title(title));
        frame.render_widget(plot, place);
    }
}

fn draw_logs<'a>(
    frame: &mut Frame<'_>,
    area: Rect,
    model: &Model,
    logs: impl DoubleEndedIterator<Item = &'a str>,
) {
    let mut title = model.chosen().map_or_else(String::new, |line| {
        let of = match &line.row {
            Some(row) => row.id.map_or_else(|| "-".to_owned(), |id| format!("worker {id}")),
            None => about(model, line),
        };
        format!(" logs of {of} ")
    });
    if model.held {
        title.push_str("(held) ");
    }
    let height = usize::from(area.height.saturating_sub(2));
    let mut shown: Vec<Text<'_>> = logs.rev().take(height).map(Text::from).collect();
    shown.reverse();
    frame.render_widget(Paragraph::new(shown).block(Block::bordered().title(title)), area);
}

/// The app and how its router is.
fn about(model: &Model, line: &Line) -> String {
    let app = &model.apps[line.app];
    let name = &app.definition.name;
    let Some(status) = &app.status else {
        return app.why.as_ref().map_or_else(|| name.clone(), |why| format!("{name} ({why})"));
    };
    let cpu = model.past(&line.subject).and_then(Past::router_cpu);
    let busy = if status.reloading { ", reloading" } else { "" };
    format!(
        "{name} (its router: {}, cpu {}, {}{busy})",
        status.engine,
        text(Measure::Cpu, cpu),
        size(status.process.memory)
    )
}

fn draw_foot(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let room = usize::from(area.width);
    let keys = KEYS.iter().find(|keys| columns::width(keys) < room).unwrap_or(&KEYS[1]);
    let foot = match (model.question(), model.said.is_empty()) {
        // What is to be pressed is to be seen, however long the question.
        (Some(question), _) => Span::from(format!(" y/n: {question}")).fg(Color::Yellow).bold(),
        (None, true) => Span::from(format!(" {keys}")).dim(),
        (None, false) => Span::from(format!(" {}", model.said)),
    };
    frame.render_widget(Text::from(foot), area);
}

const fn title(measure: Measure) -> &'static str {
    match measure {
        Measure::HandOffs => "hand-offs/s",
        Measure::Packets => "relayed packets/s",
        Measure::Queue => "waits for it",
        Measure::Sessions => "sessions",
        Measure::Lag => "event-loop lag",
        Measure::Cpu => "cpu",
        Measure::Memory => "memory",
    }
}

fn text(measure: Measure, value: Option<f64>) -> String {
    let Some(value) = value else { return "-".to_owned() };
    match measure {
        Measure::HandOffs | Measure::Packets if value > 0.0 && value < 10.0 => {
            format!("{value:.1}")
        }
        Measure::HandOffs | Measure::Packets | Measure::Sessions => format!("{value:.0}"),
        Measure::Lag => format!("{:.0}ms", value * 1000.0),
        Measure::Cpu => format!("{:.0}%", value * 100.0),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number of bytes, and was one before"
        )]
        Measure::Queue | Measure::Memory => size(value as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::app;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(model: &Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("in memory");
        let logs = ["0|a | first", "0|a | last \u{1b}[2J"];
        terminal.draw(|frame| draw(frame, model, logs.into_iter())).expect("in memory");
        terminal.backend().to_string()
    }

    #[test]
    fn every_size_of_terminal_is_drawn() {
        let mut model = Model::default();
        let crowd: Vec<(u16, u32)> = (0..64).map(|slot| (slot, 1)).collect();
        for apps in [vec![], vec![app("a", &[(0, 1), (1, 2)])], vec![app("a", &crowd)]] {
            model.see(apps);
            for width in [1, 20, 80, 107, 108, 131, 132, 300] {
                for height in [1, 2, 5, 19, 20, 24, 60] {
                    drawn(&model, width, height);
                }
            }
        }
    }

    #[test]
    fn eighty_columns_show_everything_of_a_worker() {
        let mut model = Model::default();
        model.see(vec![app("a", &[(0, 1), (1, 2)])]);
        model.see(vec![app("a", &[(0, 1), (1, 2)])]);
        let picture = drawn(&model, 80, 24);
        let shows = [
            "2 of 2 workers online",
            "1#2",
            "online",
            "sessions 6",
            "hand-offs/s -",
            "event-loop lag 4ms",
            "memory 60.0mb",
            "logs of a (its router: uring",
            "0|a | last",
            "r reload",
        ];
        for words in shows {
            assert!(picture.contains(words), "{words:?} is not in\n{picture}");
        }
        assert!(!picture.contains('\u{1b}'), "a log cannot move the cursor");
    }
}
