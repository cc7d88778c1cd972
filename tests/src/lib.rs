//! # Tests: the harness
//!
//! A whole mesh in one process: the real control plane, real proxies and
//! workloads on the loopback interface, on ports that the system chooses.
//!
//! **Enters**: what a test wants to be different. **Leaves**: everything that
//! the outside of the mesh can see: sockets, status, metrics, readiness.
//!
//! **Guaranteed**: time is simulated and moves when a test moves it; platforms
//! are emulated by a vendor that is made once for each target directory;
//! whatever is waited for has a deadline, and what did not come is named.
//!
//! ```text
//! Mesh ─┬─ Vendor (cached)          Pair: web ═══ ledger ── Workload
//!       ├─ Clock (by hand)
//!       ├─ Plane ── Relay ── Proxy, Proxy, ...
//!       └─ attacker: forged identities, impostors, raw TLS
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a harness fails by a panic, which names what was expected"
)]
#![allow(
    clippy::large_futures,
    clippy::large_enum_variant,
    clippy::needless_pass_by_value,
    reason = "a harness may be comfortable: nothing here is on a hot path"
)]

pub mod attacker;
pub mod clock;
pub mod http;
pub mod mesh;
pub mod middle;
pub mod pair;
pub mod plane;
pub mod policy;
pub mod proxy;
pub mod relay;
pub mod session;
pub mod vendor;
pub mod visitor;
pub mod wait;
pub mod workload;

pub use clock::{Clock, DAY, START};
pub use mesh::{Mesh, Platform};
pub use middle::Middle;
pub use pair::Pair;
pub use policy::Policy;
pub use proxy::{Proxy, Sidecar};
pub use relay::Relay;
pub use visitor::Visitor;
pub use wait::{eventually, within};
pub use workload::Workload;
