// mqtt.js in all its versions of MQTT over all its transports, at a gateway whose doors the environment names.
// It leaves by itself with one line a check; run from a folder where package-lock.json is installed.
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import mqtt from "mqtt";

const { DOOR_TCP, DOOR_TLS, DOOR_WS, DOOR_WSS, DOOR_UNIX, DOOR_CA } = process.env;
// Whoever waits longer than this waits in vain.
const IN_VAIN_MS = 10_000;
const VERSIONS = {
  "3.1": { protocolId: "MQIsdp", protocolVersion: 3 },
  "3.1.1": { protocolId: "MQTT", protocolVersion: 4 },
  "5.0": { protocolId: "MQTT", protocolVersion: 5 },
};
const DOORS = {
  tcp: `mqtt://127.0.0.1:${DOOR_TCP}`,
  tls: `mqtts://127.0.0.1:${DOOR_TLS}`,
  ws: `ws://127.0.0.1:${DOOR_WS}/mqtt`,
  wss: `wss://127.0.0.1:${DOOR_WSS}/mqtt`,
  unix: `mqtt+unix://${DOOR_UNIX}`,
};
const ca = readFileSync(DOOR_CA);

function expect(wanted, found, what) {
  const [left, right] = [JSON.stringify(wanted), JSON.stringify(found)];
  if (left !== right) throw new Error(`${what}: expected ${left}, found ${right}`);
}

