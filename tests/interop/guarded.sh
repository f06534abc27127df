# shellcheck shell=bash
# A gateway as in the field: TLS, passwords, a state directory, and a serial port that comes and goes. Sourced by tests/interop/run.

certificates=$work/certificates
passwords=$work/passwords
secret="correct horse battery"
printf '%s\n' "$secret" >"$work/secret"

make_certificates() {
  tidegate cert --dir "$certificates" --name localhost --name 127.0.0.1
  openssl verify -CAfile "$certificates/ca.pem" "$certificates/server.pem"
  openssl x509 -in "$certificates/server.pem" -noout -ext subjectAltName >names.log
  grep -q DNS:localhost names.log
}
check "tidegate cert makes an authority and a certificate that openssl accepts" make_certificates

make_passwords() {
  tidegate passwd "$passwords" sensor --stdin <"$work/secret"
  grep -q "^sensor:[$]argon2id[$]" "$passwords"
  expect 600 "$(stat --format %a "$passwords")" "mode"
  refused grep -q "$secret" "$passwords"
}
check "tidegate passwd writes a hash that only its owner may write" make_passwords

take_over_passwords() {
  local file=$work/mosquitto-users name
  (umask 077 && : >"$file")
  mosquitto_passwd -b "$file" valve "water mark"
  mosquitto_passwd -b -H sha512 "$file" old "water mark"
  cp "$file" before
  for name in valve old; do
    tidegate passwd "$file" "$name" --check --stdin <<<"water mark"
    refused tidegate passwd "$file" "$name" --check --stdin <<<"water"
  done
  tidegate passwd "$file" old --stdin <<<"high tide"
  grep -q "^old:[$]argon2id[$]" "$file"
  expect "$(grep ^valve: before)" "$(grep ^valve: "$file")" "the line of another user"
}
check "tidegate passwd takes over what mosquitto_passwd wrote" take_over_passwords

# A gateway as in the field: TLS, passwords, a state directory, and a serial port that comes and goes.
guarded=$(free_port)
secure=$(free_port)
cat >"$work/gateway.toml" <<END
[gateway]
name = "site"
state_directory = "$work/state"

[authentication]
password_file = "$passwords"

[listener.local]
address = "127.0.0.1:$guarded"

[listener.secure]
address = "127.0.0.1:$secure"

[listener.secure.tls]
certificate = "$certificates/server.pem"
key = "$certificates/server-key.pem"

[serial.field]
path = "$work/field"
line = "9600 8N1"
reopen_min = "50ms"
reopen_max = "200ms"

[serial.field.lines]
device = "weather"
format = "key-value"
topic = "site/weather/{point}"
qos = 1
payload = "json"

[[serial.field.lines.point]]
name = "temperature"
key = "t"
unit = "C"

[[serial.field.lines.point]]
name = "humidity"
key = "h"
unit = "%"
END

checks_configuration() {
  tidegate check --config "$work/gateway.toml"
  sed 's/password_file/pasword_file/; s/9600 8N1/9600 8X1/' "$work/gateway.toml" >wrong.toml
  local status=0
  tidegate check --config wrong.toml >mistakes.log 2>&1 || status=$?
  expect 2 "$status" "exit code"
  grep -q 'wrong.toml:6' mistakes.log
  grep -q 'password_file' mistakes.log
  grep -q '8X1' mistakes.log
  status=0
  tidegate run --config wrong.toml >run.log 2>&1 || status=$?
  expect 2 "$status" "exit code of run"
}
check "tidegate check tells every mistake with its place and a wrong configuration does not start" checks_configuration

start_for_all gateway "$tidegate" run --config "$work/gateway.toml"
gateway=$!
wait_for_port "$secure" || { cat "$work/gateway.log"; die "tidegate run --config does not start"; }
over_tls=(-h localhost -p "$secure" --cafile "$certificates/ca.pem" -u sensor)

tls_delivers() {
  subscriber reader "${over_tls[@]}" -P "$secret" --tls-version "$1" -q 1 -t secured
  subscribed reader
  mosquitto_pub "${over_tls[@]}" -P "$secret" --tls-version "$1" -q 1 -t secured -m "over $1"
  received reader "over $1"
}
check "mosquitto's clients pass a message over TLS 1.2" tls_delivers tlsv1.2
check "mosquitto's clients pass a message over TLS 1.3" tls_delivers tlsv1.3

foreign_authority() {
  tidegate cert --dir foreign --name localhost
  refused mosquitto_pub -h localhost -p "$secure" --cafile foreign/ca.pem -u sensor -P "$secret" -t x -m x
  refused tidegate pub -h localhost -p "$secure" --cafile foreign/ca.pem -u sensor --password-file "$work/secret" -t x -m x
}
check "a client that trusts another authority does not connect" foreign_authority

wrong_password() {
  refused mosquitto_pub "${over_tls[@]}" -P wrong -V "$1" -t x -m x 2>answer.log
  grep -qiE 'not authori|bad user name or password' answer.log
  refused mosquitto_pub -h 127.0.0.1 -p "$guarded" -u nobody -P "$secret" -V "$1" -t x -m x
  refused mosquitto_pub -h 127.0.0.1 -p "$guarded" -V "$1" -t x -m x
  mosquitto_pub -h 127.0.0.1 -p "$guarded" -u sensor -P "$secret" -V "$1" -t x -m x
}
check "3.1.1: a wrong password, an unknown user and none at all are refused" wrong_password mqttv311
check "5.0: a wrong password, an unknown user and none at all are refused" wrong_password mqttv5

second_owner() {
  local status=0 port
  port=$(free_port)
  sed "s/$secure/$port/; s/$guarded/$(free_port)/" "$work/gateway.toml" >second.toml
  tidegate run --config second.toml >second.log 2>&1 || status=$?
  expect 1 "$status" "exit code"
  grep -q "$work/state" second.log
}
check "a second gateway with the same state directory does not start" second_owner
