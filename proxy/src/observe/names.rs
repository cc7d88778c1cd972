//! The names of metrics and labels: a contract with dashboards.

/// Streams opened.
pub const CONNECTIONS_OPENED: &str = "istio_tcp_connections_opened_total";
/// Streams closed.
pub const CONNECTIONS_CLOSED: &str = "istio_tcp_connections_closed_total";
/// Connections that never became a stream: refused, or without anybody to connect to.
pub const CONNECTIONS_FAILED: &str = "istio_tcp_connections_failed_total";
/// Bytes from the called workload to the caller.
pub const SENT_BYTES: &str = "istio_tcp_sent_bytes_total";
/// Bytes from the caller to the called workload.
pub const RECEIVED_BYTES: &str = "istio_tcp_received_bytes_total";
/// Requests, on ports with a declared protocol.
pub const REQUESTS: &str = "istio_requests_total";
/// From the head of a request until the end of its answer.
pub const REQUEST_DURATION: &str = "istio_request_duration_milliseconds";
/// Verdicts about peers, in handshakes and on live hops.
pub const VERDICTS: &str = "mesh_attestation_verdicts_total";
/// Times that a policy in mode `Audit` would have refused a peer.
pub const AUDIT_DENIALS: &str = "mesh_policy_audit_denials_total";
/// How long it took to judge a peer.
pub const APPRAISAL: &str = "mesh_attestation_appraisal_seconds";
/// When the first piece of the collateral in use ends.
pub const COLLATERAL_EXPIRATION: &str = "mesh_attestation_collateral_expiration_timestamp_seconds";
/// Live hops and streams that were cut.
pub const REVOKED: &str = "mesh_connections_revoked_total";
/// Live hops that began to drain.
pub const DRAINED: &str = "mesh_connections_drained_total";
/// Connections that carry streams and that revocation does not know. Always 0.
pub const UNTRACKED: &str = "mesh_connections_untracked";
/// Hops that a change of what they rest on would not find. Always 0.
pub const HOPS_UNTRACKED: &str = "mesh_hops_untracked";
/// Rounds in which a peer proved itself to us, or did not.
pub const ROUNDS: &str = "mesh_attestation_rounds_total";
/// From the end of the TLS handshake until both sides have consented.
pub const GATE: &str = "mesh_attestation_gate_seconds";
/// How long ago the challenge was made that the oldest proof answers.
pub const OLDEST_VERDICT: &str = "mesh_attestation_oldest_verdict_age_seconds";
/// From the arrival of a configuration at this proxy until every live hop that it affects was judged again.
pub const ENFORCEMENT: &str = "mesh_policy_enforcement_seconds";
/// Requests for quotes that wait.
pub const QUOTE_QUEUE: &str = "mesh_quote_queue_length";
/// Quotes that were made, or failed.
pub const QUOTES: &str = "mesh_quotes_total";
/// How long a quote takes.
pub const QUOTE_SECONDS: &str = "mesh_quote_seconds";
/// Sessions that one quote speaks of.
pub const QUOTE_BATCH: &str = "mesh_quote_batch_size";
/// Requests for quotes that were given up before the device was asked.
pub const QUOTE_UNSERVED: &str = "mesh_quote_requests_unserved_total";
/// How often the quoting device did not answer.
pub const QUOTE_HANGS: &str = "mesh_quote_hangs_total";
/// Hops that are open.
pub const HOPS: &str = "mesh_hops";
/// Connections that were refused before a handshake.
pub const REFUSED: &str = "mesh_connections_refused_total";
/// The generation of the configuration in use.
pub const GENERATION: &str = "mesh_policy_generation";
/// When a configuration was last put to use.
pub const LAST_APPLIED: &str = "mesh_config_last_applied_timestamp_seconds";
/// Resources that could not be used.
pub const REJECTED: &str = "mesh_config_rejected_total";
/// Streams of configuration that ended and were not followed by another.
pub const STREAM_ENDS: &str = "mesh_config_stream_ends_total";
/// When our certificate ends.
pub const IDENTITY_EXPIRATION: &str = "mesh_identity_cert_expiration_timestamp_seconds";
/// When our certificate was last renewed.
pub const IDENTITY_REFRESH: &str = "mesh_identity_cert_refresh_timestamp_seconds";
/// Renewals by outcome.
pub const IDENTITY_REFRESHES: &str = "mesh_identity_cert_refreshes_total";
/// Whether the control plane's stream is up.
pub const SYNCED: &str = "mesh_control_plane_connected";
/// What runs here.
pub const BUILD: &str = "mesh_build_info";

/// `source` on the caller's side, `destination` on the called one's.
pub const REPORTER: &str = "reporter";
/// SPIFFE ID of the caller.
pub const SOURCE: &str = "source_principal";
/// SPIFFE ID of the called workload.
pub const DESTINATION: &str = "destination_principal";
/// `tcp` of streams, `http` or `grpc` of requests.
pub const PROTOCOL: &str = "request_protocol";
/// Always `mutual_tls` here.
pub const SECURITY: &str = "connection_security_policy";
/// `-`, or the flag of the reason table.
pub const FLAGS: &str = "response_flags";
/// Status of the answer, 0 without one.
pub const RESPONSE_CODE: &str = "response_code";
/// Status of gRPC, empty where that is not spoken.
pub const GRPC_STATUS: &str = "grpc_response_status";
/// Kind of TEE, `none` when there is none.
pub const TEE: &str = "tee";
/// Whether the platform is emulated.
pub const EMULATED: &str = "emulated";
/// `allow` or `deny`; of a round `accept` or `reject`; of a quote `success` or `failure`.
pub const RESULT: &str = "result";
/// Code of the reason table, `none` for an allowed peer.
pub const REASON: &str = "reason";
/// `namespace/name` of the attestation policy, `none` when none decided.
pub const POLICY: &str = "policy";
/// `inbound` or `outbound`.
pub const DIRECTION: &str = "direction";
/// Why a live hop was cut, or drains.
pub const CAUSE: &str = "cause";
/// The application protocol of a hop: `ratls-h2/1`, `ratls-tcp/1` or `h2`.
pub const ALPN: &str = "alpn";
/// `key` or `session`.
pub const PURPOSE: &str = "purpose";
/// Kind of a resource, or of a piece of collateral.
pub const KIND: &str = "kind";
/// `success` or `failure`.
pub const OUTCOME: &str = "outcome";
/// Version of this software.
pub const VERSION: &str = "version";
