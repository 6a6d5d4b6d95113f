"""Connections from and to a network namespace, for the tests of the firewall.

serve: answers on the TCP and UDP ports given. try: reads probes as JSON from standard input and tells which were answered.
hold: keeps one TCP connection (from ADDRESS, or ADDRESS#PORT) and says for every line on standard input whether bytes still pass. count: keeps the numbers of the datagrams that come to a port. flood: sends numbered datagrams all the time. send: sends a frame of `FRAMES`, by name.
remember: has a recorded guest's RAM in its memory, as the QEMU has that it stands for. collect: takes HTTP posts, and appends what is in them to a file.
"""
import json, mmap, os, select, socket, struct, sys, time


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def serve(ports):
    tcp, udp, streams = {}, [], {}
    for port in ports:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            s = socket.socket(socket.AF_INET6, kind)
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            from_any(s)
            s.bind(("::", port))
            if kind == socket.SOCK_STREAM:
                s.listen(512)
                tcp[s.fileno()] = s
            else:
                udp.append(s)
    print("ready", flush=True)
    poll = select.poll()
    by_fd = dict(tcp)
    by_fd.update({s.fileno(): s for s in udp})
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            try:
                if fd in tcp:
                    stream, _ = tcp[fd].accept()
                    streams[stream.fileno()] = stream
                    poll.register(stream.fileno(), select.POLLIN)
                elif fd in streams:
                    data = streams[fd].recv(65536)
                    if data:
                        streams[fd].send(data)
                    else:
                        raise OSError
                else:
                    data, told, _, peer = by_fd[fd].recvmsg(2048, 256)
                    # The answer comes from the address that was asked: IPV6_PKTINFO, with no interface.
                    info = [(a, b, c[:16] + bytes(4)) for a, b, c in told if (a, b) == (socket.IPPROTO_IPV6, 50)]
                    by_fd[fd].sendmsg([data], info, 0, peer)
            except OSError:
                if fd in streams:
                    poll.unregister(fd)
                    streams.pop(fd).close()


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def from_any(s):
    """For whoever stands for the whole world: IP_TRANSPARENT, IPV6_TRANSPARENT."""
    v6 = s.family == socket.AF_INET6
    s.setsockopt(socket.IPPROTO_IPV6 if v6 else socket.SOL_IP, 75 if v6 else 19, 1)


