#!/usr/bin/env bash
# Puts Tidegate on this machine, or below a directory for whoever makes a package or an image. Run it again to update:
# it never touches what somebody configured.
#
#   deploy/install.sh [--root DIRECTORY] [--prefix /usr/local] BINARY
#
#   --root DIRECTORY   the root of the system to install into; nothing outside it is touched and nothing is started
#   --prefix PREFIX    where the binary goes: PREFIX/bin; packages say /usr
#   BINARY             what deploy/build.sh printed, or target/release/tidegate
#
# Without --root it also makes the user `tidegate` and tells systemd of the unit; enabling it is left to you.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fail() { echo "install: $*" >&2; exit 1; }

root=
prefix=/usr/local
binary=
while (($#)); do
  case $1 in
    --root) root=${2:?--root needs a directory}; shift ;;
    --prefix) prefix=${2:?--prefix needs a directory}; shift ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    -*) fail "unknown option '$1', expected --root or --prefix" ;;
    *) [[ -z $binary ]] || fail "more than one binary given: $binary and $1"; binary=$1 ;;
  esac
  shift
done
[[ -n $binary ]] || fail "no binary given; build one with deploy/build.sh TRIPLE"
[[ -f $binary ]] || fail "$binary is not there; build it with deploy/build.sh TRIPLE"
[[ $prefix == /* ]] || fail "--prefix must be absolute, found $prefix"
if [[ -n $root ]]; then
  mkdir -p "$root"
  root=$(cd "$root" && pwd)
elif [[ $(id -u) != 0 ]]; then
  fail "only root may install into the running system; use sudo, or --root DIRECTORY"
fi

# A rename, so that a running gateway keeps its binary until it restarts, and a power cut leaves the old or the new.
place() {
  install -D --mode "$1" "$2" "$root$3.new"
  mv -f "$root$3.new" "$root$3"
  echo "install: $root$3"
}

place 0755 "$binary" "$prefix/bin/tidegate"
unit=$(mktemp)
trap 'rm -f "$unit"' EXIT
sed "s|^ExecStart=/usr/bin/|ExecStart=$prefix/bin/|" "$here/tidegate.service" >"$unit"
# What the administrator installs by hand has its own place; a package's is below /usr.
system=/etc
[[ $prefix == /usr ]] && system=/usr/lib
place 0644 "$unit" "$system/systemd/system/tidegate.service"
place 0644 "$here/sysusers.conf" "$system/sysusers.d/tidegate.conf"
place 0644 "$here/tmpfiles.conf" "$system/tmpfiles.d/tidegate.conf"
place 0644 "$here/modules-load.conf" "$system/modules-load.d/tidegate.conf"
place 0644 "$here/tidegate.example.toml" "$prefix/share/doc/tidegate/tidegate.example.toml"

[[ -z $root ]] || exit 0
if command -v systemd-sysusers >/dev/null; then
  systemd-sysusers
  systemd-tmpfiles --create "$system/tmpfiles.d/tidegate.conf"
elif ! id tidegate >/dev/null 2>&1; then
  fail "no systemd-sysusers found; make the user tidegate (home /var/lib/tidegate) and /etc/tidegate by hand"
fi
# Fails where systemd is installed but not running, as in a container; the next boot reads the unit anyway.
systemctl daemon-reload 2>/dev/null || true
cat <<EOF
Next:
  cp $prefix/share/doc/tidegate/tidegate.example.toml /etc/tidegate/tidegate.toml    (and edit it)
  tidegate check --config /etc/tidegate/tidegate.toml
  systemctl enable --now tidegate
EOF
