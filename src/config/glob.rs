//! What `--ignore-watch` leaves out: a path or a glob.

use globset::{Glob, GlobMatcher};

/// A pattern with `*`, `?`, `[a-z]`, `{a,b}` and `**`.
pub fn glob(pattern: &str) -> Result<GlobMatcher, String> {
    Glob::new(pattern).map(|glob| glob.compile_matcher()).map_err(|error| {
        format!("`{pattern}` is no glob: {}; write * ? [a-z] {{a,b}} **", error.kind())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        assert!(glob("logs/*.log").expect("one").is_match("logs/a.log"));
        assert!(!glob("logs").expect("one").is_match("src/logs"));
        let error = glob("a[b").expect_err("an open class");
        assert!(error.contains("no glob"), "{error}");
    }
}
