#!/usr/bin/env bash
# A data step in CPython: readings in, statistics out.
. "$(dirname "$0")/../lib.sh"
toolchain python
cp "$example"/{summary.py,readings.csv} .
echo "== python"
run python --output summary.json -- python3 summary.py readings.csv summary.json
cat summary.json
digests summary.json
