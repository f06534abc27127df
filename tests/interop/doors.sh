# shellcheck shell=bash
# A gateway with every kind of door, for the clients of whole libraries; and mosquitto's programs at those doors.
# Sourced by tests/interop/run.

# Where the programs find the doors.
export DOOR_TCP DOOR_TLS DOOR_WS DOOR_WSS DOOR_UNIX DOOR_CA
DOOR_TCP=$(free_port)
DOOR_TLS=$(free_port)
DOOR_WS=$(free_port)
DOOR_WSS=$(free_port)
DOOR_UNIX=$work/mqtt.sock
DOOR_CA=$certificates/ca.pem
cat >"$work/doors.toml" <<END
[gateway]
name = "site"
response_topics = "replies"

[listener.tcp]
address = "127.0.0.1:$DOOR_TCP"

[listener.tls]
address = "127.0.0.1:$DOOR_TLS"

[listener.tls.tls]
certificate = "$certificates/server.pem"
key = "$certificates/server-key.pem"

[listener.ws]
address = "127.0.0.1:$DOOR_WS"

[listener.ws.websocket]

[listener.wss]
address = "127.0.0.1:$DOOR_WSS"

[listener.wss.websocket]

[listener.wss.tls]
certificate = "$certificates/server.pem"
key = "$certificates/server-key.pem"

[listener.unix]
address = "unix:$DOOR_UNIX"
mode = "0600"
END
start_for_all doors "$tidegate" run --config "$work/doors.toml"
doors=$!
wait_for_port "$DOOR_WSS" || { cat "$work/doors.log"; die "the gateway with all doors does not start"; }

# Debian's mosquitto_pub and mosquitto_sub know no WebSocket: TCP and TLS are tried above, Unix sockets here.
unix_delivers() {
  subscriber reader --unix "$DOOR_UNIX" -V "$1" -q 2 -t "socket/+"
  subscribed reader
  for qos in 0 1 2; do
    mosquitto_pub --unix "$DOOR_UNIX" -V "$1" -q "$qos" -t "socket/$1" -m "at $qos"
    received reader "at $qos"
  done
}
for version in mqttv31 mqttv311 mqttv5; do
  check "mosquitto_pub reaches mosquitto_sub over $version through a Unix socket" unix_delivers "$version"
done

unix_will() {
  subscriber witness --unix "$DOOR_UNIX" -q 1 -t wills
  subscribed witness
  subscriber victim --unix "$DOOR_UNIX" -t nothing --will-topic wills --will-payload "the socket is cut" --will-qos 1
  local victim=$!
  subscribed victim
  kill -KILL "$victim"
  received witness "the socket is cut"
}
check "killing a client at a Unix socket sends its will" unix_will

check "tidegate pub and sub speak with tidegate over TCP" our_clients 5 2 --url "mqtt://127.0.0.1:$DOOR_TCP"
check "tidegate pub and sub speak with tidegate over TLS" \
  our_clients 5 2 --url "mqtts://localhost:$DOOR_TLS" --cafile "$DOOR_CA"
check "tidegate pub and sub speak with tidegate over WebSocket" our_clients 3.1.1 2 --url "ws://127.0.0.1:$DOOR_WS/mqtt"
check "tidegate pub and sub speak with tidegate over secure WebSocket" \
  our_clients 5 2 --url "wss://localhost:$DOOR_WSS/mqtt" --cafile "$DOOR_CA"
check "tidegate pub and sub speak with tidegate through a Unix socket" our_clients 3.1 2 --unix "$DOOR_UNIX"
