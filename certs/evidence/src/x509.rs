//! Certificates and CRLs of vendors.
