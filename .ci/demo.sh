#!/usr/bin/env bash
# `make demo` as a newcomer runs it: it serves a library until Ctrl-C, ends with status 0, and leaves the port free.
# Works in a clean clone without a terminal; takes 120 s at most. What it says is in .build/demo.log.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
LIMIT=120
LOG=.build/demo.log
mkdir -p .build

fail() {
  echo "error: make demo: $1" >&2
  sed 's/^/  | /' "$LOG" >&2
  exit 1
}

listens() {
  (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null
}

# Ask a command again and again until it succeeds, as long as there is time.
until_so() {
  local what=$1
  shift
  until "$@"; do
    ((SECONDS < LIMIT)) || fail "$what did not happen within $LIMIT s"
    sleep 0.2
  done
}
serves() {
  listens || { runs || fail 'it ended before it served'; false; }
}
runs() { kill -0 "$pid" 2>/dev/null; }
ended() { ! runs; }

# Below the ports that the kernel hands out for connections.
port=$((20000 + RANDOM % 10000))
while listens; do port=$((20000 + RANDOM % 10000)); done

# A process group of its own, so that the signal below reaches all of it and nothing else. A background job ignores
# SIGINT until it asks for it: the server does, and make, which does not, passes the server's status on.
setsid make demo PORT="$port" >"$LOG" 2>&1 &
pid=$!
trap 'kill -KILL -- "-$pid" 2>/dev/null || true' EXIT
until_so 'listening' serves

.venv/bin/python - "http://127.0.0.1:$port" <<'PYTHON' || fail 'its answers are wrong'
import json, sys, urllib.request

def get(path):
    with urllib.request.urlopen(sys.argv[1] + path, timeout=20) as answer:
        return json.load(answer)

assert get("/health") == {"status": "ok"}
items = get("/media")["items"]
print("make demo serves", ", ".join(item["name"] for item in items))
assert items and all(item["state"] == "sealed" for item in items), items
PYTHON

kill -INT -- "-$pid"
until_so 'the end after Ctrl-C' ended
status=0
wait "$pid" || status=$?
((status == 0)) || fail "status $status after Ctrl-C"
! listens || fail "somebody still listens on port $port"
! kill -0 -- "-$pid" 2>/dev/null || fail 'it left processes behind'
! grep -q Traceback "$LOG" || fail 'it ended with a traceback'
