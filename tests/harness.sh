# shellcheck shell=bash
# What tests/interop/run and tests/arm/run share; sourced, never run. Every check is a function; it says
# `ok 1 - name` or, with what it printed, `not ok 1 - name`. Whatever a check starts ends with it, by process id.

work=$(mktemp -d)
failed=0
passed=0

finish() {
  stop_all "$work/pids"
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { echo "# $*"; }
die() { echo "$*" >&2; exit 1; }

# Installs Debian's packages of the programs that are missing: need PROGRAM PACKAGE [PROGRAM PACKAGE ...]
need() {
  local missing=()
  while (($#)); do
    command -v "$1" >/dev/null || missing+=("$2")
    shift 2
  done
  ((${#missing[@]})) || return 0
  command -v apt-get >/dev/null || die "these programs are needed, by Debian's names: ${missing[*]}"
  [[ $(id -u) == 0 ]] || die "missing: ${missing[*]}; run: sudo apt-get install ${missing[*]}"
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -qq --no-install-recommends "${missing[@]}" >"$work/apt.log" 2>&1 ||
    { apt-get update -qq && apt-get install -qq --no-install-recommends "${missing[@]}"; } >"$work/apt.log" 2>&1 ||
    { cat "$work/apt.log" >&2; die "could not install ${missing[*]}"; }
}

# check NAME FUNCTION [ARGUMENT ...]: the function runs in a shell of its own that stops at the first failure.
check() {
  local name=$1 status
  shift
  set +e
  (
    set -euo pipefail
    mkdir -p "$work/check"
    cd "$work/check" || exit 1
    "$@"
  ) >"$work/check.log" 2>&1
  status=$?
  set -e
  stop_all "$work/check.pids"
  if ((status == 0)); then
    passed=$((passed + 1))
    echo "ok $((passed + failed)) - $name"
  else
    failed=$((failed + 1))
    echo "not ok $((passed + failed)) - $name"
    sed 's/^/#   /' "$work/check.log"
    local log
    for log in "$work"/check/*.log; do
      [[ -f $log ]] || continue
      echo "#   --- $(basename "$log")"
      tail -n 40 "$log" | sed 's/^/#   /'
    done
  fi
  rm -rf "$work/check"
}

# checks NAME COMMAND ...: a program that makes checks of its own and says `ok - …`, or `not ok - …` with the reasons as
# comments below, and ends with 0 when it has made them all. Its lines are numbered on.
checks() {
  local name=$1 line status=0 made=0
  shift
  while IFS= read -r line; do
    case $line in
      "ok - "*)
        passed=$((passed + 1)) made=$((made + 1))
        echo "ok $((passed + failed)) - ${line#ok - }" ;;
      "not ok - "*)
        failed=$((failed + 1)) made=$((made + 1))
        echo "not ok $((passed + failed)) - ${line#not ok - }" ;;
      *) echo "#   $line" ;;
    esac
  done < <("$@" 2>&1 </dev/null; echo "$?" >"$work/checks.status")
  wait $! || true
  status=$(cat "$work/checks.status")
  if ((status != 0 || made == 0)); then
    failed=$((failed + 1))
    echo "not ok $((passed + failed)) - $name comes to its end (exit code $status after $made checks)"
  fi
}

# Prints the sum; the exit code of the whole.
summary() {
  echo "# $passed ok, $failed not ok"
  ((failed == 0))
}

# start NAME COMMAND ...: runs it in the background until the check ends, its output in NAME.log, its id in $!.
start() {
  local name=$1
  shift
  "$@" >"$name.log" 2>&1 </dev/null &
  echo $! >>"$work/check.pids"
}

# The same for what outlives a check.
start_for_all() {
  local name=$1
  shift
  "$@" >"$work/$name.log" 2>&1 </dev/null &
  echo $! >>"$work/pids"
}

# Ends the processes whose ids stand in the file, and waits until they are gone.
stop_all() {
  [[ -f $1 ]] || return 0
  local pid
  while read -r pid; do
    kill "$pid" 2>/dev/null || continue
    eventually 10 gone "$pid" || kill -KILL "$pid" 2>/dev/null || true
  done <"$1"
  rm -f "$1"
}

# Gone, or dead and not yet waited for by its parent.
gone() { ! grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$1/status"; }

# eventually SECONDS COMMAND ...: asks again and again until it succeeds or the time is up.
eventually() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

# Waits until a file has a line that matches, at most 20 seconds; says so if it never has.
wait_for_line() {
  eventually 20 grep -qsE -- "$2" "$1" || { echo "no line of $1 matches: $2"; return 1; }
}

accepts() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

wait_for_port() {
  eventually "${2:-20}" accepts "$1" || { echo "nobody listens on port $1"; return 1; }
}

# A port of 127.0.0.1 that nobody listens on, from below the range the kernel hands out itself.
free_port() {
  local port
  while :; do
    port=$((10000 + RANDOM % 20000))
    grep -qsiE ":$(printf '%04X' "$port") [0-9A-F]+:[0-9A-F]{4} 0A" /proc/net/tcp /proc/net/tcp6 || break
  done
  echo "$port"
}

# expect WANTED FOUND [WHAT]
expect() {
  [[ $1 == "$2" ]] || { printf '%s: expected %q, found %q\n' "${3:-result}" "$1" "$2"; return 1; }
}

# Succeeds when the command fails; its output stays in the check's log.
refused() {
  if "$@"; then
    echo "succeeded but should have been refused: $*"
    return 1
  fi
}
