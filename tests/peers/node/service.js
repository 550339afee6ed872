// The test service, loaded from its .proto.
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const definition = loader.loadSync("rpc-testkit/proto/test.proto", { keepCase: true, longs: Number, defaults: true });
exports.Test = grpc.loadPackageDefinition(definition).testkit.v1.Test;
