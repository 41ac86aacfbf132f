#!/bin/sh
# Starts RestMQ from this folder, in the foreground, on 127.0.0.1:8888.
# The first start makes an environment in .venv (RESTMQ_ENV=FOLDER: elsewhere) for python3 (PYTHON=pypy3: another).
# Nothing else is written here, so this folder may be read-only.
# Every option goes on to the plugin: ./start.sh --help
set -eu
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)  # a link to this file may lie anywhere
env=$("$here/_build/environment" "${PYTHON:-python3}" "${RESTMQ_ENV:-$here/.venv}" "$here/requirements.lock")
# It is twistd -n restmq, but writes nothing into this folder.
exec "$env/bin/python" "$here/_build/run.py" -n --pidfile= restmq "$@"
