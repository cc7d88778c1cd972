"""HAProxy and nginx: a TLS connection for each connection of a client."""

import os

import places
from pairs import PER_CONNECTION, Pair

HAPROXY = """
global
    nbthread {workers}
    maxconn 9500
    tune.ssl.cachesize 0
defaults
    mode tcp
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    maxconn 9500
frontend entrance
    bind {listen}{bind_tls} backlog 8192
    default_backend target
backend target
    server target {target}{server_tls}
"""


class HaproxyTcp(Pair):
    """`mode tcp` at both ends."""

    name = "haproxy-tcp"
    shape = PER_CONNECTION

    def run(self, side, listen, bind_tls, target, server_tls):
        config = HAPROXY.format(
            workers=self.setting.workers, listen=places.text(listen), bind_tls=bind_tls,
            target=places.text(target), server_tls=server_tls,
        )
        return ["/usr/sbin/haproxy", "-db", "-f", self.setting.write(f"haproxy-{side}.cfg", config)], None

    def commands(self):
        files = self.setting.certificates
        common = f"verify required ca-file {files['ca.pem']} force-tlsv13"
        bind = f" ssl crt {files['b.both']} {common} no-tls-tickets curves P-256"
        server = f" ssl crt {files['a.both']} {common} verifyhost b sni str(b) no-ssl-reuse"
        return [
            self.run("b", places.B, bind, places.ORIGIN_BEHIND_B, ""),
            self.run("a", places.A, "", places.B, server),
        ]


NGINX = """
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
user root;
worker_processes {workers};
worker_rlimit_nofile 20000;
daemon off;
pid {prefix}/pid;
events {{ worker_connections 19000; }}
stream {{
    server {{
        listen {listen} backlog=8192{listen_ssl};
        proxy_pass {target};
        proxy_timeout 600s;
        tcp_nodelay on;{options}
    }}
}}
"""


class NginxStream(Pair):
    """The stream module at both ends."""

    name = "nginx-stream"
    shape = PER_CONNECTION

    def run(self, side, **places_and_options):
        prefix = self.setting.path(f"nginx-{side}")
        os.makedirs(prefix)
        config = NGINX.format(workers=self.setting.workers, prefix=prefix, **places_and_options)
        return ["nginx", "-e", "stderr", "-p", prefix, "-c", self.setting.write(f"nginx-{side}.conf", config)], None

    def commands(self):
        files = self.setting.certificates
        asked = f"""
        ssl_certificate {files['b.pem']};
        ssl_certificate_key {files['b.key']};
        ssl_client_certificate {files['ca.pem']};
        ssl_verify_client on;
        ssl_protocols TLSv1.3;
        ssl_ecdh_curve prime256v1;
        ssl_session_tickets off;
        ssl_session_cache off;"""
        asking = f"""
        proxy_ssl on;
        proxy_ssl_certificate {files['a.pem']};
        proxy_ssl_certificate_key {files['a.key']};
        proxy_ssl_trusted_certificate {files['ca.pem']};
        proxy_ssl_verify on;
        proxy_ssl_name b;
        proxy_ssl_protocols TLSv1.3;
        proxy_ssl_session_reuse off;"""
        return [
            self.run("b", listen=places.text(places.B), listen_ssl=" ssl",
                     target=places.text(places.ORIGIN_BEHIND_B), options=asked),
            self.run("a", listen=places.text(places.A), listen_ssl="", target=places.text(places.B), options=asking),
        ]
