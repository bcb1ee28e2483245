#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds and tests this workspace on a running remote execution server, as
# programs of the machine and as WebAssembly, then does the same from a copy of
# it elsewhere, and fails unless that executes nothing. The server must have the
# toolchains clang and esbuild (wardian toolchain add clang esbuild).
#
#   run.sh [HOST:PORT]    default 127.0.0.1:8980
#   run.sh --version      only check the packages this needs, and name Bazel's
#                         version
#
# Exit status: 0 all is well, 1 it is not, 2 wrong usage, 3 packages missing.
set -euo pipefail

die() {
  echo "run.sh: $1" >&2
  exit "${2:-1}"
}

usage() {
  echo "usage: run.sh [HOST:PORT]
       run.sh --version" >&2
  exit 2
}

(($# <= 1)) || usage
endpoint=${1:-127.0.0.1:8980}
case $endpoint in
  --version) ;;
  -*) usage ;;
  *)
    pattern='^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]+$'
    [[ $endpoint =~ $pattern ]] ||
      die "'$endpoint' is not HOST:PORT" 2
    ;;
esac

# --- The packages of Debian 12 this needs. -----------------------------------

missing=()
need() { # PACKAGE FILE: the package that has the file
  [[ -e $2 ]] || missing+=("$1")
}
need bazel-bootstrap /usr/bin/bazel-4
need bazel-bootstrap-data /usr/share/bazel/A-server.jar
need bazel-rules-java /usr/share/bazel/rules/java/WORKSPACE
need gcc /usr/bin/gcc
need g++ /usr/bin/g++
if ((${#missing[@]})); then
  die "these packages are missing: ${missing[*]}
Debian 12 has them all:
  apt-get install --no-install-recommends ${missing[*]}" 3
fi

# Debian's Bazel calls itself 'no_version', so ask for the package's.
version=$(dpkg-query --show --showformat='${Version}' bazel-bootstrap)
[[ $version == 4.2.* ]] || die \
  "this workspace is for Bazel 4.2, as in Debian 12: here is '$version'" 3
if [[ $endpoint == --version ]]; then
  echo "Bazel $version"
  exit 0
fi

# --- Bazels of our own, which leave nothing behind. --------------------------

cd "$(dirname "${BASH_SOURCE[0]}")"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/bazel-example.XXXXXX")
clone=first

bazel() { # no user's .bazelrc, no terminal, no input; each clone's is its own
  /usr/bin/bazel-4 --output_user_root="$scratch/root-$clone" --nohome_rc \
    --max_idle_secs=300 "$@" < /dev/null
}

cleanup() {
  bazel shutdown > "$scratch/log" 2>&1 || cat "$scratch/log" >&2
  cd /
  chmod -R u+w "$scratch" # Bazel makes some directories read-only
  rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- The invocations. --------------------------------------------------------

hits=0     # of the last invocation: answered from the action cache
executed=0 # of the last invocation: executed by the server

# Takes apart 'INFO: N processes: A remote cache hit, B internal, C remote.'
# Only these three kinds are allowed: whatever else there is ran here.
count() { # WHAT LOGFILE
  local line kinds kind n total sum=0
  line=$(grep -E '^INFO: [0-9]+ process(es)?[.:]' "$2") ||
    die "$1: Bazel did not say what it ran"
  [[ $line =~ ^INFO:\ ([0-9]+)\ process(es)?:\ ([^.]+)\.$ ]] ||
    die "$1: cannot understand '$line'"
  total=${BASH_REMATCH[1]}
  hits=0 executed=0
  IFS=, read -ra kinds <<< "${BASH_REMATCH[3]}"
  for kind in "${kinds[@]}"; do
    [[ $kind =~ ^\ ?([0-9]+)\ (.+)$ ]] || die "$1: cannot understand '$line'"
    n=${BASH_REMATCH[1]}
    case ${BASH_REMATCH[2]} in
      'remote cache hit') hits=$n ;;
      remote) executed=$n ;;
      internal) ;; # symbolic links and the like, made by Bazel itself
      *) die "$1: '${BASH_REMATCH[2]}' is not remote: '$line'" ;;
    esac
    sum=$((sum + n))
  done
  ((sum == total)) || die "$1: the counts do not add up: '$line'"
}

run() { # COMMAND OPTION...: with what is built and tested
  echo "== bazel $*"
  bazel "$1" --remote_executor="grpc://$endpoint" --jobs=4 \
    --noshow_progress --curses=no --color=no --symlink_prefix=/ \
    --test_output=errors "${@:2}" 2>&1 | tee "$scratch/log" ||
    die "bazel $* failed"
  count "bazel $*" "$scratch/log"
}

# Everything, natively and (what is C++) for WASI; $1 is called after each.
everything() {
  run build //...
  "$1" build
  run test //...
  "$1" tests
  run build --config=wasi //cpp/...
  "$1" wasi_build
  run test --config=wasi //cpp/...
  "$1" wasi_tests
}

declare -A actions
first=0
note() {
  actions[$1]=$((hits + executed)) first=$((first + executed))
  ((${actions[$1]} > 0)) || die "$1: the server was sent nothing"
}
again() {
  ((executed == 0)) || die "second clone, $1: executed $executed of ${actions[$1]}"
  ((hits == ${actions[$1]})) ||
    die "second clone, $1: $hits cache hits, expected ${actions[$1]}"
}

is_wasm() { # FILE: whether it begins like a WebAssembly module
  [[ $(head -c 4 "$1" | od -An -tx1) == ' 00 61 73 6d' ]]
}

everything note
bin=$(bazel info --config=wasi bazel-bin 2> /dev/null)
for program in top_words word_count_test; do
  is_wasm "$bin/cpp/$program" || die "$program was not built for WebAssembly"
done
bin=$(bazel info bazel-bin 2> /dev/null)
is_wasm "$bin/cpp/top_words" && die "top_words was built for WebAssembly"
echo "== text/report.txt"
cat "$bin/text/report.txt"
echo "== wasm/page.js"
cat "$bin/wasm/page.js"
bazel shutdown > "$scratch/log" 2>&1 || cat "$scratch/log" >&2

echo "== a second clone, in another place"
clone=second
mkdir -p "$scratch/elsewhere"
cp -r . "$scratch/elsewhere/again"
cd "$scratch/elsewhere/again"
everything again

echo
echo "OK: $((actions[build] + actions[wasi_build])) build actions and" \
  "$((actions[tests] + actions[wasi_tests])) test actions; the first clone" \
  "executed $first, the second none."
