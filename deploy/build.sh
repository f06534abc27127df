#!/usr/bin/env bash
# Builds the static release binary for one kind of board.
#
#   deploy/build.sh TRIPLE [argument for cargo ...]
#
#   aarch64-unknown-linux-musl       64-bit systems: Pi 3, 4, 5, Zero 2 W, Rock, i.MX8
#   armv7-unknown-linux-musleabihf   32-bit systems on ARMv7: BeagleBone Black, i.MX6ULL, STM32MP1, Pi 2
#   arm-unknown-linux-musleabihf     ARMv6: Pi Zero, Zero W, Pi 1; runs on every 32-bit Raspberry Pi OS
#   x86_64-unknown-linux-musl        an industrial PC, or trying a static binary at your desk
#
# The linker is `cargo zigbuild`; the standard library is built along from its source (-Zbuild-std) where that is
# there, which makes the smaller binary, or else is the target's own. deploy/toolchain.sh fetches what is missing. People with Docker may
# instead run `cross build --release --target TRIPLE` (Cross.toml) with nothing of this installed.
# It ends by printing the binary's path, its size and what readelf says of it, and fails if the binary is not static
# or asks for a newer ARM than the triple's.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/targets.sh
source "$here/targets.sh"

fail() { echo "build: $*" >&2; exit 1; }

triple=${1-}
[[ -n $triple ]] || { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 2; }
known_triple "$triple" || fail "unknown triple '$triple', expected one of: $known_triples"
shift

[[ -d $toolchain_dir/zig/bin ]] && PATH=$toolchain_dir/zig/bin:$PATH
command -v cargo >/dev/null || fail "no cargo found; install Rust from https://rustup.rs"
command -v cargo-zigbuild >/dev/null ||
  fail "no cargo-zigbuild found; run deploy/toolchain.sh $triple, or with Docker: cross build --release --target $triple"

build=(cargo zigbuild --release --locked --target "$triple")
# Built for size: for speed, as Cargo.toml has it for a PC, aarch64 would weigh 3,247,704 bytes instead of 2,760,296, and
# at "s" 3,133,056.
build+=(--config 'profile.release.opt-level="z"')
# What is called from many places is copied into them less readily than usual; at 100 the same is 3,148,824 bytes.
export RUSTFLAGS="${RUSTFLAGS-} -C llvm-args=--inline-threshold=25"
if [[ -f $(std_source)/library/std/Cargo.toml ]]; then
  how="a standard library built from source"
  # Without the default features: a stripped binary has no names that a backtrace could tell.
  build+=("-Zbuild-std=std,panic_abort" "-Zbuild-std-features=optimize_for_size")
  # -Z is for nightly compilers; this says that we mean it. The source is of exactly this compiler's version.
  export RUSTC_BOOTSTRAP=1
  # Only the precompiled library brings musl's start files along; without it they come from zig.
  export RUSTFLAGS="${RUSTFLAGS-} -C link-self-contained=no"
elif std_installed "$triple"; then
  how="the installed standard library"
else
  fail "neither the standard library of $triple nor its source is installed; run deploy/toolchain.sh $triple, or rustup target add $triple"
fi

# A panic ends the process where it stands, so nothing ever walks these tables; they would be an eighth of the binary.
export RUSTFLAGS="${RUSTFLAGS-} -C force-unwind-tables=no"

cd "$here/.."
# Downloads come first: the names of their folders are needed below.
cargo fetch --quiet --locked --target "$triple"
# Panics name their source file: without the folders of the machine that built it, which are nobody's business, make two
# builds differ, and cost 20 KB.
for sources in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/; do
  RUSTFLAGS+=" --remap-path-prefix=${sources%/}=crates"
done
RUSTFLAGS+=" --remap-path-prefix=$(rustc --print sysroot)/lib/rustlib/src/rust=rust --remap-path-prefix=$PWD=tidegate"
echo "build: $triple with $how"
"${build[@]}" --bin tidegate "$@"

binary=${CARGO_TARGET_DIR:-target}/$triple/release/tidegate
echo "build: $binary"
echo "build: $(stat --format %s "$binary") bytes"

if ! command -v readelf >/dev/null; then
  echo "build: no readelf found (Debian: apt-get install binutils); what the binary needs was not checked"
  exit 0
fi
# The C library prints nothing here in another language than the patterns below.
export LC_ALL=C
header=$(readelf --file-header "$binary")
field() { sed -n "s/^ *$1: *//p" <<<"$header"; }
echo "build: $(field Class), $(field Machine), $(field Type)"

if readelf --program-headers "$binary" | grep -q INTERP || readelf --dynamic "$binary" | grep -q NEEDED; then
  readelf --dynamic "$binary" | grep NEEDED >&2 || true
  fail "$binary is not static"
fi
echo "build: static"

case $triple in
  arm*)
    attributes=$(readelf --arch-specific "$binary")
    architecture=$(sed -n 's/^ *Tag_CPU_arch: *//p' <<<"$attributes")
    echo "build: ARM architecture $architecture, float arguments in $(sed -n 's/^ *Tag_ABI_VFP_args: *//p' <<<"$attributes")"
    case $triple:$architecture in
      arm-*:v4* | arm-*:v5* | arm-*:v6*) ;;
      armv7-*:v4* | armv7-*:v5* | armv7-*:v6* | armv7-*:v7) ;;
      *) fail "$binary asks for ARM $architecture, more than $triple has" ;;
    esac
    ;;
esac
