"""Every public async fn of the published crates says what happens when it is dropped."""
import pathlib
import re
import sys

missing = []
for crate in ("rpc-core", "rpc-registry"):
    for path in pathlib.Path(crate, "src").rglob("*.rs"):
        if "generated" in path.parts:
            continue
        documentation = []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            text = line.strip()
            if text.startswith("///"):
                documentation.append(text)
            elif re.match(r"pub async fn", text):
                if not any("# Cancel safety" in entry for entry in documentation):
                    missing.append(f"{path}:{number}: {text}")
                documentation = []
            elif not text.startswith("#"):
                documentation = []
for entry in missing:
    print(f"no '# Cancel safety' section: {entry}")
sys.exit(1 if missing else 0)
