# The common part of restmq.init and restmq-multi.init. One of them reads this file, which reads /etc/default/restmq.
# shellcheck shell=sh disable=SC2154,SC3045  # the script that reads this sets MANY, defaults and here; dash has ulimit -H
#
# /etc/default/restmq (RESTMQ_DEFAULTS names another) may set, each as NAME=VALUE:
#
#   PLACE        the folder of RestMQ: the one above this file's folder
#   USER GROUP   the user and group that run the instances: restmq, and a group of the same name. Make them once, as root:
#                useradd --system --user-group --no-create-home --shell /usr/sbin/nologin restmq
#   REDIS        HOST:PORT or unix:/PATH: the Redis. Without REDIS, restmq.conf must name one in one of these two ways
#   CONF         the configuration file: PLACE/restmq.conf. USER must be able to read it
#   FIRST_PORT   the port of the first instance; the others follow: 9901
#   INSTANCES    how many restmq-multi.init runs: one for each core it may use
#   SOCKETS      a folder: instance PORT listens on SOCKETS/PORT.sock instead of the port. USER must be able to write there
#   HOST         the address at which the instances listen, if restmq.conf says another than 127.0.0.1. A rolling restart
#                asks there
#   PIN          yes: the first instance stays on the first core, and so on. The default is yes for several, no for one
#   LOGS RUN     folders for PORT.log and PORT.pid: /var/log/restmq and /run/restmq
#   LOCK         the file that root locks, in a folder where only root may write. The default is in /run, named after RUN
#   DATA         a folder; DATA/PORT is the instance's data directory: /var/lib/restmq. With a named Redis it stays empty
#   PYTHON       the Python for which PLACE/.venv is made: python3
#   RESTMQ_ENV   another place for that environment
#   ENDING       seconds that an instance has to end before it is killed: 20. Above `drain` of restmq.conf
#   STARTING     seconds that an instance may take to become a daemon: 120
#   READY        seconds that a rolling restart waits for each instance: 60
#   PATIENCE     seconds to wait for another start, stop or rolling restart that is under way: 120
#
# It needs POSIX sh on Linux: /proc, readlink -f, flock and setpriv, GNU's dd and timeout, and taskset for PIN.
#
# The files in LOGS, RUN, DATA and SOCKETS belong to USER, whom root does not trust. Root itself opens only pid files there:
# plain files, without following links, without waiting, and 32 bytes of them. Root does everything else there as USER
# (as_user), signals too. So root never ends, reads, writes or removes anything that USER could not. A process of USER that
# calls itself "twistd restmq --port 9901", and is named in 9901.pid, counts as that instance. So USER can have its own
# processes ended.
set -u
umask 022
cd / || exit 1
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

PLACE=$(dirname "$here")
USER=restmq GROUP='' REDIS='' CONF='' FIRST_PORT=9901 INSTANCES='' SOCKETS='' HOST=127.0.0.1 PIN=$MANY PYTHON=python3 RESTMQ_ENV=''
LOGS=/var/log/restmq RUN=/run/restmq DATA=/var/lib/restmq LOCK='' ENDING=20 STARTING=120 READY=60 PATIENCE=120
drop='' held=no  # drop: the command by which root becomes USER; held: whether the lock is held
# shellcheck source=/dev/null
[ ! -r "$defaults" ] || . "$defaults"
GROUP=${GROUP:-$USER}
RUN=${RUN%/} LOGS=${LOGS%/}
me=$(basename "$0")

say() { printf '%s: %s\n' "$me" "$*"; }
stop() { code=$1; shift; say "$*" >&2; exit "$code"; }

cores() {  # the cores that this process may use, one a line
    awk '/^Cpus_allowed_list:/ {
        n = split($2, parts, ",")
        for (i = 1; i <= n; i++) { m = split(parts[i], ends, "-"); for (c = ends[1] + 0; c <= ends[m] + 0; c++) print c }
    }' /proc/self/status
}

ports() {  # the ports of the instances that are wanted; with the word `all`, also of those that are still there
    [ "$MANY" = yes ] || { echo "$FIRST_PORT"; return; }
    {
        last=$((FIRST_PORT + ${INSTANCES:-$(cores | wc -l)} - 1))
        seq "$FIRST_PORT" "$last"
        [ "${1:-}" != all ] || for file in "$RUN"/*.pid; do
            one=${file##*/}
            one=${one%.pid}
            case $one in '' | 0* | *[!0-9]* | ??????*) ;; *) echo "$one" ;; esac
        done | head -n 1000  # USER may make very many
    } | sort -nu
}

