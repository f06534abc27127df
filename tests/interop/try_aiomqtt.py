"""aiomqtt, which is paho for asyncio, in all its versions of MQTT over all its transports; try_paho.py has the details."""

import asyncio
import os

import aiomqtt

from report import HOST, IN_VAIN_SECS, PORTS, SOCKET, encrypted, expect, failed, passed, tls_context

VERSIONS = {"3.1": "V31", "3.1.1": "V311", "5.0": "V5"}
TRANSPORTS = {"tcp": "tcp", "tls": "tcp", "ws": "websockets", "wss": "websockets", "unix": "unix"}


def client(way, **options):
    version, door = way
    return aiomqtt.Client(
        *((SOCKET, 1) if door == "unix" else (HOST, PORTS[door])),
        identifier=f"aiomqtt-{os.urandom(4).hex()}",
        protocol=aiomqtt.ProtocolVersion[VERSIONS[version]],
        transport=TRANSPORTS[door],
        tls_context=tls_context() if encrypted(door) else None,
        websocket_path="/mqtt" if door in ("ws", "wss") else None,
        timeout=IN_VAIN_SECS,
        **options,
    )


async def next_of(reader):
    return await asyncio.wait_for(anext(reader.messages), IN_VAIN_SECS)


async def every_qos_and_retained(way):
    async with client(way) as reader, client(way) as writer:
        await writer.publish("kept/a", "kept", qos=1, retain=True)
        await reader.subscribe("kept/+", qos=2)
        message = await next_of(reader)
        expect((b"kept", True), (message.payload, message.retain), "retained")
        await writer.publish("kept/a", b"", qos=1, retain=True)
        expect(b"", (await next_of(reader)).payload, "the clearing")
        for qos in (0, 1, 2):
            await writer.publish("kept/b", f"at {qos}", qos=qos)
            message = await next_of(reader)
            expect((f"at {qos}", qos), (message.payload.decode(), message.qos), "message")


async def no_will_after_goodbye(way):
    async with client(way) as witness:
        await witness.subscribe("wills", qos=1)
        async with client(way, will=aiomqtt.Will("wills", "never", qos=1)) as leaver:
            await leaver.publish("wills", "last words", qos=1)
        async with client(way) as writer:
            await writer.publish("wills", "later", qos=1)
        texts = [(await next_of(witness)).payload for _ in range(2)]
        expect([b"last words", b"later"], texts, "messages")


async def main():
    for version in VERSIONS:
        for door in TRANSPORTS:
            for story in (every_qos_and_retained, no_will_after_goodbye):
                name = f"aiomqtt {version} over {door}: {story.__name__.replace('_', ' ')}"
                try:
                    await story((version, door))
                except Exception:
                    failed(name)
                else:
                    passed(name)


asyncio.run(main())
