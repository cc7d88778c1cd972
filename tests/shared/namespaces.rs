//! Two network namespaces with a cable between them, for tests that capture
//! traffic. Making them needs root; in CI (`CI` is set) that it cannot be done is a
//! failure, elsewhere the test says so and ends.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_uid};

/// The user of the proxy.
pub const PROXY: u32 = 1337;

/// One end of the cable.
#[derive(Clone, Debug)]
pub struct Namespace(String);

/// Both ends, which go when this is dropped. Each machine reaches everything by way of
/// the other, which forwards nothing: what no rule catches gets as far as the other end.
#[derive(Debug)]
pub struct Pair {
    /// 10.77.0.1 and fd77::1.
    pub a: Namespace,
    /// 10.77.0.2 and fd77::2.
    pub b: Namespace,
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn ip(arguments: &str) -> Result<(), String> {
    run(Command::new("ip").args(arguments.split(' ')))
}

impl Namespace {
    /// A program inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }

    /// A program inside, of another user.
    pub fn command_of(&self, user: u32, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.command("setpriv");
        command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
        command.arg(program);
        command
    }

    /// Moves the calling thread inside; sockets that it opens stay there.
    pub fn enter(&self) {
        let link = std::fs::File::open(Path::new("/run/netns").join(&self.0)).unwrap();
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&link), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// What `f` says on a thread inside, as `user`.
    pub fn inside<T: Send>(&self, user: u32, f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                if user != 0 {
                    set_thread_uid(rustix::thread::Uid::from_raw(user)).unwrap();
                }
                f()
            });
            thread.join().unwrap()
        })
    }
}

impl Pair {
    /// Both, or nothing where it cannot be done and need not.
    pub fn new() -> Option<Self> {
        match Self::make() {
            Ok(pair) => Some(pair),
            Err(why) if std::env::var_os("CI").is_some_and(|v| !v.is_empty()) => {
                panic!("no network namespaces, which CI must have: {why}")
            }
            Err(why) => {
                println!("skipped: no network namespaces: {why}");
                None
            }
        }
    }

    fn make() -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let pair = Self { a: Namespace(format!("cs-{id}-a")), b: Namespace(format!("cs-{id}-b")) };
        let (a, b) = (&pair.a.0, &pair.b.0);
        ip(&format!("netns add {a}"))?;
        ip(&format!("netns add {b}"))?;
        ip(&format!("-n {a} link add eth0 type veth peer name eth0 netns {b}"))?;
        for (name, mine, other) in [(a, 1, 2), (b, 2, 1)] {
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} address add 10.77.0.{mine}/24 dev eth0"))?;
            ip(&format!("-n {name} address add fd77::{mine}/64 dev eth0 nodad"))?;
            ip(&format!("-n {name} link set eth0 up"))?;
            ip(&format!("-n {name} route add default via 10.77.0.{other}"))?;
            ip(&format!("-n {name} -6 route add default via fd77::{other}"))?;
        }
        Ok(pair)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in [&self.a.0, &self.b.0] {
            // One that was never made is not there to be removed.
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}
