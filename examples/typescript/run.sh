#!/usr/bin/env bash
# Two TypeScript files become one small JavaScript file.
. "$(dirname "$0")/../lib.sh"
toolchain esbuild
cp "$example"/*.ts .
echo "== esbuild"
run esbuild --output app.js --output app.js.map -- \
  esbuild app.ts --bundle --minify --sourcemap --log-level=warning --outfile=app.js
cat app.js
digests app.js app.js.map
if command -v node > /dev/null; then
  echo "== node"
  node app.js
fi