surplus() {  # the ports of instances that are still there and not wanted any more
    wanted=" $(ports | tr '\n' ' ')"
    for one in $(ports all); do
        case $wanted in *" $one "*) ;; *) echo "$one" ;; esac
    done
}

# Run a command as USER, if this is root. A signal that is sent so cannot reach another user's process. USER may stop the
# command, because it is a process of USER. So root waits for ten seconds.
as_user() {
    if [ "$(id -u)" = 0 ] && [ "$USER" != root ]; then
        timeout -k 1 10 setpriv --reuid="$USER" --regid="$GROUP" --init-groups "$@"
    else
        "$@"
    fi
}

ours() {  # ours PROCESS PORT: whether it is that instance. The command line of a process may be long, or never come
    [ "$(stat -c %U "/proc/$1" 2>/dev/null)" = "$USER" ] || return 1
    { timeout 5 head -c 65536 "/proc/$1/cmdline" | tr '\0' ' '; } 2>/dev/null | grep -q "twistd .*restmq .*--port $2 "
}

real() {  # real FOLDER: stop if it is a link, which could lead root anywhere
    [ ! -L "$1" ] || stop 6 "$1 is a symbolic link: name the folder itself in $defaults"
}

# state PORT: sets pid, and returns the status of LSB: 0 it runs, 1 it died and left its pid file,
# 3 it does not run, 4 it cannot be known. A pid file may name a process that belongs to another user by now.
state() {
    pid=''
    real "$RUN"
    [ ! -d "$RUN" ] || [ -x "$RUN" ] || return 4
    [ -e "$RUN/$1.pid" ] || [ -L "$RUN/$1.pid" ] || return 3
    [ -f "$RUN/$1.pid" ] || return 4
    pid=$(dd if="$RUN/$1.pid" iflag=nofollow,nonblock bs=32 count=1 status=none 2>/dev/null | tr '\0' x) || return 4
    [ -n "$pid" ] || [ ! -s "$RUN/$1.pid" ] || return 4  # it could not be read
    case $pid in '' | 0* | *[!0-9]* | ???????????*) pid=''; return 1 ;; esac
    ours "$pid" "$1" || return 1
}

forget() {  # forget PORT: remove its pid file; returns whether the file is gone
    as_user rm -f "$RUN/$1.pid" 2>/dev/null
    [ ! -e "$RUN/$1.pid" ] && [ ! -L "$RUN/$1.pid" ]
}

environment() {  # sets env
    [ -x "$PLACE/_build/environment" ] || stop 5 "RestMQ is not in $PLACE: set PLACE in $defaults"
    env=$("$PLACE/_build/environment" "$PYTHON" "${RESTMQ_ENV:-$PLACE/.venv}" "$PLACE/requirements.lock") ||
        stop 1 "there is no environment for $PYTHON; why stands above"
}

# Compile the code, and make Twisted's cache of plugins. Only root may write there, and instances start faster with them.
noted() {
    "$env/bin/python" -m compileall -qq "$PLACE/restmq" "$PLACE/twisted" || :
    (launch "$FIRST_PORT" --help) >/dev/null
}

launch() {  # launch PORT TWISTD'S OPTIONS: this process becomes that instance
    port=$1
    shift
    set -- "$env/bin/python" "$env/bin/twistd" "$@" restmq --shared --port "$port" --data "$DATA/$port"
    [ -z "$REDIS" ] || set -- "$@" --redis "$REDIS"
    [ -z "$CONF" ] || set -- "$@" --config "$CONF"
    [ -z "$SOCKETS" ] || set -- "$@" --listen "unix:$SOCKETS/$port.sock"
    if [ "$PIN" = yes ] && command -v taskset >/dev/null; then
        many=$(cores | wc -l)  # a unit's port may be below FIRST_PORT
        place=$((((port - FIRST_PORT) % many + many) % many + 1))
        set -- taskset -c "$(cores | sed -n "${place}p")" "$@"
    fi
    PYTHONPATH=$PLACE
    export PYTHONPATH
    # Each live consumer is an open file. The usual limit of 1024 is for programs that use select(); RestMQ does not.
    files=$(ulimit -H -n)
    ulimit -S -n "$files" 2>/dev/null || say "$port may open $(ulimit -S -n) files only: $files was refused" >&2
    # shellcheck disable=SC2086  # words, or none
    exec ${limit:+timeout -k 1 "$limit"} $drop "$@"
}

