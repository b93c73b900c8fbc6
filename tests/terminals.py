"""A terminal to run the command in, as a user does; POSIX alone has one."""

import fcntl
import os
import pty
import subprocess
import sys
import termios
import threading


class Terminal:
    """A process that a terminal belongs to, and what it shows there."""

    def __init__(self, command, columns=100):
        self.master, slave = pty.openpty()
        size = (40).to_bytes(2, sys.byteorder) + columns.to_bytes(2, sys.byteorder)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, size + bytes(4))
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(slave)
        self.text = ""
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        shown = b""
        while True:
            try:
                piece = os.read(self.master, 4096)
            except OSError:  # nobody writes any more
                break
            if not piece:
                break
            shown += piece
            self.text = shown.decode(errors="replace")

    def press(self, keys):
        os.write(self.master, keys)

    def end(self, seconds=60):
        status = self.process.wait(seconds)
        self.reader.join()
        os.close(self.master)
        return status
