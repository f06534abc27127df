# shellcheck shell=bash
# Lines of sensors through the serial port of the guarded gateway; socat is the adapter and the sensor. Sourced by tests/interop/run.

mkfifo "$work/wire"
# Both ends, so that neither plugging nor unplugging ends the other.
exec 4<>"$work/wire"
plug() {
  socat -u "OPEN:$work/wire,rdonly" "PTY,link=$work/field,raw,echo=0" </dev/null >>"$work/socat.log" 2>&1 4>&- &
  adapter=$!
  echo "$adapter" >>"$work/pids"
}
has() { grep -qsE -- "$2" "$1.log"; }
sees() { eventually 20 has "$1" "$2" || { echo "$1 never saw: $2"; return 1; }; }
watch() { subscriber "$1" "${over_tls[@]}" -P "$secret" -q 1 -F '%t %p' "${@:2}"; subscribed "$1"; }

reads_sensor() {
  watch port -t site/port/field/status
  watch reader -t 'site/weather/#'
  sees port '^site/port/field/status online'
  # Whoever opens a port in the middle of a line throws its rest away; so the first may count or not.
  printf 't=0,h=0\r\nt=21.5,h=40\r\n' >&4
  sees reader '^site/weather/temperature \{"v":21.5,.*"q":"good","unit":"C"\}'
  sees reader '^site/weather/humidity \{"v":40,.*"q":"good","unit":"%"\}'
}
plug
check "a line from a serial port reaches mosquitto_sub over TLS" reads_sensor

tells_bad_values() {
  watch reader -t 'site/weather/temperature'
  printf 't=2~1.5,h=41\n' >&4
  sees reader '"v":null,.*"q":"bad"'
  printf 't=22.25,h=41\n' >&4
  sees reader '"v":22.25,.*"q":"good"'
  expect 2 "$(grep -c '^site/weather/temperature' reader.log)" "messages"
}
check "a garbled value is told as bad and the last good one is not repeated" tells_bad_values

survives_unplugging() {
  watch port -t site/port/field/status
  watch device -t site/device/weather/status
  watch reader -t site/weather/temperature
  sees device '^site/device/weather/status online'
  # The adapter of the whole script, unplugged and plugged in again from this check's shell.
  kill "$adapter"
  sees port '^site/port/field/status offline'
  sees device '^site/device/weather/status offline'
  plug
  eventually 20 last_is port 'site/port/field/status online'
  printf 't=0,h=0\nt=-3.5,h=90\n' >&4
  sees reader '"v":-3.5,.*"q":"good"'
  eventually 20 last_is device 'site/device/weather/status online'
}
last_is() { [[ $(messages "$1" | tail -n 1) == "$2" ]]; }
check "pulling the adapter says offline, plugging it in again says online and reads on" survives_unplugging
