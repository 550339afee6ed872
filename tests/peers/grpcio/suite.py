"""grpcio as client of our server and as server of our client; a line per case."""
import concurrent.futures
import os
import subprocess
import threading
import time

import grpc
import test_pb2 as pb
import test_pb2_grpc as rpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from common import bin, case, cert, finish, key, lines_of

ABSTRACT = f"unix-abstract:rpc-peers/{os.getpid()}"


def code_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    raise AssertionError("the call succeeded")


def client_cases(label, channel):
    test = rpc.TestStub(channel)

    def unary():
        assert test.Echo(pb.Message(number=7)).number == 7
        body = b"\x05" * (1 << 20)
        assert test.Echo(pb.Message(body=body)).body == body
        assert test.Echo(pb.Message()) == pb.Message()

    def compressed():
        body = b"\x05" * (1 << 20)
        assert test.Echo(pb.Message(body=body), compression=grpc.Compression.Gzip).body == body

    def streams():
        numbers = [m.number for m in test.ServerStream(pb.StreamRequest(count=100, size=1000))]
        assert numbers == list(range(100))
        assert test.ClientStream(pb.Message(number=n) for n in range(1, 101)).number == 5050
        assert [m.number for m in test.Chat(pb.Message(number=n) for n in range(100))] == list(range(100))

    def stream_fails():
        got = []
        try:
            for message in test.ServerStream(pb.StreamRequest(count=10, fail_after=3)):
                got.append(message.number)
        except grpc.RpcError as error:
            assert got == [0, 1, 2] and error.code() == grpc.StatusCode.ABORTED, (got, error)
            return
        raise AssertionError("the stream did not fail")

    def errors():
        for status in grpc.StatusCode:
            if status is grpc.StatusCode.OK:
                continue
            try:
                test.Fail(pb.FailRequest(code=status.value[0], message="grüße % \n☺", details=b"\x01\x02\xff"))
            except grpc.RpcError as error:
                trailers = dict(error.trailing_metadata())
                assert error.code() == status, error
                assert error.details() == "grüße % \n☺", error.details()
                assert trailers["grpc-status-details-bin"] == b"\x01\x02\xff"
                assert trailers["x-fail"] == "yes"
                continue
            raise AssertionError("the call succeeded")

    def metadata():
        _, call = test.MetadataEcho.with_call(pb.Message(), metadata=(("x-a", "1"), ("x-b-bin", b"\x00\xff")))
        for sent in (call.initial_metadata(), call.trailing_metadata()):
            sent = dict(sent)
            assert sent["x-a"] == "1" and sent["x-b-bin"] == b"\x00\xff", sent

    def padded_metadata():
        # As often as it would take to end the connection, were each a mistake.
        for number in range(250):
            padded = (("x-a", f"  {number} "), ("x-blank", " "), ("x-b-bin", b" \x00 "))
            _, call = test.MetadataEcho.with_call(pb.Message(), metadata=padded)
            for sent in (call.initial_metadata(), call.trailing_metadata()):
                sent = dict(sent)
                assert sent["x-a"] == str(number) and sent["x-b-bin"] == b" \x00 ", sent

    def deadline_and_cancel():
        start = time.monotonic()
        assert code_of(lambda: test.Hang(pb.Message(), timeout=0.2)) == grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - start < 5
        call = test.Hang.future(pb.Message())
        started = test.Dropped(pb.Message()).started
        limit = time.monotonic() + 10
        while test.Dropped(pb.Message()).started < 2 and time.monotonic() < limit:
            pass
        call.cancel()
        while test.Dropped(pb.Message()).dropped < 2:
            assert time.monotonic() < limit, (started, test.Dropped(pb.Message()))

    def thousand():
        calls = [test.Echo.future(pb.Message(number=n)) for n in range(1000)]
        assert [call.result().number for call in calls] == list(range(1000))

    def unknown():
        missing = channel.unary_unary("/nope.Nope/Nope", request_serializer=bytes, response_deserializer=bytes)
        assert code_of(lambda: missing(b"")) == grpc.StatusCode.UNIMPLEMENTED
        assert code_of(lambda: test.Panic(pb.Message())) == grpc.StatusCode.INTERNAL
        large = pb.Message(body=b"x" * (5 << 20))
        assert code_of(lambda: test.Echo(large)) == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert test.Echo(pb.Message(number=1)).number == 1

    def healthy():
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="nope"))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()

    for run in (unary, compressed, streams, stream_fails, errors, metadata, padded_metadata, deadline_and_cancel, thousand, unknown, healthy):
        case(f"grpcio client, {label}: {run.__name__}", run)


class Test(rpc.TestServicer):
    def __init__(self):
        self.lock = threading.Lock()
        self.started = self.dropped = 0

    def Echo(self, request, context):
        return request

    EchoIdempotent = Echo

    def Fail(self, request, context):
        context.set_trailing_metadata((("x-fail", "yes"),))
        status = next(s for s in grpc.StatusCode if s.value[0] == request.code)
        context.abort(status, request.message)

    def ServerStream(self, request, context):
        for number in range(request.count):
            yield pb.Message(number=number, body=b"\x07" * request.size)

    def ClientStream(self, requests, context):
        return pb.Message(number=sum(m.number for m in requests))

    def Chat(self, requests, context):
        yield from requests

    def Hang(self, request, context):
        gone = threading.Event()
        with self.lock:
            self.started += 1
        context.add_callback(gone.set)
        gone.wait()
        with self.lock:
            self.dropped += 1
        return pb.Message()

    def Dropped(self, request, context):
        with self.lock:
            return pb.Counts(started=self.started, dropped=self.dropped)

    def MetadataEcho(self, request, context):
        sent = tuple((k, v) for k, v in context.invocation_metadata() if k.startswith("x-"))
        context.send_initial_metadata(sent)
        context.set_trailing_metadata(sent)
        return pb.Message()


def our_server(arguments, connect):
    process = subprocess.Popen([f"{bin}/peer-server", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        port = process.stdout.readline().strip()
        connect(port)
    finally:
        process.terminate()
        case("our server ends on SIGTERM", lambda: process.wait(timeout=35))


def plain(port):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        client_cases("plaintext", channel)


def secure(port):
    with open(cert, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
        client_cases("TLS", channel)


def abstract(_):
    with grpc.insecure_channel(f"{ABSTRACT}/ours") as channel:
        client_cases("unix-abstract", channel)


our_server([], plain)
our_server([cert, key], secure)
our_server([f"{ABSTRACT}/ours"], abstract)

with open(cert, "rb") as chain, open(key, "rb") as private:
    credentials = grpc.ssl_server_credentials([(private.read(), chain.read())])
for kind in ("plaintext", "TLS", "unix-abstract"):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=32), compression=grpc.Compression.Gzip)
    rpc.add_TestServicer_to_server(Test(), server)
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if kind == "unix-abstract":
        target, extra = f"{ABSTRACT}/theirs", []
        server.add_insecure_port(target)
    elif kind == "TLS":
        target, extra = f"https://127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}", [cert]
    else:
        target, extra = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", []
    server.start()
    lines_of([f"{bin}/peer-client", target, *extra], f"of grpcio ({kind})")
    server.stop(None).wait()

finish()
