"""A slow network between ssh and a server (ProxyCommand): standard input and output to ``host port``, ``rate`` megabytes a second."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

_CHUNK = 2**16


def main(host: str, port: str, rate: str) -> None:
    server = socket.create_connection((host, int(port)))
    pause = _CHUNK / (float(rate) * 1e6)
    threading.Thread(target=_up, args=(server, pause), daemon=True).start()
    while data := server.recv(_CHUNK):
        os.write(1, data)
        time.sleep(pause * len(data) / _CHUNK)


def _up(server: socket.socket, pause: float) -> None:
    while data := os.read(0, _CHUNK):
        server.sendall(data)
        time.sleep(pause * len(data) / _CHUNK)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
