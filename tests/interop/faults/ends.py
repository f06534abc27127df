"""Rounds in which a broker works, is ended at a random instant and started again, and is held to what it had promised: what
kills.py and powercut/rounds.py share. How it is ended is theirs."""

import argparse
import asyncio
import random
import time

from crew import Crew


def arguments(description, **defaults):
    """What both programs are told on the command line; those with a default are named in `defaults`."""
    parser = argparse.ArgumentParser(description=description.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seed", type=int, default=None, help="when it is ended; otherwise by chance, and told")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--shortest", type=float, help="seconds of work before the end")
    parser.add_argument("--longest", type=float)
    parser.add_argument("--messages", type=int, help="of each publisher in a round, at most")
    parser.add_argument("--quiet", type=float, default=4, help="seconds without a message after which the rest is lost")
    parser.add_argument("--during-start", type=float, default=0.2, help="how often it is ended again at once")
    parser.add_argument("--every", type=int, default=1, help="a line after so many rounds")
    parser.add_argument("--losses", action="store_true", help="a broker that must fail: its losses are the success")
    parser.add_argument("command", nargs="+", help="the broker, with {port}")
    parser.set_defaults(**defaults)
    return parser


async def rounds(options, broker, end):
    """Plays all of them; `end(crew, chance)` ends the broker and starts it again, and says how that went. Gives the crew,
    whose books say what was found."""
    chance = random.Random(options.seed)
    crew = Crew()
    try:
        await broker.start()
        await crew.board(broker.port)
        for number in range(1, options.rounds + 1):
            began = time.monotonic()
            worked_secs = chance.uniform(options.shortest, options.longest)
            crew.work(options.messages)
            await asyncio.sleep(worked_secs)
            how = await end(crew, chance)
            await crew.settle(broker.port, quiet_secs=options.quiet)
            if number % options.every == 0 or crew.books.told:
                took = time.monotonic() - began
                print(f"round {number} of {took:.1f} s, {how} after {worked_secs:.2f} s: {crew.sum()}", flush=True)
            for line in crew.told():
                print(f"  {line}", flush=True)
            for writer in crew.writers:
                if not writer.alive and not await writer.connect(broker.port):
                    raise SystemExit("the broker takes nobody any more")
    finally:
        await crew.cut()
        await broker.end()
    return crew


def play(options, story):
    """Runs `story`, which gives a crew and a word more; tells the sum. Gives the crew and the exit code: 0 when nothing
    promised is missing, or with --losses when something is."""
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {options.seed}", flush=True)
    began = time.monotonic()
    crew, more = asyncio.run(story(options))
    print(f"{options.rounds} rounds in {time.monotonic() - began:.0f} s, {more}, {crew.sum()}")
    return crew, int(bool(crew.books.faults) != options.losses)
