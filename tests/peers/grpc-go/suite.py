"""grpc-go as client of our server, and as server of our client; a line per case."""
import contextlib
import os
import subprocess

from common import bin, case, cert, finish, key, lines_of, our_server, process

peer = os.environ["PEER"]


@contextlib.contextmanager
def go_server(*arguments, **environment):
    with process(peer, "server", *arguments, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}) as server:
        yield int(server.stdout.readline())


with our_server() as port:
    lines_of([peer, "client", f"127.0.0.1:{port}"], "(plaintext)")
with our_server(cert, key) as port:
    lines_of([peer, "client", f"localhost:{port}", cert], "(TLS)")
for tls in (False, True):
    with go_server(*((cert, key) if tls else ())) as port:
        scheme, root, label = ("https", [cert], "TLS") if tls else ("http", [], "plaintext")
        for program in ("peer-client", "peer-endings"):
            lines_of([f"{bin}/{program}", f"{scheme}://127.0.0.1:{port}", *root], f"of grpc-go ({label})")
with go_server(AGE="1s") as port:
    lines_of([f"{bin}/peer-endings", f"http://127.0.0.1:{port}", "--steady", "6"], "of grpc-go, whose connections end every second")
finish()
