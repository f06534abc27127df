"""What the Python programs here share: the doors of the gateway, and one line a check."""

import os
import ssl
import traceback

HOST = "localhost"
# Whoever waits longer than this waits in vain.
IN_VAIN_SECS = 10
PORTS = {door: int(os.environ[f"DOOR_{door.upper()}"]) for door in ("tcp", "tls", "ws", "wss")}
SOCKET = os.environ["DOOR_UNIX"]


def encrypted(door):
    return door in ("tls", "wss")


def tls_context():
    """Trusts the gateway's own authority and nobody else, and asks for the right name."""
    return ssl.create_default_context(cafile=os.environ["DOOR_CA"])


def passed(name):
    print(f"ok - {name}", flush=True)


def failed(name):
    """Says which check failed, and by what; to be called where the exception is at hand."""
    print(f"not ok - {name}", flush=True)
    for line in traceback.format_exc().rstrip().splitlines():
        print(f"  {line}", flush=True)


def expect(wanted, found, what):
    if wanted != found:
        raise AssertionError(f"{what}: expected {wanted!r}, found {found!r}")