def begin(probe, number):
    proto, source, target = probe["proto"], probe["source"], probe["target"]
    if proto == "icmp":
        v6 = family(target) == socket.AF_INET6
        s = socket.socket(family(target), socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP)
        s.setblocking(False)
        from_any(s)
        s.bind((source, 0))
        head = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, os.getpid() & 0xFFFF, number)
        if not v6:
            head = struct.pack("!BBHHH", 8, 0, checksum(head), os.getpid() & 0xFFFF, number)
        s.sendto(head, (target, 0))
        return s
    s = socket.socket(family(target), socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
    s.setblocking(False)
    from_any(s)
    s.bind((source, 0))
    error = s.connect_ex((target, probe["port"]))
    if error not in (0, 115):
        raise OSError(error, "connect")
    if proto == "udp":
        s.send(b"?")
    return s


def answered(probe, s, number):
    """True, False, or None for not yet."""
    try:
        if probe["proto"] == "tcp":
            return s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        data, peer = s.recvfrom(2048)
        if probe["proto"] == "udp":
            return True
        if family(probe["target"]) == socket.AF_INET:
            data = data[(data[0] & 15) * 4:]
        kind, _, _, ident, seq = struct.unpack("!BBHHH", data[:8])
        mine = kind in (0, 129) and ident == os.getpid() & 0xFFFF and seq == number
        return True if mine and peer[0] == probe["target"] else None
    except BlockingIOError:
        return None
    except OSError:
        return False


def attempt():
    probes = json.load(sys.stdin)
    results, waiting = ["timeout"] * len(probes), {}
    for number, probe in enumerate(probes):
        try:
            waiting[number] = begin(probe, number)
        except OSError as error:
            results[number] = "refused"
    end = time.monotonic() + float(sys.argv[2])
    while waiting and time.monotonic() < end:
        poll = select.poll()
        fds = {}
        for number, s in waiting.items():
            poll.register(s.fileno(), select.POLLOUT if probes[number]["proto"] == "tcp" else select.POLLIN)
            fds[s.fileno()] = number
        for fd, _ in poll.poll(max(1, int((end - time.monotonic()) * 1000))):
            number = fds[fd]
            result = answered(probes[number], waiting[number], number)
            if result is not None:
                results[number] = "open" if result else "refused"
                waiting.pop(number).close()
    print(json.dumps(results), flush=True)


def hold(source, target, port):
    source, _, own = source.partition("#")
    s = socket.create_connection((target, port), 2, (source, int(own or 0)))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print("held", flush=True)
    for line in sys.stdin:
        s.settimeout(float(line))
        try:
            s.send(b"x")
            got = s.recv(1)
            print("alive" if got else "closed", flush=True)
        except OSError as error:
            print("dead", flush=True)


def receive(port):
    """Connects nowhere: a server whose client never speaks again. Bytes flow to the client alone."""
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    print("ready", flush=True)
    stream, _ = listener.accept()
    for line in sys.stdin:
        stream.send(b"pushed" * 200)
        print("sent", flush=True)


def count(port):
    """Says, for every number on standard input, how many datagrams with that number or a higher one came."""
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.bind(("::", port))
    came = []
    print("ready", flush=True)
    while True:
        # What waits is counted before it is told how much came.
        ready, _, _ = select.select([sys.stdin, s], [], [])
        if s in ready:
            came.append(int(s.recv(2048)))
        elif line := sys.stdin.readline():
            print(sum(number >= int(line) for number in came), flush=True)
        else:
            return


def flood(source, target, port, pause_s):
    """Datagrams numbered from 0, with a pause between them, and each from another port in turn: every one may be a new connection. Says how
    many for every line on standard input."""
    sockets = []
    for number in range(64):
        sockets.append(socket.socket(family(target), socket.SOCK_DGRAM))
        sockets[-1].bind((source, 0))
        sockets[-1].connect((target, port))
    print("ready", flush=True)
    sent = 0
    while True:
        if select.select([sys.stdin], [], [], pause_s)[0]:
            if not sys.stdin.readline():
                return
            print(sent, flush=True)
            continue
        sockets.append(sockets.pop(0))
        try:
            sockets[-1].send(b"%d" % sent)
        except ConnectionRefusedError:
            sockets[-1].send(b"%d" % sent)
        sent += 1


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


OWN, OTHER, ALL = mac("52:54:00:00:00:01"), mac("52:54:00:00:00:02"), b"\xff" * 6
OWN4, OTHER4, HOST4 = (socket.inet_pton(socket.AF_INET, a) for a in ("10.0.1.2", "10.0.2.2", "10.0.1.1"))
OWN6, OTHER6, HOST6, NODES6 = (
    socket.inet_pton(socket.AF_INET6, a) for a in ("fd00:1::2", "fd00:2::2", "fd00:1::1", "ff02::1")
)


def ether(kind, payload, source=OWN, target=ALL):
    return target + source + struct.pack("!H", kind) + payload


def arp(sender_mac, sender_ip, target_ip=HOST4, operation=2):
    return ether(0x806, struct.pack("!HHBBH", 1, 0x800, 6, 4, operation) + sender_mac + sender_ip + b"\0" * 6 + target_ip)


def ip4(source, target, protocol, payload, fragment=0):
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0) + source + target
    return ether(0x800, head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload)


def ip6(source, target, following, payload, hops=255):
    return ether(0x86DD, struct.pack("!IHBB", 6 << 28, len(payload), following, hops) + source + target + payload)


def udp(source, target):
    return struct.pack("!HHHH", source, target, 12, 0) + b"data"


def icmp6(source, target, kind, rest):
    body = struct.pack("!BBH", kind, 0, 0) + rest
    pseudo = source + target + struct.pack("!II", len(body), 58)
    return body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]


def advert(target, lladdr, source=OWN6, extra=b""):
    rest = b"\x60\0\0\0" + target + b"\x02\x01" + lladdr + extra
    return ip6(source, NODES6, 58, icmp6(source, NODES6, 136, rest))


