"""A broker as a child process: started, ended in any way, and looked at from outside."""

import asyncio
import os
import signal
import socket
import subprocess
import time

START_SECS_MAX = 60


class Broker:
    """The process that serves a port; `{port}` in its command is replaced by it."""

    def __init__(self, command, port, log):
        self.command = [word.replace("{port}", str(port)) for word in command]
        self.port, self.log = port, log
        self.process = None

    async def start(self):
        """Starts it and waits until it accepts; gives how many seconds that took."""
        began = time.monotonic()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while time.monotonic() - began < START_SECS_MAX:
            if self.process.poll() is not None:
                raise SystemExit(f"the broker ended with {self.process.returncode} instead of starting; see {self.log}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return time.monotonic() - began
            except OSError:
                await asyncio.sleep(0.005)
        raise SystemExit(f"the broker does not accept within {START_SECS_MAX} s; see {self.log}")

    def kill(self):
        """SIGKILL, and it is gone when this returns."""
        self.process.kill()
        self.process.wait()

    async def end(self):
        """SIGTERM, or SIGKILL for who does not listen."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    @property
    def alive(self):
        """Whether the process is there and no zombie."""
        return self.process.poll() is None

    def fate(self):
        """What became of it, in words."""
        return f"the broker ended with {self.process.returncode}"

    def descriptors(self):
        """How many files and sockets it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def resident_kib(self):
        """How much memory is resident."""
        with open(f"/proc/{self.process.pid}/status") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1])
        return 0

    def written_bytes(self):
        """What it had the kernel write to a device, since it was started."""
        with open(f"/proc/{self.process.pid}/io") as counters:
            for line in counters:
                if line.startswith("write_bytes:"):
                    return int(line.split()[1])
        return 0

    def cpu_secs(self):
        """Processor time it has used."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port():
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
