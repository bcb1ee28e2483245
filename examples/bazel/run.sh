#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds and tests this workspace on a running remote execution server, twice,
# and fails unless the second time executes nothing.
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

# --- A Bazel of our own, which leaves nothing behind. ------------------------

cd "$(dirname "${BASH_SOURCE[0]}")"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/bazel-example.XXXXXX")

bazel() { # no user's .bazelrc, no terminal, no input
  /usr/bin/bazel-4 --output_user_root="$scratch/root" --nohome_rc \
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

# --- The four invocations. ---------------------------------------------------

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

run() { # build|test
  echo "== bazel $1 //..."
  bazel "$1" --remote_executor="grpc://$endpoint" --jobs=4 \
    --noshow_progress --curses=no --color=no --symlink_prefix=/ \
    --test_output=errors //... 2>&1 | tee "$scratch/log" ||
    die "bazel $1 failed"
  count "bazel $1" "$scratch/log"
}

run build
build=$((hits + executed)) first="$executed"
run test
tests=$((hits + executed)) first="$((first + executed))"
((build > 0 && tests > 0)) || die "the first run sent the server nothing"

echo "== bazel clean"
bazel clean > "$scratch/log" 2>&1 || die "$(cat "$scratch/log")"

again() { # WHAT ACTIONS
  ((executed == 0)) || die "second bazel $1: executed $executed of $2 actions"
  ((hits == $2)) || die "second bazel $1: $hits cache hits, expected $2"
}
run build
again build "$build"
run test
again test "$tests"

echo "== text/report.txt"
cat "$(bazel info bazel-bin 2> /dev/null)/text/report.txt"
echo
echo "OK: $build build actions and $tests test actions; the first run executed" \
  "$first, the second none."
