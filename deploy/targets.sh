# shellcheck shell=bash
# What deploy/build.sh and deploy/toolchain.sh both know; sourced, never run.

# The boards' triples (ARMv8 64-bit, ARMv7, ARMv6), then the one for trying a static binary on a PC.
known_triples="aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf arm-unknown-linux-musleabihf x86_64-unknown-linux-musl"
# Where deploy/toolchain.sh puts what it fetches.
# shellcheck disable=SC2034  # for whoever sources this
toolchain_dir=${TIDEGATE_TOOLCHAIN:-${XDG_CACHE_HOME:-$HOME/.cache}/tidegate/toolchain}

known_triple() { [[ " $known_triples " == *" $1 "* ]]; }
# Whether rustc has the precompiled standard library of this triple.
std_installed() { compgen -G "$(rustc --print sysroot)/lib/rustlib/$1/lib/libstd-*.rlib" >/dev/null; }
# Where cargo looks for the standard library's source.
std_source() { echo "$(rustc --print sysroot)/lib/rustlib/src/rust"; }
