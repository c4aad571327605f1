#!/usr/bin/env python3
"""Compares the broker with Redis itself and with other proxies under redis-benchmark.

    cargo build --release && benches/compare.py [--rounds 3] [--loads 1x1,50x1,500x1,50x16] [--peers ...]
        [--before PROGRAM]   another build of the broker, compared as the peer "before"

Every server is started here, with a configuration made in a temporary directory, on unix sockets, and only
those are ended. All servers run on one core and the load on another (--server-core, --load-core), since
unpinned the scheduler decides the outcome. Peers take turns within a round; the table shows medians.

"us/req" is user+sys time of the proxy per request, from /proc/PID/stat; "redis" the same of Redis. Where other
work shares the machine, believe these before requests/s. Peers whose program is missing are left out:
nutcracker is twemproxy, haproxy passes bytes through (mode tcp). Needs redis-server and redis-benchmark.
"""

import argparse
import os
import resource
import shutil
import socket as socketlib
import statistics
import subprocess
import sys
import tempfile
import time

TICK = os.sysconf("SC_CLK_TCK")
PEERS = ["direct", "broker", "nutcracker", "haproxy"]

NUTCRACKER = """\
bench:
  listen: {own} 0666
  redis: true
  timeout: 5000
  backlog: 1024
  servers:
   - {redis}:1
"""

HAPROXY = """\
global
  nbthread 1
  maxconn 8000
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend children
  bind unix@{own}
  default_backend redis
backend redis
  server one unix@{redis}
"""


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class Server:
    """A process pinned to one core, reached at a unix socket."""

    def __init__(self, argv, socket, core):
        self.socket = socket
        argv = ["taskset", "-c", str(core)] + argv
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not os.path.exists(socket):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.end()
                raise RuntimeError("did not start: " + " ".join(argv))
            time.sleep(0.02)

    def cpu(self):
        return cpu_seconds(self.process.pid)

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


def free_port():
    with socketlib.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def start_redis(directory, core):
    socket = os.path.join(directory, "redis.sock")
    argv = ["redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no",
            "--maxclients", "20000", "--dir", directory]
    return Server(argv, socket, core)


def start_peer(name, directory, redis, core, options):
    """The named peer in front of Redis; none for Redis itself."""
    if name == "direct":
        return None
    own = os.path.join(directory, name + ".sock")
    config = os.path.join(directory, name + ".conf")
    if name in ("broker", "before"):
        program = options.broker if name == "broker" else options.before
        argv = [program, "serve", "--listen", "unix://" + own, "--upstream", "unix://" + redis.socket]
        for pair in options.set:
            argv += ["--set", pair]
        return Server(argv, own, core)
    template = {"nutcracker": NUTCRACKER, "haproxy": HAPROXY}[name]
    with open(config, "w") as file:
        file.write(template.format(own=own, redis=redis.socket))
    if name == "nutcracker":
        # It insists on a port for its statistics.
        argv = ["nutcracker", "-c", config, "-o", os.path.join(directory, "nutcracker.log"), "-a", "127.0.0.1",
                "-s", str(free_port())]
    else:
        argv = ["haproxy", "-db", "-f", config]
    return Server(argv, own, core)


def benchmark(socket, clients, depth, requests, options):
    """One run of redis-benchmark: (requests/s, p50 in ms)."""
    argv = ["taskset", "-c", str(options.load_core), "redis-benchmark", "-s", socket, "-c", str(clients),
            "-P", str(depth), "-n", str(requests), "-d", "64", "-r", "1000", "--csv", "-t", "get"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    rows = [line.replace('"', "").split(",") for line in done.stdout.splitlines() if line.startswith('"')]
    if done.returncode != 0 or len(rows) < 2:
        raise RuntimeError("redis-benchmark: " + done.stdout[-300:] + done.stderr[-300:])
    row = dict(zip(rows[0], rows[-1]))
    return float(row["rps"]), float(row["p50_latency_ms"])


def measure(server, redis, clients, depth, options):
    """One run against one peer: requests/s, p50, proxy and Redis us per request."""
    requests = options.requests * (1 if depth == 1 else depth // 2) // (4 if clients == 1 else 1)
    socket = (server or redis).socket
    benchmark(socket, clients, depth, max(requests // 10, clients), options)
    before = (server.cpu() if server else 0.0, redis.cpu())
    rate, p50 = benchmark(socket, clients, depth, requests, options)
    after = (server.cpu() if server else 0.0, redis.cpu())
    spent = [(end - start) * 1e6 / requests for start, end in zip(before, after)]
    return rate, p50, spent[0], spent[1]


def seed(redis):
    """The values that GET finds: 64 bytes under every key of the run."""
    argv = ["redis-benchmark", "-s", redis.socket, "-n", "20000", "-P", "16", "-d", "64", "-r", "1000", "-q",
            "-t", "set"]
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)


def report(results, loads, peers):
    for load in loads:
        print(f"\n{load[0]} children, P{load[1]}")
        print(f"{'':12} {'requests/s':>11} {'p50 ms':>8} {'us/req':>8} {'redis':>8}   us/req of each round")
        for peer in peers:
            runs = results[load, peer]
            rate, p50, own, redis = (statistics.median(column) for column in zip(*runs))
            each = " ".join(f"{run[2]:.2f}" for run in runs)
            own = f"{own:8.2f}" if peer != "direct" else f"{'-':>8}"
            print(f"{peer:12} {rate:11.0f} {p50:8.3f} {own} {redis:8.2f}   {each if peer != 'direct' else ''}")


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser.add_argument("--broker", default=os.path.join(root, "target", "release", "broker"))
    parser.add_argument("--before", metavar="PROGRAM", help="another build of the broker")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the broker")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--loads", default="1x1,50x1,500x1,50x16", help="CHILDRENxDEPTH, comma separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=200_000, help="per run at depth 1; deeper runs take more")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1)
    return parser.parse_args()


def main():
    args = options()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loads = [tuple(int(part) for part in load.split("x")) for load in args.loads.split(",")]
    peers = []
    for peer in dict.fromkeys(args.peers.split(",") + (["before"] if args.before else [])):
        program = {"direct": "redis-server", "broker": args.broker, "before": args.before}.get(peer, peer)
        if shutil.which(program):
            peers.append(peer)
        else:
            print(f"left out: {peer}, there is no {program}", file=sys.stderr)
    results = {(load, peer): [] for load in loads for peer in peers}
    with tempfile.TemporaryDirectory(prefix="compare-") as directory:
        started = []
        try:
            redis = start_redis(directory, args.server_core)
            started.append(redis)
            seed(redis)
            servers = {}
            for peer in peers:
                servers[peer] = start_peer(peer, directory, redis, args.server_core, args)
                if servers[peer]:
                    started.append(servers[peer])
            for _ in range(args.rounds):
                for load in loads:
                    for peer in peers:
                        results[load, peer].append(measure(servers[peer], redis, *load, args))
        finally:
            for server in reversed(started):
                server.end()
    report(results, loads, peers)


if __name__ == "__main__":
    main()
