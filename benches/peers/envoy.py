"""Envoy: CONNECT streams in pooled HTTP/2, and a TLS connection for each connection."""

import places
from pairs import L7, PER_CONNECTION, TUNNEL, Pair

EXTENSIONS = "type.googleapis.com/envoy.extensions"


def endpoint(address):
    return f"{{ socket_address: {{ address: {address[0]}, port_value: {address[1]} }} }}"


def tls(certificates, side, peer, alpn):
    """The common part of both ends: TLS 1.3, P-256, a certificate asked of the peer."""
    return f"""
            common_tls_context:
              alpn_protocols: [{alpn}]
              tls_params:
                tls_minimum_protocol_version: TLSv1_3
                tls_maximum_protocol_version: TLSv1_3
                ecdh_curves: [P-256]
              tls_certificates:
                - certificate_chain: {{ filename: {certificates[side + ".pem"]} }}
                  private_key: {{ filename: {certificates[side + ".key"]} }}
              validation_context:
                trusted_ca: {{ filename: {certificates["ca.pem"]} }}
                match_typed_subject_alt_names: [{{ san_type: DNS, matcher: {{ exact: {peer} }} }}]"""


def bootstrap(listen, listener_tls, filters, target, cluster_options):
    return f"""
static_resources:
  listeners:
  - name: entrance
    address: {endpoint(listen)}
    tcp_backlog_size: 8192
    filter_chains:
    - filters:{filters}{listener_tls}
  clusters:
  - name: target
    type: STATIC
    connect_timeout: 5s
    circuit_breakers:
      thresholds: [{{ max_connections: 20000, max_pending_requests: 20000, max_requests: 20000 }}]
    load_assignment:
      cluster_name: target
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {endpoint(target)} }} }}] }}]{cluster_options}
"""


def tcp_proxy(options=""):
    return f"""
      - name: tcp
        typed_config:
          "@type": {EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: target{options}"""


def upstream_tls(certificates, alpn):
    return f"""
    transport_socket:
      name: tls
      typed_config:
            "@type": {EXTENSIONS}.transport_sockets.tls.v3.UpstreamTlsContext
            sni: b
            max_session_keys: 0{tls(certificates, "a", "b", alpn)}"""


def downstream_tls(certificates, alpn):
    return f"""
      transport_socket:
        name: tls
        typed_config:
            "@type": {EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext
            require_client_certificate: true
            disable_stateless_session_resumption: true
            disable_stateful_session_resumption: true{tls(certificates, "b", "a", alpn)}"""


# Windows as ztunnel's, and so as ours.
WINDOWS = "initial_stream_window_size: 4194304, initial_connection_window_size: 16777216"

H2 = f"http2_protocol_options: {{ max_concurrent_streams: 20000, {WINDOWS}"


def http(codec, match, route, options=""):
    """An HTTP listener with one route."""
    return f"""
      - name: http
        typed_config:
          "@type": {EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          codec_type: {codec}
          stream_idle_timeout: 600s
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{ match: {{ {match} }}, route: {{ cluster: target, timeout: 0s{route} }} }}]
          http_filters:
          - name: router
            typed_config: {{ "@type": {EXTENSIONS}.filters.http.router.v3.Router }}{options}"""


CONNECT_TERMINATED = http(
    "HTTP2",
    "connect_matcher: {}",
    ", upgrade_configs: [{ upgrade_type: CONNECT, connect_config: {} }]",
    f"""
          upgrade_configs: [{{ upgrade_type: CONNECT }}]
          {H2}, allow_connect: true }}""",
)


def upstream_h2(streams=20000):
    return f"""
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": {EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{ max_concurrent_streams: {streams}, {WINDOWS} }} }}"""


class Envoy(Pair):
    """What both shapes have in common."""

    def run(self, side, config):
        path = self.setting.write(f"{self.name}-{side}.yaml", config)
        command = [self.setting.programs["envoy"], "-c", path, "--concurrency", str(self.setting.workers)]
        return [*command, "--disable-hot-restart", "--log-level", "error"], None

    def bootstraps(self):
        raise NotImplementedError

    def commands(self):
        return [self.run(side, config) for side, config in zip("ba", self.bootstraps())]


class EnvoyConnect(Envoy):
    """`tunneling_config`: the shape of HBONE."""

    name = "envoy-connect"
    shape = TUNNEL

    def bootstraps(self):
        certificates = self.setting.certificates
        options = upstream_h2(1 if self.hops else 20000)
        tunnel = f"""
          tunneling_config: {{ hostname: "{places.text(places.ORIGIN_BEHIND_B)}" }}"""
        return [
            bootstrap(places.B, downstream_tls(certificates, "h2"), CONNECT_TERMINATED, places.ORIGIN_BEHIND_B, ""),
            bootstrap(places.A, "", tcp_proxy(tunnel), places.B, options + upstream_tls(certificates, "h2")),
        ]


class EnvoyTcp(Envoy):
    """`tcp_proxy` at both ends."""

    name = "envoy-tcp"
    shape = PER_CONNECTION

    def bootstraps(self):
        certificates = self.setting.certificates
        return [
            bootstrap(places.B, downstream_tls(certificates, "peers"), tcp_proxy(), places.ORIGIN_BEHIND_B, ""),
            bootstrap(places.A, "", tcp_proxy(), places.B, upstream_tls(certificates, "peers")),
        ]


class EnvoyHttp(Envoy):
    """HTTP/1.1 from the client and to the server, HTTP/2 in between."""

    name = "envoy-http"
    shape = L7

    def bootstraps(self):
        certificates = self.setting.certificates
        inner = http("HTTP2", 'prefix: "/"', "", f"""
          {H2} }}""")
        options = upstream_h2(1 if self.hops else 20000) + upstream_tls(certificates, "h2")
        return [
            bootstrap(places.B, downstream_tls(certificates, "h2"), inner, places.ORIGIN_BEHIND_B, ""),
            bootstrap(places.A, "", http("HTTP1", 'prefix: "/"', ""), places.B, options),
        ]