folder() {  # folder NAME: make it for USER, or check that it belongs to USER
    real "$1"
    if [ ! -d "$1" ]; then
        { mkdir -p "$(dirname "$1")" && mkdir "$1" && chown -h "$USER:$GROUP" "$1"; } || stop 4 "cannot make $1"
    elif [ "$(stat -c %U "$1")" != "$USER" ]; then
        stop 6 "$1 does not belong to $USER: chown $USER:$GROUP $1, or name another place in $defaults"
    fi
}

trusted() {  # trusted FOLDER: root runs what lies there, so USER must not be able to write there
    [ "$(id -u)" = 0 ] && [ "$USER" != root ] && [ -d "$1" ] || return 0
    [ -z "$(find -H "$1" -maxdepth 0 \( -user "$USER" -o -perm -o+w -o -group "$GROUP" -perm -g+w \))" ] ||
        stop 6 "root would run what lies in $1, and $USER may write there: chown root:root $1; chmod go-w $1"
}

prepared() {
    id "$USER" >/dev/null 2>&1 || stop 6 "there is no user $USER. As root:" \
        "useradd --system --user-group --no-create-home --shell /usr/sbin/nologin $USER"
    [ "$(id -un)" = "$USER" ] || [ "$(id -u)" = 0 ] || stop 4 "only root or $USER can do this"
    trusted "$PLACE"
    trusted "$PLACE/_build"
    trusted "${RESTMQ_ENV:-$PLACE/.venv}"
    environment
    if [ "$(id -un)" != "$USER" ]; then
        drop=''
        noted
        # Not twistd's --uid: root would open, in folders that belong to USER, whatever lies there by then.
        drop="setpriv --reuid=$USER --regid=$GROUP --init-groups"
        [ "$FIRST_PORT" -ge 1024 ] || drop="$drop --inh-caps=+net_bind_service --ambient-caps=+net_bind_service"
    fi
    folder "$LOGS"
    folder "$RUN"
    locked
}

# One script runs at a time: of two starts, the later would take the other's pid file. The instances do not inherit the lock.
# A user who may open a file may lock it. So root's lock lies where only root may write. USER can start and stop, too, and
# locks RUN itself. The two do not wait for each other.
locked() {
    [ $held = no ] || return 0
    held=yes
    if [ "$(id -u)" = 0 ]; then
        LOCK=${LOCK:-/run/restmq-init$(printf %s "$RUN" | tr -c 'A-Za-z0-9.' _).lock}
        (umask 077 && : >>"$LOCK") 2>/dev/null || stop 4 "cannot write $LOCK: LOCK in $defaults names another"
        exec 9>>"$LOCK"
    else
        LOCK=$RUN
        exec 9<"$LOCK"
    fi
    flock -w "$PATIENCE" 9 || stop 1 "somebody else has been starting or stopping for $PATIENCE s (flock on $LOCK)"
}

start_one() {
    if state "$1"; then
        say "$1 runs already, as process $pid"
        return 0
    fi
    [ -z "$pid" ] || say "$1 had died; removing its pid file"
    forget "$1" || stop 4 "cannot remove $RUN/$1.pid"
    log=$LOGS/$1.log
    # With a FIFO this would wait for a reader, and a link would lead elsewhere.
    as_user dd if=/dev/null of="$log" oflag=append,nofollow,nonblock conv=notrunc status=none 2>/dev/null && [ -f "$log" ] ||
        stop 4 "$USER cannot write $log, or it is no plain file"
    # USER may delay its own instance, but must not keep root waiting.
    (limit=$STARTING; launch "$1" --pidfile="$RUN/$1.pid" --logfile="$log" --no_save 9>&-) ||
        { say "$1 did not start" >&2; return 1; }
    since=$(date +%s)  # twistd writes the pid file a moment after it reported success
    until state "$1"; do
        [ $(($(date +%s) - since)) -lt "$STARTING" ] || { say "$1 ended at once; its log is $log" >&2; return 1; }
        sleep 0.1
    done
    as_user chmod 644 "$RUN/$1.pid"  # so that every user may ask for the status
    say "$1 started, as process $pid"
}

