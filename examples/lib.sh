# What the examples share; not to be run by itself. It looks for wardian, starts a server unless WARDIAN_SERVER
# names one, and goes to an empty folder that is gone afterwards.
set -euo pipefail

example=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

die() {
  echo "$(basename "$example"): $1" >&2
  exit 1
}

wardian=${WARDIAN:-$top/target/release/wardian}
[[ -x $wardian ]] || wardian=$(command -v wardian) ||
  die "there is no wardian: build it with 'cargo build --release', or name it in WARDIAN"

scratch=$(mktemp -d "${TMPDIR:-/tmp}/wardian-example.XXXXXX")
server=
finish() {
  [[ -z $server ]] || { kill "$server" && wait "$server"; } 2> /dev/null || true
  rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# serve OPTION...: starts a server of the example's own and names it in WARDIAN_SERVER.
serve() {
  "$wardian" serve --listen 127.0.0.1:0 "$@" > "$scratch/address" 2> "$scratch/log" &
  server=$!
  for _ in $(seq 300); do
    WARDIAN_SERVER=$(sed -n 's|^wardian serves grpc://\([^ ]*\).*|\1|p' "$scratch/address")
    [[ -z $WARDIAN_SERVER ]] || break
    kill -0 "$server" 2> /dev/null || die "the server did not start: $(cat "$scratch/log")"
    sleep 0.1
  done
  [[ -n $WARDIAN_SERVER ]] || die "the server did not start in time"
  export WARDIAN_SERVER
}

if [[ -z ${WARDIAN_SERVER:-} ]]; then
  # Kept, so that toolchains are fetched and compiled once.
  serve --data "${WARDIAN_EXAMPLES_DATA:-${XDG_CACHE_HOME:-$HOME/.cache}/wardian/examples}"
fi

mkdir "$scratch/work"
cd "$scratch/work"

# toolchain NAME...: makes sure that the server has them.
toolchain() {
  local name
  for name in "$@"; do
    "$wardian" toolchain show "$name" > /dev/null 2>&1 || "$wardian" toolchain add "$name"
  done
}

# run TOOLCHAIN OPTION... -- COMMAND...: says what it runs and runs it on the server, with the files here as its
# inputs. TOOLCHAIN - is none: the command is one of those files.
run() {
  local options=(--toolchain "$1")
  [[ $1 != - ]] || options=(--input .)
  shift
  while [[ $1 != -- ]]; do
    options+=("$1")
    shift
  done
  shift
  echo "  $*"
  "$wardian" run "${options[@]}" -- "$@"
}

# crate NAME VERSION: the path of a crate's sources.
crate() {
  local folder="$scratch/crates/$1"
  mkdir -p "$folder/src"
  : > "$folder/src/lib.rs"
  printf '[package]\nname = "sources"\nedition = "2024"\n[workspace]\n[dependencies]\n%s = { version = "=%s", default-features = false }\n' \
    "$1" "$2" > "$folder/Cargo.toml"
  (cd "$folder" && cargo vendor --quiet vendor > /dev/null) || die "crate:$1@$2 cannot be fetched"
  echo "$folder/vendor/$1"
}

# digests FILE...: what came back, as the API names it. It must be what the example's file `digests` says, which is
# the same on every machine.
digests() {
  local file line
  for file in "$@"; do
    line="$file $(sha256sum < "$file" | cut -d ' ' -f 1)/$(wc -c < "$file")"
    echo "  $line"
    grep -qxF "$line" "$example/digests" || die "$file is not what $example/digests says"
  done
}
