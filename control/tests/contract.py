"""Holds a running guest to docs/openapi.json, with schemathesis.

usage: contract.py TRAPLINE OPENAPI [EXAMPLES]     (needs `pip install schemathesis`, and /dev/kvm of a PC)

schemathesis speaks to TCP, so a thread here carries its connections to the guest's socket. A guest
that was told to stop is started again for the next one.
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading


class Guest:
    """A guest that is there whenever somebody connects."""

    def __init__(self, trapline, rom, folder):
        self.command = [trapline, "run", "--firmware", rom, "-m", "4", "-c", "2", "--balloon"]
        self.command += ["--name", "contract"]
        self.environment = dict(os.environ, XDG_RUNTIME_DIR=folder)
        self.path = os.path.join(folder, "trapline", "contract.sock")
        self.process = None
        self.starts = 0
        self.turn = threading.Lock()

    def connect(self):
        with self.turn:
            while True:
                if self.process is None or self.process.poll() is not None:
                    status = None if self.process is None else self.process.returncode
                    if status not in (None, 0):
                        print(f"contract: the guest has ended with {status}", flush=True)
                        os._exit(1)
                    self.process = subprocess.Popen(
                        self.command, env=self.environment, stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    self.starts += 1
                client = socket.socket(socket.AF_UNIX)
                try:
                    client.connect(self.path)
                    return client
                except (FileNotFoundError, ConnectionRefusedError):
                    client.close()


def spin():
    """A firmware image that takes non-maskable interrupts and does nothing else."""
    code = bytes.fromhex(
        "31c0 8ed8 8ed0 bc007c"  # xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7c00
        "c70608001600"  # mov word [2 * 4], handler
        "8c0e0a00"  # mov [2 * 4 + 2], cs
        "f4 ebfd"  # again: hlt; jmp again
        "cf"  # handler: iret
    )
    image = code.ljust(0xFFF0, b"\xf4") + bytes([0xEA, 0, 0, 0, 0xF0])  # jmp f000:0000
    return image.ljust(0x10000, b"\0")


def carry(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    try:
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def serve(listener, guest):
    while True:
        client, _ = listener.accept()
        ours = guest.connect()
        for ends in ((client, ours), (ours, client)):
            threading.Thread(target=carry, args=ends, daemon=True).start()


def main():
    trapline, openapi = map(os.path.abspath, sys.argv[1:3])
    examples = sys.argv[3] if len(sys.argv) > 3 else "20"
    with tempfile.TemporaryDirectory() as folder:
        rom = os.path.join(folder, "spin.rom")
        with open(rom, "wb") as file:
            file.write(spin())
        guest = Guest(trapline, rom, folder)
        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=serve, args=(listener, guest), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = ["run", openapi, "--url", url, "--checks", "all", "--phases",
                   "examples,coverage,fuzzing", "--max-examples", examples, "--seed", "1",
                   "--request-timeout", "30", "--no-color",
                   # Their answers have no end of their own.
                   "--exclude-path", "/trace", "--exclude-path", "/breaks"]
        status = subprocess.run(
            # What it keeps of a run goes with the folder.
            [sys.executable, "-m", "schemathesis.cli", *command], cwd=folder).returncode
        if guest.process is not None:
            guest.process.kill()
            guest.process.wait()
        print(f"contract: the guest was started {guest.starts} times")
        raise SystemExit(status)


main()
