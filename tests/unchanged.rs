//! Applications as anyone writes them (tests/node/apps/plain), for one process and with no word
//! about the router: the same file under `node` and under the router with three workers, and real
//! clients that must not see a difference.

use crate::both_engines;
use crate::harness::http::{free_port, request};
use crate::harness::polling::Session;
use crate::harness::{
    Builder, Connection, Engine, Nginx, PlainNode, Random, Router, SOON, TempDir, client, node,
    repository, until,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const WORKERS: usize = 3;

/// An application, what the clients must know about it, and what it needs.
struct App {
    path: PathBuf,
    options: Value,
    /// The oldest line of Node that it runs on.
    node: u32,
    /// It listens on a second port, where another server is.
    two_ports: bool,
    _directory: Option<TempDir>,
}

fn app(name: &str) -> App {
    let path = repository().join("tests/node/apps/plain").join(name);
    App { path, options: json!({}), node: 18, two_ports: false, _directory: None }
}

impl App {
    fn seen_with(mut self, options: Value) -> Self {
        self.options = options;
        self
    }

    fn since_node(mut self, line: u32) -> Self {
        self.node = line;
        self
    }

    fn on_two_ports(mut self) -> Self {
        self.two_ports = true;
        self
    }

    /// In one file with all its packages: nobody can put anything in a package's place.
    fn bundled(mut self) -> Self {
        let directory = TempDir::new();
        let path = directory.path().join("app.js");
        node::bundle(&self.path, &path);
        self.path = path;
        self._directory = Some(directory);
        self
    }

    fn ports(&self, port: u16, second: u16) -> Vec<u16> {
        if self.two_ports { vec![port, second] } else { vec![port] }
    }

    fn on_node(&self) -> (PlainNode, u16, u16) {
        let (port, second) = (free_port(), free_port());
        let environment = [("PORT", port), ("PORT2", second)];
        let ports = self.ports(port, second);
        (PlainNode::start(node::since(self.node), &self.path, &environment, &ports), port, second)
    }

    /// `router --workers 3 app.js`, the application's ports being its own.
    fn on_router(&self, engine: Engine) -> (Router, u16, u16) {
        self.on_router_with(engine, |router| router)
    }

    fn on_router_with(
        &self,
        engine: Engine,
        more: impl FnOnce(Builder) -> Builder,
    ) -> (Router, u16, u16) {
        let (port, second) = (free_port(), free_port());
        let mut router = Router::on(engine).workers(WORKERS).path(&self.path).no_listen();
        router = router.env("PORT", port).env("PORT2", second);
        if let Some(node) = node::since(self.node) {
            router = router.interpreter(node);
        }
        let router = more(router).start();
        for port in self.ports(port, second) {
            until("the router listens where the application does", SOON, || {
                Connection::connects(port).then_some(())
            });
        }
        (router, port, second)
    }

    /// All that clients do, and what they must see.
    fn holds(&self, port: u16, second: u16, workers: usize) -> Value {
        let mut options = self.options.clone();
        options["workers"] = workers.into();
        if self.two_ports {
            options["also"] = json!([{ "port": second }]);
        }
        client("whole_app", &url(port), &options)
    }

    fn holds_on_node(&self) {
        let (_node, port, second) = self.on_node();
        self.holds(port, second, 1);
    }

    fn holds_on_router(&self, engine: Engine) {
        let (router, port, second) = self.on_router(engine);
        let workers = router.slots();
        self.holds(port, second, WORKERS);
        assert_eq!(router.slots(), workers, "the workers are the ones it began with");
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// One application, three tests: `name::node`, and the router with either engine.
macro_rules! the_same_under_node_and_under_the_router {
    ($(fn $name:ident() $app:block)+) => {$(
        mod $name {
            use super::*;

            fn subject() -> App $app

            #[test]
            fn node() {
                subject().holds_on_node();
            }

            #[test]
            fn uring() {
                under_the_router(Engine::Uring);
            }

            #[test]
            fn portable() {
                under_the_router(Engine::Portable);
            }

            fn under_the_router(engine: Engine) {
                if engine.wanted() {
                    subject().holds_on_router(engine);
                } else {
                    eprintln!("skipped: ROUTER_TEST_ENGINE asks for the other engine");
                }
            }
        }
    )+};
}

the_same_under_node_and_under_the_router! {
    fn a_server_of_nodes_own() {
        app("http.js")
    }

    fn a_port_and_no_server() {
        app("port.js").seen_with(json!({ "pages": false }))
    }

    fn a_module_that_says_its_port_last() {
        app("listen.mjs").seen_with(json!({ "pages": false }))
    }

    fn express_in_commonjs() {
        app("express.js")
    }

    fn express_in_a_module() {
        app("express.mjs")
    }

    fn fastify_in_commonjs() {
        app("fastify.js").since_node(20)
    }

    fn fastify_in_a_module() {
        app("fastify.mjs").since_node(20)
    }

    fn a_framework_that_makes_the_server_through_an_adapter() {
        app("nest.js")
    }

    fn typescript() {
        app("typescript.ts").since_node(22)
    }

    fn session_ids_of_the_applications_making() {
        app("generate-id.js").seen_with(json!({ "sid": "^mine-[0-9a-f-]{36}$" }))
    }

    fn two_servers_on_one_port() {
        app("paths.js").seen_with(json!({ "path": "/first/", "also": [{ "path": "/second/" }] }))
    }

    fn two_servers_on_two_ports() {
        app("ports.js").on_two_ports()
    }

    // Sessions hold and pages are served; a bundle's servers can't be brought together.
    fn a_bundle_that_nothing_can_be_put_into() {
        app("express.js").bundled().seen_with(json!({ "cluster": false, "file": false }))
    }
}

/// A few sessions, each opened over connections of its own, in as many processes as there are.
fn sessions(port: u16, processes: usize) -> Vec<(Session, u32)> {
    const SESSIONS: usize = 3;
    let mut found: Vec<(Session, u32)> = Vec::new();
    for _ in 0..40 {
        let session = Session::open(port).unwrap();
        session.join().unwrap();
        let pid = session.pid().unwrap();
        let known = found.iter().any(|(_, p)| *p == pid);
        if !known || processes == 1 {
            found.push((session, pid));
        }
        if found.len() == SESSIONS {
            return found;
        }
    }
    panic!("40 sessions and not {SESSIONS} processes: {found:?}");
}

/// 300 requests of three sessions in random order, all on one connection to `port`. Each session
/// posts what the application sends back, and polls when there is something to fetch. Gives the
/// ports from which the application saw its requests come.
fn one_connection(port: u16, sessions: &[(Session, u32)]) -> BTreeSet<u64> {
    let mut random = Random::new();
    let mut line = Connection::tcp(port);
    let mut due = vec![Vec::<String>::new(); sessions.len()];
    let mut pongs = vec![0; sessions.len()];
    let (mut peers, mut switches, mut last) = (BTreeSet::new(), 0, usize::MAX);
    for n in 0..300 {
        let who = random.below(sessions.len());
        let (session, pid) = &sessions[who];
        if who != last {
            switches += 1;
        }
        last = who;
        let step = format!("request {n}, session {who} of process {pid}");
        let choice = random.below(10);
        if choice == 0 {
            // A page belongs to no session: whoever has the connection may answer.
            let answer = ask(&mut line, "GET", &format!("/hello?name={n}"), b"", &step);
            let page: Value = serde_json::from_str(&answer).unwrap();
            assert_eq!(page["hello"], n.to_string(), "{step}");
            assert!(sessions.iter().any(|(_, pid)| page["pid"] == *pid), "{step}: {page}");
            peers.insert(page["peer"].as_u64().unwrap());
        } else if pongs[who] > 0 {
            pongs[who] -= 1;
            assert_eq!(ask(&mut line, "POST", &session.target(), b"3", &step), "ok", "{step}");
        } else if due[who].is_empty() || choice < 5 {
            let text: String =
                random.bytes(20 * 1024).iter().map(|b| char::from(b'a' + b % 26)).collect();
            let packet = format!("42{n}[\"echo\",\"{text}\"]");
            let answer = ask(&mut line, "POST", &session.target(), packet.as_bytes(), &step);
            assert_eq!(answer, "ok", "{step}");
            due[who].push(format!("43{n}[\"{text}\"]"));
        } else {
            let mut packets = fetch(&mut line, session, &mut pongs[who], &step);
            // What was said before the poll may come in more than one piece.
            while packets.len() < due[who].len() {
                packets.extend(fetch(&mut line, session, &mut pongs[who], &step));
            }
            assert!(packets == due[who], "{step}: not the packets that are due");
            due[who].clear();
        }
    }
    assert!(switches > 150, "{switches} changes of the session");
    for (who, (session, pid)) in sessions.iter().enumerate() {
        let step = format!("the end of session {who}");
        let answer = ask(&mut line, "POST", &session.target(), b"42999[\"pid\"]", &step);
        assert_eq!(answer, "ok", "{step}");
        let mut packets = Vec::new();
        while packets.len() <= due[who].len() {
            packets.extend(fetch(&mut line, session, &mut pongs[who], &step));
        }
        assert_eq!(packets.last(), Some(&format!("43999[{pid}]")), "{step}");
    }
    let own = u64::from(line.local_port());
    println!("{switches} changes of the session; this end is {own}, the application saw {peers:?}");
    peers
}

/// A request on the line, answered with a 200 that leaves the line open.
fn ask(line: &mut Connection, method: &str, target: &str, body: &[u8], step: &str) -> String {
    let answer = line
        .try_send(request(method, target, body))
        .and_then(|()| line.try_response())
        .unwrap_or_else(|e| panic!("{step}: {method} {target}: {e}"));
    assert_eq!(answer.status, 200, "{step}: {method} {target}: {answer:?}");
    let close = answer.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"));
    assert!(!close, "{step}: {method} {target} ends the connection");
    answer.text()
}

/// One poll: the answers in it. Pings are counted, other clients' comings and goings left out.
fn fetch(line: &mut Connection, session: &Session, pings: &mut usize, step: &str) -> Vec<String> {
    let answer = ask(line, "GET", &session.target(), b"", step);
    let packets = answer.split('\x1e');
    *pings += packets.clone().filter(|p| *p == "2").count();
    packets.filter(|p| p.starts_with("43")).map(str::to_owned).collect()
}

#[test]
fn one_connection_carries_three_sessions_on_node() {
    let (_node, port, _) = app("express.js").on_node();
    assert_eq!(one_connection(port, &sessions(port, 1)).len(), 1);
}

#[test]
fn one_connection_through_nginx_carries_three_sessions_on_node() {
    let subject = app("express.js");
    let (_node, port, _) = subject.on_node();
    let nginx = Nginx::before(port);
    assert_eq!(one_connection(nginx.port, &sessions(port, 1)).len(), 1);
}

#[test]
fn everything_holds_through_nginx_on_node() {
    let (_node, port, _) = app("express.js").on_node();
    let nginx = Nginx::before(port);
    client("whole_app", &nginx.url(), &json!({ "workers": 1 }));
}

both_engines! {
    fn one_connection_carries_three_sessions_of_three_workers(engine) {
        let (_router, port, _) = app("express.js").on_router(engine);
        let peers = one_connection(port, &sessions(port, WORKERS));
        assert_eq!(peers.len(), 1, "every worker saw the connection's own port");
    }

    fn one_connection_of_nginx_carries_three_sessions_of_three_workers(engine) {
        let (_router, port, _) = app("express.js").on_router(engine);
        let sessions = sessions(port, WORKERS);
        let nginx = Nginx::before(port);
        let peers = one_connection(nginx.port, &sessions);
        assert_eq!(peers.len(), 1, "nginx kept its connection");
    }

    fn everything_holds_through_nginx(engine) {
        let (_router, port, _) = app("express.js").on_router(engine);
        let nginx = Nginx::before(port);
        client("whole_app", &nginx.url(), &json!({ "workers": WORKERS }));
    }
}

/// What the application itself, and a process of each kind that it starts, found around them.
fn reports(port: u16) -> BTreeMap<&'static str, Value> {
    let report = |kind| {
        let answer = Connection::tcp(port).get(&format!("/{kind}"));
        assert_eq!(answer.status, 200, "{kind}: {}", answer.text());
        (kind, serde_json::from_slice(&answer.body).unwrap())
    };
    ["self", "fork", "spawn", "thread"].map(report).into()
}

/// The variables that the router's documentation promises to a worker are inherited; all else is
/// as under `node`. Descriptors: those that a small process has by itself.
fn comparable(report: &Value) -> Value {
    let mut report = report.clone();
    report["env"].as_array_mut().unwrap().retain(|name| name != "NODE_APP_INSTANCE");
    let fds = report["fds"].as_object_mut().unwrap();
    fds.retain(|number, _| number.parse::<u32>().unwrap() < 64);
    report
}

both_engines! {
    fn what_the_application_starts_finds_nothing_of_the_router(engine) {
        let subject = app("children.js");
        let expected = {
            let (_node, port, _) = subject.on_node();
            reports(port)
        };
        let (_router, port, _) = subject.on_router(engine);
        let found = reports(port);
        for kind in ["fork", "spawn", "thread"] {
            assert_eq!(comparable(&found[kind]), comparable(&expected[kind]), "{kind}");
            assert_eq!(found[kind]["execArgv"], json!([]), "{kind}");
            assert_eq!(found[kind]["modules"], json!(["report.js"]), "{kind}");
        }
        let own = &found["self"];
        assert_eq!(own["execArgv"], json!([]));
        assert_eq!(own["argv"], json!([]));
        assert_eq!(own["options"], expected["self"]["options"]);
        assert_eq!(comparable(own)["env"], comparable(&expected["self"])["env"]);
        assert_eq!(own["worker"], true);
    }

    fn node_arguments_are_inherited_and_nothing_else_is(engine) {
        let (_router, port, _) = app("children.js").on_router_with(engine, |router| {
            router.option("--node-args", "--no-warnings").app_args(&["--color", "red"])
        });
        let found = reports(port);
        assert_eq!(found["self"]["execArgv"], json!(["--no-warnings"]));
        assert_eq!(found["self"]["argv"], json!(["--color", "red"]));
        // A fork and a thread inherit them from the process; another program does not.
        assert_eq!(found["fork"]["execArgv"], json!(["--no-warnings"]));
        assert_eq!(found["thread"]["execArgv"], json!(["--no-warnings"]));
        assert_eq!(found["spawn"]["execArgv"], json!([]));
    }

    fn connection_state_recovery_is_warned_of_once(engine) {
        let subject = recovery();
        let (router, port, second) = subject.on_router(engine);
        let warnings = || {
            let lines = router.log.lines();
            let said = lines.into_iter().filter(|line| line.worker_output().is_none());
            let about = |text: &str| text.to_lowercase().replace(' ', "").contains("staterecovery");
            said.filter(|line| about(&line.text)).map(|line| line.text).collect::<Vec<_>>()
        };
        until("the router warns", SOON, || (!warnings().is_empty()).then_some(()));
        // Sessions hold all the same, in all three workers.
        subject.holds(port, second, WORKERS);
        assert_eq!(warnings().len(), 1, "{:?}", warnings());
        assert!(warnings()[0].contains("WARN"), "{:?}", warnings());
    }

    fn an_adapter_of_the_applications_choice_is_left_alone(engine) {
        let subject = own_adapter();
        let (router, port, second) = subject.on_router(engine);
        assert_eq!(adapters(&router.get("/adapters").text()), OWN);
        subject.holds(port, second, WORKERS);
    }
}

const OWN: [[&str; 2]; 2] = [["OwnAdapter"; 2]; 2];

/// Each packet carries one argument more than was said: where to resume.
fn recovery() -> App {
    app("recovery.js").seen_with(json!({ "cluster": false }))
}

fn own_adapter() -> App {
    let also = json!([{ "path": "/second/" }]);
    let options = json!({ "cluster": false, "path": "/first/", "also": also });
    app("own-adapter.js").seen_with(options)
}

/// Of each server's namespaces, the class of the adapter.
fn adapters(text: &str) -> Vec<Vec<String>> {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn the_applications_of_these_tests_do_what_they_should_on_node() {
    let (node, port, second) = recovery().on_node();
    let seen = client("recovers", &url(port), &json!({}));
    assert_eq!(seen, json!({ "recovered": true, "same": true }));
    recovery().holds(port, second, 1);
    drop(node);
    let (_node, port, second) = own_adapter().on_node();
    assert_eq!(adapters(&Connection::tcp(port).get("/adapters").text()), OWN);
    own_adapter().holds(port, second, 1);
}

#[test]
fn no_application_of_these_tests_knows_of_the_router() {
    let directory = repository().join("tests/node/apps/plain");
    let names = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    for path in names.filter(|path| path.file_name() != Some(Path::new("report.js").as_os_str())) {
        let text = std::fs::read_to_string(&path).unwrap();
        for word in ["router", "sticky", "cluster-adapter", "process.send", "NODE_"] {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
}
