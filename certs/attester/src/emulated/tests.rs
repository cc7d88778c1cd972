//! The emulated PKI and evidence, checked by others than the code that wrote them.
