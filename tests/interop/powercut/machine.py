"""A guest of User Mode Linux with a broker in it, seen as a process that serves a port of this machine.

The clients outside outlive every cut; their connections go through the guest's serial line, which needs no network and no
privilege. The guest ends by SIGKILL to all of its processes: what was only in its page cache is gone, what it had given to
its disk (a file) is there. A cache in the disk itself is not played: User Mode Linux does not tell its host of flushes.
"""

import asyncio
import os
import shutil
import signal
import socket
import struct
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))

GUEST_MEMORY = "160M"
DISK_BYTES = 256 << 20
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
        self.ended = None
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
                if data.startswith(b"the broker ended"):
                    self.ended = data.decode()
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

    async def order(self, word):
        """Wants something of the guest and waits until it is done."""
        self.write(0, word.encode())
        await self.until(word)

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
            if self.ended:
                raise SystemExit(self.ended)

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


class Machine:
    """Boots guests one after the other on one disk; has what `Broker` has, for the tests that know only that."""

    def __init__(self, folder, port, nosync, command):
        self.folder, self.inside, self.nosync, self.command = folder, port, nosync, command
        self.guest = None
        self.server = None
        self.port = None

    async def prepare(self):
        """Makes an empty disk and what the guest needs from outside, and listens."""
        for name in ("boot", "guest.py"):
            shutil.copy(os.path.join(HERE, name), self.folder)
        subprocess.run(
            ["cc", "-O2", "-shared", "-fPIC", "-o", f"{self.folder}/xstate.so", f"{HERE}/xstate.c", "-ldl"], check=True
        )
        with open(f"{self.folder}/command", "w") as command:
            command.writelines(word + "\n" for word in self.command)
        with open(f"{self.folder}/disk", "wb") as disk:
            disk.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", f"{self.folder}/disk"], check=True)

        async def accepted(reader, writer):
            await self.guest.accept(reader, writer)

        self.server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def start(self, until="ready"):
        """Boots and waits until the broker has been started, or serves; gives how many seconds that took."""
        began = time.monotonic()
        self.guest = Guest(self.folder, self.inside, self.nosync)
        await self.guest.boot()
        await self.guest.until("started")
        if until == "ready":
            await self.guest.until("ready")
        return time.monotonic() - began

    def kill(self):
        """The power is gone."""
        if self.guest:
            self.guest.cut()

    @property
    def alive(self):
        """Whether the guest is there, and nobody has found the broker gone."""
        return self.guest.process.poll() is None and not self.guest.ended

    def fate(self):
        """What became of the broker, in words."""
        return self.guest.ended or "the guest is gone"

    async def end(self):
        """Ends it all, and lets whoever carried bytes for a connection notice."""
        self.server.close()
        self.kill()
        await asyncio.sleep(0.1)
