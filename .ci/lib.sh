# What the scripts here that need a running server share; not to be run by itself. It goes to the top of the repository,
# and whatever is in $scratch or was started with `started` is gone at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
top=$PWD
wardian=${WARDIAN:-$top/target/release/wardian}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/wardian-ci.XXXXXX")
pids=()

finish() {
    local pid
    for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null || true; done
    cd /
    declare -F cleanup > /dev/null && cleanup
    chmod -R u+w "$scratch" && rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

die() {
    echo "$(basename "$0"): $1" >&2
    exit 1
}

# What was looked at, and that it is as it has to be.
verified() { echo "  ok: $1"; }

# started PID: a process that ends with this script.
started() { pids+=("$1"); }

# line FILE SCRIPT PID: the first line that sed makes of what a process writes at its start.
line() {
    local found
    for _ in $(seq 300); do
        found=$(sed -n "$2" "$1" | head -n 1)
        [[ -z $found ]] || { echo "$found"; return; }
        kill -0 "$3" 2> /dev/null || break
        sleep 0.1
    done
    return 1
}

# serve [OPTION...]: starts a server over the folder $data; its HOST:PORT is in $address and its process in $server.
data=$scratch/data
serve() {
    "$wardian" serve --listen 127.0.0.1:0 --data "$data" "$@" > "$scratch/address" 2> "$scratch/server.log" &
    server=$!
    started "$server"
    address=$(line "$scratch/address" 's|^wardian serves grpc://\([^ ]*\).*|\1|p' "$server") ||
        die "the server did not start: $(cat "$scratch/server.log")"
}

# stop: ends the server, which must end well.
stop() {
    kill -TERM "$server"
    wait "$server" || die "the server ended with status $?: $(tail -n 20 "$scratch/server.log")"
}

# toolchain NAME...: makes sure that the server has them.
toolchain() {
    local name
    for name in "$@"; do
        "$wardian" --server "$address" toolchain show "$name" > /dev/null 2>&1 ||
            "$wardian" --server "$address" toolchain add "$name"
    done
}

# buildstream: puts BuildStream's program into $bst. One that is installed already may be named as $BST; otherwise it is
# installed into a folder of its own.
buildstream() {
    local version
    bst=${BST:-$scratch/venv/bin/bst}
    if [[ -z ${BST:-} ]]; then
        python3 -m venv "$scratch/venv"
        "$scratch/venv/bin/pip" install --quiet --disable-pip-version-check buildstream==2.8.1
    fi
    version=$("$bst" --version)
    [[ $version == 2.8.* ]] || die "this is for BuildStream 2.8: here is $version"
}

# python_of VERSION: a Python of just this version, from PATH or pyenv.
python_of() {
    local python found
    python=$(command -v "python$1" || true)
    if ! "${python:-false}" --version > /dev/null 2>&1; then
        found=$(pyenv versions --bare 2> /dev/null | grep "^${1//./\\.}\\." | tail -n 1) || return
        python=$(pyenv prefix "$found")/bin/python$1
    fi
    "$python" --version > /dev/null 2>&1 && echo "$python"
}
