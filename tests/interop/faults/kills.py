#!/usr/bin/env python3
"""Ends a broker by SIGKILL at random instants while it works, starts it again, and demands what it had promised.

With --spare the broker is left alone and only its clients are cut off, all at once: then any broker has to keep its word.
"""

import argparse
import asyncio
import random
import sys
import time

from broker import Broker, free_port
from crew import Crew


async def run(options):
    """All rounds; gives the crew, whose books say what was found."""
    chance = random.Random(options.seed)
    broker = Broker(options.command, options.port or free_port(), options.log)
    crew = Crew()
    slowest_secs = 0
    try:
        await broker.start()
        await crew.board(broker.port)
        for number in range(1, options.rounds + 1):
            worked_secs = chance.uniform(options.shortest, options.longest)
            crew.work(options.messages)
            await asyncio.sleep(worked_secs)
            if not options.spare:
                broker.kill()
                await crew.cut()
                again = chance.random() < options.during_start
                slowest_secs = max(slowest_secs, await broker.start())
                if again:
                    # And once more as soon as it serves: what it read back has to be there the second time.
                    broker.kill()
                    slowest_secs = max(slowest_secs, await broker.start())
            else:
                await crew.cut()
            await crew.settle(broker.port, quiet_secs=options.quiet)
            if number % options.every == 0 or crew.books.told:
                print(f"round {number}: {crew.sum()}", flush=True)
            for line in crew.told():
                print(f"  {line}", flush=True)
            for writer in crew.writers:
                if not writer.alive and not await writer.connect(broker.port):
                    raise SystemExit("the broker takes nobody any more")
    finally:
        await crew.cut()
        await broker.end()
    return crew, slowest_secs


def main():
    """Exit code 0 when nothing promised is missing, or with --losses when something is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None, help="when it is killed; otherwise by chance, and told")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", default="broker.log")
    parser.add_argument("--shortest", type=float, default=0.05, help="seconds of work before the end")
    parser.add_argument("--longest", type=float, default=0.4)
    parser.add_argument("--messages", type=int, default=200, help="of each publisher in a round, at most")
    parser.add_argument("--quiet", type=float, default=4, help="seconds without a message after which the rest is lost")
    parser.add_argument("--during-start", type=float, default=0.2, help="how often it is killed again at once")
    parser.add_argument("--every", type=int, default=20, help="a line after so many rounds")
    parser.add_argument("--spare", action="store_true", help="cut off the clients and leave the broker alone")
    parser.add_argument("--losses", action="store_true", help="a broker that must fail: its losses are the success")
    parser.add_argument("command", nargs="+", help="the broker, with {port}")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {options.seed}", flush=True)
    began = time.monotonic()
    crew, slowest_secs = asyncio.run(run(options))
    took = time.monotonic() - began
    print(f"{options.rounds} rounds in {took:.0f} s, slowest start {slowest_secs:.2f} s, {crew.sum()}")
    return int(bool(crew.books.faults) != options.losses)


if __name__ == "__main__":
    sys.exit(main())
