"""A client of MQTT 3.1.1 and 5.0 as small as the fault tests allow: packets to bytes and back, and one connection.

Not a library on purpose: what a client remembers over a power cut has to be ours to keep and to compare, to the packet
identifier. Nothing but Python's own library is needed, inside the guest as well.
"""

import asyncio
import struct

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 1, 2, 3, 4, 5, 6, 7
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = 8, 9, 10, 11, 12, 13, 14

# Sessions of 5.0 that never expire; 3.1.1 says the same with a clean session of 0.
FOREVER = 0xFFFFFFFF
REFUSED_FROM = 0x80


def varint(number):
    """The variable byte integer of the standard, section 1.5.5 of 5.0."""
    out = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def text(value):
    """A string or bytes with their length before them."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(data)) + data


def packet(kind, flags, body):
    """One control packet."""
    return bytes([kind << 4 | flags]) + varint(len(body)) + body


def connect(client_id, version, clean, keep_alive_secs=0, will=None):
    """CONNECT; `will` is a topic and a payload, sent at QoS 1. A clean session of 5.0 has no expiry."""
    properties = will_properties = b""
    if version == 5:
        properties = b"\0" if clean else struct.pack(">BBI", 5, 0x11, FOREVER)
        will_properties = b"\0"
    flags = (2 if clean else 0) | (0x0C if will else 0)
    head = text("MQTT") + bytes([version, flags]) + struct.pack(">H", keep_alive_secs) + properties + text(client_id)
    return packet(CONNECT, 0, head + (will_properties + text(will[0]) + text(will[1]) if will else b""))


def publish(topic, payload, qos, pid, version, retain=False, dup=False):
    """PUBLISH; `pid` is ignored at QoS 0."""
    body = text(topic) + (struct.pack(">H", pid) if qos else b"") + (b"\0" if version == 5 else b"") + payload
    return packet(PUBLISH, dup << 3 | qos << 1 | retain, body)


def answer(kind, pid):
    """PUBACK, PUBREC, PUBREL or PUBCOMP that says success."""
    return packet(kind, 2 if kind == PUBREL else 0, struct.pack(">H", pid))


def subscribe(pid, filters, qos, version):
    """SUBSCRIBE to all filters at one QoS."""
    body = struct.pack(">H", pid) + (b"\0" if version == 5 else b"")
    return packet(SUBSCRIBE, 2, body + b"".join(text(each) + bytes([qos]) for each in filters))


def unsubscribe(pid, filters, version):
    """UNSUBSCRIBE from all filters."""
    body = struct.pack(">H", pid) + (b"\0" if version == 5 else b"")
    return packet(UNSUBSCRIBE, 2, body + b"".join(text(each) for each in filters))


class Malformed(Exception):
    """The broker sent what no broker may send."""


class Publish:
    """A PUBLISH that arrived."""

    __slots__ = ("topic", "payload", "qos", "pid", "retain", "dup")

    def __init__(self, flags, body, version):
        size = struct.unpack_from(">H", body)[0]
        self.topic = body[2 : 2 + size].decode()
        at = 2 + size
        self.qos, self.retain, self.dup, self.pid = flags >> 1 & 3, bool(flags & 1), bool(flags & 8), 0
        if self.qos:
            self.pid = struct.unpack_from(">H", body, at)[0]
            at += 2
        if version == 5:
            length, shift = 0, 0
            while True:
                byte = body[at]
                at += 1
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            at += length
        self.payload = body[at:]


def reason(kind, body, version):
    """The reason code of CONNACK and of answers with a packet identifier; 0 where none is said."""
    if kind == CONNACK:
        return body[1]
    return body[2] if version == 5 and len(body) > 2 else 0


class Connection(asyncio.Protocol):
    """One connection for a client, which is told `on_packet(kind, flags, body)` and `on_end()`, once."""

    def __init__(self, client):
        self.client = client
        self.transport = None
        self.buffer = b""

    @classmethod
    async def dial(cls, client, port):
        """Connects to this machine, which takes at most ten seconds."""
        loop = asyncio.get_running_loop()
        _, connection = await asyncio.wait_for(
            loop.create_connection(lambda: cls(client), "127.0.0.1", port), timeout=10
        )
        return connection

    def connection_made(self, transport):
        self.transport = transport

    def send(self, data):
        """Writes, or does nothing when the connection has ended."""
        if self.transport and not self.transport.is_closing():
            self.transport.write(data)

    def cut(self):
        """Ends it as a client that died does; what comes later is nobody's."""
        if self.transport:
            self.transport.abort()

    def data_received(self, data):
        data = self.buffer + data
        at = 0
        while len(data) - at >= 2:
            length, shift, body_at = 0, 0, at + 1
            while True:
                if body_at >= len(data):
                    length = None
                    break
                byte = data[body_at]
                body_at += 1
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
                if shift > 21:
                    raise Malformed("a remaining length of more than four bytes")
            if length is None or len(data) < body_at + length:
                break
            head = data[at]
            self.client.on_packet(self, head >> 4, head & 15, data[body_at : body_at + length])
            at = body_at + length
        self.buffer = data[at:]

    def connection_lost(self, _error):
        self.client.on_end(self)
