"""Our client through other people's proxies to our server, and curl straight at it."""
import os
import pathlib
import string
import subprocess
import tempfile

from common import ECHO, NUMBER_7, bin, body_message, case, cert, finish, frame, free_port, key, lines_of, our_server, output, process

here = pathlib.Path(__file__).parent
scratch = pathlib.Path(tempfile.mkdtemp())
PROXIES = (
    ("nginx", "nginx.conf", ("nginx", "-p", str(scratch), "-e", "stderr", "-c")),
    ("HAProxy", "haproxy.cfg", ("haproxy", "-q", "-f")),
    ("Envoy", "envoy.yaml", (os.environ["ENVOY"], "--concurrency", "1", "-l", "critical", "--disable-hot-restart", "-c")),
)


def through(name, template, command):
    with our_server() as backend:
        plain, tls = free_port(), free_port()
        names = dict(scratch=scratch, plain=plain, tls=tls, backend=backend, cert=os.path.abspath(cert), key=os.path.abspath(key))
        file = scratch / template
        file.write_text(string.Template((here / template).read_text()).substitute(names))
        with process(*command, str(file), port=tls):
            lines_of([f"{bin}/peer-client", f"http://127.0.0.1:{plain}"], f"through {name}")
            lines_of([f"{bin}/peer-client", f"https://127.0.0.1:{tls}", cert], f"through {name}, TLS")


def curl(port):
    for name, body in (("small", frame(NUMBER_7)), ("large", frame(body_message(1 << 20)))):
        request, reply = scratch / name, scratch / "reply"
        request.write_bytes(body)
        trailers = output("curl", "-sS", "--http2-prior-knowledge", "-D", "-", "-o", str(reply), "-H", "content-type: application/grpc",
                          "-H", "te: trailers", "--data-binary", f"@{request}", f"http://127.0.0.1:{port}{ECHO}")
        assert "HTTP/2 200" in trailers and "grpc-status: 0" in trailers, trailers
        assert reply.read_bytes() == body, len(reply.read_bytes())


def curl_http1(port):
    text = output("curl", "-sS", "-i", "--http1.1", f"http://127.0.0.1:{port}{ECHO}")
    assert text.startswith("HTTP/1.1 4"), text


(scratch / "both.pem").write_bytes(pathlib.Path(cert).read_bytes() + pathlib.Path(key).read_bytes())
for proxy in PROXIES:
    through(*proxy)
with our_server() as port:
    case("curl over HTTP/2", curl, port)
    case("curl over HTTP/1.1", curl_http1, port)
finish()
