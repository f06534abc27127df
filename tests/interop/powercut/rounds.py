#!/usr/bin/env python3
"""Cuts the power of a guest again and again while its broker works, and demands what the broker had promised.

The broker's state belongs below /mnt, its working directory in the guest.
"""

import asyncio
import os
import signal
import sys

from machine import HERE, Machine

sys.path.insert(0, os.path.join(HERE, os.pardir, "faults"))

import ends  # noqa: E402


async def run(options):
    """All rounds; gives the crew, and how long the broker took from power on at most."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    machine = Machine(options.folder, options.port, options.nosync, options.command)
    await machine.prepare()
    slowest_secs = 0

    async def cut(crew, chance):
        nonlocal slowest_secs
        machine.kill()
        await crew.cut()
        twice = chance.random() < options.during_start
        if twice:
            # And once more before the broker has found its feet.
            await machine.start(until="started")
            await asyncio.sleep(chance.uniform(0, 0.4))
            machine.kill()
        ready_secs = await machine.start()
        slowest_secs = max(slowest_secs, ready_secs)
        return f"cut{' twice' if twice else ''} (ready {ready_secs:.1f} s after power)"

    crew = await ends.rounds(options, machine, cut)
    return crew, f"ready {slowest_secs:.1f} s after power at the latest"


def main():
    """Exit code 0 when all is there, or with --losses when something is missing."""
    parser = ends.arguments(__doc__, rounds=30, port=1883, shortest=0.3, longest=2.5, messages=2000)
    parser.add_argument("--folder", required=True, help="an empty folder for disk, console and the rest")
    parser.add_argument("--nosync", action="store_true", help="the broker's fsync does nothing and says it did")
    parser.add_argument("--losses-secs-max", type=float, help="how old what is lost may be when power is cut")
    options = parser.parse_args()
    crew, code = ends.play(options, run)
    if options.losses_secs_max is not None and crew.books.oldest_lost_secs > options.losses_secs_max:
        print(f"something promised {crew.books.oldest_lost_secs:.2f} s before a cut was lost")
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
