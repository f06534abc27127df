# shellcheck shell=bash
# The client libraries of Python at every door. Sourced by tests/interop/run.

check "the client libraries of Python install" until_installed installs_python
if [[ -f $work/installs_python.done ]]; then
  export PYTHONDONTWRITEBYTECODE=1
  for story in try_paho.py try_gmqtt.py try_aiomqtt.py; do
    checks "${story%.py}" timeout 120 "$work/python/bin/python" "$interop/$story"
  done
fi
