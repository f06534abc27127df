# shellcheck shell=bash
# tidegate pub and tidegate sub with a mosquitto, and with ourselves. Sourced by tests/interop/run.

theirs=$(free_port)
theirs_secure=$(free_port)
cat >"$work/mosquitto.conf" <<END
allow_anonymous true
listener $theirs 127.0.0.1
listener $theirs_secure 127.0.0.1
cafile $certificates/ca.pem
certfile $certificates/server.pem
keyfile $certificates/server-key.pem
END
# Started by root it would give its rights up, and could then not read what root keeps to itself.
[[ $(id -u) != 0 ]] || echo "user root" >>"$work/mosquitto.conf"
start_for_all mosquitto "$mosquitto" -c "$work/mosquitto.conf"
wait_for_port "$theirs" || { cat "$work/mosquitto.log"; die "mosquitto does not start"; }

# our_clients VERSION QOS SERVER ...: retained, so that the order of the two does not matter.
our_clients() {
  local version=$1 qos=$2
  shift 2
  tidegate pub "$@" -V "$version" -q "$qos" -r -t "ours/$version/$qos" -m "by our own $version $qos"
  expect "ours/$version/$qos by our own $version $qos" \
    "$(tidegate sub "$@" -V "$version" -q "$qos" -t "ours/$version/#" -T "ours/$version/none" -C 1 -v -W 20)"
  tidegate pub "$@" -V "$version" -q "$qos" -r -t "ours/$version/$qos" -n
}
for version in 3.1 3.1.1 5; do
  for qos in 0 1 2; do
    check "tidegate pub and sub speak $version at QoS $qos with mosquitto" our_clients "$version" "$qos" -h 127.0.0.1 -p "$theirs"
  done
done
check "tidegate pub and sub speak with mosquitto over TLS" \
  our_clients 5 1 -h localhost -p "$theirs_secure" --cafile "$certificates/ca.pem"
check "tidegate pub and sub speak with tidegate over TLS and with a password" \
  our_clients 5 2 "${over_tls[@]}" --password-file "$work/secret"

our_lines() {
  # Not by 5.0: on a busy machine mosquitto 2.0.11 was once seen to send more than the receive maximum it was told, and
  # our client then ends the connection.
  start reader "$tidegate" sub -h 127.0.0.1 -p "$1" -V 3.1.1 -q 2 -t ours/lines
  # The subscription is there when a canary comes through.
  eventually 20 canary_arrives "$1"
  seq 1 299 | tidegate pub -h 127.0.0.1 -p "$1" -q 2 -t ours/lines -l
  eventually 20 has reader '^299$'
  expect "$(seq 1 299 | md5sum)" "$(grep -v canary reader.log | md5sum)" "299 lines in order"
}
canary_arrives() {
  tidegate pub -h 127.0.0.1 -p "$1" -q 1 -t ours/lines -m canary
  has reader '^canary$'
}
check "tidegate pub sends the lines of its input in order" our_lines "$theirs"

our_will() {
  subscriber witness -h 127.0.0.1 -p "$theirs" -q 1 -t ours/wills
  subscribed witness
  start victim "$tidegate" sub -h 127.0.0.1 -p "$theirs" -t ours/nothing -t ours/ready -v \
    --will-topic ours/wills --will-payload "ours is gone" --will-qos 1
  local victim=$!
  mosquitto_pub -h 127.0.0.1 -p "$theirs" -r -t ours/ready -m yes
  wait_for_line victim.log 'ours/ready yes'
  kill -KILL "$victim"
  received witness "ours is gone"
}
check "killing tidegate sub sends its will" our_will

our_timeout() {
  local status=0
  tidegate sub -h 127.0.0.1 -p "$theirs" -t ours/silence -C 1 -W 0.2 || status=$?
  expect 27 "$status" "exit code"
  status=0
  tidegate pub -h 127.0.0.1 -p "$(free_port)" -t x -m x || status=$?
  expect 1 "$status" "exit code without a server"
}
check "tidegate sub and pub end with the exit codes they document" our_timeout
