//! Bars with whiskers, as SVG: for each measure a panel, in it for each front the median and the spread.

use std::fmt::Write as _;

use crate::front::Kind;
use crate::record::{Spread, number};

/// In pixels, as all below.
const WIDTH: f64 = 720.0;
const LABELS: f64 = 170.0;
/// The longest bar; the value stands behind it.
const BAR: f64 = 430.0;
const LINE: f64 = 22.0;
const HEAD: f64 = 34.0;

/// The measures, one below the other.
pub(crate) fn bars(title: &str, panels: &[(&str, Vec<(Kind, Spread)>)]) -> String {
    let lines: usize = panels.iter().map(|(_, rows)| rows.len()).sum();
    let height = HEAD * (panels.len() + 1) as f64 + LINE * lines as f64 + LINE;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{title}</text>\n"
    );
    let mut y = HEAD;
    for (measure, rows) in panels {
        y += HEAD;
        let _infallible = writeln!(
            svg,
            "<text x=\"10\" y=\"{:.0}\" font-weight=\"bold\">{measure}</text>",
            y - 12.0
        );
        let longest = rows.iter().map(|(_, spread)| spread.most).fold(f64::MIN_POSITIVE, f64::max);
        for (kind, spread) in rows {
            let x = |value: f64| LABELS + value / longest * BAR;
            let middle = y + LINE / 2.0;
            let color = if kind.is_router() { "#2b6cb0" } else { "#a0aec0" };
            let _infallible = writeln!(
                svg,
                "<text x=\"10\" y=\"{:.1}\">{}</text>\
                 <rect x=\"{LABELS}\" y=\"{:.1}\" width=\"{:.1}\" height=\"14\" fill=\"{color}\"/>\
                 <path d=\"M{:.1} {middle:.1}H{:.1}\" stroke=\"black\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                middle + 4.0,
                kind.name(),
                middle - 7.0,
                x(spread.median) - LABELS,
                x(spread.least),
                x(spread.most),
                x(spread.most) + 8.0,
                middle + 4.0,
                number(spread.median)
            );
            y += LINE;
        }
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_front_has_its_bar() {
        let spread = |median| Spread { least: median, median, most: median };
        let rows = vec![(Kind::Router, spread(1.0)), (Kind::Nginx, spread(4.0))];
        let svg = bars("a title", &[("us", rows)]);
        assert_eq!(svg.matches("<rect x=").count(), 2);
        assert!(svg.contains("width=\"107.5\"") && svg.contains("width=\"430.0\""), "{svg}");
    }
}
