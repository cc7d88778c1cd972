//! Emulated platforms: TDX and SEV-SNP machines with a vendor of their own.
