"""Clients that keep books: what a broker has promised them, and what came of it.

They live as long as the test does and forget nothing when the broker dies: in flight, they send again what the standard
says, with the same packet identifiers. What is held against the broker afterwards is only what it had said.
"""

import asyncio
import collections
import hashlib
import struct
import time

import mqtt
from mqtt import Connection

# What publishers write; readers of the load subscribe to all of it.
LOAD = "load"
PAYLOAD_BYTES_MAX = 1200


class Books:
    """What was promised and what was found missing, of all clients of one test."""

    def __init__(self, payload_bytes=None):
        # Of every payload, or by chance where nothing is said.
        self.payload_bytes = payload_bytes
        self.sent = collections.Counter()
        self.promised = 0
        # Topic -> the number of the last message for which the broker has answered.
        self.retained = {}
        self.readers = []
        # Before the end of the broker's life.
        self.oldest_lost_secs = 0
        self.finished = 0
        self.refused = collections.Counter()
        self.faults = collections.Counter()
        self.told = []
        # Where a session was lost, its client had to begin anew: what it repeats is not the broker's second fault.
        self.excused = set()

    def payload(self, name, number):
        """What message `number` of `name` says: its own name first, then bytes that only it has, mostly few."""
        head = f"{name} {number} ".encode()
        seed = hashlib.blake2b(head, digest_size=16).digest()
        size = self.payload_bytes or (PAYLOAD_BYTES_MAX if seed[0] < 8 else 16 + seed[1] % 100)
        return head + (seed * (size // 16 + 1))[:size]

    def fault(self, kind, what, count=1):
        """Counts one against the broker, and keeps the first few in words."""
        self.faults[kind] += count
        if self.faults[kind] <= 5 or count > 1:
            self.told.append(f"{kind}: {what}")

    def promise(self, message):
        """The broker has answered for a message, so each reader has to get it."""
        self.promised += 1
        for reader in self.readers:
            if message not in reader.seen:
                reader.owed[message] = time.monotonic()


class Client:
    """What publishers and readers share: a session with a name, and the connection it has at the moment."""

    def __init__(self, books, name, version, keep_alive_secs=0, clean=False):
        self.books, self.name, self.version = books, name, version
        self.keep_alive_secs, self.clean = keep_alive_secs, clean
        self.will = None
        self.connection = None
        self.connected = None
        self.had_session = False
        self.present = False
        self.pid = 0
        self.answers = {}
        self.ends = 0

    async def connect(self, port, within_secs=20):
        """Dials until CONNACK says yes; False when the time is over."""
        deadline = time.monotonic() + within_secs
        while time.monotonic() < deadline:
            self.drop()
            self.connected = asyncio.get_running_loop().create_future()
            try:
                self.connection = await Connection.dial(self, port)
                self.connection.send(
                    mqtt.connect(self.name, self.version, self.clean, self.keep_alive_secs, self.will)
                )
                if await asyncio.wait_for(self.connected, max(0.1, min(5, deadline - time.monotonic()))):
                    return True
            except (OSError, asyncio.TimeoutError):
                pass
            await asyncio.sleep(0.05)
        self.drop()
        return False

    @property
    def alive(self):
        """Whether there is a connection that was accepted."""
        return self.connection is not None and self.connected.done() and bool(self.connected.result())

    def drop(self):
        """Ends the connection as a dying client does; the session stays."""
        if self.connection:
            connection, self.connection = self.connection, None
            connection.cut()
        self.forget_answers()

    def leave(self):
        """Ends the connection as a client should; the session stays."""
        if self.connection:
            connection, self.connection = self.connection, None
            connection.send(mqtt.packet(mqtt.DISCONNECT, 0, b""))
            connection.transport.close()
        self.forget_answers()

    def forget_answers(self):
        """Whoever waits for an answer waits no longer."""
        for waiting in self.answers.values():
            if not waiting.done():
                waiting.set_result(None)
        self.answers.clear()

    def next_pid(self, taken=()):
        """A packet identifier that is free."""
        while True:
            self.pid = self.pid % 65535 + 1
            if self.pid not in taken and self.pid not in self.answers:
                return self.pid

    async def ask(self, pid, packet, within_secs=20):
        """Sends what is answered by SUBACK or UNSUBACK and gives the answer's body; None when there was none."""
        if not self.alive:
            return None
        waiting = self.answers[pid] = asyncio.get_running_loop().create_future()
        self.connection.send(packet)
        try:
            return await asyncio.wait_for(waiting, within_secs)
        except asyncio.TimeoutError:
            return None

    def on_packet(self, connection, kind, flags, body):
        """Takes what arrives, if it is for the connection of now."""
        if connection is not self.connection:
            return
        if kind == mqtt.CONNACK:
            code = mqtt.reason(kind, body, self.version)
            self.present = bool(body[0] & 1)
            accepted = code == 0
            if accepted:
                if self.had_session and not self.present and not self.clean:
                    self.books.fault("sessions lost", self.name)
                    self.begin_anew()
                self.had_session = True
            if not self.connected.done():
                self.connected.set_result(accepted)
            if accepted:
                self.resume()
        elif kind in (mqtt.SUBACK, mqtt.UNSUBACK):
            waiting = self.answers.pop(struct.unpack_from(">H", body)[0], None)
            if waiting and not waiting.done():
                waiting.set_result(body[2:])
        else:
            self.handle(kind, flags, body)

    def on_end(self, connection):
        """The connection is gone, by whomever."""
        if connection is self.connection:
            self.connection = None
            self.ends += 1
            self.forget_answers()
            if not self.connected.done():
                self.connected.set_result(False)

    async def ping(self):
        """Says that it is there three times as often as it promised to, for as long as this is not cancelled."""
        while True:
            await asyncio.sleep(self.keep_alive_secs / 3)
            if self.alive:
                self.connection.send(mqtt.packet(mqtt.PINGREQ, 0, b""))

    def begin_anew(self):
        """The broker has forgotten the session."""

    def resume(self):
        """The broker has accepted the connection."""

    def handle(self, kind, flags, body):
        """Anything but CONNACK and the answers that are asked for."""


class Publisher(Client):
    """Publishes numbered messages as fast as its window allows, and resumes what was in flight."""

    def __init__(self, books, name, version, qos, window=10, retained_topics=0, **more):
        super().__init__(books, name, version, **more)
        self.qos, self.window, self.retained_topics = qos, window, retained_topics
        self.number = 0
        # What is in flight, oldest first: packet identifier -> number, and of QoS 2 what waits for its PUBCOMP.
        self.unanswered = {}
        self.released = {}
        self.running = False
        self.left = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def topic(self, number):
        """Where a message goes."""
        if self.retained_topics:
            return f"kept/{self.name}/{number % self.retained_topics}"
        return f"{LOAD}/{self.name}/{number % 7}"

    def begin(self, messages):
        """Lets it publish, up to so many messages."""
        self.running, self.left = True, messages
        self.fill()

    def finish(self):
        """Nothing new from now on; what is in flight goes on."""
        self.running = False
        self.note_idle()

    def note_idle(self):
        """Keeps `idle` true to what is in flight."""
        if self.unanswered or self.released or (self.running and self.left):
            self.idle.clear()
        else:
            self.idle.set()

    def fill(self):
        """Sends new messages while the window has room."""
        if self.alive:
            while self.running and self.left and len(self.unanswered) + len(self.released) < self.window:
                self.left -= 1
                self.number += 1
                pid = self.next_pid(self.unanswered.keys() | self.released.keys())
                self.unanswered[pid] = self.number
                self.books.sent[self.name] += 1
                self.send(pid, dup=False)
        self.note_idle()

    def send(self, pid, dup):
        """Sends a message that is in flight."""
        number = self.unanswered[pid]
        data = self.books.payload(self.name, number)
        retain = bool(self.retained_topics)
        self.connection.send(mqtt.publish(self.topic(number), data, self.qos, pid, self.version, retain, dup))

    def begin_anew(self):
        # Both sides have to forget what they knew; what was never answered for is published again, as something new.
        self.books.excused.update((self.name, number) for number in self.unanswered.values())
        self.released.clear()

    def resume(self):
        for pid in list(self.unanswered):
            self.send(pid, dup=self.present)
        for pid in self.released:
            self.connection.send(mqtt.answer(mqtt.PUBREL, pid))
        self.fill()

    def handle(self, kind, flags, body):
        if kind not in (mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBCOMP):
            return
        pid = struct.unpack_from(">H", body)[0]
        refused = mqtt.reason(kind, body, self.version) >= mqtt.REFUSED_FROM
        if kind == mqtt.PUBCOMP:
            if self.released.pop(pid, None) is not None:
                self.books.finished += 1
        elif pid in self.unanswered:
            number = self.unanswered.pop(pid)
            if refused:
                self.books.refused[self.name] += 1
            else:
                if self.retained_topics:
                    self.books.promised += 1
                    topic = self.topic(number)
                    self.books.retained[topic] = max(number, self.books.retained.get(topic, 0))
                else:
                    self.books.promise((self.name, number))
                if kind == mqtt.PUBREC:
                    self.released[pid] = number
                    self.connection.send(mqtt.answer(mqtt.PUBREL, pid))
                else:
                    self.books.finished += 1
        elif kind == mqtt.PUBREC:
            # Answered before, when the answer to the answer was lost.
            self.connection.send(mqtt.answer(mqtt.PUBREL, pid))
        self.fill()


class Reader(Client):
    """A durable session that remembers every message that came, and how often."""

    def __init__(self, books, name, version, filters, qos=2, **more):
        super().__init__(books, name, version, **more)
        self.filters, self.qos = filters, qos
        self.seen = collections.Counter()
        self.latest = {}
        self.unreleased = set()
        self.excused = False
        # What was promised to the publishers and has not arrived here, in the order of the promises and with their time.
        self.owed = {}
        self.arrived_at = time.monotonic()
        self.on_message = None

    async def subscribe(self):
        """Subscribes to its filters; True when all were granted."""
        pid = self.next_pid()
        codes = await self.ask(pid, mqtt.subscribe(pid, self.filters, self.qos, self.version))
        # The properties of 5.0 are empty or come first; the codes stand at the end.
        return codes is not None and all(code <= 2 for code in codes[-len(self.filters) :])

    def begin_anew(self):
        self.unreleased.clear()
        self.excused = True

    def handle(self, kind, flags, body):
        if kind == mqtt.PUBLISH:
            message = mqtt.Publish(flags, body, self.version)
            fresh = message.qos < 2 or message.pid not in self.unreleased
            if message.qos == 2:
                self.unreleased.add(message.pid)
                self.connection.send(mqtt.answer(mqtt.PUBREC, message.pid))
            elif message.qos == 1:
                self.connection.send(mqtt.answer(mqtt.PUBACK, message.pid))
            if fresh:
                self.take(message)
        elif kind == mqtt.PUBREL:
            pid = struct.unpack_from(">H", body)[0]
            self.unreleased.discard(pid)
            self.connection.send(mqtt.answer(mqtt.PUBCOMP, pid))

    def take(self, message):
        """One message has arrived for the application."""
        self.arrived_at = time.monotonic()
        if self.on_message:
            self.on_message(message)
            return
        try:
            name, number = message.payload.split(b" ", 2)[:2]
            name, number = name.decode(), int(number)
        except ValueError:
            self.books.fault("made up", f"{self.name} got {message.topic} {message.payload[:40]!r}")
            return
        if message.payload != self.books.payload(name, number) or number > self.books.sent[name]:
            self.books.fault("made up", f"{self.name} got {message.topic} {message.payload[:40]!r}")
            return
        key = (name, number)
        self.seen[key] += 1
        self.owed.pop(key, None)
        if self.seen[key] == 1:
            if number < self.latest.get(name, 0) and not self.excused:
                self.books.fault("out of order", f"{self.name} got {name} {number} after {self.latest[name]}")
            self.latest[name] = max(number, self.latest.get(name, 0))
        elif message.qos == 2 and key not in self.books.excused and not self.excused:
            self.books.fault("twice at QoS 2", f"{self.name} got {name} {number} for the {self.seen[key]}. time")

    async def collect(self, quiet_secs, within_secs, ended_at=None):
        """Waits until all that is owed has come, or nothing has for `quiet_secs`; counts what is missing as lost."""
        deadline = time.monotonic() + within_secs
        self.arrived_at = time.monotonic()
        while time.monotonic() < deadline and time.monotonic() - self.arrived_at < quiet_secs and self.owed:
            await asyncio.sleep(0.05)
        if self.owed:
            (name, number), promised_at = next(iter(self.owed.items()))
            age_secs = (ended_at or time.monotonic()) - promised_at
            self.books.oldest_lost_secs = max(self.books.oldest_lost_secs, age_secs)
            what = f"{self.name} never got {len(self.owed)}, as {name} {number}, promised {age_secs:.2f} s before the end"
            self.books.fault("lost", what, len(self.owed))
            self.owed.clear()
        self.excused = False


class Subscriber(Client):
    """Subscribes and unsubscribes without a pause, and knows of which filters the broker has said that they hold."""

    KEPT = 5

    def __init__(self, books, name, version, **more):
        super().__init__(books, name, version, **more)
        self.number = 0
        self.holds, self.gone, self.unsure = set(), set(), set()
        self.probed = set()
        self.running = False

    def filter(self, number):
        """The filter of a number; its probe is published on it."""
        return f"probe/{self.name}/{number}"

    async def run(self):
        """Changes its subscriptions until told to stop or cut off."""
        self.running = True
        while self.running and self.alive:
            self.number += 1
            await self.change(mqtt.subscribe, self.number)
            if self.holds and len(self.holds) > self.KEPT:
                await self.change(mqtt.unsubscribe, min(self.holds))
            await asyncio.sleep(0.01)

    async def change(self, packet, number):
        """One SUBSCRIBE or UNSUBSCRIBE; until it is answered nobody can be sure."""
        self.holds.discard(number)
        self.unsure.add(number)
        pid = self.next_pid()
        subscribes = packet is mqtt.subscribe
        more = (1,) if subscribes else ()
        answer = await self.ask(pid, packet(pid, [self.filter(number)], *more, self.version))
        if answer is not None:
            self.unsure.discard(number)
            # The code stands at the end; an UNSUBACK of 3.1.1 has none. What was refused is as it was before.
            refused = bool(answer) and answer[-1] >= mqtt.REFUSED_FROM
            (self.holds if subscribes != refused else self.gone).add(number)

    def begin_anew(self):
        self.books.fault("subscriptions lost", f"all {len(self.holds)} of {self.name}", max(1, len(self.holds)))
        self.holds.clear()
        self.unsure.clear()

    def handle(self, kind, flags, body):
        if kind == mqtt.PUBLISH:
            message = mqtt.Publish(flags, body, self.version)
            if message.qos:
                self.connection.send(mqtt.answer(mqtt.PUBACK, message.pid))
            self.probed.add(message.topic)

    async def probe(self, port, within_secs=10):
        """Lets somebody publish on every filter that holds or was lately there and compares what arrives with what was
        promised."""
        self.probed.clear()
        prober = Client(self.books, f"{self.name}-prober", 4, clean=True)
        if not await prober.connect(port):
            self.books.fault("no answer", "the broker does not take the client that probes subscriptions")
            return
        # What holds may be old: each SUBSCRIBE that is refused counts a number on.
        recent = range(max(1, self.number - 200), self.number + 1)
        for number in sorted({*recent, *self.holds, *self.unsure}):
            prober.connection.send(mqtt.publish(self.filter(number), b"probe", 0, 0, 4))
        deadline = time.monotonic() + within_secs
        wanted = {self.filter(number) for number in self.holds}
        while time.monotonic() < deadline and not wanted <= self.probed:
            await asyncio.sleep(0.02)
        missing = wanted - self.probed
        if missing:
            self.books.fault("subscriptions lost", f"{self.name} had {sorted(missing)[0]}", len(missing))
            self.holds -= {number for number in self.holds if self.filter(number) in missing}
        wrong = {number for number in self.gone if self.filter(number) in self.probed}
        if wrong:
            self.books.fault("subscriptions back", f"{self.name} had left {self.filter(min(wrong))}", len(wrong))
            self.gone -= wrong
        # What nobody could be sure of is settled by what the broker did.
        for number in list(self.unsure):
            (self.holds if self.filter(number) in self.probed else self.gone).add(number)
        self.unsure.clear()
        prober.leave()


async def check_retained(books, port, publisher, within_secs=10):
    """Reads what is retained of a publisher's topics: each has its last promised message, or a later one."""
    wanted = {topic: number for topic, number in books.retained.items() if topic.split("/")[1] == publisher.name}
    found = {}
    reader = Reader(books, f"{publisher.name}-check", 4, [f"kept/{publisher.name}/#"], clean=True)

    def note(message):
        found[message.topic] = message.payload

    reader.on_message = note
    if not await reader.connect(port) or not await reader.subscribe():
        books.fault("no answer", "the broker does not take the client that reads what is retained")
        return
    # What is retained follows the SUBACK without a pause.
    deadline, count = time.monotonic() + within_secs, -1
    while time.monotonic() < deadline and count != len(found) < len(wanted):
        count = len(found)
        await asyncio.sleep(0.5)
    for topic, number in wanted.items():
        held = int(found[topic].split(b" ", 2)[1]) if topic in found else 0
        if held < number:
            books.fault("retained lost", f"{topic} has {held}, {number} was promised")
        elif found[topic] != books.payload(publisher.name, held) or held > books.sent[publisher.name]:
            books.fault("made up", f"{topic} has {found[topic][:40]!r}")
        # What was lost once is not counted again at the next cut.
        books.retained[topic] = min(number, held)
    reader.drop()
