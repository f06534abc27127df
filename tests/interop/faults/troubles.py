#!/usr/bin/env python3
"""Takes the disk away from a broker while it works, gives it back, and demands all that was promised before and meanwhile.

troubles.py full      the state directory's file system has not one byte left (FOLDER has to be one of its own, and small)
troubles.py readonly  whatever would change a file fails with EROFS (by strace, which needs to be allowed)
troubles.py fsync     each fsync fails with EIO (by strace)
troubles.py once      one fsync fails with EIO and the next ones say that all is well, as Linux does
troubles.py slow      each fsync takes two seconds: nobody is refused, and what needs no disk does not wait for it

During the trouble the broker has to live: messages at QoS 0 flow, readers that are there are served, and what cannot be
kept is not acknowledged with success. When it is over new promises have to come without a restart. Then it is ended by
SIGKILL. With `full` it is also ended and started again while there is still no room.
"""

import argparse
import asyncio
import errno
import os
import subprocess
import sys
import time

import mqtt
from broker import Broker, free_port
from crew import Crew
from load import Client, Publisher, Reader

RECOVERY_SECS_MAX = 40
SLOW_SECS = 2
CHANGES_OF_FILES = "pwrite64,pwritev,pwritev2,ftruncate,fallocate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat"


class Full:
    """A file that takes all the room there is, to the last byte."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "ballast")

    async def begin(self, _broker):
        with open(self.path, "ab", buffering=0) as ballast:
            for size in (1 << 16, 1 << 12, 512, 1):
                try:
                    while True:
                        ballast.write(b"\xff" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    async def end(self):
        os.remove(self.path)


class Injected:
    """System calls of the broker that fail while strace holds it."""

    def __init__(self, calls, how):
        self.calls, self.how = calls, how
        self.strace = None

    async def begin(self, broker):
        self.strace = subprocess.Popen(
            ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(broker.process.pid)]
            + ["-e", f"trace={self.calls}", "-e", f"inject={self.calls}:{self.how}"],
            stdin=subprocess.DEVNULL,
        )
        # It holds the broker once the kernel says so.
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with open(f"/proc/{broker.process.pid}/status") as status:
                if "TracerPid:\t0\n" not in status.read():
                    return
            if self.strace.poll() is not None:
                break
            time.sleep(0.01)
        raise SystemExit("strace cannot attach to the broker")

    async def end(self):
        if self.strace:
            self.strace.terminate()
            self.strace.wait()
            self.strace = None


def trouble_of(kind, folder):
    """What is done to the broker."""
    if kind == "full":
        return Full(folder)
    if kind == "readonly":
        return Injected(CHANGES_OF_FILES, "error=EROFS")
    how = {"fsync": "error=EIO", "once": "error=EIO:when=1", "slow": f"delay_enter={SLOW_SECS}s"}
    return Injected("fsync,fdatasync", how[kind])


class Flow:
    """Messages at QoS 0 from one client to another, neither of whom has anything to do with a disk."""

    def __init__(self, books):
        self.publisher = Client(books, "flow-in", 4, clean=True)
        self.reader = Reader(books, "flow-out", 5, ["flow/#"], qos=0, clean=True)
        self.reader.on_message = self.count
        self.sent = self.arrived = 0
        self.slowest_secs = 0
        self.asked_at = {}

    def count(self, message):
        self.arrived += 1
        self.slowest_secs = max(self.slowest_secs, time.monotonic() - self.asked_at.pop(message.payload))

    async def begin(self, port):
        if not await self.publisher.connect(port) or not await self.reader.connect(port):
            raise SystemExit("the broker does not take the clients at QoS 0")
        if not await self.reader.subscribe():
            raise SystemExit("the broker does not let the reader at QoS 0 subscribe")

    async def run(self, secs):
        """Sends a hundred messages a second for so long, then waits for the rest."""
        deadline = time.monotonic() + secs
        while time.monotonic() < deadline and self.publisher.alive:
            self.sent += 1
            data = str(self.sent).encode()
            self.asked_at[data] = time.monotonic()
            self.publisher.connection.send(mqtt.publish("flow/x", data, 0, 0, 4))
            await asyncio.sleep(0.01)
        deadline = time.monotonic() + 10
        while self.arrived < self.sent and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    def drop(self):
        self.publisher.drop()
        self.reader.drop()


async def back_on_board(crew, port):
    """Whoever was sent away comes back; gives whether all could."""
    lost = [client for client in (*crew.writers, crew.near, crew.fickle) if not client.alive]
    return all(await asyncio.gather(*(client.connect(port, within_secs=2) for client in lost)))


async def one_round(options, number, broker, crew, late, trouble):
    """Work, trouble, work; then what was promised."""
    books = crew.books
    port = broker.port
    flow = Flow(books)
    await flow.begin(port)
    if not await late.connect(port):
        raise SystemExit("the broker does not take the publisher that will be refused")
    crew.work(options.messages)
    await asyncio.sleep(0.3)
    before = books.promised, sum(books.refused.values())
    await trouble.begin(broker)
    try:
        for writer in crew.writers:
            writer.begin(options.messages)
        await flow.run(options.secs)
        # What was on its way when the disk failed may wait for its answer; who comes later has to be told.
        deadline = time.monotonic() + options.secs_max
        while True:
            late.begin(1)
            await asyncio.sleep(0.2)
            noticed = sum(books.refused.values()) > before[1] or options.kind == "slow"
            if noticed or time.monotonic() > deadline:
                break
        meanwhile = books.promised - before[0], sum(books.refused.values()) - before[1]
        if not broker.alive:
            raise SystemExit(f"{broker.fate()} in the trouble")
        if options.kind == "slow":
            if meanwhile[1]:
                books.fault("refused", f"{meanwhile[1]} where the disk was only slow", meanwhile[1])
            if flow.slowest_secs > SLOW_SECS / 2:
                books.fault("QoS 0", f"a message waited {flow.slowest_secs:.1f} s with the disk")
        elif not meanwhile[1]:
            books.fault("not noticed", "nobody was refused in the trouble")
        if flow.arrived != flow.sent:
            books.fault("QoS 0", f"{flow.sent} sent in the trouble, {flow.arrived} arrived")
        again = ""
        late.finish()
        late.drop()
        if options.restarts and number % 2 == 0:
            flow.drop()
            broker.kill()
            await crew.cut()
            again = f", started without room in {await broker.start():.2f} s"
    finally:
        await trouble.end()
    ended = time.monotonic()
    # Somebody who has nothing to do with what was before asks for a promise until there is one.
    if again:
        await crew.settle(port)
        ended = time.monotonic()
    wanted = books.promised + 20
    # What is kept for who is away takes room as well: it comes back for that. It leaves when all is settled.
    if not await crew.away.connect(port):
        books.fault("no answer", f"{crew.away.name} cannot come back")
    while time.monotonic() - ended < RECOVERY_SECS_MAX and books.promised < wanted:
        await back_on_board(crew, port)
        for writer in crew.writers:
            writer.begin(20)
        await asyncio.sleep(0.1)
    fresh = time.monotonic() - ended
    if books.promised < wanted:
        books.fault("no recovery", f"no new promise within {RECOVERY_SECS_MAX} s of the end of the trouble")
    flow.drop()
    await crew.cut()
    await crew.settle(port)
    broker.kill()
    await crew.cut()
    await broker.start()
    await crew.settle(port)
    await back_on_board(crew, port)
    print(
        f"round {number}: in the trouble {meanwhile[0]} promised, {meanwhile[1]} refused, {flow.arrived} at QoS 0, the"
        f" slowest after {flow.slowest_secs * 1000:.0f} ms{again}; new promises {fresh:.1f} s after it; {crew.sum()}",
        flush=True,
    )


async def run(options, broker, trouble):
    """All rounds; gives the crew."""
    crew = Crew(payload_bytes=options.size)
    late = Publisher(crew.books, "late", 5, 1, window=1000, clean=True)
    try:
        await broker.start()
        await crew.board(broker.port)
        for number in range(1, options.rounds + 1):
            await one_round(options, number, broker, crew, late, trouble)
    finally:
        await crew.cut()
        await broker.end()
    return crew


def main():
    """Exit code 0 when there was no fault, or with --losses when there was."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("kind", choices=["full", "readonly", "fsync", "once", "slow"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--secs", type=float, default=2, help="how long the trouble lasts")
    parser.add_argument("--secs-max", type=float, default=5, help="how much longer if nobody is refused by then")
    parser.add_argument("--messages", type=int, default=100, help="of each publisher, before and in the trouble each")
    parser.add_argument("--size", type=int, default=None, help="bytes of each payload; otherwise mostly few")
    parser.add_argument("--folder", required=True, help="where the broker keeps its state")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", default="broker.log")
    parser.add_argument("--losses", action="store_true", help="a broker that must fail: its faults are the success")
    parser.add_argument("command", nargs="+", help="the broker, with {port}")
    options = parser.parse_args()
    options.restarts = options.kind == "full"
    broker = Broker(options.command, options.port or free_port(), options.log)
    crew = asyncio.run(run(options, broker, trouble_of(options.kind, options.folder)))
    for line in crew.told():
        print(f"  {line}")
    return int(bool(crew.books.faults) != options.losses)


if __name__ == "__main__":
    sys.exit(main())
