"""h2spec's 145 cases; those that end otherwise are in expected.txt, each with its reason."""
import os
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

from common import bin, process

here = pathlib.Path(__file__).parent
lines = [line.split(" | ") for line in (here / "expected.txt").read_text().splitlines() if not line.startswith("#")]
failed = False

for name, program in (("engine", "engine-server"), ("server", "peer-server")):
    expected = {(package, title): reason for server, package, title, reason in lines if server == name}
    with process(f"{bin}/{program}", stdout=subprocess.PIPE, text=True) as running, tempfile.TemporaryDirectory() as scratch:
        port = running.stdout.readline().strip()
        report = f"{scratch}/report.xml"
        subprocess.run([os.environ["H2SPEC"], "-h", "127.0.0.1", "-p", port, "-o", "1", "-j", report], stdout=subprocess.DEVNULL, timeout=200)
        cases = [case for case in ElementTree.parse(report).getroot().iter("testcase")]
    # A frame may come before the end of the connection that a case waits for, or after it.
    flaky = {key for key, reason in expected.items() if reason == "the stream is over"}
    broken = {(case.get("package"), case.get("classname")) for case in cases if case.find("failure") is not None or case.find("error") is not None}
    skipped = sum(case.find("skipped") is not None for case in cases)
    for package, title in sorted(broken - expected.keys()):
        print(f"FAILED {name}: {package}: {title}")
        failed = True
    for package, title in sorted(expected.keys() - broken - flaky):
        print(f"FAILED {name}: {package}: {title}: passes, and is expected not to")
        failed = True
    print(f"h2spec, {name}: {len(cases)} cases, {len(cases) - len(broken) - skipped} passed, {skipped} skipped, {len(broken)} expected to end otherwise")
    failed |= len(cases) < 145
sys.exit(failed)
