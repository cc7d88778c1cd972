//! The embedded store: all or nothing, compare and set, and `kill -9`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests, which clippy sees as product code"
)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use countersign_control_plane::store::{Change, Embedded, Store, StoreError};

fn open(directory: &Path) -> Embedded {
    Embedded::open(&directory.join("store.redb")).unwrap()
}

#[test]
fn what_was_committed_is_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let first = store.commit(&[Change::put("resource/a", "1", Some(0))]).unwrap();
    let second =
        store.commit(&[Change::put("resource/b", "2", None), Change::put("state/x", "3", None)]).unwrap();
    assert!(second > first);
    drop(store);
    let listing = open(directory.path()).list("resource/").unwrap();
    assert_eq!(listing.revision, second);
    let found: Vec<_> = listing.items.iter().map(|s| (s.key.as_str(), s.revision, s.body.as_ref())).collect();
    assert_eq!(found, [("resource/a", first, &b"1"[..]), ("resource/b", second, b"2")]);
}

#[test]
fn a_conflict_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let revision = store.commit(&[Change::put("resource/a", "1", Some(0))]).unwrap();
    let changes = [Change::put("resource/b", "2", None), Change::put("resource/a", "3", Some(revision + 1))];
    let refused = store.commit(&changes).unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { found, .. } if found == revision), "{refused}");
    assert_eq!(store.get("resource/b").unwrap(), None);
    assert_eq!(store.list("").unwrap().revision, revision);
    store.commit(&[Change::put("resource/a", "3", Some(revision))]).unwrap();
    assert!(store.commit(&[Change::put("resource/a", "4", Some(0))]).is_err());
}

#[test]
fn a_watch_tells_of_its_prefix_only() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut resources = store.watch("resource/");
    store.commit(&[Change::put("state/x", "1", None)]).unwrap();
    assert!(!resources.has_changed().unwrap());
    let revision = store.commit(&[Change::put("resource/a", "1", None)]).unwrap();
    assert_eq!(*resources.borrow_and_update(), revision);
    let revision = store.commit(&[Change::delete("resource/a")]).unwrap();
    assert_eq!(*resources.borrow_and_update(), revision);
}

#[test]
fn the_file_is_for_us_alone_and_for_one_process() {
    let directory = tempfile::tempdir().unwrap();
    let _store = open(directory.path());
    let path = directory.path().join("store.redb");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let Err(StoreError::Backend(why)) = Embedded::open(&path) else { panic!("opened twice") };
    assert!(why.contains("another process has") && why.contains("store.redb"), "{why}");
}

#[test]
fn a_file_that_is_no_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    std::fs::write(&path, b"something else entirely").unwrap();
    assert!(Embedded::open(&path).is_err());
}

const CHILD: &str = "COUNTERSIGN_TEST_CRASHING_WRITER";

/// The child of the next test: writes pairs until it is killed.
#[test]
fn crashing_writer() {
    let Some(directory) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let store = open(&directory);
    for i in 0u64.. {
        let body = i.to_string().repeat(1000);
        store
            .commit(&[Change::put("resource/a", body.clone(), None), Change::put("resource/b", body, None)])
            .unwrap();
        println!("committed {i}");
        std::io::stdout().flush().unwrap();
    }
}

#[test]
fn a_killed_writer_leaves_whole_commits() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0u64..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["crashing_writer", "--exact", "--nocapture"])
            .env(CHILD, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Kill it while it writes the commit after this line.
        let wanted = format!("committed {}", 10 + round * 7);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.ends_with(&wanted)));
        child.kill().unwrap();
        child.wait().unwrap();

        let store = open(directory.path());
        let items = store.list("resource/").unwrap().items;
        assert_eq!(items[0].body, items[1].body, "half a commit");
        assert_eq!(items[0].revision, items[1].revision);
        let number: u64 =
            std::str::from_utf8(&items[0].body[..items[0].body.len() / 1000]).unwrap().parse().unwrap();
        assert!(number >= 10 + round * 7, "a commit that was answered is lost");
    }
}
