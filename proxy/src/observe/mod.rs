//! What the outside sees: metrics, access records, explanations.

pub mod access;
pub(crate) mod appraisal;
pub mod attestation;
pub mod explain;
pub mod metrics;
pub mod names;
pub mod refused;
pub mod requests;
