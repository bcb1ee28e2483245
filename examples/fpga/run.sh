#!/usr/bin/env bash
# A Verilog counter becomes a bitstream for an iCE40: synthesis, placing and routing, packing.
. "$(dirname "$0")/../lib.sh"
toolchain yosys nextpnr-ice40
cp "$example"/counter.{v,pcf} .
echo "== yosys"
run yosys --output counter.json -- yosys -q -p "read_verilog counter.v; synth_ice40 -top counter -json counter.json"
echo "== nextpnr-ice40, icepack"
run nextpnr-ice40 --output counter.asc -- \
  nextpnr-ice40 --hx1k --package tq144 --json counter.json --pcf counter.pcf --asc counter.asc -q
run nextpnr-ice40 --output counter.bin -- icepack counter.asc counter.bin
digests counter.json counter.asc counter.bin