ROUTER = b"\x40\0\x07\x08" + b"\0" * 8
FRAMES = {
    "mac": ether(0x800, ip4(OWN4, HOST4, 17, udp(5, 1000))[14:], source=OTHER),
    "arp-address": arp(OWN, OTHER4),
    "arp-mac": arp(OTHER, OWN4),
    "arp-gateway": arp(OWN, HOST4),
    "ip4": ip4(OTHER4, HOST4, 17, udp(5, 1000)),
    "ip4-fragment": ip4(OTHER4, HOST4, 17, udp(5, 1000), fragment=0x2000),
    "ip6": ip6(OTHER6, HOST6, 17, udp(5, 1000), 64),
    "dhcp-server": ip4(OWN4, b"\xff" * 4, 17, udp(67, 68)),
    "dhcp6-server": ip6(OWN6, NODES6, 17, udp(547, 546), 64),
    "router": ip6(OWN6, NODES6, 58, icmp6(OWN6, NODES6, 134, ROUTER)),
    # Behind an extension header, as RFC 7113 has it.
    "router-hidden": ip6(OWN6, NODES6, 60, b"\x3a\0\x01\x04\0\0\0\0" + icmp6(OWN6, NODES6, 134, ROUTER)),
    "router-fragment": ip6(OWN6, NODES6, 44, b"\x3a\0\0\x01\0\0\0\x07" + icmp6(OWN6, NODES6, 134, ROUTER)[:8]),
    "router-hidden-fragment": ip6(OWN6, NODES6, 44, b"\x3c\0\0\x01\0\0\0\x08" + b"\x3a\0\x01\x04\0\0\0\0"),
    "redirect": ip6(OWN6, HOST6, 58, icmp6(OWN6, HOST6, 137, b"\0" * 36)),
    "advert-address": advert(OTHER6, OWN),
    "advert-gateway": advert(HOST6, OWN),
    "advert-mac": advert(OWN6, OTHER),
    "advert-second-option": advert(OWN6, OWN, extra=b"\x02\x01" + OTHER),
    "vlan": ether(0x8100, struct.pack("!HH", 7, 0x800) + ip4(OWN4, HOST4, 17, udp(5, 1000))[14:]),
    "vlan-arp": ether(0x8100, struct.pack("!HH", 7, 0x806) + arp(OWN, OTHER4)[14:]),
    "double-vlan": ether(0x88A8, struct.pack("!HHHH", 7, 0x8100, 8, 0x800) + ip4(OWN4, HOST4, 17, udp(5, 1000))[14:]),
    "protocol": ether(0x88CC, b"\0" * 46),
    # And what is no lie.
    "good-arp": arp(OWN, OWN4, operation=1),
    "good-arp-probe": arp(OWN, b"\0" * 4, operation=1),
    "good-ip4": ip4(OWN4, HOST4, 17, udp(5, 1000)),
    "good-ip6": ip6(OWN6, HOST6, 17, udp(5, 1000), 64),
    "good-advert": advert(OWN6, OWN),
}


def send(device, name):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind((device, 0))
    s.send(FRAMES[name])
    print("sent", flush=True)


def remember(pages, ram, length):
    with open(ram, "w+b") as file, open(pages, "rb") as recorded:
        file.truncate(length)
        while (page := recorded.read(8 + 4096)):
            file.seek(int.from_bytes(page[:8], "little"))
            file.write(page[8:])
        file.flush()
        memory = mmap.mmap(file.fileno(), length)
    # QEMU's `ram_block_add` does so.
    memory.madvise(mmap.MADV_DONTFORK)
    print("ready", flush=True)
    sys.stdin.read()
    memory.close()


def collect(path):
    s = socket.create_server(("127.0.0.1", 0))
    print(s.getsockname()[1], flush=True)
    while True:
        stream, _ = s.accept()
        reader = stream.makefile("rb")
        while True:
            head = []
            while (line := reader.readline().strip()):
                head.append(line.lower())
            if not head:
                break
            sizes = [int(line.split(b":")[1]) for line in head if line.startswith(b"content-length:")]
            body = reader.read(sizes[0]) if sizes else b""
            if not sizes and b"transfer-encoding: chunked" in head:
                while (size := int(reader.readline(), 16)):
                    body += reader.read(size)
                    reader.readline()
                reader.readline()
            with open(path, "ab") as file:
                file.write(body + b"\n")
            stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        stream.close()


if sys.argv[1] == "serve":
    serve([int(port) for port in sys.argv[2:]])
elif sys.argv[1] == "try":
    attempt()
elif sys.argv[1] == "hold":
    hold(sys.argv[2], sys.argv[3], int(sys.argv[4]))
elif sys.argv[1] == "push":
    receive(int(sys.argv[2]))
elif sys.argv[1] == "count":
    count(int(sys.argv[2]))
elif sys.argv[1] == "flood":
    flood(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
elif sys.argv[1] == "send":
    send(sys.argv[2], sys.argv[3])
elif sys.argv[1] == "remember":
    remember(sys.argv[2], sys.argv[3], int(sys.argv[4]))
elif sys.argv[1] == "collect":
    collect(sys.argv[2])
