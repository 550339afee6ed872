"""h2load and nghttp call our server; our client calls nghttpd, which knows nothing of gRPC."""
import os
import pathlib
import re
import tempfile

from common import ECHO, NUMBER_7, OurClient, body_message, case, cert, finish, frame, free_port, key, our_server, output, process

GRPC = ("-H", "content-type: application/grpc", "-H", "te: trailers")
scratch = tempfile.TemporaryDirectory()
small, large, damaged = (pathlib.Path(scratch.name) / name for name in ("small", "large", "damaged"))
small.write_bytes(frame(NUMBER_7))
large.write_bytes(frame(body_message(1 << 20)))
damaged.write_bytes(frame(NUMBER_7)[:-1])


def h2load(url, count, body, *options):
    text = output("h2load", "-n", str(count), "-d", body, *GRPC, *options, url, timeout=120)
    assert f"{count} succeeded, 0 failed, 0 errored, 0 timeout" in text, text
    assert f"status codes: {count} 2xx" in text, text
    return text


def nghttp(url, body, *options, times=1, status=0):
    """Every call ended with the status, in trailers or in the only header block."""
    text = output("nghttp", "-nv", "--no-dep", "-y", "-d", body, "-m", str(times), *GRPC, *options, url)
    got = re.findall(r"recv \(stream_id=\d+\) grpc-status: (\d+)", text)
    assert got == [str(status)] * times, text
    assert len(re.findall(r"recv \(stream_id=\d+\) :status: 200", text)) == times, text
    return text


def our_server_cases(label, origin):
    echo, stream = origin + ECHO, f"{origin}/testkit.v1.Test/ServerStream"
    hundred = pathlib.Path(scratch.name) / "hundred"
    hundred.write_bytes(frame(b"\x08\x64\x10\xe8\x07"))  # 100 messages of 1,000 bytes

    def load():
        h2load(echo, 20000, small, "-c", "8", "-m", "64")

    def load_streams():
        h2load(stream, 400, hundred, "-c", "4", "-m", "16")

    def load_large():
        h2load(echo, 64, large, "-c", "4", "-m", "8")

    def load_small_windows():
        h2load(echo, 16, large, "-c", "2", "-m", "4", "-w", "10", "-W", "10")

    def trailers():
        nghttp(echo, small, times=100)

    def small_windows():
        nghttp(echo, large, "-w", "10", "-W", "10", times=3)

    def padding():
        nghttp(echo, large, "-b", "255", times=3)
        nghttp(echo, small, "-b", "1", times=50)

    def continuation():
        # Its six fields of 4 KiB are more than we take, and no reason to end the connection.
        text = nghttp(echo, small, "--continuation", status=8)
        assert "the 16384 octets of header list" in text, text

    def header_tables():
        for sizes in (("-c", "0"), ("-c", "100", "-c", "4096"), ("--encoder-header-table-size", "0")):
            nghttp(echo, small, *sizes, "-H", "x-a: 1", times=20)

    def priorities():
        text = output("nghttp", "-nvy", "-d", small, *GRPC, echo)  # with its tree of PRIORITY frames
        assert re.search(r"recv \(stream_id=\d+\) grpc-status: 0", text), text

    def request_trailers():
        nghttp(echo, small, "--trailer", "x-after: 1")

    def unframed():
        nghttp(echo, damaged, status=13)

    def unknown():
        nghttp(f"{origin}/nope.Nope/Nope", small, status=12)

    for run in (load, load_streams, load_large, load_small_windows, trailers, small_windows, padding, continuation,
                header_tables, priorities, request_trailers, unframed, unknown):
        case(f"our server, {label}: {run.__name__}", run)


def nghttpd_cases(label, tls, *options):
    """Static files under the paths of methods; --trailer adds the status that our client looks for."""
    root = pathlib.Path(scratch.name) / "htdocs"
    for name, content in (("Small.grpc", small.read_bytes()), ("Large.grpc", large.read_bytes()), ("Page.html", b"<p>")):
        path = root / "static.Files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    types = pathlib.Path(scratch.name) / "mime.types"
    types.write_text("application/grpc grpc\ntext/html html\n")

    def connected(run, *more):
        port = free_port()
        log = open(f"{scratch.name}/nghttpd.log", "w+")
        arguments = (*options, *more, str(port), *((key, cert) if tls else ("--no-tls",)))
        with process("nghttpd", "-v", "-a", "127.0.0.1", "-d", str(root), "--mime-types-file", str(types), *arguments, port=port, stdout=log):
            with OurClient(f"{'https' if tls else 'http'}://127.0.0.1:{port}", *([cert] if tls else [])) as client:
                run(client.call)
        log.seek(0)
        connections = set(re.findall(r"\[id=(\d+)\].*(?:recv|send)", log.read()))
        # The first was the look whether it listens; our client needs one for all its calls.
        assert len(connections - {"1"}) == 1, f"connections: {connections}"

    def not_grpc(call):
        for _ in range(20):
            for path, codes, texts in (
                ("/static.Files/Nothing", ("Unimplemented",), ("HTTP 404", "text/html")),
                ("/static.Files/Page.html", ("Unknown",), ("HTTP 200", "text/html")),
            ):
                code, message = call(path, NUMBER_7)
                assert code in codes and all(text in message for text in texts), (path, code, message)

    def no_status(call):
        for _ in range(20):
            code, message = call("/static.Files/Small.grpc", NUMBER_7)
            assert code in ("Unknown", "Internal") and "grpc-status" in message, (code, message)

    def replies(call):
        for _ in range(20):
            assert call("/static.Files/Small.grpc", NUMBER_7) == ("Ok", NUMBER_7)
            assert call("/static.Files/Large.grpc", body_message(1 << 20)) == ("Ok", body_message(1 << 20))

    def cut_short(call):
        # It resets the stream in place of the trailers when the request has not ended yet.
        code, message = call("/static.Files/Large.grpc", body_message(1 << 20))
        assert code == "Internal" and "NO_ERROR" in message, (code, message)
        assert call("/static.Files/Small.grpc", NUMBER_7) == ("Ok", NUMBER_7)

    def failures(call):
        for _ in range(20):
            assert call("/static.Files/Small.grpc", NUMBER_7) == ("Aborted", "ü no"), call("/static.Files/Small.grpc")

    case(f"our client, {label}: not gRPC", connected, not_grpc)
    case(f"our client, {label}: no grpc-status", connected, no_status)
    if "--early-response" in options:
        case(f"our client, {label}: cut short", connected, cut_short, "--trailer", "grpc-status: 0")
        return
    case(f"our client, {label}: replies", connected, replies, "--trailer", "grpc-status: 0")
    case(f"our client, {label}: failures", connected, failures, "--trailer", "grpc-status: 10", "--trailer", "grpc-message: %C3%BC no")


with our_server() as port:
    our_server_cases("plaintext", f"http://127.0.0.1:{port}")
with our_server(cert, key) as port:
    our_server_cases("TLS", f"https://127.0.0.1:{port}")
for tls in (False, True):
    kind = "TLS" if tls else "plaintext"
    nghttpd_cases(f"nghttpd, {kind}", tls)
    nghttpd_cases(f"nghttpd, {kind}, windows of 1 KiB", tls, "-w", "10", "-W", "10")
    nghttpd_cases(f"nghttpd, {kind}, padded", tls, "-b", "255")
nghttpd_cases("nghttpd answers at once", False, "--early-response")
nghttpd_cases("nghttpd without header table", False, "-c", "0", "--encoder-header-table-size", "0")
nghttpd_cases("nghttpd allows one stream", False, "-m", "1")
finish()
