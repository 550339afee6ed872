// The test service for our client to call; prints its port.
const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");
const { HealthImplementation } = require("grpc-health-check");
const { Test } = require("./service.js");

const [chain, key] = process.argv.slice(2);
const counts = { started: 0, dropped: 0 };
const echo = (call, callback) => callback(null, call.request);
const custom = (metadata) => {
  const mine = new grpc.Metadata();
  for (const name of Object.keys(metadata.getMap()).filter((name) => name.startsWith("x-"))) {
    metadata.get(name).forEach((value) => mine.add(name, value));
  }
  return mine;
};

const server = new grpc.Server();
server.addService(Test.service, {
  Echo: echo,
  EchoIdempotent: echo,
  Fail(call, callback) {
    const metadata = new grpc.Metadata();
    metadata.set("x-fail", "yes");
    callback({ code: call.request.code, details: call.request.message, metadata });
  },
  ServerStream(call) {
    for (let number = 0; number < call.request.count; number += 1) {
      call.write({ number, body: Buffer.alloc(call.request.size, 7) });
    }
    call.end();
  },
  ClientStream(call, callback) {
    let number = 0;
    call.on("data", (message) => (number += message.number));
    call.on("end", () => callback(null, { number }));
  },
  Chat(call) {
    call.on("data", (message) => call.write(message));
    call.on("end", () => call.end());
  },
  Hang(call) {
    counts.started += 1;
    call.on("cancelled", () => (counts.dropped += 1));
  },
  Dropped: (call, callback) => callback(null, counts),
  MetadataEcho(call, callback) {
    call.sendMetadata(custom(call.metadata));
    callback(null, {}, custom(call.metadata));
  },
  Panic: (call, callback) => callback({ code: grpc.status.INTERNAL, details: "panic" }),
});
new HealthImplementation({ "": "SERVING" }).addToServer(server);

const credentials = chain
  ? grpc.ServerCredentials.createSsl(null, [{ cert_chain: fs.readFileSync(chain), private_key: fs.readFileSync(key) }])
  : grpc.ServerCredentials.createInsecure();
server.bindAsync("127.0.0.1:0", credentials, (error, port) => {
  if (error) throw error;
  console.log(port);
});
