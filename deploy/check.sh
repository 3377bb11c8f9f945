#!/usr/bin/env bash
# The steps of the Dockerfile without Docker: an empty virtual environment, the wheel, the image's user,
# environment and command line, all read from the Dockerfile itself. Then the server is asked, and told to stop.
#
#   deploy/check.sh [FOLDER]     everything is below FOLDER, a fresh one in /tmp by default, gone in the end
#
# As root it runs the server as the image's user (10001); as anybody else as that one. The folders of the image
# stand below FOLDER, so that nothing of this machine is touched.
set -euo pipefail
umask 022
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dockerfile=$here/deploy/Dockerfile
root=${1:-$(mktemp -d /tmp/harmony4-image.XXXXXX)}
server=
as=()
[[ $(id -u) != 0 ]] || as=(setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set -all)
# One that the user of the image can start, too, and that has the modules venv and ensurepip.
python=
for each in ${PYTHON:-python3 /usr/bin/python3}; do
  "${as[@]}" "$each" -c '
import ensurepip, os, subprocess, sys, venv
sys.exit(sys.version_info < (3, 11) or subprocess.run([os.path.realpath(sys.executable), "-c", ""]).returncode)
' 2>/dev/null && python=$each && break
done
[[ -n $python ]] || { echo 'no Python 3.11 with venv that the user of the image can start'; exit 1; }
finish() {
  [[ -z $server ]] || kill -KILL "$server" 2>/dev/null || true
  rm -rf "$root"
}
trap finish EXIT
chmod 755 "$root"

echo '== the environment'
mkdir -p "$root/opt" "$root/src"
"$python" -m venv "$root/opt/harmony4"
pip=("$root/opt/harmony4/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install --no-deps --require-hashes -r "$here/requirements.lock" 2>/dev/null ||
  "${pip[@]}" install --no-deps --require-hashes -r "$here/requirements.lock"

echo '== the wheel'
for each in $(sed -n 's/^COPY \([^-].*\) [^ ]*$/\1/p' "$dockerfile"); do
  cp -R "$here/$each" "$root/src/"
done
(cd "$root/src" && "${pip[@]}" wheel --no-deps --no-build-isolation --wheel-dir dist . &&
  "${pip[@]}" install --no-deps dist/*.whl && "${pip[@]}" check)

echo '== the server'
for folder in media state cache tmp; do mkdir -m 0750 "$root/$folder"; done
[[ $(id -u) != 0 ]] || chown -R 10001:10001 "$root"/{media,state,cache,tmp}
chmod -R a-w "$root/opt"
# ENV lines and the command, with the image's paths put below the folder.
mapfile -t environment < <(sed -n 's/^ENV \(.*HARMONY4.*\)/\1/p' "$dockerfile" | tr ' ' '\n' |
  sed "s#=/#=$root/#; s#^HARMONY4_HOST=.*#HARMONY4_HOST=127.0.0.1#")
mapfile -t command < <(sed -n 's/^CMD //p' "$dockerfile" | "$python" -c '
import json, sys
for word in json.load(sys.stdin):
    print(word.replace("/opt/harmony4", sys.argv[1]).replace("8000", "0"))' "$root/opt/harmony4")
# Its output goes to files: who reads them must not wait for a pipe that the server's workers hold, too.
(cd / && exec env -i PATH=/usr/bin:/bin TMPDIR="$root/tmp" PYTHONDONTWRITEBYTECODE=1 "${environment[@]}" \
  "${as[@]}" "${command[@]}" --json) >"$root/out" 2>"$root/err" &
server=$!
for _ in $(seq 600); do
  [[ -s $root/out ]] && break
  kill -0 "$server" 2>/dev/null || { cat "$root/err"; exit 1; }
  sleep 0.1
done
url=$("$python" -c 'import json, sys; print(json.loads(open(sys.argv[1]).readline())["url"])' "$root/out")

echo "== $url"
# The image's own health check, at this address.
sed -n 's/^  CMD //p' "$dockerfile" | "$python" -c '
import json, subprocess, sys
words = [word.replace("/opt/harmony4", sys.argv[1]).replace("http://127.0.0.1:8000/", sys.argv[2])
         for word in json.load(sys.stdin)]
sys.exit(subprocess.run(words).returncode)' "$root/opt/harmony4" "$url"
[[ $(id -u) != 0 || $(stat -c %u "/proc/$server") == 10001 ]] || { echo 'not the user of the image'; exit 1; }
"$python" -c '
import sys, urllib.request as r
print(r.urlopen(sys.argv[1] + "ready", timeout=10).read().decode())
assert b"<html" in r.urlopen(sys.argv[1], timeout=10).read()' "$url"

echo '== SIGTERM'
kill -TERM "$server"
wait "$server"
server=
[[ ! -s $root/err ]] || grep -v 'there are no tokens yet' "$root/err" && { echo 'unexpected messages'; exit 1; }
echo 'done'
