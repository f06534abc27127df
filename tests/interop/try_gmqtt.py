"""gmqtt, which owes nothing to paho, in both its versions of MQTT over both its transports."""

import asyncio
import os

import gmqtt
from gmqtt.mqtt.constants import MQTTv50, MQTTv311

from report import HOST, IN_VAIN_SECS, PORTS, expect, failed, passed, tls_context

VERSIONS = {"3.1.1": MQTTv311, "5.0": MQTTv50}
DOORS = ("tcp", "tls")


class Client:
    """One connection; use it as a context, which ends it with a DISCONNECT."""

    def __init__(self, way, client_id="", resume=False, will=None, **properties):
        self.version, self.door = way
        self.inbox = asyncio.Queue()
        self.events = asyncio.Queue()
        if resume and self.version == "5.0":
            properties["session_expiry_interval"] = 60
        client_id = client_id or f"gmqtt-{os.urandom(4).hex()}"
        will = gmqtt.Message("wills", will, qos=1) if will else None
        self.inner = gmqtt.Client(client_id, clean_session=not resume, will_message=will, **properties)
        self.inner.set_config({"reconnect_retries": 0, "reconnect_delay": 0})
        self.inner.on_message = self.take
        self.inner.on_connect = lambda _client, flags, _result, _properties: self.events.put_nowait(flags)
        self.inner.on_subscribe = lambda _client, _mid, qos, _properties: self.events.put_nowait(tuple(qos))

    async def take(self, _client, topic, payload, qos, properties):
        self.inbox.put_nowait((topic, payload.decode(), qos, properties))
        return 0

    async def __aenter__(self):
        context = tls_context() if self.door == "tls" else False
        connecting = self.inner.connect(HOST, PORTS[self.door], ssl=context, version=VERSIONS[self.version])
        await asyncio.wait_for(connecting, IN_VAIN_SECS)
        self.session_present = bool(await self.event())
        return self

    async def __aexit__(self, *_):
        await self.inner.disconnect()

    async def event(self):
        return await asyncio.wait_for(self.events.get(), IN_VAIN_SECS)

    async def subscribe(self, topic, qos=2, **options):
        self.inner.subscribe(topic, qos=qos, **options)
        expect((qos,), await self.event(), "granted QoS")

    async def publish(self, topic, payload, qos=1, **options):
        self.inner.publish(topic, payload, qos=qos, **options)
        # Empty when all has been acknowledged.
        await asyncio.wait_for(self.inner._persistent_storage.wait_empty(), IN_VAIN_SECS)

    async def next(self):
        return await asyncio.wait_for(self.inbox.get(), IN_VAIN_SECS)

    def cut(self):
        """The socket goes without a DISCONNECT, and nobody connects again."""
        self.inner._is_active = False
        self.inner._connection._transport.abort()


async def every_qos(way):
    async with Client(way) as reader, Client(way) as writer:
        await reader.subscribe("pipe/+")
        for qos in (0, 1, 2):
            await writer.publish("pipe/a", f"at {qos}", qos)
            expect(("pipe/a", f"at {qos}", qos), (await reader.next())[:3], "message")
        for number in range(100):
            await writer.publish("pipe/many", str(number), 1 + number % 2)
        texts = [(await reader.next())[1] for _ in range(100)]
        expect([str(number) for number in range(100)], texts, "order of what was sent one after the other")


async def retained(way):
    async with Client(way) as reader, Client(way) as writer:
        await writer.publish("kept/a", "kept", retain=True)
        await reader.subscribe("kept/+", 1)
        _, text, _, properties = await reader.next()
        expect(("kept", 1), (text, properties["retain"]), "retained")
        await writer.publish("kept/a", "", retain=True)
        expect("", (await reader.next())[1], "the clearing")
        async with Client(way) as late:
            await late.subscribe("kept/+", 1)
            await writer.publish("kept/b", "only this")
            expect("only this", (await late.next())[1], "after clearing")


async def will_by_cut_and_not_by_goodbye(way):
    async with Client(way) as witness:
        await witness.subscribe("wills", 1)
        async with Client(way, will="never"):
            pass
        victim = await Client(way, will="gone").__aenter__()
        victim.cut()
        expect("gone", (await witness.next())[1], "will")


async def session_resumes(way):
    name = f"sleeper-{os.urandom(4).hex()}"
    async with Client(way) as writer:
        async with Client(way, name, True) as sleeper:
            expect(False, sleeper.session_present, "session present at first")
            await sleeper.subscribe("dreams", 1)
        for text in "abc":
            await writer.publish("dreams", text)
        async with Client(way, name, True) as sleeper:
            expect(True, sleeper.session_present, "session present")
            expect(["a", "b", "c"], [(await sleeper.next())[1] for _ in range(3)], "queued")
        async with Client(way, name) as fresh:
            expect(False, fresh.session_present, "session present after a clean start")


async def properties(way):
    async with Client(way, topic_alias_maximum=4) as reader, Client(way) as writer:
        await reader.subscribe("props/#", 1, subscription_identifier=9)
        for _ in range(3):
            pairs = [("unit", "°C"), ("unit", "K")]
            await writer.publish("props/a", "21", user_property=pairs, content_type="text/plain", response_topic="here")
            topic, _, _, found = await reader.next()
            expect("props/a", topic, "topic, also by an alias of the gateway")
            expect(pairs, list(map(tuple, found["user_property"])), "user properties")
            expect((["text/plain"], ["here"]), (found["content_type"], found["response_topic"]), "others")
            expect([9], found["subscription_identifier"], "subscription identifier")


async def main():
    for version in VERSIONS:
        for door in DOORS:
            stories = [every_qos, retained, will_by_cut_and_not_by_goodbye, session_resumes]
            for story in stories + ([properties] if version == "5.0" else []):
                name = f"gmqtt {version} over {door}: {story.__name__.replace('_', ' ')}"
                try:
                    await story((version, door))
                except Exception:
                    failed(name)
                else:
                    passed(name)


asyncio.run(main())
