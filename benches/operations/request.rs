//! A request's way to its worker: its line, its session id, the table or the id itself, the roster.

use std::hint::black_box;

use router::http::request_line::{Head, RequestLine, parse};
use router::http::sid::sid;
use router::route::WorkerId;
use router::route::balance::{Balance, pick_by_hash};
use router::route::roster::{Roster, Standing};
use router::route::self_routing::named;
use router::route::session_table::SessionTable;

use super::sessions::{scattered, table, worker};
use super::workers::roster;
use super::{FREE, Judge};

const REQUEST: &[u8] =
    b"GET /socket.io/?EIO=4&transport=polling&t=PVp1mQ8&sid=lv_VI97HAXpY6yYWAAAC HTTP/1.1\r\n\
    Host: chat.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: */*\r\n\
    Accept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\n\r\n";
const KNOWN: &[u8; 20] = b"lv_VI97HAXpY6yYWAAAC";
const UNKNOWN: &[u8] =
    b"GET /socket.io/?EIO=4&transport=polling&t=PVp1mQ8&sid=lv_VI97HAXpY6yYWAAAD HTTP/1.1\r\n\
    Host: chat.example.com\r\nConnection: keep-alive\r\n\r\n";
const HANDSHAKE: &[u8] = b"GET /socket.io/?EIO=4&transport=polling&t=PVp1mQ8 HTTP/1.1\r\n\
    Host: chat.example.com\r\nConnection: keep-alive\r\n\r\n";
/// Its id names slot 2, generation 1.
pub(super) const SELF_ROUTING: &[u8] =
    b"GET /socket.io/?EIO=4&transport=polling&t=PVp1mQ8&sid=k3v8dVx1x5wrRwAIBinB HTTP/1.1\r\n\
    Host: chat.example.com\r\nConnection: keep-alive\r\n\r\n";

fn line(head: &[u8]) -> RequestLine<'_> {
    match parse(head) {
        Head::Line(line) => line,
        head => panic!("not a request line: {head:?}"),
    }
}

/// As a shard decides it.
fn route(head: &[u8], sessions: &SessionTable, roster: &Roster) -> Option<WorkerId> {
    let Some(sid) = sid(line(head).target) else {
        return Balance::LeastConnection.pick(roster, |_| true, 0, 0);
    };
    let owner = match named(&sid) {
        Some(named) => roster.find(named).map(|(worker, _)| worker),
        None => sessions.get(&sid),
    };
    owner
        .filter(|worker| roster.standing(*worker) != Standing::Gone)
        .or_else(|| pick_by_hash(roster, |_| true, router::route::hash(&sid)))
}

pub(super) fn all(judge: &mut impl Judge) {
    let roster = roster(4);
    let size = judge.sizes().last().copied().unwrap_or(1);
    let sessions = table(size);
    sessions.insert(KNOWN, worker(2)).expect("room");
    for head in [REQUEST, SELF_ROUTING] {
        assert_eq!(route(head, &sessions, &roster), Some(worker(2)));
    }

    judge.judge("request/line", FREE, || parse(black_box(REQUEST)));
    let target = line(REQUEST).target;
    judge.judge("request/sid", FREE, || sid(black_box(target)).is_some());
    let plain = sid(line(REQUEST).target).expect("a sid");
    let naming = sid(line(SELF_ROUTING).target).expect("a sid");
    judge.judge("request/an id that names its worker", FREE, || named(black_box(&naming)));
    judge.judge("request/an id that names none", FREE, || named(black_box(&plain)));
    judge.judge("request/line, sid, table, roster", FREE, || {
        route(black_box(REQUEST), &sessions, &roster)
    });
    judge.judge("request/line, self-routing sid, roster", FREE, || {
        route(black_box(SELF_ROUTING), &sessions, &roster)
    });
    judge.judge("request/line, no sid, least connection", FREE, || {
        route(black_box(HANDSHAKE), &sessions, &roster)
    });
    judge.judge("request/line, unknown sid, hash", FREE, || {
        route(black_box(UNKNOWN), &sessions, &roster)
    });

    // Another session each time: nothing of the table is in a cache but by luck.
    let mut head = REQUEST.to_vec();
    let start = head.windows(KNOWN.len()).position(|w| w == KNOWN).expect("it is in there");
    let ids = scattered(size);
    let mut ids = ids.iter().cycle();
    judge.judge("request/line, another sid, table, roster", FREE, || {
        if let Some(id) = ids.next() {
            head[start..start + id.len()].copy_from_slice(id);
        }
        route(black_box(&head), &sessions, &roster)
    });
}
