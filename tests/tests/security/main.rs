//! The adversary suite: a file for each threat of docs/threats.md that has an end
//! to attack: each test is an attack on real proxies, and what stops it.
//!
//! Each file begins with the attack, the defence, and the mutation (see
//! tests/mutations.toml and `scripts/mutations`) that switches the defence off so
//! that the test fails. What a crate proves for itself is not repeated here. A14
//! (the quoting oracle) is attacked in `countersign-quoting` and
//! `countersign-broker`, A16 in the control plane too; of A20 and A21 (tokens)
//! there is nothing to attack.
#![allow(clippy::large_futures, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

mod a01_relay;
mod a02_diversion;
mod a03_broken_machine;
mod a04_report_data;
mod a05_wrong_object;
mod a06_other_purpose;
mod a07_reflection;
mod a08_resumption;
mod a09_old_evidence;
mod a10_after_launch;
mod a11_debug;
mod a12_downgrade;
mod a13_old_collateral;
mod a15_other_machine;
mod a16_clock;
mod a17_input;
mod a18_one_sided;
mod a19_middle_proxy;
mod a22_migration;
mod a23_foreign_key;
mod a24_while_it_lives;
mod a25_strangers;
mod beyond;
mod common;
