"""docs/DEPLOYMENT.md, from a bare Debian to TLS, upgrades, backup: its commands are run, as they stand there.

In a mount namespace in which /etc, /opt, /srv, /var and /run are laid over with memory, so that nothing of
this machine is touched, and from the first server on in a network of its own. What is not there is stood in
for: apt-get lets the programs of its packages be found, which are not before, and systemctl starts what the
unit says, as its user.
Debian's own python3, nginx, openssl, curl, useradd and su run for real.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from needs import ORIGINAL, ROOT, needs_curl, needs_nginx, needs_openssl

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

# Of the packages that every Debian has (Essential: yes, and passwd), what a page of commands may well use. A
# slim image has no more than this; systemctl is the host's.
BARE = """
bash cat chgrp chmod chown cmp cp cut date dd df diff dirname dpkg du echo env false find getent grep groupadd
gzip head id install ln ls md5sum mkdir mktemp mount mv passwd printf pwd readlink rm rmdir sed seq sh
sha256sum sleep sort stat su tail tar tee test touch tr true umount uname useradd usermod wc xargs
"""

# A package gives the machine's own program, from there on; without its lists apt-get knows no package.
APT = f"""#!/bin/bash
set -eu
PATH={PATH}
case "$*" in
  update) touch /mnt/lists; exit ;;
  'install -y '*) shift 2 ;;
  *) echo "apt-get $*?"; exit 1 ;;
esac
test -f /mnt/lists || {{ echo "E: Unable to locate package $1"; exit 100; }}
for package; do
  case $package in
    python3-venv) program=python3; python3 -c 'import venv, ensurepip' ;;
    nginx | openssl | curl) program=$package ;;
    *) echo "what is $package?"; exit 1 ;;
  esac
  found=$(command -v $program)
  printf '#!/bin/sh\\nexec %s "$@"\\n' "$found" >/mnt/bin/$program
  chmod 755 /mnt/bin/$program
done
"""

SYSTEMCTL = """#!/bin/bash
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
unit=/etc/systemd/system/harmony4.service
value() { sed -n "s/^$1=//p" $unit; }
case "$*" in
  daemon-reload) test -f $unit ;;
  'stop harmony4')
    kill "$(cat /mnt/server.pid)"
    while kill -0 "$(cat /mnt/server.pid)" 2>/dev/null; do sleep 0.1; done ;;
  'restart harmony4')
    "$0" stop harmony4
    "$0" start harmony4 ;;
  'enable --now harmony4' | 'start harmony4')
    user=$(value User)
    install -d -o "$user" -g "$user" -m "$(value StateDirectoryMode)" "/var/lib/$(value StateDirectory)"
    install -d -o "$user" -g "$user" -m "$(value CacheDirectoryMode)" "/var/cache/$(value CacheDirectory)"
    cd /
    # shellcheck disable=SC2046
    setpriv --reuid "$user" --regid "$(value Group)" --clear-groups --no-new-privs --bounding-set -all \\
      env -i PATH=/usr/bin:/bin $(value Environment) \\
      $(grep -v '^#' "$(value EnvironmentFile)") $(value ExecStart) >>/mnt/server.log 2>&1 &
    echo $! >/mnt/server.pid
    for _ in $(seq 600); do
      curl -s -o /dev/null http://127.0.0.1:8000/health && exit
      kill -0 $! || break
      sleep 0.1
    done
    cat /mnt/server.log
    exit 1 ;;
  'reload nginx') nginx ;;
  *) echo "systemctl $*?"; exit 1 ;;
esac
"""

BEFORE = """
set -eux
mount -t tmpfs none /mnt
mkdir /mnt/bin
for each in etc opt srv var run; do
  mkdir -p /mnt/$each /mnt/.$each
  mount -t overlay overlay -o lowerdir=/$each,upperdir=/mnt/$each,workdir=/mnt/.$each /$each
