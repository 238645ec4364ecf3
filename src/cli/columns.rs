//! Which columns of a table there is room for, and how wide each is. Pure.
//!
//! A cell that is cut in two says nothing, or something else: a column is whole or not there. Only
//! what is read as well without its end, such as a name, is cut.

use ratatui::text::Span;

/// A column as it would like to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    /// What its widest cell takes, in the terminal's columns.
    width: usize,
    /// What it makes do with.
    least: usize,
    /// Those of the lowest rank go first; none: it stays.
    rank: Option<u8>,
}

impl Column {
    /// One that is as wide as this, or not there.
    pub(super) const fn whole(width: usize, rank: Option<u8>) -> Self {
        Self { width, least: width, rank }
    }

    /// One that stays, and whose cells may be cut to so much.
    pub(super) const fn cut(width: usize, least: usize) -> Self {
        Self { width, least: if least < width { least } else { width }, rank: None }
    }
}

/// How wide each is in so much room; none: it is left out. Each takes `gap` besides, and the table
/// `edge`.
pub(super) fn fit(columns: &[Column], room: usize, gap: usize, edge: usize) -> Vec<Option<usize>> {
    let mut shown: Vec<bool> = vec![true; columns.len()];
    let needed = |shown: &[bool]| {
        let there = columns.iter().zip(shown).filter(|(_, there)| **there);
        edge + there.map(|(column, _)| column.least + gap).sum::<usize>()
    };
    while needed(&shown) > room {
        let there = (0..columns.len()).filter(|at| shown[*at]);
        let next = there.filter_map(|at| columns[at].rank.map(|rank| (rank, at))).min();
        let Some((_, at)) = next else { break };
        shown[at] = false;
    }
    let mut left = room.saturating_sub(needed(&shown));
    let width = |(column, there): (&Column, bool)| {
        let more = (column.width - column.least).min(left);
        there.then(|| {
            left -= more;
            column.least + more
        })
    };
    columns.iter().zip(shown).map(width).collect()
}

/// What a text takes on a terminal, in its columns.
pub(super) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// The text, or as much of it as fits with a sign that there is more.
pub(super) fn cut(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mut kept = String::new();
    for c in text.chars() {
        kept.push(c);
        if width(&kept) >= room {
            kept.pop();
            break;
        }
    }
    kept + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_go_by_rank_and_the_one_that_may_be_cut_has_the_rest() {
        let columns = [
            Column::whole(2, None),
            Column::cut(20, 6),
            Column::whole(5, Some(1)),
            Column::whole(7, Some(0)),
        ];
        for (room, widths) in [
            (100, [Some(2), Some(20), Some(5), Some(7)]),
            (30, [Some(2), Some(11), Some(5), Some(7)]),
            (25, [Some(2), Some(6), Some(5), Some(7)]),
            (24, [Some(2), Some(13), Some(5), None]),
            (16, [Some(2), Some(11), None, None]),
            (3, [Some(2), Some(6), None, None]),
        ] {
            assert_eq!(fit(&columns, room, 1, 1), widths, "{room}");
        }
    }

    #[test]
    fn a_name_is_cut_where_it_shows() {
        for (text, room, shown) in
            [("chat", 4, "chat"), ("chat-eu", 4, "cha…"), ("聊天室", 4, "聊…"), ("a", 0, "…")]
        {
            assert_eq!(cut(text, room), shown, "{text}");
        }
    }
}
