#!/usr/bin/env bash
# A server that runs nothing itself, three workers in processes of their own, and a small build through them, while one
# worker is drained and another is killed.
export WARDIAN_SERVER=none # started below, and not by lib.sh
. "$(dirname "$0")/../lib.sh"

workers=()
stop() {
  for process in "${workers[@]}"; do kill -9 "$process"; done 2> /dev/null || true
  finish
}
trap stop EXIT

# Short, so that a lost worker is noticed soon.
printf '[scheduler]\nworker_lease_seconds = 3\n' > "$scratch/server.toml"
serve --slots 0 --data "$scratch/server" --config "$scratch/server.toml"

for name in elm oak yew; do
  "$wardian" worker --name "$name" --slots 2 --data "$scratch/$name" > "$scratch/$name.log" 2>&1 &
  workers+=($!)
done
connected() { "$wardian" workers --json | grep -c '"state":"connected"' || true; }
for _ in $(seq 300); do
  [[ $(connected) != 3 ]] || break
  sleep 0.1
done
[[ $(connected) == 3 ]] || die "the workers did not connect: $(cat "$scratch"/*.log)"
echo "== three workers"
"$wardian" workers

# part NUMBER: one step of the build, which takes a moment.
part() {
  "$wardian" run --input . --output "part$1" -- sh -c "sleep 0.5; sort words | sed -n '$1~8p' > part$1"
}
seq 1000 | sed 's/^/word /' > words
echo "== eight steps at once, while elm is drained and oak is killed"
steps=()
for number in $(seq 8); do
  part "$number" &
  steps+=($!)
done
for _ in $(seq 300); do
  ! "$wardian" workers --json | grep -q '"name":"oak".*"running":[12]' || break
  sleep 0.05
done
"$wardian" workers drain elm
kill -9 "${workers[1]}"
for step in "${steps[@]}"; do wait "$step" || die "a step failed"; done
sort part? > together
sort words | cmp - together || die "the parts are not the whole"
echo "== what is left"
"$wardian" workers
