//! The specifications, one file a kind.

macro_rules! placeholder {
    ($($(#[$d:meta])* $n:ident),*) => {$(
        $(#[$d])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub struct $n {}
    )*};
}
placeholder!(
    /// The SPIFFE trust domain: SVID lifetime, key type, CA.
    TrustDomainSpec,
    /// Which SPIFFE ID a workload gets, and what it must prove to get it.
    WorkloadIdentitySpec,
    /// What a peer must prove.
    AttestationPolicySpec,
    /// Approved measurements.
    ReferenceValuesSpec,
    /// Which attested identities may call which workload.
    AuthorizationPolicySpec
);
