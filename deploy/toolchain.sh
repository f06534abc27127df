#!/usr/bin/env bash
# Makes this machine able to build Tidegate for ARM; run it once, and again whenever you like: what is there stays.
#
#   deploy/toolchain.sh [--from-source] [TRIPLE ...]      (without a triple: all that deploy/build.sh knows)
#
# Two things are needed beside cargo:
#
# 1. A linker and C compiler for every ARM generation: `ziglang` and `cargo-zigbuild`, of the versions named below,
#    from PyPI into a virtual environment of their own. Nothing else on the machine changes. It lies in
#    $TIDEGATE_TOOLCHAIN, or else in ~/.cache/tidegate/toolchain, where deploy/build.sh looks for it.
# 2. The target's standard library: by `rustup target add`. Where rustup is missing or cannot download, its source
#    instead, from which `deploy/build.sh` builds it along: Debian's package rust-src of exactly the installed
#    rustc's version, found and verified by apt in a directory of its own (no root, nothing is installed), and
#    linked to where cargo looks for it, <sysroot>/lib/rustlib/src/rust. `--from-source` goes there at once.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/targets.sh
source "$here/targets.sh"

# The pair that the builds were tried with; a newer zig may bring another musl.
zig_version=0.17.1
zigbuild_version=0.24.0
# Debian's suites, newest compiler last; the first that has the wanted version wins.
debian_suites="stable stable-backports testing unstable experimental"
debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

note() { echo "toolchain: $*"; }
fail() { echo "toolchain: $*" >&2; exit 1; }

from_source=no
triples=()
while (($#)); do
  case $1 in
    --from-source) from_source=yes ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) known_triple "$1" || fail "unknown argument '$1', expected --from-source or one of: $known_triples"
       triples+=("$1") ;;
  esac
  shift
done
((${#triples[@]})) || read -ra triples <<<"$known_triples"

command -v rustc >/dev/null || fail "no rustc found; install Rust from https://rustup.rs"
mkdir -p "$toolchain_dir"

install_linker() {
  if [[ $(cat "$toolchain_dir/zig/versions" 2>/dev/null) == "$zig_version $zigbuild_version" ]]; then
    note "linker: zig $zig_version with cargo-zigbuild $zigbuild_version is there"
    return
  fi
  command -v python3 >/dev/null || fail "no python3 found; the linker comes from PyPI (Debian: apt-get install python3-venv)"
  note "linker: installing zig $zig_version and cargo-zigbuild $zigbuild_version into $toolchain_dir/zig"
  rm -rf "$toolchain_dir/zig"
  python3 -m venv "$toolchain_dir/zig" || fail "python3 cannot make a virtual environment (Debian: apt-get install python3-venv)"
  "$toolchain_dir/zig/bin/pip" --quiet --disable-pip-version-check install \
    "ziglang==$zig_version" "cargo-zigbuild==$zigbuild_version"
  echo "$zig_version $zigbuild_version" >"$toolchain_dir/zig/versions"
}

# Asks rustup for the precompiled library; 2 minutes are ample for 30 MB, and a blocked network must not hang a build.
add_with_rustup() {
  command -v rustup >/dev/null || return 1
  timeout 120 rustup target add "$1" >"$toolchain_dir/rustup.log" 2>&1
}

add_source() {
  local version link work suite site package
  version=$(rustc --version | awk '{print $2}')
  link=$(std_source)
  if [[ -e $link/library/std/Cargo.toml ]]; then
    note "standard library: its source is at $link"
    return
  fi
  [[ -e $link ]] && fail "$link exists but holds no standard library; move it away, or: rustup component add rust-src"
  work=$toolchain_dir/rust-src-$version
  if [[ ! -f $work/usr/src/rustc-$version/library/std/Cargo.toml ]]; then
    command -v apt-get >/dev/null ||
      fail "rustup could not download and there is no apt-get; install the source of Rust $version's standard library at $link"
    # Where this machine's apt fetches Debian from: a mirror near by, perhaps the only door out.
    # shellcheck disable=SC2016  # apt reads $(SITE), not the shell
    site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 2>/dev/null | grep -E '/debian/?$' | sort -u | head -n 1)
    [[ -n $site ]] || fail "apt knows no Debian archive; add one to its sources and run: apt-get update"
    [[ -f $debian_keyring ]] || fail "$debian_keyring is missing (apt-get install debian-archive-keyring)"
    rm -rf "$work" "$work.apt"
    mkdir -p "$work.apt/lists/partial" "$work.apt/archives/partial"
    local apt=(-o Dir::Etc::sourcelist="$work.apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
      -o Dir::State::lists="$work.apt/lists" -o Dir::Cache="$work.apt" -o Dir::State::status=/dev/null
      -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o Acquire::Languages=none -o Debug::NoLocking=1
      -o APT::Sandbox::User="$(id -un)" -qq)
    for suite in $debian_suites; do
      echo "deb [signed-by=$debian_keyring] $site $suite main" >"$work.apt/sources.list"
      apt-get "${apt[@]}" update 2>"$work.apt/log" || continue
      package=$(apt-cache "${apt[@]}" madison rust-src | awk -v v="$version" 'index($3, v "+") == 1 || index($3, v "-") == 1 {print $3; exit}')
      [[ -n $package ]] || continue
      note "standard library: taking the source of Rust $version from Debian $suite (rust-src $package)"
      (cd "$work.apt" && apt-get "${apt[@]}" download "rust-src=$package") || continue
      mkdir -p "$work"
      dpkg-deb -x "$work.apt"/rust-src_*.deb "$work"
      break
    done
    [[ -f $work/usr/src/rustc-$version/library/std/Cargo.toml ]] ||
      fail "no Debian suite ($debian_suites) has rust-src $version; use a Rust whose source is at hand, or: rustup component add rust-src
$(cat "$work.apt/log" 2>/dev/null)"
    rm -rf "$work.apt"
  fi
  mkdir -p "$(dirname "$link")" || fail "cannot write $(dirname "$link"); run this as the user who owns the Rust installation"
  ln -sfn "$work/usr/src/rustc-$version" "$link"
  note "standard library: its source is at $link"
}

install_linker
for triple in "${triples[@]}"; do
  if std_installed "$triple"; then
    note "standard library: $triple is installed"
  elif [[ $from_source == no ]] && add_with_rustup "$triple"; then
    note "standard library: $triple came by rustup"
  else
    if [[ $from_source == no ]]; then
      note "standard library: rustup could not add $triple ($(tail -n 1 "$toolchain_dir/rustup.log" 2>/dev/null || echo "no rustup"))"
      # What failed once is not waited for again.
      from_source=yes
    fi
    add_source
  fi
done
note "ready: deploy/build.sh ${triples[0]}"
