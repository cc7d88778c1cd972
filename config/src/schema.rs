//! JSON Schema, generated from the Rust types, and the structural check by it.
