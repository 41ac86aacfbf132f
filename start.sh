#!/bin/sh
# Starts RestMQ from this folder, in the foreground, on 127.0.0.1:8888.
# The first start makes an environment in .venv (RESTMQ_ENV=FOLDER: elsewhere) for python3 (PYTHON=pypy3: another).
# Nothing else is written here, so this folder may be read-only.
# Every option goes on to the plugin: ./start.sh --help
set -eu
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)  # a link to this file may lie anywhere
place=${RESTMQ_ENV:-$here/.venv}
# Root would run what another user may have put there. Whose checkout this is may: root runs that already.
if [ "$(id -u)" = 0 ] && [ -d "$place" ]; then
    owner=$(stat -c %u "$place")
    [ "$owner" = 0 ] || [ "$owner" = "$(stat -c %u "$here")" ] || {
        echo "restmq: $place belongs to another user, and root would run what lies there: RESTMQ_ENV= names another" >&2
        exit 1
    }
fi
env=$("$here/_build/environment" "${PYTHON:-python3}" "$place" "$here/requirements.lock")
# It is twistd -n restmq, but writes nothing into this folder.
exec "$env/bin/python" "$here/_build/run.py" -n --pidfile= restmq "$@"
