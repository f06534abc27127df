# shellcheck shell=bash
# mosquitto_pub and mosquitto_sub, by plain TCP to the broker without configuration. Sourced by tests/interop/run.

delivers() {
  subscriber reader -h 127.0.0.1 -p "$plain" -V "$1" -q "$2" -t "field/+/reading"
  subscribed reader
  publish -V "$1" -q "$2" -t field/pump/reading -m "21.5 at $1 $2"
  received reader "21.5 at $1 $2"
  expect 1 "$(messages reader | wc -l)" "copies"
}
for version in mqttv31 mqttv311 mqttv5; do
  for qos in 0 1 2; do
    check "mosquitto_pub reaches mosquitto_sub over $version at QoS $qos" delivers "$version" "$qos"
  done
done

crosses_versions() {
  subscriber old -h 127.0.0.1 -p "$plain" -V mqttv31 -q 1 -t cross
  subscriber new -h 127.0.0.1 -p "$plain" -V mqttv5 -q 1 -t cross -F '%p %P'
  subscribed old
  subscribed new
  publish -V mqttv5 -q 1 -t cross -m hello -D publish user-property unit C
  received old hello
  received new 'hello unit:C'
}
check "a message of 5.0 reaches 3.1 without and 5.0 with its properties" crosses_versions

many_in_order() {
  subscriber reader -h 127.0.0.1 -p "$plain" -q 2 -t many
  subscribed reader
  seq 1 500 | publish -q 2 -t many -l
  received reader 500
  expect "$(seq 1 500 | md5sum)" "$(messages reader | md5sum)" "500 messages in order, each once"
}
check "500 messages at QoS 2 arrive once each and in order" many_in_order

large_payload() {
  head -c 45000 /dev/urandom | base64 -w 0 >payload
  subscriber reader -h 127.0.0.1 -p "$plain" -q 1 -t large
  subscribed reader
  publish -q 1 -t large -f payload
  eventually 20 has_message reader "$(cat payload)"
}
check "a payload of 60 kB arrives whole" large_payload

retained() {
  publish -q 1 -r -t kept/a -m first
  publish -q 1 -r -t kept/b -m second
  expect "1 first" "$(mosquitto_sub -h 127.0.0.1 -p "$plain" -t kept/a -C 1 -W 20 -F '%r %p')"
  publish -q 1 -r -t kept/a -n
  # kept/b is the witness: had kept/a still a message, it would come first.
  expect "second" "$(mosquitto_sub -h 127.0.0.1 -p "$plain" -t kept/a -t kept/b -C 1 -W 20)" "after clearing kept/a"
}
check "a retained message is kept, marked, and cleared by an empty one" retained

will() {
  subscriber witness -h 127.0.0.1 -p "$plain" -V "$1" -q 1 -t wills
  subscribed witness
  subscriber victim -h 127.0.0.1 -p "$plain" -V "$1" -t nothing --will-topic wills --will-payload "gone without a word" \
    --will-qos 1
  local victim=$!
  subscribed victim
  kill -KILL "$victim"
  received witness "gone without a word"
}
check "killing a 3.1.1 client sends its will" will mqttv311
check "killing a 5.0 client sends its will" will mqttv5

no_will() {
  subscriber witness -h 127.0.0.1 -p "$plain" -q 1 -t wills
  subscribed witness
  subscriber leaver -h 127.0.0.1 -p "$plain" -t nothing --will-topic wills --will-payload "should never be seen"
  local leaver=$!
  subscribed leaver
  kill -TERM "$leaver"
  eventually 20 gone "$leaver"
  publish -q 1 -t wills -m "the next on this topic"
  received witness "the next on this topic"
  expect 1 "$(messages witness | wc -l)" "messages"
}
check "a client that says goodbye sends no will" no_will

session_resumes() {
  mosquitto_sub -h 127.0.0.1 -p "$plain" -V "$1" -i "sleeper-$1" -c "${@:2}" -q 1 -t dreams -E
  publish -q 1 -t dreams -m "while you slept"
  expect "while you slept" \
    "$(mosquitto_sub -h 127.0.0.1 -p "$plain" -V "$1" -i "sleeper-$1" -c "${@:2}" -q 1 -t dreams -C 1 -W 20)"
}
check "a 3.1.1 session gets what came while it was away" session_resumes mqttv311
check "a 5.0 session gets what came while it was away" session_resumes mqttv5 -x 60

takeover() {
  subscriber first -h 127.0.0.1 -p "$plain" -V mqttv5 -i twin -t twins
  subscribed first
  mosquitto_sub -h 127.0.0.1 -p "$plain" -V mqttv5 -i twin -t twins -E
  wait_for_line first.log '^Received DISCONNECT \(142\)'
}
check "a second client with the same identifier takes the first one's place" takeover

garbage() {
  subscriber bystander -h 127.0.0.1 -p "$plain" -q 1 -t calm
  local bystander=$!
  subscribed bystander
  exec 3<>"/dev/tcp/127.0.0.1/$plain"
  printf '\x10\x0fnot MQTT at all\xff\xff\xff\xff' >&3
  # The broker closes; nothing but the end of the stream comes.
  timeout 20 cat <&3 >answer || [[ $? != 124 ]]
  exec 3>&-
  refused gone "$bystander"
  publish -q 1 -t calm -m "still here"
  received bystander "still here"
}
check "garbage costs the connection it came by and nobody else" garbage

serves_both_loopbacks() {
  local port
  port=$(free_port)
  start both "$tidegate" run --listen "127.0.0.1:$port" --listen "[::1]:$port"
  wait_for_port "$port"
  mosquitto_sub -h ::1 -p "$port" -t x -E
}
check "--listen may be given twice, and IPv6 is served" serves_both_loopbacks

port_in_use() {
  local status=0
  tidegate run --listen "127.0.0.1:$plain" >taken.log 2>&1 || status=$?
  expect 1 "$status" "exit code"
  grep -q "127.0.0.1:$plain" taken.log
}
check "a port in use ends the start with code 1 and a line that names it" port_in_use
