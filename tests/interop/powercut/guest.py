#!/usr/bin/python3
"""Runs inside the guest: starts the broker and carries connections between the serial line and the broker's port.

guest.py LINE PORT NOSYNC COMMAND [ARGUMENT ...]

A frame on the line is a connection's number and a length, two bytes each, and as many bytes; length 0 ends the
connection, and a number that is new begins one. Number 0 is for what the guest has to say, and for what the host wants of
it: `readonly` or `writable`. What the host has read from the line it keeps when the guest is cut off: so what an answer of
the broker promised is known outside.
"""

import ctypes
import os
import select
import socket
import struct
import subprocess
import sys
import termios
import time
import tty

FRAME_BYTES_MAX = 4000


def without_sync():
    """From here on fsync, fdatasync, msync, sync, sync_file_range and syncfs do nothing and say that all is well."""
    allow, succeed, x86_64 = 0x7FFF0000, 0x00050000, 0xC000003E
    load, equal, give = 0x20, 0x15, 0x06
    calls = (74, 75, 26, 162, 277, 306)
    program = [(load, 0, 0, 4), (equal, 1, 0, x86_64), (give, 0, 0, allow), (load, 0, 0, 0)]
    for at, call in enumerate(calls):
        program.append((equal, len(calls) - at, 0, call))
    program += [(give, 0, 0, allow), (give, 0, 0, succeed)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    set_no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
    given = Program(len(program), ctypes.addressof(code))
    if libc.prctl(set_no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_seccomp, filter_mode, ctypes.byref(given)):
        raise OSError(ctypes.get_errno(), "seccomp")


def obey(order):
    """Makes the disk read-only under the broker's open files, as a kernel does that has found it faulty, or gives it back."""
    if order == "readonly":
        with open("/proc/sysrq-trigger", "w") as trigger:
            trigger.write("u")
        while "/mnt ext4 rw" in open("/proc/mounts").read():
            time.sleep(0.01)
    elif order == "writable":
        subprocess.run(["mount", "-o", "remount,rw", "/mnt"], check=True)


def main():
    line_name, port, nosync, command = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "nosync", sys.argv[4:]
    line = os.open(line_name, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(line, termios.TCSANOW)

    def say(text):
        os.write(line, struct.pack(">HH", 0, len(text)) + text.encode())

    broker = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=without_sync if nosync else None)
    say("started")
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
            break
        except OSError:
            if broker.poll() is not None:
                say(f"the broker ended with {broker.returncode}")
                time.sleep(3600)
            time.sleep(0.01)
    say("ready")

    connections, numbers, waiting = {}, {}, {}
    poll = select.poll()
    poll.register(line, select.POLLIN)

    def end(number):
        connection = connections.pop(number)
        waiting.pop(number)
        numbers.pop(connection.fileno())
        poll.unregister(connection)
        connection.close()

    def write(number):
        try:
            waiting[number] = waiting[number][connections[number].send(waiting[number]) :]
        except BlockingIOError:
            pass
        except OSError:
            end(number)
            os.write(line, struct.pack(">HH", number, 0))
            return
        poll.modify(connections[number], select.POLLIN | (select.POLLOUT if waiting[number] else 0))

    buffer = b""
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == line:
                data = os.read(line, 65536)
                if not data:
                    # The host is gone; the first process ends, and the guest with it.
                    sys.exit()
                say(f"took {len(data)}")
                buffer += data
                while len(buffer) >= 4:
                    number, length = struct.unpack_from(">HH", buffer)
                    if len(buffer) < 4 + length:
                        break
                    data, buffer = buffer[4 : 4 + length], buffer[4 + length :]
                    if number == 0:
                        obey(data.decode())
                        say(data.decode())
                        continue
                    if length and number not in connections:
                        try:
                            connection = socket.create_connection(("127.0.0.1", port), 5)
                        except OSError:
                            if broker.poll() is not None:
                                say(f"the broker ended with {broker.returncode}")
                            os.write(line, struct.pack(">HH", number, 0))
                            continue
                        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        connection.setblocking(False)
                        connections[number], waiting[number] = connection, b""
                        numbers[connection.fileno()] = number
                        poll.register(connection, select.POLLIN)
                    if length:
                        waiting[number] += data
                        write(number)
                    elif number in connections:
                        end(number)
            elif descriptor in numbers:
                number = numbers[descriptor]
                if waiting[number]:
                    write(number)
                if number not in connections:
                    continue
                try:
                    data = connections[number].recv(FRAME_BYTES_MAX)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if not data:
                    end(number)
                frame = struct.pack(">HH", number, len(data)) + data
                while frame:
                    frame = frame[os.write(line, frame) :]


main()
