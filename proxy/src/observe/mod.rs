//! What the outside sees: metrics, access records, explanations.

pub mod access;
pub mod explain;
pub mod metrics;
pub mod names;
