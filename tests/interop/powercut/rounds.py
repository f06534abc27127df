#!/usr/bin/env python3
"""Cuts the power of a guest again and again while its broker works, and demands what the broker had promised.

The clients are outside and outlive every cut; their connections go through the guest's serial line, which needs no
network and no privilege. The guest ends by SIGKILL to all of its processes: what was only in its page cache is gone,
what it had given to its disk (a file) is there.
"""

import argparse
import asyncio
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, os.pardir, "faults"))

from crew import Crew  # noqa: E402

GUEST_MEMORY = "160M"
DISK_BYTES = 64 << 20
BOOT_SECS_MAX = 60
# What may be on its way into the guest: its terminal holds 4,096 bytes, and a line that was full once stands still.
LINE_BYTES_MAX = 3000


class Guest:
    """One boot of the guest, and a port of this machine that leads to the broker's."""

    def __init__(self, folder, port, nosync):
        self.folder, self.port, self.nosync = folder, port, nosync
        self.process = None
        self.line = None
        self.room = LINE_BYTES_MAX
        self.unsent = bytearray()
        self.said = asyncio.Queue()
        self.writers = {}
        self.numbers = 0
        self.tasks = []

    async def boot(self):
        """Starts the kernel; who waits for the broker waits for `ready`."""
        ours, its = socket.socketpair()
        for each in (ours, its):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        command = [
            "linux.uml",
            f"mem={GUEST_MEMORY}",
            "root=/dev/root rootfstype=hostfs rootflags=/ ro quiet",
            f"ubda={self.folder}/disk",
            f"init={self.folder}/boot uml_dir={self.folder}",
            "con=null con0=null,fd:1 ssl=null",
            f"ssl0=fd:{its.fileno()}",
            f"cut.folder={self.folder} cut.port={self.port} cut.nosync={'nosync' if self.nosync else 'sync'}",
        ]
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": self.folder,
            "TMPDIR": "/dev/shm" if os.path.isdir("/dev/shm") else self.folder,
            "LD_PRELOAD": f"{self.folder}/xstate.so",
        }
        with open(f"{self.folder}/console.log", "ab") as console:
            self.process = subprocess.Popen(
                " ".join(command).split(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=[its.fileno()],
                env=environment,
                start_new_session=True,
            )
        its.close()
        reader, self.line = await asyncio.open_connection(sock=ours)
        self.tasks.append(asyncio.create_task(self.carry(reader)))

    async def carry(self, reader):
        """From the line to the connections, until the guest is gone."""
        try:
            while True:
                number, length = struct.unpack(">HH", await reader.readexactly(4))
                data = await reader.readexactly(length)
                if number == 0 and data.startswith(b"took "):
                    self.room += int(data[5:])
                    self.write()
                elif number == 0:
                    self.said.put_nowait(data.decode())
                elif number in self.writers:
                    if data:
                        self.writers[number].write(data)
                    else:
                        self.writers.pop(number).close()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass

    def write(self, number=0, data=None):
        """A frame for the guest; as much as it has room for goes at once."""
        if data is not None:
            self.unsent += struct.pack(">HH", number, len(data)) + data
        size = min(self.room, len(self.unsent))
        if size:
            self.line.write(bytes(self.unsent[:size]))
            del self.unsent[:size]
            self.room -= size

    async def accept(self, reader, writer):
        """From one connection to the line."""
        self.numbers = self.numbers % 65535 + 1
        number = self.numbers
        self.writers[number] = writer
        try:
            while data := await reader.read(4000):
                self.write(number, data)
        except ConnectionError:
            pass
        if self.writers.pop(number, None):
            self.write(number, b"")
            writer.close()

    async def until(self, word):
        """Waits until the guest says a word; ends the whole run when it cannot."""
        deadline = time.monotonic() + BOOT_SECS_MAX
        while True:
            try:
                said = await asyncio.wait_for(self.said.get(), max(0.1, deadline - time.monotonic()))
            except asyncio.TimeoutError:
                raise SystemExit(f"the guest has not said {word!r} within {BOOT_SECS_MAX} s; see its console") from None
            if said == word:
                return
            if said.startswith("the broker ended"):
                raise SystemExit(said)

    def cut(self):
        """The power is gone."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
        for writer in self.writers.values():
            writer.transport.abort()
        self.writers.clear()
        if self.line:
            self.line.transport.abort()
        for task in self.tasks:
            task.cancel()
        self.tasks.clear()


async def run(options):
    """All rounds; gives the crew and its books."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    chance = random.Random(options.seed)
    shutil.copy(os.path.join(HERE, "boot"), options.folder)
    shutil.copy(os.path.join(HERE, "guest.py"), options.folder)
    subprocess.run(
        ["cc", "-O2", "-shared", "-fPIC", "-o", f"{options.folder}/xstate.so", f"{HERE}/xstate.c", "-ldl"], check=True
    )
    with open(f"{options.folder}/command", "w") as command:
        command.writelines(word + "\n" for word in options.command)
    with open(f"{options.folder}/disk", "wb") as disk:
        disk.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", f"{options.folder}/disk"], check=True)

    guest = None

    async def accepted(reader, writer):
        await guest.accept(reader, writer)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    crew = Crew()

    async def boot():
        nonlocal guest
        guest = Guest(options.folder, options.port, options.nosync)
        await guest.boot()
        await guest.until("started")

    try:
        await boot()
        await guest.until("ready")
        await crew.board(port)
        for number in range(1, options.rounds + 1):
            began = time.monotonic()
            worked_secs = chance.uniform(options.shortest, options.longest)
            crew.work(options.messages)
            await asyncio.sleep(worked_secs)
            guest.cut()
            promised = crew.books.promised
            await crew.cut()
            await boot()
            twice = chance.random() < options.during_start
            if twice:
                # And once more before the broker has found its feet.
                await asyncio.sleep(chance.uniform(0, 0.4))
                guest.cut()
                await boot()
            await guest.until("ready")
            ready_secs = time.monotonic() - began - worked_secs
            await crew.settle(port, quiet_secs=options.quiet)
            print(
                f"cut {number} after {worked_secs:.2f} s{' and at the start' if twice else ''}: {promised} promised by"
                f" then, up again after {ready_secs:.1f} s, round of {time.monotonic() - began:.1f} s;"
                f" {dict(crew.books.faults) or 'no fault'}",
                flush=True,
            )
            for line in crew.told():
                print(f"  {line}", flush=True)
            for writer in crew.writers:
                if not writer.alive and not await writer.connect(port):
                    raise SystemExit("the broker takes nobody any more")
    finally:
        server.close()
        await crew.cut()
        if guest:
            guest.cut()
        # Whoever carried bytes for a connection notices that it has ended.
        await asyncio.sleep(0.1)
    return crew


def main():
    """Exit code 0 when all is there, or with --losses when something is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=None, help="when power is cut; otherwise by chance, and told")
    parser.add_argument("--folder", required=True, help="an empty folder for disk, console and the rest")
    parser.add_argument("--port", type=int, default=1883, help="where the broker listens inside the guest")
    parser.add_argument("--shortest", type=float, default=0.3, help="seconds of work before a cut")
    parser.add_argument("--longest", type=float, default=2.5)
    parser.add_argument("--messages", type=int, default=2000, help="of each publisher in a round, at most")
    parser.add_argument("--quiet", type=float, default=4, help="seconds without a message after which the rest is lost")
    parser.add_argument("--during-start", type=float, default=0.2, help="how often there is a second cut at once")
    parser.add_argument("--nosync", action="store_true", help="the broker's fsync does nothing and says it did")
    parser.add_argument("--losses", action="store_true", help="a broker that must fail: its losses are the success")
    parser.add_argument("command", nargs="+", help="the broker; its state belongs below /mnt, its working directory")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {options.seed}", flush=True)
    began = time.monotonic()
    crew = asyncio.run(run(options))
    print(f"{options.rounds} cuts in {time.monotonic() - began:.0f} s, {crew.sum()}")
    return int(bool(crew.books.faults) != options.losses)


if __name__ == "__main__":
    sys.exit(main())
