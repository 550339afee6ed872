// Calls our server; prints a line per case.
const assert = require("node:assert/strict");
const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");
const { Test } = require("./service.js");

const [target, root] = process.argv.slice(2);
const credentials = root ? grpc.credentials.createSsl(fs.readFileSync(root)) : grpc.credentials.createInsecure();
const client = new Test(target, credentials, { "grpc.max_send_message_length": -1 });

const unary = (method, request, metadata = new grpc.Metadata(), options = {}) =>
  new Promise((resolve, reject) => {
    const seen = {};
    const call = client[method](request, metadata, options, (error, reply) => {
      seen.error = error;
      seen.reply = reply;
    });
    call.on("metadata", (headers) => (seen.headers = headers));
    call.on("status", (status) => {
      // The callback of a call comes before or after its status.
      setImmediate(() => (seen.error ? reject(Object.assign(seen.error, { call })) : resolve({ ...seen, trailers: status.metadata })));
    });
    if (options.onCall) options.onCall(call);
  });
const code = async (promise) => {
  try {
    await promise;
  } catch (error) {
    return error.code;
  }
  return 0;
};
const collect = (stream) =>
  new Promise((resolve, reject) => {
    const all = [];
    stream.on("data", (message) => all.push(message.number));
    stream.on("end", () => resolve(all));
    stream.on("error", (error) => reject(Object.assign(error, { all })));
  });

const cases = {
  async unary() {
    assert.equal((await unary("Echo", { number: 7 })).reply.number, 7);
    const body = Buffer.alloc(1 << 20, 5);
    assert.deepEqual((await unary("Echo", { body })).reply.body, body);
    assert.equal((await unary("Echo", {})).reply.number, 0);
  },
  async compressed() {
    const zipped = new Test(target, credentials, { "grpc.default_compression_algorithm": 2 });
    const body = Buffer.alloc(1 << 20, 5);
    const reply = await new Promise((resolve, reject) => zipped.Echo({ body }, (error, reply) => (error ? reject(error) : resolve(reply))));
    assert.deepEqual(reply.body, body);
    zipped.close();
  },
  async streams() {
    const numbers = [...Array(100).keys()];
    assert.deepEqual(await collect(client.ServerStream({ count: 100, size: 1000 })), numbers);
    const sum = new Promise((resolve, reject) => {
      const call = client.ClientStream((error, reply) => (error ? reject(error) : resolve(reply.number)));
      for (let number = 1; number <= 100; number += 1) call.write({ number });
      call.end();
    });
    assert.equal(await sum, 5050);
    const chat = client.Chat();
    for (const number of numbers) chat.write({ number });
    chat.end();
    assert.deepEqual(await collect(chat), numbers);
  },
  async streamFails() {
    const error = await collect(client.ServerStream({ count: 10, fail_after: 3 })).catch((error) => error);
    assert.deepEqual([error.all, error.code], [[0, 1, 2], grpc.status.ABORTED]);
  },
  async errors() {
    for (let status = 1; status <= 16; status += 1) {
      const details = Buffer.from([1, 2, 255]);
      const error = await unary("Fail", { code: status, message: "grüße % \n☺", details }).catch((error) => error);
      assert.deepEqual([error.code, error.details], [status, "grüße % \n☺"]);
      assert.deepEqual(error.metadata.get("grpc-status-details-bin"), [details]);
      assert.deepEqual(error.metadata.get("x-fail"), ["yes"]);
    }
  },
  async metadata() {
    const metadata = new grpc.Metadata();
    metadata.set("x-a", "1");
    metadata.set("x-b-bin", Buffer.from([0, 255]));
    const { headers, trailers } = await unary("MetadataEcho", {}, metadata);
    for (const map of [headers, trailers]) {
      assert.deepEqual([map.get("x-a"), map.get("x-b-bin")], [["1"], [Buffer.from([0, 255])]]);
    }
  },
  async deadlineAndCancel() {
    assert.equal(await code(unary("Hang", {}, undefined, { deadline: Date.now() + 200 })), grpc.status.DEADLINE_EXCEEDED);
    let call;
    const hanging = code(unary("Hang", {}, undefined, { onCall: (made) => (call = made) }));
    const limit = Date.now() + 10_000;
    const reached = async (name) => {
      while ((await unary("Dropped", {})).reply[name] < 2) assert.ok(Date.now() < limit, name);
    };
    await reached("started");
    call.cancel();
    assert.equal(await hanging, grpc.status.CANCELLED);
    await reached("dropped");
  },
  async thousand() {
    const replies = await Promise.all([...Array(1000).keys()].map((number) => unary("Echo", { number })));
    replies.forEach(({ reply }, number) => assert.equal(reply.number, number));
  },
  async refused() {
    assert.equal(await code(unary("Panic", {})), grpc.status.INTERNAL);
    assert.equal(await code(unary("Echo", { body: Buffer.alloc(5 << 20) })), grpc.status.RESOURCE_EXHAUSTED);
    assert.equal((await unary("Echo", { number: 1 })).reply.number, 1);
  },
};

(async () => {
  for (const [name, run] of Object.entries(cases)) {
    try {
      await run();
      console.log(`ok gRPC-Node client: ${name}`);
    } catch (error) {
      console.log(`FAILED gRPC-Node client: ${name}: ${error.stack.replaceAll("\n", " ")}`);
    }
  }
  client.close();
})();
