//! The live page, as a browser has it.

use super::{metrics, port, status};
use crate::both_engines;
use crate::harness::browser::browser;
use crate::harness::{Connection, Engine, Router, client, repository};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// Sessions that a test opens.
const CLIENTS: u64 = 6;

/// Points of a plot in the README's picture.
const POINTS: u64 = 60;

/// Bytes that the README's picture may have.
const LARGEST_PICTURE: u64 = 150_000;

both_engines! {
    fn its_numbers_move_and_its_console_is_empty(engine) {
        let router = Router::on(engine).option("--admin", "127.0.0.1:0").start();
        let origin = format!("http://127.0.0.1:{}", port(&router));
        let options = json!({
            "admin": format!("{origin}/"), "browser": browser(), "pid": router.pid(), "clients": CLIENTS,
        });
        let seen = client("the_page_moves", &router.url(), &options);
        assert_eq!(seen["console"], json!([]), "{seen:#}");
        assert_eq!(seen["origins"], json!([origin]), "nothing comes from elsewhere");
        let (before, during) = (&seen["before"], &seen["during"]);
        assert_eq!((&before["sessions"], &before["handed"]), (&json!(0), &json!(0)));
        assert_eq!(before["state"], "2 of 2 workers ready");
        assert_eq!(before["title"], "sticky – router");
        let number = |of: &Value| of.as_u64().unwrap_or_else(|| panic!("{seen:#}"));
        assert!(number(&during["sessions"]) >= CLIENTS && number(&during["handed"]) >= CLIENTS);
        let told = status(port(&router));
        for (slot, row) in during["rows"].as_array().unwrap().iter().enumerate() {
            assert_eq!((&row[0], &row[1]), (&json!(format!("{slot}#1")), &json!("ready")));
            assert_eq!(row[2], told["workers"][slot]["pid"].to_string());
        }
    }
}

#[test]
fn nothing_else_may_run_in_it() {
    let router = Router::on(Engine::Portable).option("--admin", "127.0.0.1:0").start();
    let page = Connection::tcp(port(&router)).get("/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let (policy, text) = (page.header("content-security-policy").unwrap(), page.text());
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    for name in ["script", "style"] {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let blocks: Vec<&str> =
            text.split(&open).skip(1).map(|rest| rest.split(&close).next().unwrap()).collect();
        let [block] = blocks[..] else { panic!("{} blocks of {name}", blocks.len()) };
        let allowed = format!("{name}-src 'sha256-{}'", sha256(block));
        assert!(policy.contains(&allowed), "src/control/page.rs should say {allowed}");
    }
    let script = text.split("<script>").nth(1).unwrap();
    for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
        assert!(!script.contains(word), "{word} makes markup, or a program, of data");
    }
    let outside = ["http://", "https://", " src=", "@import", "url("];
    let known = text.replace("http://www.w3.org/2000/svg", "");
    assert!(!outside.iter().any(|word| known.contains(word)), "it has all that it needs");
}

fn sha256(text: &str) -> String {
    let program = "console.log(require('crypto').createHash('sha256').update(process.argv[1]).digest('base64'))";
    let output =
        Command::new("node").args(["-e", program, text]).output().expect("node is on PATH");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let text = std::fs::read_to_string(repository().join("examples/grafana.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            expressions.push(target["expr"].as_str().unwrap());
        }
    }
    assert!(expressions.len() > 10, "{expressions:?}");
    let router = Router::on(Engine::Portable).option("--admin", "127.0.0.1:0").start();
    client("connects", &router.url(), &json!({}));
    let there = metrics(port(&router));
    let names: Vec<String> = there.values.keys().map(|name| bare(name).to_owned()).collect();
    for expression in expressions {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let asked: Vec<&str> = words.filter(|word| word.starts_with("router_")).collect();
        assert!(!asked.is_empty(), "{expression}");
        for name in asked {
            assert!(names.iter().any(|known| known == name), "{name} of {expression} is not told");
        }
    }
}

/// A metric's name without its labels.
fn bare(name: &str) -> &str {
    name.split('{').next().unwrap_or(name)
}

#[test]
fn the_readme_shows_it() {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    assert!(readme.contains("](examples/page.png)"));
    let picture = std::fs::metadata(repository().join("examples/page.png")).unwrap();
    assert!(picture.len() <= LARGEST_PICTURE, "{} bytes", picture.len());
}

#[test]
#[ignore = "takes the README's picture anew, for somebody to look at"]
fn the_picture_is_taken() {
    let router = Router::on(Engine::Uring).workers(4).option("--admin", "127.0.0.1:0").start();
    let admin = format!("http://127.0.0.1:{}/", port(&router));
    let take = |file: &Path, dark: bool| {
        let options = json!({
            "admin": admin, "browser": browser(), "file": file, "dark": dark,
            "clients": 40, "points": POINTS,
        });
        client("picture", &router.url(), &options);
    };
    take(&repository().join("examples/page.png"), false);
    take(&repository().join("target/page-dark.png"), true);
}