stop_these() {  # stop_these PORTS: send all of them SIGTERM, then wait for each
    ending='' unknown=''
    for each; do  # not `one`, which is the caller's
        state "$each"
        case $? in
            0) signal TERM "$pid" "$each" || stop 4 "may not end process $pid"; ending="$ending $each:$pid" ;;
            1) if forget "$each"; then say "$each had died; removed its pid file"; else unknown="$unknown $each"; fi ;;
            3) say "$each does not run" ;;
            *) unknown="$unknown $each" ;;  # the others end all the same
        esac
    done
    for each in $ending; do ended "${each%:*}" "${each#*:}"; done
    [ -z "$unknown" ] || stop 4 "cannot read, or remove, the pid files in $RUN of:$unknown"
}

signal() {  # signal NAME PROCESS PORT: returns whether the signal was sent, or is not needed any more
    # shellcheck disable=SC2016  # the inner shell's
    as_user sh -c 'kill -s "$0" "$1"' "$1" "$2" 2>/dev/null || ! ours "$2" "$3"
}

ended() {  # ended PORT PROCESS: wait until it has ended, or kill it
    pid=$2 tries=$((ENDING * 10))
    while ours "$pid" "$1"; do  # the pid file vanishes a little before the process does
        tries=$((tries - 1))
        if [ $tries -le 0 ]; then
            say "$1 did not end in $ENDING s; killing process $pid" >&2
            signal KILL "$pid" "$1"
            sleep 0.2
            break
        fi
        sleep 0.1
    done
    forget "$1" || :
    say "$1 ended"
}

ready() {  # ready PORT: whether it and its Redis answer
    as_user "$env/bin/python" -I -c '
import socket, sys
where = sys.argv[1]
family = socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET
link = socket.socket(family if where.isdigit() else socket.AF_UNIX)
link.settimeout(5)
try:
    link.connect((sys.argv[2], int(where)) if where.isdigit() else where)
    link.sendall(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
    sys.exit(not link.recv(100).startswith(b"HTTP/1.1 200"))
except OSError:
    sys.exit(1)
' "${SOCKETS:+$SOCKETS/}$1${SOCKETS:+.sock}" "$HOST"
}

start_all() {
    prepared
    failed='' why=0
    for one in $(ports); do  # each in a shell of its own: if one does not start, the others still do
        (start_one "$one") || { why=$?; failed="$failed $one"; }
    done
    [ -z "$failed" ] || stop $why "not started:$failed"
}

stop_all() {
    [ ! -r "$RUN" ] || locked
    # shellcheck disable=SC2046  # words
    stop_these $(ports all)
}

restart_all() {  # makes what the new instances need while the old ones still serve
    prepared
    (stop_all) || :  # stop_all has said why; the start says which instances could not start because of it
    start_all
}

roll_all() {  # the others serve while one is away; it must be back before the next one ends
    prepared
    for one in $(ports); do
        stop_these "$one"
        start_one "$one" || stop 1 "the others still run the old way"
        since=$(date +%s)
        until ready "$one"; do
            [ $(($(date +%s) - since)) -lt "$READY" ] ||
                stop 1 "$one is not ready after $READY s, asked at ${SOCKETS:-$HOST}: see $LOGS/$one.log; HOST in" \
                    "$defaults says where it listens. The others were left alone"
            sleep 0.2
        done
        say "$one is ready"
    done
    for one in $(surplus); do
        say "$one is more than INSTANCES in $defaults asks for"
        stop_these "$one"
    done
}

status_all() {  # exits with 0 when all run, 1 when one died, 4 when it cannot be known, else 3
    died=no unknown=no away=no
    for one in $(ports all); do
        state "$one"
        case $? in
            0) say "$one runs, as process $pid" ;;
            1) say "$one died; its pid file is there"; died=yes ;;
            3) say "$one does not run"; away=yes ;;
            *) say "$one: cannot read $RUN/$one.pid"; unknown=yes ;;
        esac
    done
    [ $died = no ] || exit 1
    [ $unknown = no ] || exit 4
    [ $away = no ] || exit 3
}

case ${1:-} in
    start) start_all ;;
    stop) stop_all ;;
    restart) restart_all ;;
    rolling) roll_all ;;
    force-reload) if [ "$MANY" = yes ]; then roll_all; else restart_all; fi ;;
    try-restart) state "$FIRST_PORT" || exit 0; restart_all ;;
    status) status_all ;;
    # These two are for systemd, which does the rest itself.
    prepare) trusted "$PLACE"; environment; noted ;;
    run) environment; launch "${2:-$FIRST_PORT}" -n --pidfile= ;;
    *) stop 2 "usage: $me start|stop|restart|try-restart|rolling|force-reload|status" ;;
esac
