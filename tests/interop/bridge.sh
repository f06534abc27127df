# shellcheck shell=bash
# A mosquitto that bridges to us. Sourced by tests/interop/run.

# bridge PORT VERSION: a mosquitto whose topics are ours and ours its, all of them, both ways.
bridge() {
  cat >bridge.conf <<END
listener $1 127.0.0.1
allow_anonymous true
connection upstream
address 127.0.0.1:$plain
topic bridged/# both 1
try_private true
bridge_protocol_version $2
restart_timeout 1
remote_clientid bridge-$2
END
  [[ $(id -u) != 0 ]] || echo "user root" >>bridge.conf
  start hub "$mosquitto" -c bridge.conf
}
bridged() {
  local state="\$SYS/broker/connection/bridge-$1/state" port hub
  port=$(free_port)
  bridge "$port" "$1"
  hub=$!
  expect 1 "$(mosquitto_sub -h 127.0.0.1 -p "$plain" -V mqttv311 -t "$state" -C 1 -W 20)" "state"
  subscriber here -h 127.0.0.1 -p "$plain" -q 1 -t 'bridged/#' -F '%t %p'
  subscriber there -h 127.0.0.1 -p "$port" -q 1 -t 'bridged/#' -F '%t %p'
  subscribed here
  subscribed there
  publish -q 1 -r -t bridged/down -m "from here"
  received there "bridged/down from here"
  mosquitto_pub -h 127.0.0.1 -p "$port" -q 1 -r -t bridged/up -m "from there"
  received here "bridged/up from there"
  # What comes last both ways shows that nothing came twice before it.
  publish -q 1 -t bridged/down -m last
  mosquitto_pub -h 127.0.0.1 -p "$port" -q 1 -t bridged/up -m last
  for side in here there; do
    received "$side" "bridged/down last"
    received "$side" "bridged/up last"
    expect 4 "$(messages "$side" | wc -l)" "messages $side"
  done
  expect "1 from here" "$(mosquitto_sub -h 127.0.0.1 -p "$port" -t bridged/down -C 1 -W 20 -F '%r %p')" "retained there"
  expect "1 from there" "$(mosquitto_sub -h 127.0.0.1 -p "$plain" -t bridged/up -C 1 -W 20 -F '%r %p')" "retained here"
  subscriber watch -h 127.0.0.1 -p "$plain" -q 1 -t "$state"
  received watch 1
  kill -KILL "$hub"
  received watch 0
  for topic in bridged/down bridged/up "$state"; do publish -q 1 -r -t "$topic" -n; done
}
for version in mqttv31 mqttv311; do
  check "a mosquitto bridges to us over $version: no echo, what is retained stays so" bridged "$version"
done
