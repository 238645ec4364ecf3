//! Real clients on a real cluster see what one process would give them.

use crate::both_engines;
use crate::harness::{Builder, Engine, Router, client, shares};
use serde_json::json;

/// Runs a scenario whose clients must be spread evenly over the workers.
fn holds(router: Builder, scenario: &str) {
    let router = router.start();
    let seen = client(scenario, &router.url(), &json!({}));
    let shares = shares(&seen);
    assert_eq!(shares.len(), 2, "both workers had clients: {seen}");
    assert_eq!(shares[0], shares[1], "and as many: {seen}");
}

both_engines! {
    fn sixteen_clients_at_once_land_eight_and_eight(engine) {
        let router = Router::on(engine).start();
        let seen = client("connects", &router.url(), &json!({ "clients": 16, "stay": 500 }));
        assert_eq!(shares(&seen), [8, 8], "{seen}");
        let transports = seen["transports"].as_array().unwrap();
        assert_eq!(transports.iter().filter(|t| *t == "websocket").count(), 8, "{seen}");
    }

    fn sixteen_websockets_at_once_land_eight_and_eight(engine) {
        let router = Router::on(engine).start();
        let options = json!({ "clients": 16, "kind": "websocket" });
        assert_eq!(shares(&client("connects", &router.url(), &options)), [8, 8]);
    }

    fn an_emit_reaches_all_clients_of_all_workers(engine) {
        holds(Router::on(engine), "emit_reaches_all");
    }

    fn packets_keep_the_order_their_sender_gave_them(engine) {
        holds(Router::on(engine), "order_is_kept");
    }

    fn rooms_span_workers(engine) {
        holds(Router::on(engine), "rooms");
    }

    fn fetch_sockets_lists_all_workers_sockets(engine) {
        holds(Router::on(engine), "fetch_sockets");
    }

    fn server_side_emit_is_answered_by_every_other_worker(engine) {
        holds(Router::on(engine), "server_side_emit");
    }

    fn sockets_join_and_leave_rooms_from_another_worker(engine) {
        holds(Router::on(engine), "sockets_join_and_leave");
    }

    fn disconnect_sockets_reaches_other_workers_clients(engine) {
        holds(Router::on(engine), "disconnect_sockets");
    }

    fn a_broadcast_collects_the_acks_of_all_workers_clients(engine) {
        holds(Router::on(engine), "broadcast_with_ack");
    }

    fn a_packet_of_megabytes_crosses_workers(engine) {
        holds(Router::on(engine), "big_packets");
    }

    fn the_last_words_of_a_worker_are_heard(engine) {
        for how in ["exit", "disconnect", "kill"] {
            let router = Router::on(engine).start();
            client("last_words", &router.url(), &json!({ "how": how }));
            router.lives();
        }
    }

    fn everything_works_with_sticky_1(engine) {
        works(Router::on(engine).env("STICKY", 1), true);
    }

    fn everything_works_in_json_with_sticky_1(engine) {
        works(Router::on(engine).env("STICKY", 1).option("--serialization", "json"), false);
    }

    fn everything_works_in_json_with_sticky_2(engine) {
        works(Router::on(engine).option("--serialization", "json"), false);
    }

    fn everything_works_with_two_router_threads(engine) {
        works(Router::on(engine).option("--threads", 2), true);
    }

    fn everything_works_with_four_workers_on_two_threads(engine) {
        works_on(Router::on(engine).workers(4).option("--threads", 2), 4, true);
    }

    fn round_robin_takes_turns(engine) {
        let router = Router::on(engine).option("--balance", "round-robin").start();
        let options = json!({ "clients": 16, "kind": "websocket" });
        assert_eq!(shares(&client("connects", &router.url(), &options)), [8, 8]);
    }

    fn random_reaches_every_worker(engine) {
        let router = Router::on(engine).option("--balance", "random").start();
        let options = json!({ "clients": 32, "kind": "websocket" });
        // One worker without a client has a chance of 2 in 2^32.
        assert_eq!(shares(&client("connects", &router.url(), &options)).len(), 2);
    }
}

fn works(router: Builder, binary: bool) {
    works_on(router, 2, binary);
}

fn works_on(router: Builder, workers: usize, binary: bool) {
    let router = router.start();
    let options = json!({ "workers": workers, "binary": binary });
    client("everything", &router.url(), &options);
    router.lives();
}

#[test]
fn the_router_and_its_workers_go_when_the_test_is_over() {
    let pids = {
        let engine = if Engine::Uring.wanted() { Engine::Uring } else { Engine::Portable };
        let router = Router::on(engine).start();
        let mut pids = router.pids();
        pids.push(router.pid());
        pids
    };
    assert_eq!(pids.len(), 3);
    for pid in pids {
        assert!(!crate::harness::process::alive(pid), "{pid} is left");
    }
}
