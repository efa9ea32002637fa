"""The front of an EST server: TLS, and a credential that is really asked for. The EST server behind
it asks for none; so it is "our auth, their EST".

A site is one EST server. Under the label `mtls`, `basic` or `secret` (RFC 7030, 3.2.2) a request to
enroll needs that credential, /cacerts and /csrattrs are open to everybody.
"""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import pki, process
from tests.lab.clock import Clock, environment

MAIN = """\
daemon off;
master_process off;  # one process: nothing is left when it ends
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/tmp;
    proxy_temp_path {directory}/tmp;
    fastcgi_temp_path {directory}/tmp;
    uwsgi_temp_path {directory}/tmp;
    scgi_temp_path {directory}/tmp;
    log_format lab escape=json '{{"time": "$time_iso8601", "method": "$request_method", '
        '"uri": "$request_uri", "status": $status, "user": "$remote_user", '
        '"protocol": "$ssl_protocol", "verify": "$ssl_client_verify", '
        '"subject": "$ssl_client_s_dn", "issuer": "$ssl_client_i_dn", '
        '"serial": "$ssl_client_serial", "fingerprint": "$ssl_client_fingerprint"}}';
    ssl_certificate {tls.chain};
    ssl_certificate_key {tls.key};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_tickets off;  # every connection shows its credential
{sites}
}}
"""
SITE = """\
    server {{
        listen 127.0.0.1:{port} ssl;
        server_name localhost;
        access_log {directory}/{name}.log lab;
        ssl_client_certificate {directory}/{name}.clients.pem;
        ssl_verify_client optional;
        ssl_verify_depth 4;
        error_page 495 = @refused;
        location @refused {{ return 403; }}

        proxy_http_version 1.1;
        proxy_ssl_verify on;
        proxy_ssl_verify_depth 3;
        proxy_ssl_trusted_certificate {trust};
        proxy_ssl_name localhost;
        proxy_ssl_server_name on;
        proxy_set_header Host localhost;
        proxy_set_header Authorization "";
        proxy_set_header Secret-Value "";
        client_max_body_size 64k;

        location ~ ^/\\.well-known/est/(?:mtls|basic|secret)/(cacerts|csrattrs)$ {{
            proxy_pass https://127.0.0.1:{behind}/.well-known/est/$1;
        }}
        location /.well-known/est/mtls/ {{
            if ($ssl_client_verify != SUCCESS) {{ return 401; }}
            proxy_pass https://127.0.0.1:{behind}/.well-known/est/;
        }}
        location /.well-known/est/basic/ {{
            auth_basic "est";
            auth_basic_user_file {directory}/{name}.htpasswd;
            proxy_pass https://127.0.0.1:{behind}/.well-known/est/;
        }}
        location /.well-known/est/secret/ {{
            if ($http_secret_value != "{secret}") {{ return 401; }}
            proxy_pass https://127.0.0.1:{behind}/.well-known/est/;
        }}
        location / {{ return 404; }}
    }}
"""


@dataclass(frozen=True)
class Request:
    """A request as the front saw it; certificate fields are empty if none was shown."""

    time: str
    method: str
    uri: str
    status: int
    user: str
    protocol: str
    verify: str
    subject: str
    issuer: str
    serial: str
    fingerprint: str
    issued: str = ""  # serial number of the certificate made, where the server says so


@dataclass(frozen=True, kw_only=True)
class Site:
    """What one front asks for: clients' CAs, user and password, secret; `behind`: a port."""

    name: str
    port: int
    behind: int
    clients: Sequence[pki.Authority]
    user: str
    password: str
    secret: str

    def url(self, auth: str) -> str:
        """The EST URL at which enrolling needs the credential `auth`: mtls, basic or secret."""
        return f"https://localhost:{self.port}/.well-known/est/{auth}"


class Front:
    """All sites, one nginx."""

    def __init__(
        self, directory: Path, tls: pki.Tls, sites: Sequence[Site], clock: Clock | None = None
    ) -> None:
        (directory / "tmp").mkdir(parents=True)
        self.directory, self._tls, self._port = directory, tls, sites[0].port
        self._clock = clock
        text = "".join(self._site(site) for site in sites)
        config = MAIN.format(directory=directory, tls=tls, sites=text)
        self._config = pki.write_private(directory / "nginx.conf", config.encode())

    def _site(self, site: Site) -> str:
        clients = [c for ca in site.clients for c in ca.chain]
        (self.directory / f"{site.name}.clients.pem").write_bytes(pki.pem(*clients))
        users = self.directory / f"{site.name}.htpasswd"
        pki.write_private(users, f"{site.user}:{_hashed(site.password)}\n".encode())
        return SITE.format(directory=self.directory, trust=self._tls.trust, **vars(site))

    def answers(self) -> bool:
        return process.speaks_tls(self._port, self._tls.trust)

    @contextmanager
    def running(self) -> Iterator[None]:
        own = ["-p", str(self.directory), "-e", str(self.directory / "error.log")]
        command = ["/usr/sbin/nginx", *own, "-c", str(self._config)]
        log, env = self.directory / "nginx.out", environment(self._clock)
        with process.running(command, log, self.answers, env=env):
            yield

    def requests(self, site: Site) -> list[Request]:
        """All requests to a site so far, whatever became of them, oldest first."""
        assert self.answers()  # one process, so what came before this is in the log now
        log = self.directory / f"{site.name}.log"
        lines: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]
        return [Request(**line) for line in lines]


def _hashed(password: str) -> str:
    made = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"],
        input=password,
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.strip()
