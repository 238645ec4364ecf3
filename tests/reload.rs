//! New workers for old ones, more of them and fewer, with clients that must not notice.

use crate::both_engines;
use crate::harness::load::Load;
use crate::harness::{Engine, Router, fixture};
use nix::sys::signal::Signal;
use serde_json::json;

/// Reloads of one story.
const RELOADS: usize = 20;

/// The application whose behaviour at its start is in a file.
fn steady(engine: Engine) -> crate::harness::Builder {
    Router::on(engine).path(&fixture("steady")).env("PORT", 0)
}

fn reload(router: &Router) {
    let done = router.events("reload done");
    router.signal(Signal::SIGHUP);
    router.event_number("reload done", done + 1);
}

both_engines! {
    fn twenty_reloads_under_load_and_nobody_notices_before_the_deadline(engine) {
        let router = steady(engine)
            .option("--drain-timeout", "1500ms")
            .option("--disconnect-over", "1000ms")
            .start();
        let load = Load::start(&router.url(), &json!({ "clients": 64 }));
        for _ in 0..RELOADS {
            reload(&router);
            router.nobody_drains();
        }
        let summary = load.stop();
        summary.nothing_failed();
        assert!(summary.ended("websocket") > 0, "the drains have ended some: {}", summary.0);
    }
}
