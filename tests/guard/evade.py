"""Ways round a rule about a process, run inside of a guest. The rule lets out /opt/good/py; /opt/bad/py is the same program.

evade.py WAY PORT: tries to reach the server from the local port. Prints the way with REACHED or STOPPED.
"""
import array, ctypes, os, select, socket, struct, subprocess, sys, time

OWN, SERVER = "10.0.8.2", ("192.0.2.1", 1000)
WAIT_S = 4


def tcp(port):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((OWN, port))
    s.setblocking(False)
    return s


def begin(s):
    assert s.connect_ex(SERVER) in (0, 115)


def finish(way, s):
    _, ready, _ = select.select([], [s], [], WAIT_S)
    print(way, "REACHED" if ready and s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0 else "STOPPED", flush=True)


def give(channel, s):
    channel.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fileno()]))])


def take(channel):
    _, told, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(4))
    return socket.socket(fileno=struct.unpack("i", told[0][2][:4])[0])


def run(program, way, port, channel):
    os.set_inheritable(channel.fileno(), True)
    command = [f"/opt/{program}/py", sys.argv[0], way, port, str(channel.fileno())]
    return subprocess.Popen(command, close_fds=False)


way, port = sys.argv[1], sys.argv[2]
if way in ("plain", "decoy"):
    s = tcp(int(port))
    begin(s)
    finish(way, s)
elif way == "stays":
    s = tcp(int(port))
    begin(s)
    open("/tmp/stays", "w").close()
    time.sleep(20)
elif way == "shared":
    # The good one has the socket too, and need not know what for.
    ours, theirs = socket.socketpair()
    s = tcp(int(port))
    give(ours, s)
    holder = run("good", "holds", port, theirs)
    assert ours.recv(1) == b"x"
    begin(s)
    finish(way, s)
    holder.kill()
elif way == "handed":
    # The good one opens it, and gives it away.
    ours, theirs = socket.socketpair()
    giver = run("good", "gives", port, theirs)
    s = take(ours)
    giver.wait()
    begin(s)
    finish(way, s)
elif way == "underway":
    # Nobody has it: it is in a message that nobody has read.
    ours, theirs = socket.socketpair()
    s = tcp(int(port))
    begin(s)
    give(ours, s)
    s.close()
    time.sleep(WAIT_S)
    finish(way, take(theirs))
elif way == "friend":
    # It becomes the good one, and leaves somebody behind who has the socket.
    s = tcp(int(port))
    if os.fork() == 0:
        begin(s)
        finish(way, s)
    else:
        os.set_inheritable(s.fileno(), True)
        os.execv("/opt/good/py", ["/opt/good/py", sys.argv[0], "sleeps", port])
elif way == "becomes":
    # It becomes the good one, all of it: from then on it is.
    s = tcp(int(port))
    os.set_inheritable(s.fileno(), True)
    os.execv("/opt/good/py", ["/opt/good/py", sys.argv[0], "goes-on", port, str(s.fileno())])
elif way == "moves":
    # To another network namespace; the socket stays where it was made.
    s = tcp(int(port))
    assert ctypes.CDLL(None).unshare(0x40000000) == 0
    begin(s)
    finish(way, s)
elif way == "raw":
    # Without any socket of TCP's.
    head = struct.pack("!HHIIBBHHH", int(port), SERVER[1], 1, 0, 5 << 4, 2, 1000, 0, 0)
    pseudo = socket.inet_aton(OWN) + socket.inet_aton(SERVER[0]) + struct.pack("!HH", 6, len(head))
    total = sum(struct.unpack("!16H", pseudo + head))
    total = (total >> 16) + (total & 0xFFFF)
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    s.sendto(head[:16] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[18:], (SERVER[0], 0))
    print(way, "sent", flush=True)
elif way == "holds":
    channel = socket.socket(fileno=int(sys.argv[3]))
    s = take(channel)
    channel.send(b"x")
    time.sleep(60)
elif way == "gives":
    channel = socket.socket(fileno=int(sys.argv[3]))
    give(channel, tcp(int(port)))
elif way == "goes-on":
    s = socket.socket(fileno=int(sys.argv[3]))
    begin(s)
    finish("becomes", s)
elif way == "sleeps":
    time.sleep(WAIT_S + 1)
