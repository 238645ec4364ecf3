//! Requests of one session reach one worker, from the first one on.

use crate::both_engines;
use crate::harness::polling::{encode, many};
use crate::harness::{Router, Session, client};
use serde_json::json;
use std::collections::BTreeSet;

both_engines! {
    fn three_thousand_handshakes_are_polled_at_once_and_answered_200(engine) {
        let router = Router::on(engine).workers(3).start();
        let port = router.port();
        let failures = many(3000, 32, |_| Session::open(port)?.join());
        assert!(failures.is_empty(), "{} failed: {:#?}", failures.len(), &failures[..3.min(failures.len())]);
        router.lives();
    }

    fn a_session_id_of_36_characters_is_routed(engine) {
        ids_are_routed(Router::on(engine).env("GENERATE_ID", "uuid").start());
    }

    fn a_session_id_that_needs_percent_encoding_is_routed(engine) {
        ids_are_routed(Router::on(engine).env("GENERATE_ID", "latin1").start());
    }

    fn a_session_id_beyond_latin_1_is_routed(engine) {
        ids_are_routed(Router::on(engine).env("GENERATE_ID", "unicode").start());
    }

    fn real_clients_keep_their_own_kind_of_session_id(engine) {
        let router = Router::on(engine).env("GENERATE_ID", "unicode").start();
        let seen = client("connects", &router.url(), &json!({ "clients": 8, "stay": 300 }));
        assert_eq!(crate::harness::shares(&seen), [4, 4]);
    }

    fn the_first_of_several_sids_counts(engine) {
        let router = Router::on(engine).start();
        let (here, there) = on_two_workers(router.port());
        let pid = here.pid().unwrap();
        // The answer of a plain route tells the worker; the query decides which.
        let target = format!("/pid?sid={}&sid={}", here.sid, there.sid);
        for _ in 0..8 {
            assert_eq!(router.get(&target).pid(), pid);
        }
    }

    fn only_the_parameter_named_sid_counts(engine) {
        let router = Router::on(engine).start();
        let (here, there) = on_two_workers(router.port());
        let pid = here.pid().unwrap();
        let (h, t) = (&here.sid, &there.sid);
        for target in [
            format!("/pid?xsid={t}&sid={h}"),
            format!("/pid?sidx={t}&sid={h}"),
            format!("/pid?a=sid={t}&sid={h}"),
            format!("/sid={t}/../pid?sid={h}"),
            format!("/pid?&&sid={h}&sid={t}"),
            format!("/pid?sid={h}#sid={t}"),
            format!("http://host/pid?sid={h}"),
        ] {
            for _ in 0..4 {
                assert_eq!(router.get(&target).pid(), pid, "{target}");
            }
        }
    }

    fn a_sid_may_be_percent_encoded_without_need(engine) {
        let router = Router::on(engine).start();
        let (here, _) = on_two_workers(router.port());
        let pid = here.pid().unwrap();
        let all: String = here.sid.bytes().map(|b| format!("%{b:02x}")).collect();
        for _ in 0..8 {
            assert_eq!(router.get(&format!("/pid?sid={all}")).pid(), pid);
        }
    }

    fn the_sid_of_another_header_or_the_body_is_not_looked_at(engine) {
        let router = Router::on(engine).start();
        let (here, there) = on_two_workers(router.port());
        let pid = here.pid().unwrap();
        for _ in 0..4 {
            let mut connection = router.connect();
            connection.send(format!(
                "GET /pid?sid={} HTTP/1.1\r\nHost: x\r\nReferer: http://x/?sid={}\r\n\r\n",
                here.sid, there.sid
            ));
            assert_eq!(connection.response().pid(), pid);
        }
    }

    fn all_requests_of_an_unknown_sid_reach_one_worker(engine) {
        let router = Router::on(engine).workers(3).start();
        let mut used = BTreeSet::new();
        for n in 0..12 {
            let target = format!("/pid?sid={}", encode(&format!("nobody knows {n}")));
            let pids: BTreeSet<u32> = (0..5).map(|_| router.get(&target).pid()).collect();
            assert_eq!(pids.len(), 1, "{target}: {pids:?}");
            used.extend(pids);
        }
        assert!(used.len() > 1, "different ones are spread");
    }

    fn a_stale_poll_gets_the_applications_own_answer(engine) {
        let router = Router::on(engine).start();
        let answer = router.get("/socket.io/?EIO=4&transport=polling&sid=gone");
        assert_eq!(answer.status, 400);
        assert!(answer.text().contains("Session ID unknown"), "{answer:?}");
    }

    fn requests_without_a_session_are_shared(engine) {
        let router = Router::on(engine).start();
        let pids: BTreeSet<u32> = (0..20).map(|_| router.get("/pid").pid()).collect();
        assert_eq!(pids, router.pids().into_iter().collect());
    }

    fn keep_alive_requests_of_one_connection_are_all_answered(engine) {
        // sticky 1 keeps connections open; 2 closes them itself.
        let router = Router::on(engine).env("STICKY", 1).start();
        let mut connection = router.connect();
        let first = connection.get("/pid").pid();
        for _ in 0..20 {
            assert_eq!(connection.get("/pid").pid(), first);
        }
    }
}

/// Each session's own requests, on connections of their own, know it.
fn ids_are_routed(router: Router) {
    let port = router.port();
    let failures = many(60, 8, |_| {
        let session = Session::open(port)?;
        session.join()?;
        let first = session.pid()?;
        for _ in 0..3 {
            if session.pid()? != first {
                return Err(format!("{session:?} moved"));
            }
        }
        Ok(())
    });
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Two joined sessions in different workers.
fn on_two_workers(port: u16) -> (Session, Session) {
    let open = || {
        let session = Session::open(port).unwrap();
        session.join().unwrap();
        session
    };
    let first = open();
    let pid = first.pid().unwrap();
    for _ in 0..20 {
        let second = open();
        if second.pid().unwrap() != pid {
            return (first, second);
        }
    }
    panic!("20 sessions, all on one worker");
}
