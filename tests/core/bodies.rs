//! A worker sees exactly the bytes the client sent, however they were cut.

use crate::both_engines;
use crate::harness::http::request;
use crate::harness::{Random, Router};
use std::time::Duration;

const SIZES: [usize; 4] = [100, 30_000, 300_000, 1_000_000];

both_engines! {
    fn bodies_of_any_size_arrive_whole(engine) {
        arrive(engine, 2, |_, bytes| vec![bytes.len()]);
    }

    fn bodies_arrive_whole_with_sticky_1(engine) {
        arrive(engine, 1, |random, bytes| cuts(random, bytes.len(), 3));
    }

    fn bodies_split_anywhere_arrive_whole(engine) {
        arrive(engine, 2, |random, bytes| cuts(random, bytes.len(), 7));
    }

    fn a_request_split_inside_its_first_line_arrives_whole(engine) {
        arrive(engine, 2, |random, bytes| {
            let line = bytes.iter().position(|b| *b == b'\r').unwrap();
            vec![1 + random.below(line - 1), line, line + 1, bytes.len()]
        });
    }

    fn a_body_that_looks_like_a_request_is_a_body(engine) {
        let router = Router::on(engine).start();
        let body = b"GET /socket.io/?sid=other HTTP/1.1\r\n\r\n".repeat(50);
        let answer = router.connect().post("/echo", &body);
        assert_eq!(answer.body, body);
    }

    fn a_body_that_comes_late_is_waited_for_by_the_worker(engine) {
        let router = Router::on(engine).start();
        let mut connection = router.connect();
        let bytes = request("POST", "/echo", b"0123456789");
        let (head, body) = bytes.split_at(bytes.len() - 10);
        connection.send(head);
        assert!(connection.is_quiet(Duration::from_millis(200)));
        connection.send(body);
        assert_eq!(connection.response().body, b"0123456789");
    }
}

/// Posts random bytes, cut where `cut` says (the ends of the pieces), and compares the echo.
fn arrive(
    engine: crate::harness::Engine,
    sticky: u32,
    cut: impl Fn(&mut Random, &[u8]) -> Vec<usize>,
) {
    let mut random = Random::new();
    let router = Router::on(engine).env("STICKY", sticky).start();
    for size in SIZES {
        for _ in 0..4 {
            let body = random.bytes(size);
            let bytes = request("POST", "/echo?a=b", &body);
            let ends = cut(&mut random, &bytes);
            let mut connection = router.connect();
            let mut from = 0;
            for end in &ends {
                connection.send(&bytes[from..*end]);
                from = *end;
                // Time for the piece to be seen alone; correctness doesn't hang on it.
                std::thread::sleep(Duration::from_millis(2));
            }
            let answer = connection.response();
            assert_eq!(answer.status, 200, "{size} bytes cut at {ends:?}");
            assert!(answer.body == body, "{size} bytes cut at {ends:?} came back different");
        }
    }
}

/// Sorted ends of `n + 1` pieces.
fn cuts(random: &mut Random, length: usize, n: usize) -> Vec<usize> {
    let mut ends: Vec<usize> = (0..n).map(|_| 1 + random.below(length - 1)).collect();
    ends.push(length);
    ends.sort_unstable();
    ends
}
