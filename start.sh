#!/bin/sh
# Starts RestMQ from this folder, in the foreground, on 127.0.0.1:8888.
# The first start makes an environment in .venv (RESTMQ_ENV=FOLDER: elsewhere) for python3 (PYTHON=pypy3: another).
# Every option goes on to the plugin: ./start.sh --help
set -eu
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)  # a link to this file may lie anywhere
env=$("$here/_build/environment" "${PYTHON:-python3}" "${RESTMQ_ENV:-$here/.venv}" "$here/requirements.lock")
PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
# twistd by its Python, not by its first line, which names where the environment was made: the folder may move.
exec "$env/bin/python" "$env/bin/twistd" -n --pidfile= restmq "$@"
