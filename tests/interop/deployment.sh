# shellcheck shell=bash
# What deploy/ installs, and systemd's opinion of it. Sourced by tests/interop/run.

installs() {
  local root=$PWD/root
  for _ in first again; do
    "$repository/deploy/install.sh" --root "$root" --prefix /usr "$tidegate" >install.log
  done
  expect 755 "$(stat --format %a "$root/usr/bin/tidegate")" "mode"
  # The unit as installed, but with the binary where it lies here, for systemd asks whether it can be executed.
  sed "s|^ExecStart=/usr|ExecStart=$root/usr|" "$root/usr/lib/systemd/system/tidegate.service" >tidegate.service
  systemd-analyze verify "$PWD/tidegate.service" 2>verify.log
  # Lines of other units of this machine do not count.
  refused grep tidegate.service verify.log
  cp "$root/usr/share/doc/tidegate/tidegate.example.toml" "$root/tidegate.toml"
  cmp "$root/tidegate.toml" "$repository/deploy/tidegate.example.toml"
}
check "deploy/install.sh installs twice into a directory and systemd accepts the unit" installs

unit_starts_what_exists() {
  # Every word of ExecStart after the binary is a command or an option that the binary knows.
  local line
  line=$(sed -n 's/^ExecStart=[^ ]* //p' "$repository/deploy/tidegate.service")
  expect "run --config /etc/tidegate/tidegate.toml" "$line" "ExecStart"
  tidegate run --help >help.log
  grep -q -- '--config' help.log
}
check "the unit starts the gateway by options it has" unit_starts_what_exists
