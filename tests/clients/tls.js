// ioredis over TLS: requests, a pipeline, a transaction, a long value, a subscription, a blocked pop. Run by
// scripts/tls-clients.
const assert = require("node:assert");
const fs = require("node:fs");
const Redis = require("ioredis");

const options = {
  host: "localhost",
  port: Number(process.argv[2]),
  tls: { ca: fs.readFileSync("ca.pem"), cert: fs.readFileSync("client.pem"), key: fs.readFileSync("client.key") },
};

(async () => {
  const [client, listener, waiter] = [new Redis(options), new Redis(options), new Redis(options)];
  await client.del("jn", "jlist");
  assert.equal(await client.set("j", "v"), "OK");
  assert.equal(await client.get("j"), "v");
  const pipeline = client.pipeline();
  for (let i = 0; i < 1000; i++) pipeline.incr("jn");
  assert.deepEqual((await pipeline.exec()).at(-1), [null, 1000]);
  assert.deepEqual(await client.multi().set("j", "w").get("j").exec(), [[null, "OK"], [null, "w"]]);
  const long = "x".repeat(3_000_000);
  await client.set("jlong", long);
  assert.equal(await client.get("jlong"), long);
  const heard = new Promise((resolve) => listener.on("message", (channel, text) => resolve([channel, text])));
  await listener.subscribe("jc");
  assert.equal(await client.publish("jc", "m"), 1);
  assert.deepEqual(await heard, ["jc", "m"]);
  const popped = waiter.blpop("jlist", 10);
  await client.rpush("jlist", "e");
  assert.deepEqual(await popped, ["jlist", "e"]);
  for (const connection of [client, listener, waiter]) await connection.quit();
  console.log("ioredis", require("ioredis/package.json").version, "passes");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
