"""nginx: proxy_pass for answers, the Nchan module for broadcasts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench import clients
from tests.bench.peers.base import DESCRIPTORS, ChatFace, Peer, ViewFace
from tests.bench.peers.direct import END_OF_COMPLETION, ask_openai

NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")

MAIN = """\
{load_module}{user}worker_processes 1;
worker_rlimit_nofile {descriptors};
daemon off;
pid {folder}/pid;
error_log {folder}/error.log error;
events {{ worker_connections {descriptors}; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000;
{http}}}
"""

PROXY = """\
    upstream model { server UPSTREAM; keepalive 512; keepalive_requests 1000000; }
    server {
        listen 127.0.0.1:PORT backlog=4096 reuseport;
        location / {
            proxy_pass http://model;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }
    }
"""

NCHAN = """\
    nchan_shared_memory_size 512M;
    server {
        listen 127.0.0.1:PORT backlog=4096 reuseport;
        location = /health { return 200; }
        location ~ ^/publish/(\\w+)$ {
            nchan_publisher;
            nchan_channel_id $1;
            nchan_message_buffer_length 1000;
            nchan_message_timeout 10m;
            nchan_deflate_message_for_websocket DEFLATE;
            client_body_buffer_size 64k;
        }
        location ~ ^/watch/(\\w+)$ {
            nchan_subscriber websocket eventsource;
            nchan_channel_id $1;
            nchan_subscriber_first_message newest;
        }
        location ~ ^/replay/(\\w+)$ {
            nchan_subscriber websocket eventsource;
            nchan_channel_id $1;
            nchan_subscriber_first_message oldest;
        }
    }
"""


class Nginx(Peer):
    """nginx as a reverse proxy."""

    name = "nginx"
    module = ""
    http = PROXY
    settings = "`proxy_pass`, one worker, keep-alive to the upstream, as nginx documents:\n\n" + (
        "```nginx\n" + PROXY + "```"
    )

    def command(self) -> Sequence[str]:
        """Run nginx in the foreground, master and one worker."""
        config = self.folder / "nginx.conf"
        config.write_text(
            MAIN.format(
                load_module=self.module,
                user="user root;\n" if os.geteuid() == 0 else "",
                descriptors=DESCRIPTORS,
                folder=self.folder,
                http=self._http(),
            )
        )
        return ["nginx", "-e", str(self.folder / "error.log"), "-c", str(config)]

    def _http(self) -> str:
        upstream = urlsplit(self.upstream).netloc
        return self.http.replace("PORT", str(self.port)).replace("UPSTREAM", upstream)

    def chat_faces(self) -> list[ChatFace]:
        """What the upstream speaks."""
        url = f"{self.base}/v1/chat/completions"
        return [
            ChatFace(
                name="nginx proxy_pass",
                url=url,
                websocket=False,
                end=END_OF_COMPLETION,
                ask=ask_openai,
            )
        ]


class Nchan(Nginx):
    """nginx with Nchan."""

    name = "Nchan"
    module = f"load_module {NCHAN_MODULE};\n"
    http = NCHAN
    compressed = False
    settings = "One worker; messages kept in a bounded buffer, as its documentation shows:\n\n" + (
        "```nginx\n" + NCHAN + "```"
    )

    def _http(self) -> str:
        return super()._http().replace("DEFLATE", "on" if self.compressed else "off")

    def chat_faces(self) -> list[ChatFace]:
        """It has no answers to relay."""
        return []

    def view_faces(self) -> list[ViewFace]:
        """WebSocket and EventSource."""
        url = f"{self.base}/watch/bench"
        if self.compressed:
            return [ViewFace(name="Nchan WebSocket", url=url, websocket=True, compressed=True)]
        return [
            self._face("Nchan WebSocket", url, websocket=True),
            self._face("Nchan EventSource", url, websocket=False),
        ]

    def _face(self, name: str, url: str, *, websocket: bool) -> ViewFace:
        oldest = ViewFace(name=name, url=url.replace("watch", "replay"), websocket=websocket)
        return ViewFace(name=name, url=url, websocket=websocket, replay=lambda _: oldest)

    def publication(self, payloads: Sequence[bytes]) -> tuple[bytes, int]:
        """One POST each, pipelined."""
        url = f"{self.base}/publish/bench"
        return b"".join(clients.post_request(url, payload) for payload in payloads), len(payloads)


class NchanCompressed(Nchan):
    """The same, compressing each message once for all."""

    name = "Nchan compressed"
    compressed = True
