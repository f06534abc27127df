#!/usr/bin/env python3
"""A subscriber called bill is killed and started again, thousands of times, while publishers never stop.

Every second bill is a program of its own (mosquitto_sub), killed by SIGKILL a few milliseconds after it was started, be it
connected by then or not; every other is reset or just closed after its CONNACK, or thrown out by another bill, of whom
there are several at a time. A witness reads all the while. In the end the broker has lost nothing, sent one will for each
bill that left one, and has as many descriptors open and as much memory as after the first tenth.
"""

import argparse
import asyncio
import collections
import random
import socket
import struct
import subprocess
import sys
import time

import mqtt
from broker import Broker, free_port
from load import LOAD, Books, Client, Publisher, Reader

MEMORY_GROWTH_KIB_MAX = 1024


class Bill(Client):
    """Reads what the publisher writes, acknowledges nothing, and is gone soon."""

    async def come(self, port, number):
        """Connects with a will of its own and subscribes; whether it was let in."""
        self.will = ("wills/bill", str(number))
        if not await self.connect(port):
            return False
        self.connection.send(mqtt.subscribe(1, [f"{LOAD}/#"], number % 3, self.version))
        return True

    def reset(self):
        """Ends the connection by a RST."""
        if self.connection and not self.connection.transport.is_closing():
            raw = self.connection.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.drop()


async def until(condition, within_secs):
    """Whether it came true in time."""
    deadline = time.monotonic() + within_secs
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


async def run(options):
    """All lives and deaths of bill; gives the books."""
    chance = random.Random(options.seed)
    broker = Broker(options.command, options.port or free_port(), options.log)
    books = Books()
    publishers = [Publisher(books, f"live-{version}", version, 1, window=4, clean=True) for version in (4, 5)]
    witness = Reader(books, "witness", 5, [f"{LOAD}/#"], clean=True)
    wills = collections.Counter()
    reader = Reader(books, "wills", 4, ["wills/bill"], clean=True)
    reader.on_message = lambda message: wills.update([int(message.payload)])
    expected = 0
    lasting = []
    try:
        await broker.start()
        port = broker.port
        for each in (witness, reader):
            if not await each.connect(port) or not await each.subscribe():
                raise SystemExit(f"{each.name} cannot subscribe")
        books.readers.append(witness)
        for publisher in publishers:
            await publisher.connect(port)

        async def publish():
            # Some hundred messages a second, all the time.
            while True:
                for publisher in publishers:
                    publisher.begin(4)
                await asyncio.sleep(0.01)

        live = asyncio.create_task(publish())
        began = time.monotonic()
        numbers = iter(range(1, options.rounds + 1))
        gate = max(1, options.rounds // 10)

        async def live_and_die(upto):
            nonlocal expected
            for number in numbers:
                if number % 2:
                    program = subprocess.Popen(
                        ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(port), "-u", "bill", "-i", "bill"]
                        + ["-t", f"{LOAD}/#", "-q", str(number % 3)],
                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    )  # fmt: skip
                    await asyncio.sleep(chance.uniform(0.001, 0.015))
                    program.kill()
                    program.wait()
                else:
                    bill = Bill(books, "bill", chance.choice((4, 5)), clean=True)
                    if await bill.come(port, number):
                        expected += 1
                    await asyncio.sleep(chance.uniform(0, 0.01))
                    how = chance.randrange(3)
                    if how == 0:
                        bill.reset()
                    elif how == 1:
                        bill.drop()
                    else:
                        # It stays until another bill takes over.
                        lasting.append(bill)
                if not broker.alive:
                    raise SystemExit(f"{broker.fate()} after {number} rounds")
                if number >= upto:
                    return

        await asyncio.gather(*(live_and_die(gate) for _ in range(options.bills)))
        at_rest = await rest(broker, lasting, publishers)
        await asyncio.gather(*(live_and_die(options.rounds) for _ in range(options.bills)))
        took = time.monotonic() - began
        live.cancel()
        in_the_end = await rest(broker, lasting, publishers)
        if in_the_end[0] > at_rest[0]:
            books.fault("descriptors", f"{at_rest[0]} after the first tenth, {in_the_end[0]} in the end")
        if in_the_end[1] > at_rest[1] + MEMORY_GROWTH_KIB_MAX:
            books.fault("memory", f"{at_rest[1]} KiB after the first tenth, {in_the_end[1]} KiB in the end")
        await witness.collect(4, 30)
        await until(lambda: sum(wills.values()) >= expected, 10)
        if sum(wills.values()) != expected or max(wills.values(), default=0) > 1:
            most = max(wills.values(), default=0)
            books.fault("wills", f"{expected} bills were let in, {sum(wills.values())} wills came, one {most} times")
        if witness.ends or reader.ends or any(publisher.ends for publisher in publishers):
            books.fault("others", "somebody else than bill lost the connection")
        for publisher in publishers:
            publisher.drop()
        witness.drop()
        reader.drop()
    finally:
        await broker.end()
    print(
        f"{options.rounds} bills in {took:.0f} s ({options.rounds / took:.0f} a second), {books.promised} messages promised"
        f" meanwhile, {sum(wills.values())} wills; descriptors {at_rest[0]} and {in_the_end[0]},"
        f" resident {at_rest[1]} and {in_the_end[1]} KiB: {dict(books.faults) or 'no fault'}"
    )
    return books


async def rest(broker, lasting, publishers):
    """Descriptors and memory once all bills are gone and nothing is in flight."""
    for bill in lasting:
        bill.drop()
    lasting.clear()
    for publisher in publishers:
        publisher.finish()
    counts = []

    def settled():
        counts.append(broker.descriptors())
        return len(counts) > 25 and len(set(counts[-25:])) == 1

    await until(settled, 10)
    return broker.descriptors(), broker.resident_kib()


def main():
    """Exit code 0 when there was no fault."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--bills", type=int, default=4, help="how many there are at a time")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", default="broker.log")
    parser.add_argument("command", nargs="+", help="the broker, with {port}")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {options.seed}", flush=True)
    books = asyncio.run(run(options))
    for line in books.told:
        print(f"  {line}")
    return int(bool(books.faults))


if __name__ == "__main__":
    sys.exit(main())
