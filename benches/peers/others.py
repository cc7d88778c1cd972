"""HAProxy and nginx: a TLS connection for each connection of a client, or HTTP at both ends."""

import os

import places
from pairs import L7, PER_CONNECTION, Pair

HAPROXY = """
global
    nbthread {workers}
    maxconn 9500
    tune.ssl.cachesize 0
defaults
    mode {mode}
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
    mode = "tcp"

    def run(self, side, listen, bind_tls, target, server_tls):
        config = HAPROXY.format(
            mode=self.mode, workers=self.setting.workers, listen=places.text(listen), bind_tls=bind_tls,
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


class HaproxyHttp(HaproxyTcp):
    """`mode http` at both ends; connections between them are shared."""

    name = "haproxy-http"
    shape = L7
    mode = "http\n    http-reuse always"


NGINX = """{modules}
user root;
worker_processes {workers};
worker_rlimit_nofile 20000;
daemon off;
pid {prefix}/pid;
events {{ worker_connections 19000; }}
{kind} {{{common}
    upstream target {{ server {target};{pool} }}
    server {{
        listen {listen} backlog=8192{listen_ssl};{options}
        {location}
    }}
}}
"""


class Nginx(Pair):
    """What both kinds have in common."""

    kind = modules = common = pool = location = ""

    def run(self, side, listen, listen_ssl, target, options):
        prefix = self.setting.path(f"nginx-{side}")
        os.makedirs(prefix)
        scheme = "http" if listen_ssl else "https"
        config = NGINX.format(
            workers=self.setting.workers, prefix=prefix, listen=places.text(listen), listen_ssl=listen_ssl,
            target=places.text(target), options=options, kind=self.kind, modules=self.modules, common=self.common,
            pool=self.pool, location=self.location.format(scheme=scheme),
        )
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
        proxy_ssl_certificate {files['a.pem']};
        proxy_ssl_certificate_key {files['a.key']};
        proxy_ssl_trusted_certificate {files['ca.pem']};
        proxy_ssl_verify on;
        proxy_ssl_name b;
        proxy_ssl_protocols TLSv1.3;
        proxy_ssl_session_reuse off;"""
        return [
            self.run("b", places.B, " ssl", places.ORIGIN_BEHIND_B, asked),
            self.run("a", places.A, "", places.B, asking + self.switch),
        ]


class NginxStream(Nginx):
    """The stream module at both ends."""

    name = "nginx-stream"
    shape = PER_CONNECTION
    kind = "stream"
    modules = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;"
    switch = " proxy_ssl on;"
    location = "tcp_nodelay on; proxy_timeout 600s; proxy_pass target;"


class NginxHttp(Nginx):
    """HTTP/1.1 at both ends; connections between them are kept."""

    name = "nginx-http"
    shape = L7
    kind = "http"
    common = " access_log off; keepalive_requests 1000000000; keepalive_timeout 600;"
    switch = ""
    pool = " keepalive 512; keepalive_requests 1000000000;"
    location = """location / {{
            proxy_pass {scheme}://target;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_max_temp_file_size 0;
        }}"""
