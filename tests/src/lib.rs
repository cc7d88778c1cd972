//! # Tests: the harness
