#!/usr/bin/env bash
# SQLite from its one large source file, and a small shell around it that runs SQL in WebAssembly. The compilation
# takes about a minute.
. "$(dirname "$0")/../lib.sh"
toolchain clang
sources=$(crate libsqlite3-sys 0.40.0)/sqlite3
cp "$sources"/sqlite3.[ch] "$example"/{shell.c,plants.sql} .
echo "== clang"
run clang -- clang -O2 -c sqlite3.c -o sqlite3.o -DSQLITE_THREADSAFE=0 -DSQLITE_OMIT_LOAD_EXTENSION \
  -DSQLITE_OMIT_WAL -DSQLITE_DISABLE_LFS
run clang -- clang -O2 -c shell.c -o shell.o
echo "== wasi-ld"
run clang -- wasi-ld shell.o sqlite3.o -o sqlite.wasm
echo "== sqlite"
run - --output plants.db -- ./sqlite.wasm plants.db plants.sql
digests sqlite.wasm plants.db
