# Sourced by the run scripts: where things are, what has to be there, our two programs built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/peers"
export PYTHONPATH=tests/peers PATH=$PATH:/usr/sbin
export PEERS_BIN=$target/debug PEERS_CERT=$target/peers/cert.pem PEERS_KEY=$target/peers/key.pem

# debian PROGRAM PACKAGE: the package, unless the program is there.
debian() {
  if command -v "$1" >/dev/null; then return; fi
  local root=''
  if [ "$(id -u)" != 0 ]; then root=sudo; fi
  # Without its recommendations, and without starting the service that a package may bring.
  $root apt-get update -qq
  $root env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$2" >/dev/null
}

# go_program NAME PACKAGE@VERSION: built into target/; its place is in the variable of its name.
go_program() {
  local place=$target/peers/bin variable=${1^^}
  if [ ! -x "$place/$1" ]; then GOBIN=$(realpath -m "$place") go install "$2"; fi
  export "${variable//-/_}=$place/$1"
}

# npm_packages DIRECTORY: what the package.json of a suite asks for, in target/.
npm_packages() {
  local place=$target/peers/$(basename "$1")
  mkdir -p "$place"
  cp "$1"/*.json "$place/"
  npm install --prefix "$place" --silent --no-audit --no-fund
}

if [ ! -f "$PEERS_CERT" ] || ! openssl x509 -checkend 86400 -noout -in "$PEERS_CERT" >/dev/null; then
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
    -addext basicConstraints=critical,CA:FALSE -keyout "$PEERS_KEY" -out "$PEERS_CERT" 2>/dev/null
fi
cargo build --quiet -p rpc-testkit --bins
