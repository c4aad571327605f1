#!/usr/bin/env python3
"""Compares the ways in which the threads of a process can share libbroker.

    cargo build --release && benches/threads.py [--threads 16] [--seconds 2] [--rounds 5] [--direct]

benches/threads.cpp is compiled here, with the library of that build. Redis and the broker run on one core and the
threads on another (--server-core, --load-core); each thread sends a SET and a GET in turn and checks the replies. The
ways take turns within a round; the table shows medians. "us/req" is user+sys time per request: of the program, and of
Redis and the broker together. Where other work shares the machine, believe these before requests/s. --direct leaves
the broker out.
"""

import argparse
import os
import statistics
import subprocess
import tempfile

from compare import Server

WAYS = ["own", "shared", "posted", "locked"]
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def build(directory, library):
    program = os.path.join(directory, "threads")
    source = os.path.join(ROOT, "benches/threads.cpp")
    for name in ["libbroker.so", "libbroker.so.0", "libbroker.so.0.1"]:
        os.symlink(library, os.path.join(directory, name))
    subprocess.run(["c++", "-std=c++17", "-O2", "-I", os.path.join(ROOT, "include"), source, "-o", program,
                    "-L", directory, "-lbroker", "-Wl,-rpath," + directory, "-pthread"], check=True)
    return program


def start(directory, arguments):
    core = arguments.server_core
    redis = os.path.join(directory, "redis.sock")
    servers = [Server(["redis-server", "--port", "0", "--unixsocket", redis, "--save", "", "--dir", directory],
                      redis, core)]
    if not arguments.direct:
        own = os.path.join(directory, "broker.sock")
        argv = [arguments.broker, "serve", "--listen", "unix://" + own, "--upstream", "unix://" + redis]
        servers.append(Server(argv, own, core))
    return servers


def run(program, way, servers, arguments):
    before = sum(server.cpu() for server in servers)
    command = ["taskset", "-c", str(arguments.load_core), program, "unix://" + servers[-1].socket, way,
               str(arguments.threads), str(arguments.seconds)]
    requests, took, used = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    served = sum(server.cpu() for server in servers) - before
    requests = int(requests)
    return requests / float(took), 1e6 * float(used) / requests, 1e6 * served / requests


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1)
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("--broker", default=os.path.join(ROOT, "target/release/broker"))
    parser.add_argument("--library", default=os.path.join(ROOT, "target/release/libbroker.so"))
    arguments = parser.parse_args()
    ways = arguments.ways.split(",")
    results = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="threads-") as directory:
        program = build(directory, arguments.library)
        servers = start(directory, arguments)
        try:
            for number in range(arguments.rounds):
                for way in ways[number % len(ways):] + ways[:number % len(ways)]:
                    results[way].append(run(program, way, servers, arguments))
        finally:
            for server in reversed(servers):
                server.end()
    print(f"{arguments.threads} threads   requests/s   us/req   servers us/req")
    for way in ways:
        rate, used, served = (statistics.median(column) for column in zip(*results[way]))
        print(f"{way:12} {rate:10.0f} {used:8.1f} {served:16.1f}")


if __name__ == "__main__":
    main()
