#!/usr/bin/env python3
"""Cuts the power of a guest again and again while its broker works, and demands what the broker had promised."""

import argparse
import asyncio
import os
import random
import signal
import sys
import time

from machine import HERE, Machine

sys.path.insert(0, os.path.join(HERE, os.pardir, "faults"))

from crew import Crew  # noqa: E402


async def run(options):
    """All rounds; gives the crew, whose books say what was found."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    chance = random.Random(options.seed)
    crew = Crew()
    machine = Machine(options.folder, options.port, options.nosync, options.command)
    await machine.prepare()
    try:
        await machine.start()
        await crew.board(machine.port)
        for number in range(1, options.rounds + 1):
            began = time.monotonic()
            worked_secs = chance.uniform(options.shortest, options.longest)
            crew.work(options.messages)
            await asyncio.sleep(worked_secs)
            machine.kill()
            promised = crew.books.promised
            await crew.cut()
            twice = chance.random() < options.during_start
            if twice:
                # And once more before the broker has found its feet.
                await machine.start(until="started")
                await asyncio.sleep(chance.uniform(0, 0.4))
                machine.kill()
            ready_secs = await machine.start()
            await crew.settle(machine.port, quiet_secs=options.quiet)
            print(
                f"cut {number} after {worked_secs:.2f} s{' and at the start' if twice else ''}: {promised} promised by"
                f" then, ready {ready_secs:.1f} s after power, round of {time.monotonic() - began:.1f} s;"
                f" {dict(crew.books.faults) or 'no fault'}",
                flush=True,
            )
            for line in crew.told():
                print(f"  {line}", flush=True)
            for writer in crew.writers:
                if not writer.alive and not await writer.connect(machine.port):
                    raise SystemExit("the broker takes nobody any more")
    finally:
        await crew.cut()
        await machine.end()
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
    parser.add_argument("--losses-secs-max", type=float, help="how old what is lost may be when power is cut")
    parser.add_argument("command", nargs="+", help="the broker; its state belongs below /mnt, its working directory")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {options.seed}", flush=True)
    began = time.monotonic()
    crew = asyncio.run(run(options))
    print(f"{options.rounds} cuts in {time.monotonic() - began:.0f} s, {crew.sum()}")
    if options.losses_secs_max is not None and crew.books.oldest_lost_secs > options.losses_secs_max:
        print(f"something promised {crew.books.oldest_lost_secs:.2f} s before a cut was lost")
        return 1
    return int(bool(crew.books.faults) != options.losses)


if __name__ == "__main__":
    sys.exit(main())
