//! A line of arguments into words, as a shell would: blanks separate, quotes keep together.
//!
//! Nothing is expanded: no variables, no patterns, no home directories.

/// Splits a line. An unclosed quote keeps the rest together.
pub fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            // Within single quotes a backslash is a backslash.
            (Some('"') | None, '\\') => {
                word.get_or_insert_default().push(chars.next().unwrap_or('\\'));
            }
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn words_are_split() {
        for (line, words) in [
            ("", vec![]),
            ("  a  b ", vec!["a", "b"]),
            ("--title 'two words' x", vec!["--title", "two words", "x"]),
            (r#"a"b c"d "" \"e"#, vec!["ab cd", "", "\"e"]),
            (r"'a\b' 'open", vec![r"a\b", "open"]),
        ] {
            assert_eq!(split(line), words, "{line}");
        }
    }
}
