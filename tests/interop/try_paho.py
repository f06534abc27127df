"""paho-mqtt in all its versions of MQTT over all its transports, at a gateway whose doors report.py knows."""

import os
import queue
import socket
import time
from contextlib import ExitStack

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from report import HOST, IN_VAIN_SECS, PORTS, SOCKET, encrypted, expect, failed, passed, tls_context

VERSIONS = {"3.1": mqtt.MQTTv31, "3.1.1": mqtt.MQTTv311, "5.0": mqtt.MQTTv5}
TRANSPORTS = {"tcp": "tcp", "tls": "tcp", "ws": "websockets", "wss": "websockets", "unix": "unix"}


def properties(packet, **values):
    made = Properties(packet)
    for name, value in values.items():
        setattr(made, name, value)
    return made


class Client:
    """One connection whose every step is waited for; leaving its context ends it with a DISCONNECT."""

    def __init__(self, way, client_id="", resume=False, will=None, expiry_secs=0, manual=False, **connect):
        version, door = way
        self.version = version
        self.messages = queue.Queue()
        self.acknowledged = queue.Queue()
        self.over = queue.Queue()
        modern = version == "5.0"
        client_id = client_id or f"paho-{os.urandom(4).hex()}"
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=VERSIONS[version],
            transport=TRANSPORTS[door],
            clean_session=None if modern else not resume,
            reconnect_on_failure=False,
            manual_ack=manual,
        )
        self.client.on_message = lambda _client, _data, message: self.messages.put(message)
        self.client.on_connect = lambda _c, _d, flags, reason, props: self.acknowledged.put((flags, reason, props))
        self.client.on_subscribe = lambda _c, _d, _id, reasons, _p: self.acknowledged.put(reasons)
        self.client.on_unsubscribe = lambda _c, _d, _id, reasons, _p: self.acknowledged.put(reasons)
        self.client.on_disconnect = lambda _c, _d, _flags, reason, _p: self.over.put(reason)
        if encrypted(door):
            self.client.tls_set_context(tls_context())
        if door in ("ws", "wss"):
            self.client.ws_set_options(path="/mqtt")
        if will:
            self.client.will_set(**will)
        options = {}
        if modern:
            if expiry_secs:
                connect["SessionExpiryInterval"] = expiry_secs
            options = {"clean_start": not resume, "properties": properties(PacketTypes.CONNECT, **connect)}
        where = (SOCKET, 1) if door == "unix" else (HOST, PORTS[door])
        self.client.connect(*where, keepalive=30, **options)
        self.client.loop_start()
        flags, reason, self.granted = self.acknowledged.get(timeout=IN_VAIN_SECS)
        expect(0, reason.value, "reason of CONNACK")
        self.session_present = flags.session_present

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.disconnect()
        self.client.loop_stop()

    def subscribe(self, topic, qos=1, **values):
        """Values are properties of SUBSCRIBE where their name begins with a capital, else options of the topic."""
        if self.version == "5.0":
            options = {name: value for name, value in values.items() if name[0].islower()}
            rest = {name: value for name, value in values.items() if name[0].isupper()}
            self.client.subscribe(
                topic, options=SubscribeOptions(qos=qos, **options), properties=properties(PacketTypes.SUBSCRIBE, **rest)
            )
        else:
            self.client.subscribe(topic, qos)
        granted = self.acknowledged.get(timeout=IN_VAIN_SECS)
        expect([qos], [reason.value for reason in granted], "granted QoS")

    def unsubscribe(self, topic):
        self.client.unsubscribe(topic)
        self.acknowledged.get(timeout=IN_VAIN_SECS)

    def publish(self, topic, payload, qos=1, retain=False, **values):
        props = properties(PacketTypes.PUBLISH, **values) if values else None
        info = self.client.publish(topic, payload, qos, retain, properties=props)
        info.wait_for_publish(timeout=IN_VAIN_SECS)
        expect(True, info.is_published(), "acknowledged")

    def next(self):
        return self.messages.get(timeout=IN_VAIN_SECS)

    def texts(self, count):
        return [self.next().payload.decode() for _ in range(count)]

    def cut(self):
        """Ends the connection as a pulled cable does that comes back too late: no DISCONNECT, no TLS goodbye."""
        with socket.socket(fileno=os.dup(self.client.socket().fileno())) as raw:
            raw.shutdown(socket.SHUT_RDWR)
        self.over.get(timeout=IN_VAIN_SECS)
        self.client.loop_stop()


