//! The codec beside its models: V8 of a real Node, and the official adapter's own encoder.

use crate::harness::{node, repository};
use router::bus::packet::{Packet, decoded};
use router::ipc::Serialization::Advanced;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

fn unhex(hex: &Value) -> Vec<u8> {
    let digits = hex.as_str().unwrap().as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn values_become_what_the_official_adapter_makes_of_them() {
    node::packages();
    let mut oracle = Command::new(node::command())
        .arg(repository().join("tests/node/oracle.js"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node is on PATH");
    // It says all that it has to say before it listens.
    let (mut ask, out) = (oracle.stdin.take().unwrap(), oracle.stdout.take().unwrap());
    let mut lines = BufReader::new(out).lines();
    let mut answers = Vec::new();
    const VALUES: usize = 71;
    for at in 0..VALUES {
        let line = lines.next().unwrap_or_else(|| panic!("only {at} values")).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let frame = unhex(&said["frame"]);
        let packet = Packet::of_frame(Advanced, &frame).unwrap_or_else(|e| panic!("{at}: {e}"));
        let data = packet.entry_data().expect("short").expect("there is some");
        let (ours, theirs) = (String::from_utf8(data).unwrap(), said["data"].as_str().unwrap());
        assert_eq!(ours, theirs, "value {at}");

        let asked = unhex(&said["asked"]);
        let asked = Packet::of_frame(Advanced, &asked).unwrap();
        let payload = asked.clone().into_payload().expect("short");
        assert_eq!(hex(&payload), said["payload"].as_str().unwrap(), "value {at}");
        Packet::of_payload(&payload).unwrap_or_else(|e| panic!("{at}: {e}"));

        let data = decoded(theirs.as_bytes().to_vec()).unwrap();
        let back = Packet::of_entry(b"0123456789abcdef", b"/", b"3", data.as_ref());
        let back = back.unwrap_or_else(|e| panic!("{at}: {e}"));
        answers.push(hex(&back.into_frame(Advanced)));
    }
    for answer in answers {
        writeln!(ask, "{answer}").unwrap();
    }
    drop(ask);
    assert!(lines.next().is_none(), "more values than {VALUES}");
    assert!(oracle.wait().unwrap().success(), "V8 reads what the router writes");
}
