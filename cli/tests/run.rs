//! `countersign run`: the command has one way out, and its exit code is ours.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on panics"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;

/// Whether namespaces can be made here: in CI they must.
fn possible() -> bool {
    let tried = Command::new("unshare").args(["--user", "--map-current-user", "--net", "true"]).output();
    let possible = tried.as_ref().is_ok_and(|output| output.status.success());
    assert!(possible || std::env::var_os("CI").is_none_or(|v| v.is_empty()), "no namespaces: {tried:?}");
    if !possible {
        println!("skipped: no namespaces: {tried:?}");
    }
    possible
}

fn run(proxy: SocketAddr, command: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args(["run", "--proxy", &proxy.to_string(), "--"])
        .args(command)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Speaks SOCKS5 as the proxy does, says what was asked for, and answers as the called one.
fn proxy() -> (SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::sync_channel(8);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut greeting = [0; 2];
            // Whoever only looks whether we are there says nothing.
            if stream.read_exact(&mut greeting).is_err() {
                continue;
            }
            let mut methods = vec![0; greeting[1].into()];
            stream.read_exact(&mut methods).unwrap();
            stream.write_all(&[5, 0]).unwrap();
            let mut head = [0; 5];
            stream.read_exact(&mut head).unwrap();
            assert_eq!(head[..4], [5, 1, 0, 3]);
            let mut rest = vec![0; usize::from(head[4]) + 2];
            stream.read_exact(&mut rest).unwrap();
            tell.send(rest).unwrap();
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\nledger\n")
                .unwrap();
        }
    });
    (address, told)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_command_reaches_by_name_what_the_proxy_reaches() {
    if !possible() {
        return;
    }
    let (proxy, asked) = proxy();
    let output = run(proxy, &["curl", "-sS", "-m", "30", "http://ledger.payments/"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(output.stdout, b"ledger\n");
    assert_eq!(asked.recv().unwrap(), b"ledger.payments\x00\x50");
}

#[test]
fn a_command_has_no_other_way_out() {
    if !possible() {
        return;
    }
    let (proxy, asked) = proxy();
    // Neither to this machine nor to others.
    for url in [format!("http://{proxy}/"), "http://192.0.2.1/".to_owned()] {
        let output = run(proxy, &["curl", "-sS", "-m", "30", "--noproxy", "*", &url]);
        assert_eq!(output.status.code(), Some(7), "{url}: {}", said(&output));
    }
    assert!(asked.try_recv().is_err());
    let output = run(proxy, &["ip", "-o", "link"]);
    let links = String::from_utf8(output.stdout).unwrap();
    assert!(links.lines().all(|line| line.contains("lo: ") || line.contains("NOARP")), "{links}");
}

#[test]
fn the_exit_code_is_that_of_the_command() {
    if !possible() {
        return;
    }
    let (proxy, _) = proxy();
    assert_eq!(run(proxy, &["sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(run(proxy, &["sh", "-c", "kill -TERM $$"]).status.code(), Some(143));
    let missing = run(proxy, &["no-such-program"]);
    assert_eq!(missing.status.code(), Some(2), "{}", said(&missing));
    assert!(said(&missing).contains("no-such-program"), "{}", said(&missing));
}

#[test]
fn without_a_proxy_nothing_is_run() {
    // Nothing listens on port 1 of this host.
    let output = run("127.0.0.1:1".parse().unwrap(), &["echo", "started"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(output.stdout.is_empty() && said(&output).contains("explicit"), "{}", said(&output));
}
