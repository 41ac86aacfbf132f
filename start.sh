#!/bin/sh
# Starts RestMQ from this folder, in the foreground, on 127.0.0.1:8888.
# The first start makes an environment in .venv (PYTHON=pypy3 chooses another Python,
# RESTMQ_ENV another place); every option goes on to the plugin: ./start.sh --help
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
say() { printf 'restmq: %s\n' "$*" >&2; }
command -v "$python" >/dev/null || { say "$python is not there; install it, or name another with PYTHON="; exit 1; }
kind=$("$python" -c 'import sys; print("%s-%d.%d" % (sys.implementation.name, *sys.version_info[:2]))')
env=${RESTMQ_ENV:-$here/.venv}/$kind
want=$(cat "$here/requirements.lock" "$here/_build/restmq_build.py" | cksum)

if [ "$(cat "$env/made-of" 2>/dev/null || true)" != "$want" ]; then
    mkdir -p "$(dirname "$env")"
    until mkdir "$env.lock" 2>/dev/null; do
        say "another start makes the environment; waiting (remove $env.lock if there is none)"
        sleep 2
    done
    trap 'rmdir "$env.lock"' EXIT INT TERM
    if [ "$(cat "$env/made-of" 2>/dev/null || true)" != "$want" ]; then
        say "making an environment for $kind in $env; this is done once"
        rm -rf "$env"
        if ! "$python" -m venv "$env" 2>/dev/null; then
            rm -rf "$env"
            package=$([ "$python" = pypy3 ] && echo pypy3-venv || echo python3-venv)
            [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { say "$python has no venv: apt-get install $package"; exit 1; }
            say "installing Debian's $package"
            apt-get update -qq && apt-get install -y -qq "$package" >/dev/null
            "$python" -m venv "$env"
        fi
        pip="$env/bin/python -m pip --disable-pip-version-check -q"
        say "installing what requirements.lock pins"
        $pip install --require-hashes --no-deps -r "$here/requirements.lock"
        say "adding cyclone (see _build/restmq_build.py)"
        $pip install 'setuptools<81' wheel
        site=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        "$env/bin/python" "$here/_build/restmq_build.py" "$site"
        printf '%s\n' "$want" > "$env/made-of"
        say "done"
    fi
    rmdir "$env.lock"
    trap - EXIT INT TERM
fi

PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
exec "$env/bin/twistd" -n --pidfile= restmq "$@"
