//! What is done on one host reaches all.

use super::{HERE, THERE, host, hosts, plain_host};
use crate::both_engines;
use crate::harness::process::alive;
use crate::harness::{Redis, client};
use serde_json::json;

both_engines! {
    fn two_routers_and_a_host_without_are_one_cluster(engine) {
        let redis = Redis::start();
        let (a, b) = (host(engine, HERE, &redis).start(), host(engine, THERE, &redis).start());
        let (_plain, c) = plain_host(&redis);
        let all = hosts(&[(&a.url(), 2), (&b.url(), 2), (&c, 1)]);
        client("hosts", &a.url(), &json!({ "hosts": all }));
        let stream = json!({ "hosts": all, "redis": redis.url(), "stream": "socket.io" });
        client("emitter", &a.url(), &stream);
        assert!(alive(a.pid()) && alive(b.pid()), "both routers live");
    }
}
