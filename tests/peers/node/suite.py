"""gRPC-Node as client of our server, and as server of our client; a line per case."""
import subprocess

from common import bin, cert, finish, key, lines_of, our_server, process

with our_server() as port:
    lines_of(["node", "tests/peers/node/client.js", f"127.0.0.1:{port}"], "(plaintext)")
with our_server(cert, key) as port:
    lines_of(["node", "tests/peers/node/client.js", f"localhost:{port}", cert], "(TLS)")
for tls in (False, True):
    with process("node", "tests/peers/node/server.js", *((cert, key) if tls else ()), stdout=subprocess.PIPE, text=True) as server:
        port = int(server.stdout.readline())
        scheme, root, label = ("https", [cert], "TLS") if tls else ("http", [], "plaintext")
        lines_of([f"{bin}/peer-client", f"{scheme}://127.0.0.1:{port}", *root], f"of gRPC-Node ({label})")
finish()
