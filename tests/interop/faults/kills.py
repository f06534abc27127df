#!/usr/bin/env python3
"""Ends a broker by SIGKILL at random instants while it works, starts it again, and demands what it had promised.

With --spare the broker is left alone and only its clients are cut off, all at once: then any broker has to keep its word.
"""

import sys

import ends
from broker import Broker, free_port


async def run(options):
    """All rounds; gives the crew, and how long a start took at most."""
    broker = Broker(options.command, options.port or free_port(), options.log)
    slowest_secs = 0

    async def cut(crew, _chance):
        await crew.cut()
        return "cut off"

    async def kill(crew, chance):
        nonlocal slowest_secs
        broker.kill()
        await crew.cut()
        again = chance.random() < options.during_start
        slowest_secs = max(slowest_secs, await broker.start())
        if again:
            # And once more as soon as it serves: what it read back has to be there the second time.
            broker.kill()
            slowest_secs = max(slowest_secs, await broker.start())
        return f"killed{' twice' if again else ''}"

    crew = await ends.rounds(options, broker, cut if options.spare else kill)
    return crew, f"slowest start {slowest_secs:.2f} s"


def main():
    """Exit code 0 when nothing promised is missing, or with --losses when something is."""
    parser = ends.arguments(__doc__, rounds=200, shortest=0.05, longest=0.4, messages=200, every=20)
    parser.add_argument("--log", default="broker.log")
    parser.add_argument("--spare", action="store_true", help="cut off the clients and leave the broker alone")
    return ends.play(parser.parse_args(), run)[1]


if __name__ == "__main__":
    sys.exit(main())
