//! # Config: what operators write
//!
//! **Enters**: YAML documents. **Leaves**: typed [`Resource`]s, or every problem
//! with file, line and column; and from a set of resources the [`View`] by which
//! a proxy or a control plane decides.
//!
//! **Guaranteed**: unknown fields are errors; all problems of a document are
//! reported, not the first; the JSON Schema that editors and Kubernetes use is
//! generated from the same Rust types that are read; a document that does not
//! validate changes nothing.

pub mod bootstrap;
pub mod document;
pub mod guard;
pub mod kinds;
mod labels;
pub mod place;
pub mod problem;
pub mod request;
pub mod resource;
pub mod schema;
pub mod set;
pub mod view;

pub use guard::Guard;
pub use problem::Problem;
pub use request::RequestFacts;
pub use resource::{Key, Kind, Resource, parse};
pub use schema::check::nearest;
pub use view::demand::{Demands, Levels};
pub use view::depend::Changes;
pub use view::route::{RouteDecision, RouteRequest};
pub use view::service::{Called, Endpoint, Target};
pub use view::session::{SessionAdmission, SessionEvidence, SessionLog};
pub use view::{Built, Inputs, View};
