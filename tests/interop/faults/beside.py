#!/usr/bin/env python3
"""Measures what keeping messages costs a broker: 100,000 at QoS 1 for durable readers that are away.

Prints acknowledged messages per second, bytes written to the device per message, resident memory before and with them,
then the time a stop (SIGTERM) and a start take until a reader is let in with its session, and what of it all is delivered.
--killed ends the broker by SIGKILL instead, which has to cost nothing either where messages are kept before they are
acknowledged. The publishers only count: an acknowledgement of 3.1.1 has four bytes.
"""

import argparse
import asyncio
import os
import selectors
import socket
import sys
import time

import mqtt
from broker import Broker, free_port


class Raw:
    """A blocking connection of 3.1.1 for those who count bytes."""

    def __init__(self, port, name, clean):
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(60)
        self.socket.sendall(mqtt.connect(name, 4, clean))
        answer = self.exactly(4)
        if answer[0] != mqtt.CONNACK << 4 or answer[3]:
            raise SystemExit(f"{name} is not let in: {answer.hex()}")
        self.present = bool(answer[2] & 1)

    def exactly(self, size):
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise SystemExit("the broker has hung up")
            data += more
        return data

    def close(self):
        self.socket.sendall(mqtt.packet(mqtt.DISCONNECT, 0, b""))
        self.socket.close()


def publish_all(port, options):
    """Publishes round robin to the readers' topics; gives how many were acknowledged and in which time."""
    total = options.readers * options.each
    body = b"x" * options.size
    publishers = [Raw(port, f"measure-{number}", True) for number in range(options.publishers)]
    poll = selectors.DefaultSelector()
    state = {}
    sent = acknowledged = 0

    def some(count):
        nonlocal sent
        count = min(count, total - sent)
        packets = []
        for number in range(sent, sent + count):
            # Of one connection no two in flight have the same identifier: there are fewer than 65,535 in all.
            pid = number % 65535 + 1
            packets.append(mqtt.publish(f"queue/{number % options.readers}/x", body, 1, pid, 4))
        sent += count
        return b"".join(packets)

    for publisher in publishers:
        poll.register(publisher.socket, selectors.EVENT_READ)
        state[publisher.socket] = 0
    began = time.monotonic()
    for publisher in publishers:
        publisher.socket.sendall(some(options.window))
    while acknowledged < total and time.monotonic() - began < options.secs_max:
        for key, _ in poll.select(5):
            data = key.fileobj.recv(65536)
            if not data:
                raise SystemExit("the broker hangs up on who publishes")
            state[key.fileobj] += len(data)
            count, state[key.fileobj] = divmod(state[key.fileobj], 4)
            acknowledged += count
            if count:
                key.fileobj.sendall(some(count))
    took = time.monotonic() - began
    # Of what is in flight when the time is up nobody knows; it is left to itself.
    for publisher in publishers:
        publisher.socket.close()
    return acknowledged, took


def drain(port, options):
    """Reads what is there for all readers; gives how many messages came and how many readers had a session."""
    came = present = 0
    began = time.monotonic()
    for number in range(options.readers):
        reader = Raw(port, f"absent-{number}", False)
        if not reader.present:
            continue
        present += 1
        buffer, mine = b"", 0
        reader.socket.settimeout(3)
        while mine < options.each:
            try:
                data = reader.socket.recv(1 << 16)
            except TimeoutError:
                break
            if not data:
                break
            buffer += data
            answers = []
            while len(buffer) >= 2:
                # The payload is short, and a remaining length of one or two bytes it is.
                head = 2 if buffer[1] < 128 else 3
                if len(buffer) < head:
                    break
                length = buffer[1] if head == 2 else (buffer[1] & 127) | buffer[2] << 7
                if len(buffer) < head + length:
                    break
                if buffer[0] >> 4 == mqtt.PUBLISH:
                    message = mqtt.Publish(buffer[0] & 15, buffer[head : head + length], 4)
                    answers.append(mqtt.answer(mqtt.PUBACK, message.pid))
                    mine += 1
                buffer = buffer[head + length :]
            reader.socket.sendall(b"".join(answers))
        came += mine
        reader.close()
    return came, present, time.monotonic() - began


def sync_micros(folder):
    """How long the device takes for one fdatasync of 4 KiB: without it a figure of another machine says nothing."""
    path = os.path.join(folder, "sync")
    with open(path, "wb", buffering=0) as probe:
        probe.write(bytes(1 << 20))
        os.fsync(probe.fileno())
        began = time.monotonic()
        for number in range(100):
            os.pwrite(probe.fileno(), bytes(4096), number * 4096)
            os.fdatasync(probe.fileno())
        took = time.monotonic() - began
    os.remove(path)
    return took / 100 * 1e6


async def measure(options):
    """One broker; prints its figures."""
    broker = Broker(options.command, options.port or free_port(), options.log)
    try:
        await broker.start()
        for number in range(options.readers):
            reader = Raw(broker.port, f"absent-{number}", False)
            reader.socket.sendall(mqtt.subscribe(1, [f"queue/{number}/#"], 1, 4))
            reader.exactly(5)
            reader.close()
        empty_kib, written = broker.resident_kib(), broker.written_bytes()
        cpu = broker.cpu_secs()
        acknowledged, took = publish_all(broker.port, options)
        written = broker.written_bytes() - written
        cpu = broker.cpu_secs() - cpu
        with_kib = broker.resident_kib()
        began = time.monotonic()
        if options.killed:
            broker.kill()
        else:
            await broker.end()
        stopped = time.monotonic() - began
        began = time.monotonic()
        await broker.start()
        reader = Raw(broker.port, "absent-0", False)
        started = time.monotonic() - began
        reader.socket.close()
        again_kib = broker.resident_kib()
        came, present, drained = drain(broker.port, options)
    finally:
        await broker.end()
    print(
        f"{options.name}: {acknowledged} acknowledged, {acknowledged / took:.0f} a second,"
        f" {written / max(1, acknowledged):.0f} device bytes and {cpu / max(1, acknowledged) * 1e6:.0f} us CPU a message;"
        f" resident {empty_kib} KiB, with them {with_kib} KiB; {'killed' if options.killed else f'stop {stopped:.2f} s'},"
        f" start {started:.2f} s and {again_kib} KiB; {present} of {options.readers} sessions and {came} messages there,"
        f" drained in {drained:.1f} s; one fdatasync here {sync_micros(options.folder):.0f} us"
    )
    return acknowledged - came


def main():
    """Exit code 0 when it came to its end; losses are a figure here and no fault."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--name", default="broker")
    parser.add_argument("--readers", type=int, default=25)
    parser.add_argument("--each", type=int, default=4000, help="messages for each reader")
    parser.add_argument("--publishers", type=int, default=4)
    parser.add_argument("--window", type=int, default=16, help="unacknowledged messages of each publisher")
    parser.add_argument("--size", type=int, default=64, help="bytes of a payload")
    parser.add_argument("--secs-max", type=float, default=60, help="publishing ends then, also with fewer messages")
    parser.add_argument("--killed", action="store_true", help="SIGKILL in the place of SIGTERM")
    parser.add_argument("--folder", required=True, help="a folder on the device that is measured")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", default="broker.log")
    parser.add_argument("command", nargs="+", help="the broker, with {port}")
    options = parser.parse_args()
    asyncio.run(measure(options))


if __name__ == "__main__":
    sys.exit(main())