done
rm -rf /etc/harmony4 /opt/harmony4* /srv/media /var/{lib,cache,backups}/harmony4 /etc/nginx/conf.d/*
rm -f /run/nginx.pid
cd "$FOLDER"
"""

AFTER = """
user=$(id -u harmony4)
head -c 3000000 /dev/urandom >/mnt/film
url=https://media.example.org
get() { curl -sS --cacert fullchain.pem --resolve media.example.org:443:127.0.0.1 "$@"; }
code() { get -o /dev/null -w '%{http_code}' "$@"; }
test "$(code --data-binary @/mnt/film "$url/video/export?name=a.h4mk&raw=1")" = 401
export="$url/video/export?name=a.h4mk&raw=1"
for _ in 1 2 3 4 5; do  # each worker looks four times a second whether there is a new token
  found=$(code --data-binary @/mnt/film -H "Authorization: Bearer $token" "$export")
  test "$found" = 401 || break
  sleep 0.25
done
test "$found" = 201
test "$(stat -c %u /srv/media/a.h4mk)" = "$user"
get "$url/video/range?name=a.h4mk" | cmp - /mnt/film
test "$(get -r 1000-1999 "$url/video/range?name=a.h4mk" | cksum)" = \
  "$(tail -c +1001 /mnt/film | head -c 1000 | cksum)"
plain=http://media.example.org
moved() { get -o /dev/null -w '%{http_code} %{redirect_url}' --resolve media.example.org:80:127.0.0.1 "$@"; }
test "$(moved $plain/)" = "308 $url/"
wrong=wrong.example.org
test "$(code -k --resolve $wrong:443:127.0.0.1 https://$wrong/)" = 421
grep -q '"action": "token-add"' /var/lib/harmony4/audit.log
grep -q '"action": "export", "by": "token' /var/lib/harmony4/audit.log
. "$FOLDER/film" | grep -q unbroken
grep -q '"action": "export", "by": "user 0", "name": "film.h4mk"' /var/lib/harmony4/audit.log
test -z "$(find /var/lib/harmony4 ! -user harmony4)"
get "$url/video/range?name=film.h4mk" | cmp - film.mp4
serves() { get --retry 20 --retry-all-errors "$url/video/range?name=a.h4mk" | cmp - /mnt/film; }
runs() { readlink "/proc/$(cat /mnt/server.pid)/exe"; tr '\\0' ' ' <"/proc/$(cat /mnt/server.pid)/cmdline"; }
runs | grep -q /opt/harmony4/bin/
. "$FOLDER/backup"
rm -rf /srv/media/* /var/lib/harmony4/*
. "$FOLDER/restore"
serves
test "$(code -H "Authorization: Bearer $token" -X DELETE "$url/media?name=none.h4mk")" = 404
. "$FOLDER/upgrade"
runs | grep -q /opt/harmony4-new/bin/
serves
if grep -rF "$token" /var/log/nginx /mnt/server.log /var/lib/harmony4; then exit 1; fi
echo the page leads where it says
"""


def blocks(heading: str) -> list[str]:
    page = (ROOT / "docs" / "DEPLOYMENT.md").read_text("utf-8")
    section = page.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def copy_of_the_repository(folder: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="needs root, for a mount namespace and a new user"
)
@needs_nginx
@needs_openssl
@needs_curl
@pytest.mark.timeout(900)
def test_the_commands_lead_to_a_server_behind_tls(tmp_path: Path) -> None:
    install, certificate, main, answer, token, film = blocks("From a bare Debian to TLS")
    backup, restore = blocks("Backup")
    (upgrade,) = blocks("Upgrades")
    folder, stand_ins = tmp_path / "harmony4", tmp_path / "bin"
    copy_of_the_repository(folder)
    shutil.copy(ORIGINAL, folder / "film.mp4")
    stand_ins.mkdir()
    for name, text in (("apt-get", APT), ("systemctl", SYSTEMCTL)):
        (stand_ins / name).write_text(text)
        (stand_ins / name).chmod(0o755)
    for name in BARE.split():
        found = shutil.which(name, path=PATH)
        assert found, name
        (stand_ins / name).symlink_to(found)
    bare, everything = f"export PATH={stand_ins}:/mnt/bin", f"export PATH={stand_ins}:{PATH}"
    # From here on nothing comes from outside.
    second, change, upgrade = upgrade.partition("/opt/harmony4-new/bin/harmony4 config")
    assert change
    for name, text in (
        ("film", film),
        ("backup", backup),
        ("restore", restore),
        ("upgrade", change + upgrade),
    ):
        (folder / name).write_text(text)
    packages, cut, rest = main.partition("install -d -o harmony4")
    assert cut
    told = f"token=$({token.strip()})"
    inside = "\n".join(["set -eux", "ip link set lo up", bare, cut + rest, answer, told, everything, AFTER])
    (tmp_path / "inside").write_text(inside)
    network = f"unshare --net bash {tmp_path}/inside"
    script = "\n".join([BEFORE, bare, install, certificate, packages, second, everything, network])
    # pip's own settings, such as which package index there is, are this machine's.
    environ = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    environ |= {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", "FOLDER": str(folder)}
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=850,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    assert done.stdout.rstrip().endswith("the page leads where it says")
    assert not Path("/etc/nginx/conf.d/harmony4.conf").exists()  # of this machine
