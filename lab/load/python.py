"""What a Python does on an ordinary system, over and over: threads, children, callbacks into C, files that lose their names."""

import ctypes
import hashlib
import json
import mmap
import os
import socket
import subprocess
import tempfile
import threading
import time

LIBC = ctypes.CDLL(None)
COMPARE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))


def sort_by_callback():
    """A function that C code calls is a piece of code made at run time."""
    numbers = (ctypes.c_int * 64)(*[(n * 37) % 64 for n in range(64)])
    LIBC.qsort(numbers, len(numbers), ctypes.sizeof(ctypes.c_int), COMPARE(lambda a, b: a[0] - b[0]))
    assert list(numbers) == list(range(64))


def children():
    done = subprocess.run(["/bin/busybox", "sh", "-c", "ls /proc | wc -l"], capture_output=True, check=True)
    json.dumps({"lines": done.stdout.decode()})
    child = os.fork()
    if child == 0:
        time.sleep(0.2)
        os._exit(0)
    os.waitpid(child, 0)


def nameless_files():
    with tempfile.TemporaryFile() as file, mmap.mmap(-1, 1 << 16) as shared:
        file.write(hashlib.sha256(shared[:]).digest())
        file.flush()
    memory = os.memfd_create("buffer")
    os.write(memory, b"x" * 4096)
    with mmap.mmap(memory, 4096):
        time.sleep(0.05)
    os.close(memory)


def talk():
    one, other = socket.socketpair()
    with one, other, socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            accepted, _ = server.accept()
            with accepted:
                socket.send_fds(one, [b"x"], [accepted.fileno()])
                _, descriptors, _, _ = socket.recv_fds(other, 1, 1)
                client.sendall(b"hello")
                os.close(descriptors[0])


while True:
    threads = [threading.Thread(target=act) for act in (sort_by_callback, children, nameless_files, talk)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    time.sleep(0.3)
