# shellcheck shell=bash
# The client libraries of Python at every door. Sourced by tests/interop/run.

check "the client libraries of Python install" until_installed installs_python
if [[ -f $work/installs_python.done ]]; then
  export PYTHONDONTWRITEBYTECODE=1
  for library in paho gmqtt aiomqtt; do
    checks "$library" timeout 120 "$work/python/bin/python" "$interop/try_$library.py"
  done
fi