function inTime(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited in vain for ${what}`)), IN_VAIN_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

const anyName = () => `js-${randomBytes(4).toString("hex")}`;
const range = (count) => Array.from({ length: count }, (_, number) => String(number));
let open = [];

// One connection; what it received waits in `inbox`, so that nothing is missed that came early.
class Client {
  static async connect({ version, door }, options = {}) {
    const client = new Client();
    client.inbox = [];
    client.waiting = [];
    client.inner = mqtt.connect(DOORS[door], {
      ...VERSIONS[version],
      clientId: anyName(),
      reconnectPeriod: 0,
      connectTimeout: IN_VAIN_MS,
      ca,
      ...options,
    });
    open.push(client);
    client.inner.on("message", (topic, payload, packet) => {
      // The packet itself has an empty topic where an alias named it.
      const message = { ...packet, topic, text: payload.toString() };
      const waiter = client.waiting.shift();
      if (waiter) waiter(message);
      else client.inbox.push(message);
    });
    client.closed = new Promise((resolve) => client.inner.once("close", resolve));
    client.told = new Promise((resolve) => client.inner.once("disconnect", resolve));
    client.connack = await inTime(
      new Promise((resolve, reject) => {
        client.inner.once("connect", resolve);
        client.inner.once("error", reject);
      }),
      "CONNACK",
    );
    client.inner.on("error", () => {});
    return client;
  }

  next() {
    const message = this.inbox.shift();
    return message
      ? Promise.resolve(message)
      : inTime(new Promise((resolve) => this.waiting.push(resolve)), "a message");
  }

  async texts(count) {
    const texts = [];
    while (texts.length < count) texts.push((await this.next()).text);
    return texts;
  }

  async subscribe(topic, qos = 1, options = {}) {
    const granted = await inTime(this.inner.subscribeAsync(topic, { qos, ...options }), "SUBACK");
    expect([qos], granted.map((one) => one.qos), "granted QoS");
  }

  publish(topic, payload, qos = 1, options = {}) {
    return inTime(this.inner.publishAsync(topic, payload, { qos, ...options }), "the acknowledgement");
  }

  end() {
    return inTime(this.inner.endAsync(), "the end");
  }

  // As a pulled cable does: the stream is gone, and no DISCONNECT was sent.
  async cut() {
    this.inner.stream.destroy();
    await inTime(this.closed, "the cut");
  }
}

// An unclean session that lasts, in the words of the version.
const lasting = (way, clientId) => ({
  clientId,
  clean: false,
  ...(way.version === "5.0" && { properties: { sessionExpiryInterval: 60 } }),
});

const stories = {
  async "both ways at each QoS"(way) {
    const [reader, writer] = [await Client.connect(way), await Client.connect(way)];
    await reader.subscribe("both/+", 2);
    await writer.subscribe("back/+", 2);
    for (const qos of [0, 1, 2]) {
      await writer.publish("both/ways", `there ${qos}`, qos);
      const there = await reader.next();
      expect([`there ${qos}`, qos], [there.text, there.qos], "there");
      await reader.publish("back/ways", `back ${qos}`, qos);
      const back = await writer.next();
      expect([`back ${qos}`, qos], [back.text, back.qos], "back");
    }
    await inTime(reader.inner.unsubscribeAsync("both/+"), "UNSUBACK");
    await reader.subscribe("end");
    await writer.publish("both/ways", "unheard");
    await writer.publish("end", "heard");
    expect(["heard"], await reader.texts(1), "after unsubscribing");
  },

  async "large and many in order"(way) {
    const [reader, writer] = [await Client.connect(way), await Client.connect(way)];
    const large = randomBytes(100_000).toString("hex");
    await reader.subscribe("load", 2);
    await writer.publish("load", large, 2);
    expect(true, (await reader.next()).text === large, "large payload");
    // mqtt.js does not count what is on its way against the receive maximum of the server; its user has to.
    const window = writer.connack.properties?.receiveMaximum ?? 150;
    for (const qos of [1, 2]) {
      const texts = range(window);
      await Promise.all(texts.map((text) => writer.publish("load", text, qos)));
      expect(texts, await reader.texts(window), `order at QoS ${qos}`);
    }
  },

  async retained(way) {
    const [reader, writer] = [await Client.connect(way), await Client.connect(way)];
    await writer.publish("kept/a", "first", 1, { retain: true });
    await writer.publish("kept/a", "second", 1, { retain: true });
    await reader.subscribe("kept/+");
    let message = await reader.next();
    expect(["second", true], [message.text, message.retain], "on subscribing");
    await writer.publish("kept/a", "third", 1, { retain: true });
    message = await reader.next();
    expect(["third", false], [message.text, message.retain], "while subscribed");
    await writer.publish("kept/a", "", 1, { retain: true });
    expect([""], await reader.texts(1), "the clearing");
    const late = await Client.connect(way);
    await late.subscribe("kept/+");
    await writer.publish("kept/b", "only this");
    expect(["only this"], await late.texts(1), "after clearing");
  },

  async "will by cut and not by goodbye"(way) {
    const witness = await Client.connect(way);
    await witness.subscribe("wills");
    const leaver = await Client.connect(way, { will: { topic: "wills", payload: Buffer.from("never"), qos: 1 } });
    await leaver.end();
    const victim = await Client.connect(way, { will: { topic: "wills", payload: Buffer.from("gone"), qos: 1 } });
    await victim.cut();
    expect(["gone"], await witness.texts(1), "will");
  },

  async "session resumes"(way) {
    const name = anyName();
    const writer = await Client.connect(way);
    const first = await Client.connect(way, lasting(way, name));
    expect(false, first.connack.sessionPresent, "session present at first");
    await first.subscribe("dreams", 2);
    await first.end();
    for (const text of range(20)) await writer.publish("dreams", text, 1 + (text % 2));
    const second = await Client.connect(way, lasting(way, name));
    // CONNACK of 3.1 has no such flag.
    if (way.version !== "3.1") expect(true, second.connack.sessionPresent, "session present");
    const texts = await second.texts(20);
    expect(range(20), texts.sort((a, b) => a - b), "queued, each once");
    await second.cut();
    const fresh = await Client.connect(way, { clientId: name, clean: true });
    expect(false, fresh.connack.sessionPresent, "session present after a clean start");
  },

  async "a second client of the same name takes over"(way) {
    const first = await Client.connect(way, { clientId: "js-twin" });
    await Client.connect(way, { clientId: "js-twin" });
    if (way.version === "5.0") {
      expect(0x8e, (await inTime(first.told, "DISCONNECT")).reasonCode, "reason");
    }
    await inTime(first.closed, "the close");
  },
};

const storiesOf5 = {
  async "carries properties"(way) {
    const [reader, writer] = [await Client.connect(way), await Client.connect(way)];
    await reader.subscribe("props");
    const properties = { userProperties: { unit: ["°C", "K"], place: "roof" }, contentType: "text/plain" };
    await writer.publish("props", "21", 1, { properties });
    const found = (await reader.next()).properties;
    expect(["°C", "K", "roof"], [...found.userProperties.unit, found.userProperties.place], "user properties");
    expect("text/plain", found.contentType, "content type");
  },

  // mqtt.js assigns aliases to what it sends, and names again by them what it receives.
  async "topic aliases both ways"(way) {
    const reader = await Client.connect(way, { properties: { topicAliasMaximum: 4 } });
    const writer = await Client.connect(way, { autoAssignTopicAlias: true });
    expect(true, writer.connack.properties.topicAliasMaximum > 0, "the gateway takes aliases");
    await reader.subscribe("alias/#");
    let sent = 0;
    writer.inner.on("packetsend", (packet) => {
      if (packet.cmd === "publish" && packet.topic === "" && packet.properties?.topicAlias) sent += 1;
    });
    let got = 0;
    reader.inner.on("packetreceive", (packet) => {
      if (packet.cmd === "publish" && packet.properties?.topicAlias) got += 1;
    });
    for (let round = 0; round < 3; round += 1) {
      for (const topic of ["alias/one/long/topic", "alias/two/long/topic"]) {
        await writer.publish(topic, `round ${round}`);
        const message = await reader.next();
        expect([topic, `round ${round}`], [message.topic, message.text], "message");
      }
    }
    expect([4, true], [sent, got > 0], "publishes by alias alone, and aliases of the gateway");
  },

  async "aliases chosen by the user"(way) {
    const reader = await Client.connect(way);
    const writer = await Client.connect(way, { autoUseTopicAlias: true });
    await reader.subscribe("alias/#");
    for (const text of range(3)) {
      await writer.publish("alias/mine", text, 0, text === "0" ? { properties: { topicAlias: 3 } } : {});
      const message = await reader.next();
      expect(["alias/mine", text], [message.topic, message.text], "message");
    }
  },

  async "subscription identifiers and options"(way) {
    const [client, writer] = [await Client.connect(way), await Client.connect(way)];
    await writer.publish("opts/kept", "old", 1, { retain: true });
    await client.subscribe("opts/#", 1, { nl: true, rap: true, rh: 2, properties: { subscriptionIdentifier: 300 } });
    await client.publish("opts/own", "own");
    await writer.publish("opts/kept", "new", 1, { retain: true });
    const message = await client.next();
    const found = [message.text, message.retain, message.properties.subscriptionIdentifier];
    expect(["new", true, 300], found, "first message");
    await writer.publish("opts/kept", "", 1, { retain: true });
  },

  async "shared subscription"(way) {
    const members = [await Client.connect(way), await Client.connect(way)];
    const writer = await Client.connect(way);
    for (const member of members) {
      await member.subscribe("$share/workers/jobs/+");
      await member.subscribe("jobs-end");
    }
    for (const text of range(40)) await writer.publish(`jobs/${text}`, text);
    await writer.publish("jobs-end", "end");
    const done = [];
    for (const member of members) {
      const before = done.length;
      for (let { text } = await member.next(); text !== "end"; { text } = await member.next()) done.push(text);
      expect(true, done.length > before, "a share for each");
    }
    expect(range(40), done.sort((a, b) => a - b), "each job once");
  },

  async "request and response"(way) {
    const asker = await Client.connect(way, { properties: { requestResponseInformation: true } });
    const answerer = await Client.connect(way);
    const responseTopic = `${asker.connack.properties.responseInformation}/sum`;
    expect(true, responseTopic.startsWith("replies/"), `response information, found ${responseTopic}`);
    await asker.subscribe(responseTopic);
    await answerer.subscribe("sums");
    const correlationData = Buffer.from([0, 255, 7]);
    await asker.publish("sums", "2 3", 1, { properties: { responseTopic, correlationData } });
    const asked = (await answerer.next()).properties;
    await answerer.publish(asked.responseTopic, "5", 1, { properties: { correlationData: asked.correlationData } });
    const answer = await asker.next();
    expect(["5", "00ff07"], [answer.text, answer.properties.correlationData.toString("hex")], "answer");
  },

  async "message expiry is counted down"(way) {
    const name = anyName();
    const writer = await Client.connect(way);
    const first = await Client.connect(way, lasting(way, name));
    await first.subscribe("expiry");
    await first.end();
    await writer.publish("expiry", "in time", 1, { properties: { messageExpiryInterval: 100 } });
    const second = await Client.connect(way, lasting(way, name));
    const left = (await second.next()).properties.messageExpiryInterval;
    expect(true, left > 90 && left <= 100, `what is left, found ${left}`);
  },
};

for (const version of Object.keys(VERSIONS)) {
  for (const door of Object.keys(DOORS)) {
    for (const [name, story] of Object.entries({ ...stories, ...(version === "5.0" && storiesOf5) })) {
      try {
        await story({ version, door });
        console.log(`ok - mqtt.js ${version} over ${door}: ${name}`);
      } catch (error) {
        console.log(`not ok - mqtt.js ${version} over ${door}: ${name}`);
        console.log(String(error.stack).replace(/^/gm, "  "));
      }
      for (const client of open) client.inner.end(true);
      open = [];
    }
  }
}
process.exit(0);
