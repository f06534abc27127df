#!/usr/bin/env python3
"""Stops a broker by SIGSTOP for longer than the keep-alive of all its clients, and lets it go on.

Its clients speak all the while, so what they said waits in the kernel when it wakes up. It has to read that before it
decides that somebody is silent: nobody may be sent away, no will be sent, nothing be lost. Then the same with a reader that
is stopped itself: that one has to go, by its keep-alive and with its will, and nobody else may notice.
"""

import argparse
import asyncio
import signal
import subprocess
import sys
import time

from broker import Broker, free_port
from crew import Crew
from load import Reader

KEEP_ALIVE_SECS = 2

# Messages that a reader may be behind: its queue has room for more, and what overflows there is another matter.
BEHIND_MAX = 300


async def keep_pace(crew):
    """Lets the writers wait for the reader that is there, until this is cancelled."""
    while True:
        is_behind = len(crew.near.owed) > BEHIND_MAX
        for writer in crew.writers:
            writer.left = 0 if is_behind else 10**9
            writer.fill()
        await asyncio.sleep(0.005)


async def run(options):
    """All stops; gives the crew."""
    broker = Broker(options.command, options.port or free_port(), options.log)
    crew = Crew()
    books = crew.books
    everybody = [*crew.writers, crew.near, crew.fickle]
    for client in everybody:
        client.keep_alive_secs = KEEP_ALIVE_SECS
        client.will = ("wills/crew", client.name)
    wills = []
    witness = Reader(books, "witness", 5, ["wills/#"], clean=True)
    witness.on_message = lambda message: wills.append(message.payload.decode())
    frozen = None
    tasks = []
    try:
        await broker.start()
        if not await witness.connect(broker.port) or not await witness.subscribe():
            raise SystemExit("the witness cannot subscribe")
        await crew.board(broker.port)
        # Nobody keeps as much for who is away as is published here, and this is not about that.
        books.readers.remove(crew.away)
        tasks = [asyncio.create_task(client.ping()) for client in everybody]
        tasks.append(asyncio.create_task(keep_pace(crew)))
        for number in range(1, options.rounds + 1):
            crew.work(10**9)
            await asyncio.sleep(0.5)
            broker.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(options.stopped)
            before = books.promised
            broker.process.send_signal(signal.SIGCONT)
            deadline = time.monotonic() + 20
            while books.promised < before + 500 and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
            if books.promised < before + 500:
                books.fault("no answer", f"{books.promised - before} answers within 20 s of the {number}. waking up")
            sent_away = [client.name for client in everybody if client.ends]
            if sent_away:
                books.fault("sent away", f"{', '.join(sent_away)} spoke all the while", len(sent_away))
            if wills:
                books.fault("wills", f"of {', '.join(sorted(set(wills)))}, who were there", len(wills))
            for client in everybody:
                client.ends = 0
            wills.clear()
            await crew.cut()
            await crew.settle(broker.port)
            wills.clear()
            print(f"stop {number} for {options.stopped} s: {crew.sum()}", flush=True)

        # A reader that is frozen with its connection open; everybody else goes on.
        crew.work(10**9)
        frozen = subprocess.Popen(
            ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(broker.port), "-i", "frozen", "-t", "load/#", "-q", "1"]
            + ["-k", "5", "--will-topic", "wills/frozen", "--will-payload", "frozen", "--will-qos", "1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        await asyncio.sleep(1)
        frozen.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        before = books.promised
        while "frozen" not in wills and time.monotonic() - began < 20:
            await asyncio.sleep(0.05)
        if "frozen" not in wills:
            books.fault("wills", "a reader that was frozen for 20 s with a keep-alive of 5 s has not been sent away")
        if books.promised < before + 500:
            books.fault("no answer", f"{books.promised - before} answers while a reader was frozen")
        sent_away = [client.name for client in everybody if client.ends]
        if sent_away:
            books.fault("sent away", f"{', '.join(sent_away)} while another was frozen", len(sent_away))
        print(f"a frozen reader was gone after {time.monotonic() - began:.1f} s: {crew.sum()}", flush=True)
    finally:
        if frozen:
            frozen.kill()
            frozen.wait()
        for task in tasks:
            task.cancel()
        await crew.cut()
        witness.drop()
        await broker.end()
    return crew


def main():
    """Exit code 0 when there was no fault."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stopped", type=float, default=KEEP_ALIVE_SECS * 1.5 + 2, help="seconds of each stop")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", default="broker.log")
    parser.add_argument("command", nargs="+", help="the broker, with {port}")
    options = parser.parse_args()
    crew = asyncio.run(run(options))
    for line in crew.told():
        print(f"  {line}")
    return int(bool(crew.books.faults))


if __name__ == "__main__":
    sys.exit(main())
