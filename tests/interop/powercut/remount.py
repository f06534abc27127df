#!/usr/bin/env python3
"""Makes the disk read-only under a broker that works, as a kernel does with a disk it finds faulty, gives it back, and cuts
the power: faults/troubles.py in a guest, which has a disk that can be treated like that."""

import argparse
import asyncio
import os
import sys

from machine import HERE, Machine

sys.path.insert(0, os.path.join(HERE, os.pardir, "faults"))

import troubles  # noqa: E402


class ReadOnly:
    """What the kernel of the guest does to its own disk."""

    def __init__(self, machine):
        self.machine = machine

    async def begin(self, _broker):
        await self.machine.guest.order("readonly")

    async def end(self):
        if self.machine.alive:
            await self.machine.guest.order("writable")


async def run(options):
    """All rounds; gives the crew."""
    machine = Machine(options.folder, options.port, False, options.command)
    await machine.prepare()
    return await troubles.run(options, machine, ReadOnly(machine))


def main():
    """Exit code 0 when there was no fault, or with --losses when there was."""
    parser = argparse.ArgumentParser(description=__doc__.split(":", 1)[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, help="taken like by rounds.py; nothing here is left to chance")
    parser.add_argument("--secs", type=float, default=2, help="how long the trouble lasts")
    parser.add_argument("--secs-max", type=float, default=60, help="how much longer if nobody is refused by then")
    # More than there is room for in the files that are open already, and less than the readers' queues hold.
    parser.add_argument("--messages", type=int, default=900, help="of each publisher, before and in the trouble each")
    parser.add_argument("--size", type=int, default=1200, help="bytes of each payload")
    parser.add_argument("--folder", required=True, help="an empty folder for disk, console and the rest")
    parser.add_argument("--port", type=int, default=1883, help="where the broker listens inside the guest")
    parser.add_argument("--losses", action="store_true", help="a broker that must fail: its faults are the success")
    parser.add_argument("command", nargs="+", help="the broker; its state belongs below /mnt")
    options = parser.parse_args()
    options.kind, options.restarts = "remount", False
    crew = asyncio.run(run(options))
    for line in crew.told():
        print(f"  {line}")
    return int(bool(crew.books.faults) != options.losses)


if __name__ == "__main__":
    sys.exit(main())
