//! Redis is many: a cluster of nodes, or a master that its sentinels replace.

use super::{
    HERE, Numbered, THERE, host, host_on, hosts, number, plain_host, plain_host_on, status,
};
use crate::both_engines;
use crate::harness::redis::Sentinel;
use crate::harness::{Cluster, Engine, Redis, Router, SOON, client, until};
use serde_json::{Value, json};

both_engines! {
    fn routers_and_a_host_without_are_one_on_a_redis_cluster(engine) {
        let cluster = Cluster::of(3);
        let (a, b) = two(engine, &cluster.url());
        let (_plain, c) = plain_host_on(&cluster.urls().join(","));
        let all = hosts(&[(&a.url(), 2), (&b.url(), 2), (&c, 1)]);
        client("hosts", &a.url(), &json!({ "hosts": all }));
        assert_eq!(status(&a)["bus"]["redis"], cluster.url());
    }

    fn what_is_no_cluster_and_what_is_one_is_said_at_start(engine) {
        let cluster = Cluster::of(2);
        // Whichever of its nodes was named.
        for node in [cluster.owner("socket.io"), cluster.stranger("socket.io")] {
            let (status, text) = host_on(engine, HERE, &node.url()).fails();
            assert_eq!(status.code(), Some(2), "{text}");
            assert!(text.contains("write redis+cluster://"), "{text}");
        }
        let redis = Redis::start();
        let (status, text) = host_on(engine, HERE, &format!("redis+cluster://127.0.0.1:{}", redis.port)).fails();
        assert_eq!(status.code(), Some(2), "{text}");
        assert!(text.contains("no Redis Cluster: write redis://"), "{text}");
    }

    fn a_replica_that_takes_over_is_followed_without_a_loss(engine) {
        let mut cluster = Cluster::of(3);
        let replica = cluster.replicate("socket.io");
        let (a, b) = two(engine, &cluster.url());
        let mut numbered = Numbered::start(&hosts(&[(&a.url(), 2), (&b.url(), 2)]), 20_000);
        numbered.send_up_to(2000);
        // By agreement: the owner holds still until the replica has all that it has.
        cluster.node(replica).ask(&["CLUSTER", "FAILOVER"]);
        numbered.send_up_to(12_000);
        until("the replica owns the slot", SOON, || {
            (cluster.owner("socket.io").port == replica).then_some(())
        });
        for router in [&a, &b] {
            router.event_number("the bus is connected", 2);
        }
        numbered.send_up_to(20_000);
        assert_eq!(numbered.missing(), vec![vec![]; 4] as Vec<Vec<usize>>);
    }

    fn an_owner_that_dies_takes_with_it_what_its_replica_had_not(engine) {
        let mut cluster = Cluster::of(3);
        let replica = cluster.replicate("socket.io");
        let (a, b) = two(engine, &cluster.url());
        let mut numbered = Numbered::start(&hosts(&[(&a.url(), 2), (&b.url(), 2)]), 6000);
        numbered.send_up_to(2000);
        let owner = cluster.owner("socket.io").port;
        cluster.lose(owner);
        numbered.send_up_to(4000);
        until("the replica owns the slot", SOON, || {
            (cluster.owner("socket.io").port == replica).then_some(())
        });
        for router in [&a, &b] {
            router.event_number("the bus is connected", 2);
        }
        numbered.send_up_to(6000);
        let missing = numbered.missing();
        only_what_redis_lost(&missing, &kept(cluster.node(replica)), 2000);
    }

    fn sentinels_that_name_another_master_are_followed(engine) {
        let master = Redis::start();
        let replica = Redis::replica_of(&master);
        let sentinel = Sentinel::of(&master);
        let (a, b) = two(engine, &format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port));
        let mut numbered = Numbered::start(&hosts(&[(&a.url(), 2), (&b.url(), 2)]), 60_000);
        numbered.send_up_to(2000);
        assert_eq!(sentinel.fail_over(), replica.port);
        // The former master goes on meanwhile, and takes what nobody will ever have from it.
        let mut sent = 2000;
        let followed = |router: &Router| router.events("the bus is connected") == 2;
        while !(followed(&a) && followed(&b)) {
            sent += 100;
            numbered.send_up_to(sent);
        }
        numbered.send_up_to(60_000);
        assert_eq!(replica.ask(&["ROLE"])[0], "master");
        let missing = numbered.missing();
        only_what_redis_lost(&missing, &kept(&replica), sent);
    }

    fn a_host_without_router_that_lost_redis_is_there_again_with_it(engine) {
        let mut redis = Redis::start();
        let a = host(engine, HERE, &redis).start();
        let (_plain, c) = plain_host(&redis);
        let all = json!({ "hosts": hosts(&[(&a.url(), 2), (&c, 1)]) });
        client("hosts", &a.url(), &all);
        // One for each namespace.
        let adapters = || status(&a)["bus"]["plain"].as_u64().unwrap();
        assert_eq!(adapters(), 2);
        redis.stop();
        until("it is out of sight", SOON, || (adapters() == 0).then_some(()));
        redis.start_again();
        until("it is there again", SOON, || (adapters() == 2).then_some(()));
        client("hosts", &a.url(), &all);
    }
}

/// Two hosts on it; their streams keep all that a test sends.
fn two(engine: Engine, bus: &str) -> (Router, Router) {
    let one = |address| host_on(engine, address, bus).option("--bus-max-len", 100_000).start();
    (one(HERE), one(THERE))
}

/// The numbers that the stream has.
fn kept(redis: &Redis) -> Vec<usize> {
    let entries = redis.ask(&["XRANGE", "socket.io", "-", "+"]);
    let of = |entry: &Value| {
        let fields = entry[1].as_array().unwrap();
        let at = fields.iter().position(|field| field == "data")?;
        let data: Value = serde_json::from_str(fields[at + 1].as_str().unwrap()).ok()?;
        let said = &data["packet"]["data"];
        (said[0] == "number").then(|| number(&said[1]))
    };
    entries.as_array().unwrap().iter().filter_map(of).collect()
}

/// The sender's own host has all. The other has whatever Redis has kept, and all that was sent before
/// and after the change: what is missing came between, up to `before`.
#[track_caller]
fn only_what_redis_lost(missing: &[Vec<usize>], kept: &[usize], before: usize) {
    assert_eq!(missing[..2], [Vec::<usize>::new(), Vec::new()]);
    // Redis kept each once, in order: so it can be looked up.
    assert!(kept.is_sorted_by(|one, next| one < next), "{kept:?}");
    for missing in &missing[2..] {
        assert!(missing.iter().all(|n| *n < before), "{missing:?} up to {before}");
        let had = missing.iter().find(|n| kept.binary_search(n).is_ok());
        assert_eq!(had, None, "Redis has it, and it was not passed on");
    }
}
