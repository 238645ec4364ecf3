//! The live page: one file with everything in it, which asks `/status` once in a second.
//!
//! Nothing else may run in it or be loaded by it: its policy names its script and its style by their
//! hashes. `tests/admin` compares them with the file, and says what they are to be.

/// The page.
pub const HTML: &str = include_str!("page.html");

/// What a browser may do with it.
pub const POLICY: &str = "default-src 'none'; \
    script-src 'sha256-aSR4bBmWpsIvr1LU9a4+go/Xzkvx02imB5lQL6NaCXY='; \
    style-src 'sha256-T34VW0dcsrjTmVdLb78irDhrnAluLGsjWisHt6/oalw='; \
    img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
