//! A worker's output, byte by byte into lines; and the last of them, kept for the obituary.
//!
//! Pure: it reads no pipe and prints nothing.

use std::collections::VecDeque;

/// A longer line is split here, in bytes: a worker that never ends its line must not grow us.
pub(super) const LINE_MAX: usize = 64 * 1024;

/// How many last lines are kept per worker: an error's message stands above its stack.
const TAIL_LINES: usize = 20;
/// How many bytes of them.
const TAIL_BYTES: usize = 4 * 1024;

/// Cuts a stream into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The line that has not ended yet; shorter than [`LINE_MAX`].
    open: Vec<u8>,
}

impl Lines {
    /// Goes on with a line of which this has been read.
    pub(super) fn resume(open: Vec<u8>) -> Self {
        Self { open }
    }

    /// What has been read of the line that has not ended.
    pub(super) fn open(&self) -> Vec<u8> {
        self.open.clone()
    }

    /// Takes what was read, calls `line` with each finished line, without its end.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (head, rest) = bytes.split_at(end);
            self.extend(head, &mut line);
            line(self.open.strip_suffix(b"\r").unwrap_or(&self.open));
            self.open.clear();
            bytes = &rest[1..];
        }
        self.extend(bytes, &mut line);
    }

    /// The stream has ended; so has its last line.
    pub(super) fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.open.is_empty() {
            line(&self.open);
            self.open = Vec::new();
        }
    }

    fn extend(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&[u8])) {
        while self.open.len() + bytes.len() > LINE_MAX {
            let (head, rest) = bytes.split_at(LINE_MAX - self.open.len());
            self.open.extend_from_slice(head);
            line(&self.open);
            self.open.clear();
            bytes = rest;
        }
        self.open.extend_from_slice(bytes);
    }
}

/// The last lines of a stream.
#[derive(Debug, Default)]
pub(super) struct Tail {
    lines: VecDeque<String>,
    /// The sum of their lengths; at most [`TAIL_BYTES`].
    bytes: usize,
}

impl Tail {
    /// Keeps a line, forgetting the oldest where there is no room. Blank ones tell nothing.
    pub(super) fn push(&mut self, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        let kept = &line[..line.len().min(TAIL_BYTES)];
        let mut kept = String::from_utf8_lossy(kept).into_owned();
        // Replacement characters are longer than what they replace.
        while kept.len() > TAIL_BYTES {
            kept.pop();
        }
        self.bytes += kept.len();
        self.lines.push_back(kept);
        while self.lines.len() > TAIL_LINES || self.bytes > TAIL_BYTES {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }

    /// The lines, oldest first.
    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }

    /// The lines, oldest first, each indented on a line of its own; empty if there are none.
    pub(super) fn quoted(&self) -> String {
        self.lines.iter().map(|line| format!("\n    {line}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.push(chunk, |line| found.push(line.to_vec()));
        }
        lines.finish(|line| found.push(line.to_vec()));
        found
    }

    #[test]
    fn lines_are_the_same_wherever_the_chunks_are_cut() {
        let text = b"one\r\n\ntwo\xff\nlast";
        for cut_at in 0..text.len() {
            let (a, b) = text.split_at(cut_at);
            let lines: [&[u8]; 4] = [b"one", b"", b"two\xff", b"last"];
            assert_eq!(cut(&[a, b]), lines, "cut at {cut_at}");
        }
    }

    #[test]
    fn an_endless_line_is_split_and_nothing_is_lost() {
        let long = vec![b'x'; 2 * LINE_MAX + 5];
        let lengths: Vec<_> = cut(&[&long[..7], &long[7..]]).iter().map(Vec::len).collect();
        assert_eq!(lengths, [LINE_MAX, LINE_MAX, 5]);
        // A line of exactly the limit is one line.
        let exact = [&long[..LINE_MAX], b"\n"].concat();
        assert_eq!(cut(&[&exact]).len(), 1);
    }

    #[test]
    fn the_tail_is_bounded_in_lines_and_bytes() {
        let mut tail = Tail::default();
        (0..100).for_each(|n| tail.push(format!("line {n}").as_bytes()));
        assert!(tail.quoted().starts_with("\n    line 80\n") && tail.quoted().ends_with("line 99"));
        tail.push(&[0xff; 2 * LINE_MAX]);
        assert_eq!(tail.lines.len(), 1);
        assert!(tail.bytes <= TAIL_BYTES, "{}", tail.bytes);
        assert_eq!(Tail::default().quoted(), "");
    }
}
