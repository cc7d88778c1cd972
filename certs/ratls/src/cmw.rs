//! cmw
