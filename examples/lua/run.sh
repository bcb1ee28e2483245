#!/usr/bin/env bash
# Lua 5.4.7 from its sources: 33 files compiled by clang in WebAssembly, as many at once as the server likes, linked,
# and the interpreter that comes of it runs a script.
. "$(dirname "$0")/../lib.sh"
toolchain clang
sources=$(crate lua-src 547.1.0)/lua-5.4.7
cp "$sources"/*.[ch] "$example"/{main.c,wasi.h,sieve.lua} .

echo "== clang: 33 files"
objects=()
for file in *.c; do objects+=("${file%.c}.o"); done
# setjmp becomes WebAssembly exceptions.
printf '%s\n' "${objects[@]%.o}" | xargs -P "$(nproc)" -I{} "$wardian" run --toolchain clang -- \
  clang -O2 -c {}.c -o {}.o -include wasi.h -D_WASI_EMULATED_SIGNAL -D_WASI_EMULATED_PROCESS_CLOCKS \
  -mllvm -wasm-enable-sjlj -mllvm -wasm-use-legacy-eh=false ||
  die "not every file compiled"
((${#objects[@]} == 33)) || die "there are ${#objects[@]} files"
echo "== wasi-ld"
run clang -- wasi-ld "${objects[@]}" -lsetjmp -lwasi-emulated-signal -lwasi-emulated-process-clocks -o lua.wasm
echo "== lua"
run - --output primes.txt -- ./lua.wasm sieve.lua primes.txt
digests lua.wasm primes.txt
