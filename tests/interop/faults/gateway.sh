# shellcheck shell=bash
# A configuration that keeps what it acknowledges, for the tests that take power, disk or life away. Sourced by the scripts
# called run, and by measure.

# keeping MODE FOLDER PORT [LINE OF JOURNAL ...]: durable, relaxed or memory; queues are long, for readers are away for a
# whole round.
keeping() {
  cat <<END
[gateway]
state_directory = "$2"
log = "warn"
[journal]
mode = "$1"
$(printf '%s\n' "${@:4}")
[limits]
queue_messages_max = 4096
queue_bytes_max = "16 MiB"
queued_bytes_total_max = "64 MiB"
[listener.here]
address = "127.0.0.1:$3"
END
}
