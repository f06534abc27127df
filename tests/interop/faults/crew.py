"""The clients of every test that ends the broker: publishers at QoS 1 and 2 over 3.1.1 and 5.0, durable readers that are
away and that are there, one that changes its subscriptions, one that writes retained messages."""

import asyncio
import time

from load import LOAD, Books, Publisher, Reader, Subscriber, check_retained


class Crew:
    """They come on board once, and from then on work, are cut off, and settle what is owed, in turns."""

    def __init__(self, window=10, payload_bytes=None):
        self.books = Books(payload_bytes)
        self.ended_at = None
        self.publishers = [
            Publisher(self.books, f"writer-{qos}-{version}", version, qos, window=window)
            for qos in (1, 2)
            for version in (4, 5)
        ]
        self.keeper = Publisher(self.books, "keeper", 5, 1, window=4, retained_topics=5)
        self.away = Reader(self.books, "away", 4, [f"{LOAD}/#"])
        self.near = Reader(self.books, "near", 5, [f"{LOAD}/#"])
        self.fickle = Subscriber(self.books, "fickle", 5)
        self.writers = [*self.publishers, self.keeper]
        self.task = None

    async def board(self, port):
        """The first time: readers subscribe, and the one that will be away leaves."""
        for reader in (self.away, self.near):
            if not await reader.connect(port) or not await reader.subscribe():
                raise SystemExit(f"{reader.name} cannot subscribe at the broker on port {port}")
            self.books.readers.append(reader)
        self.away.leave()
        for client in (*self.writers, self.fickle):
            if not await client.connect(port):
                raise SystemExit(f"{client.name} cannot connect to the broker on port {port}")

    def work(self, messages):
        """Each publisher sends up to so many messages, until `cut`."""
        for writer in self.writers:
            writer.begin(messages)
        self.task = asyncio.create_task(self.fickle.run())

    async def cut(self):
        """All connections are gone at once; nobody begins anything new."""
        self.ended_at = time.monotonic()
        self.fickle.running = False
        for client in (*self.writers, self.fickle, self.near, self.away):
            if client in self.writers:
                client.running = False
            client.drop()
        if self.task:
            await self.task
            self.task = None

    async def settle(self, port, quiet_secs=4, within_secs=120):
        """All come back: what is in flight is brought to its end, and what was promised is demanded."""
        books = self.books
        clients = (*self.writers, self.fickle, self.near, self.away)
        for client, back in zip(clients, await asyncio.gather(*(client.connect(port) for client in clients))):
            if not back:
                books.fault("no answer", f"{client.name} cannot come back")
        for writer in self.writers:
            writer.finish()
        for writer in self.writers:
            deadline = time.monotonic() + 20
            while not writer.idle.is_set() and time.monotonic() < deadline:
                # Before 5.0 a broker that cannot promise yet has no other answer than to end the connection.
                if not writer.alive:
                    await writer.connect(port, within_secs=2)
                await asyncio.sleep(0.02)
            if not writer.idle.is_set():
                left = len(writer.unanswered) + len(writer.released)
                books.fault("no answer", f"{writer.name} waits for {left} answers in vain")
        for reader in (self.away, self.near):
            if reader.alive and not reader.present:
                if not await reader.subscribe():
                    books.fault("no answer", f"{reader.name} cannot subscribe")
        readers = (self.away, self.near)
        await asyncio.gather(*(reader.collect(quiet_secs, within_secs, self.ended_at) for reader in readers))
        if self.fickle.alive:
            await self.fickle.probe(port)
        await check_retained(books, port, self.keeper)
        self.away.leave()

    def told(self):
        """New faults in words since the last time."""
        told, self.books.told = self.books.told, []
        return told

    def sum(self):
        """What there was and what was found, in one line."""
        books = self.books
        faults = ", ".join(f"{kind} {count}" for kind, count in sorted(books.faults.items())) or "no fault"
        arrived = f"{len(self.away.seen)} and {len(self.near.seen)} arrived"
        return f"{sum(books.sent.values())} sent, {books.promised} promised, {arrived}: {faults}"
