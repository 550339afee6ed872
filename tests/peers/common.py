"""What the suites share: cases that are counted, processes that end with the suite, our programs."""
import contextlib
import os
import socket
import subprocess
import sys
import time

bin = os.environ["PEERS_BIN"]
cert, key = os.environ["PEERS_CERT"], os.environ["PEERS_KEY"]
passed, failed = 0, 0


def case(name, run, *arguments):
    """Runs one case and prints a line about it; an exception is a failure."""
    global passed, failed
    try:
        run(*arguments)
        passed += 1
        print(f"ok {name}", flush=True)
    except Exception as error:
        failed += 1
        print(f"FAILED {name}: {type(error).__name__}: {str(error)[-2000:]}", flush=True)


def finish():
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


def output(*argv, timeout=60, stdin=None, ok=(0,)):
    """What a program printed, both streams; fails with it when the program failed."""
    done = subprocess.run(argv, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout)
    text = done.stdout.decode(errors="replace")
    assert done.returncode in ok, f"{argv[0]} ended with {done.returncode}: {text}"
    return text


def lines_of(argv, suffix, timeout=180):
    """A program that prints a line per case; its cases are cases of the suite."""
    global passed, failed
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=timeout)
    for line in done.stdout.splitlines():
        print(line, suffix, flush=True)
        if line.startswith("ok"):
            passed += 1
        elif line.startswith("FAILED"):
            failed += 1
    if done.returncode != 0 and "FAILED" not in done.stdout:
        failed += 1
        print(f"FAILED {argv[0]} ended with {done.returncode} {suffix}", flush=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def process(*argv, port=None, **options):
    """A process that ends with the block; returns when it listens on the port."""
    running = subprocess.Popen(argv, **options)
    try:
        limit = time.monotonic() + 20
        while port is not None:
            assert running.poll() is None, f"{argv[0]} ended with {running.returncode}"
            assert time.monotonic() < limit, f"{argv[0]} does not listen"
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield running
    finally:
        running.terminate()
        try:
            running.wait(40)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


@contextlib.contextmanager
def our_server(*arguments):
    """The port of a peer-server; ends with the block."""
    with process(f"{bin}/peer-server", *arguments, stdout=subprocess.PIPE, text=True) as running:
        port = running.stdout.readline().strip()
        assert port, "peer-server did not start"
        yield int(port)


class OurClient:
    """One channel of ours: a call for each line, an answer for each call."""

    def __init__(self, target, *arguments):
        self.process = subprocess.Popen(
            [f"{bin}/peer-call", target, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def call(self, path, body=b"", timeout_ms=10_000):
        """(code, message) of a failure, ("Ok", the reply's bytes) of a success."""
        self.process.stdin.write(f"{path} {timeout_ms} {body.hex() or '-'}\n")
        self.process.stdin.flush()
        code, _, rest = self.process.stdout.readline().rstrip("\n").partition(" ")
        return code, bytes.fromhex(rest) if code == "Ok" else rest

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(20)


def frame(message, flag=0):
    """A message with its five bytes in front."""
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


def body_message(size):
    """A Message whose body has so many bytes."""
    length, digits = size, b""
    while length >= 0x80:
        digits += bytes([length & 0x7F | 0x80])
        length >>= 7
    return b"\x1a" + digits + bytes([length]) + b"\x05" * size


NUMBER_7 = b"\x08\x07"
ECHO = "/testkit.v1.Test/Echo"
