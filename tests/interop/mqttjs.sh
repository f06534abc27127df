# shellcheck shell=bash
# mqtt.js at every door. Sourced by tests/interop/run.

check "mqtt.js installs" until_installed installs_node
if [[ -f $work/installs_node.done ]]; then
  checks "mqtt.js" timeout 120 node "$work/node/mqttjs.mjs"
fi