def both_ways_at_each_qos(way):
    with Client(way) as reader, Client(way) as writer:
        reader.subscribe("both/+", 2)
        writer.subscribe("back/+", 2)
        for qos in (0, 1, 2):
            writer.publish("both/ways", f"there {qos}", qos)
            there = reader.next()
            expect((f"there {qos}", qos), (there.payload.decode(), there.qos), "there")
            reader.publish("back/ways", f"back {qos}", qos)
            back = writer.next()
            expect((f"back {qos}", qos), (back.payload.decode(), back.qos), "back")
        reader.unsubscribe("both/+")
        reader.subscribe("end")
        writer.publish("both/ways", "unheard")
        writer.publish("end", "heard")
        expect(["heard"], reader.texts(1), "after unsubscribing")


def large_and_many_in_order(way):
    large = os.urandom(100_000).hex()
    with Client(way) as reader, Client(way) as writer:
        reader.subscribe("load", 2)
        writer.publish("load", large, 2)
        expect([large], reader.texts(1), "large payload")
        for number in range(300):
            last = writer.client.publish("load", str(number), 1 + number // 150)
        last.wait_for_publish(timeout=IN_VAIN_SECS)
        expect([str(number) for number in range(300)], reader.texts(300), "order")


def retained(way):
    with Client(way) as writer, Client(way) as reader:
        writer.publish("kept/a", "first", 1, True)
        writer.publish("kept/a", "second", 1, True)
        reader.subscribe("kept/+")
        message = reader.next()
        expect(("second", True), (message.payload.decode(), message.retain), "on subscribing")
        writer.publish("kept/a", "third", 1, True)
        message = reader.next()
        expect(("third", False), (message.payload.decode(), message.retain), "while subscribed")
        writer.publish("kept/a", b"", 1, True)
        expect([""], reader.texts(1), "the clearing")
        with Client(way) as late:
            late.subscribe("kept/+")
            writer.publish("kept/b", "only this")
            expect(["only this"], late.texts(1), "after clearing")


def will_by_cut_and_not_by_goodbye(way):
    with Client(way) as witness:
        witness.subscribe("wills")
        with Client(way, will={"topic": "wills", "payload": "never", "qos": 1}):
            pass
        victim = Client(way, will={"topic": "wills", "payload": "gone", "qos": 1})
        victim.cut()
        expect(["gone"], witness.texts(1), "will")


def session_resumes(way):
    name = f"sleeper-{os.urandom(4).hex()}"
    with Client(way) as writer:
        with Client(way, name, True, expiry_secs=60) as sleeper:
            expect(False, sleeper.session_present, "session present at first")
            sleeper.subscribe("dreams", 2)
        for number in range(20):
            writer.publish("dreams", str(number), 1 + number % 2)
        with Client(way, name, True, expiry_secs=60) as sleeper:
            # CONNACK of 3.1 has no such flag.
            if way[0] != "3.1":
                expect(True, sleeper.session_present, "session present")
            # The order holds for each QoS; paho hands a message of QoS 2 over only when its handshake is done.
            texts = sorted(sleeper.texts(20), key=lambda text: int(text) % 2)
            expect([str(number) for number in [*range(0, 20, 2), *range(1, 20, 2)]], texts, "queued")
        with Client(way, name, False) as fresh:
            expect(False, fresh.session_present, "session present after a clean start")
            writer.publish("dreams", "unheard")
            fresh.subscribe("end")
            writer.publish("end", "heard")
            expect(["heard"], fresh.texts(1), "after a clean start")


def unacknowledged_comes_again(way):
    name = f"forgetful-{os.urandom(4).hex()}"
    with Client(way) as writer:
        first = Client(way, name, True, expiry_secs=60, manual=True)
        first.subscribe("again")
        writer.publish("again", "once more")
        expect(False, first.next().dup, "DUP at first")
        first.cut()
        with Client(way, name, True, expiry_secs=60) as second:
            message = second.next()
            expect(("once more", True), (message.payload.decode(), message.dup), "DUP after the cut")
        with Client(way, name, False):
            pass


def taken_over(way):
    first = Client(way, "twin")
    with Client(way, "twin"):
        reason = first.over.get(timeout=IN_VAIN_SECS)
        if way[0] == "5.0":
            expect(0x8E, reason.value, "reason of DISCONNECT")
    first.client.loop_stop()


def carries_properties(way):
    with Client(way) as reader, Client(way) as writer:
        reader.subscribe("props")
        pairs = [("unit", "°C"), ("unit", "K"), ("place", "roof")]
        writer.publish("props", "21", UserProperty=pairs, ContentType="text/plain", PayloadFormatIndicator=1)
        found = reader.next().properties
        expect((pairs, "text/plain", 1), (found.UserProperty, found.ContentType, found.PayloadFormatIndicator), "there")


def topic_aliases_both_ways(way):
    with Client(way, TopicAliasMaximum=4) as reader, Client(way) as writer:
        reader.subscribe("alias/#")
        writer.publish("alias/long/topic", "named", TopicAlias=1)
        writer.publish("", "by alias", TopicAlias=1)
        topics = {}
        for text in ("named", "by alias"):
            message = reader.next()
            expect(text, message.payload.decode(), "payload")
            # paho leaves it to its user to remember what an alias from the server stands for.
            alias = getattr(message.properties, "TopicAlias", None)
            if message.topic:
                topics[alias] = message.topic
            expect("alias/long/topic", message.topic or topics[alias], "topic")
        expect(1, len(topics.keys() - {None}), "aliases the gateway assigned")


def messages_expire(way):
    name = f"late-{os.urandom(4).hex()}"
    with Client(way) as writer:
        with Client(way, name, True, expiry_secs=60) as sleeper:
            sleeper.subscribe("expiry")
        writer.publish("expiry", "too late", MessageExpiryInterval=1)
        writer.publish("expiry", "in time", MessageExpiryInterval=100)
        # Nothing tells from outside that a message has expired; its second has to pass.
        time.sleep(1.2)
        with Client(way, name, True) as sleeper:
            message = sleeper.next()
            expect("in time", message.payload.decode(), "what is left")
            left = message.properties.MessageExpiryInterval
            expect(True, 90 <= left < 100, f"counted down, {left} left")


def subscription_identifiers(way):
    with Client(way) as reader, Client(way) as writer:
        reader.subscribe("ids/+", SubscriptionIdentifier=7)
        reader.subscribe("ids/a", SubscriptionIdentifier=300)
        writer.publish("ids/a", "both")
        seen = sorted(reader.next().properties.SubscriptionIdentifier)
        if len(seen) == 1:
            seen = sorted(seen + reader.next().properties.SubscriptionIdentifier)
        expect([7, 300], seen, "identifiers")


def shared_subscription(way):
    with Client(way) as left, Client(way) as right, Client(way) as writer:
        for member in (left, right):
            member.subscribe("$share/workers/jobs/+", 1)
            member.subscribe("jobs-end", 1)
        for number in range(40):
            writer.publish(f"jobs/{number}", str(number))
        writer.publish("jobs-end", "end")
        done = []
        for member in (left, right):
            mine = list(iter(lambda member=member: member.next().payload.decode(), "end"))
            expect(True, len(mine) > 0, "a share for each")
            done += mine
        expect(sorted(str(number) for number in range(40)), sorted(done), "each job once")


def request_and_response(way):
    with ExitStack() as stack:
        asker = stack.enter_context(Client(way, RequestResponseInformation=1))
        answerer = stack.enter_context(Client(way))
        replies = f"{asker.granted.ResponseInformation}/sum"
        expect(True, replies.startswith("replies/"), f"response information, found {replies}")
        asker.subscribe(replies)
        answerer.subscribe("sums")
        asker.publish("sums", "2 3", ResponseTopic=replies, CorrelationData=b"\x00\xff7")
        asked = answerer.next()
        total = sum(int(number) for number in asked.payload.split())
        answerer.publish(
            asked.properties.ResponseTopic, str(total), CorrelationData=asked.properties.CorrelationData
        )
        answer = asker.next()
        expect(("5", b"\x00\xff7"), (answer.payload.decode(), answer.properties.CorrelationData), "answer")


def options_of_a_subscription(way):
    with Client(way) as client, Client(way) as writer:
        writer.publish("opts/kept", "old", 1, True)
        client.subscribe("opts/#", noLocal=True, retainAsPublished=True, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        client.publish("opts/own", "own")
        writer.publish("opts/kept", "new", 1, True)
        message = client.next()
        expect(("new", True), (message.payload.decode(), message.retain), "first message")
        writer.publish("opts/kept", b"", 1, True)


STORIES = [
    both_ways_at_each_qos,
    large_and_many_in_order,
    retained,
    will_by_cut_and_not_by_goodbye,
    session_resumes,
    unacknowledged_comes_again,
    taken_over,
]
STORIES_OF_5 = [
    carries_properties,
    topic_aliases_both_ways,
    messages_expire,
    subscription_identifiers,
    shared_subscription,
    request_and_response,
    options_of_a_subscription,
]

for version in VERSIONS:
    for door in TRANSPORTS:
        for story in STORIES + (STORIES_OF_5 if version == "5.0" else []):
            name = f"paho {version} over {door}: {story.__name__.replace('_', ' ')}"
            try:
                story((version, door))
            except Exception:
                failed(name)
            else:
                passed(name)
