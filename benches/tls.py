#!/usr/bin/env python3
"""Compares TLS of the broker with stunnel beside the plain broker, under redis-benchmark.

    cargo build --release && benches/tls.py [--rounds 5] [--loads 50x1,50x16] [--stunnel stunnel4]

Two sides: "children" speak TLS to the broker or to a stunnel in front of it; "upstream" is a Redis with TLS, which the
broker speaks to or a stunnel behind it. "plain" is the same without TLS, over TCP. Servers run on one core and the load on
another, as in compare.py; peers take turns within a round; the table shows medians.

"us/req" is user+sys time per request of the broker and, where there is one, of stunnel together; "adds" is what that is
above "plain". Needs redis-server and redis-benchmark with TLS, openssl and stunnel 5.
"""

import argparse
import os
import resource
import shutil
import socket as socketlib
import statistics
import subprocess
import tempfile
import time

from compare import cpu_seconds, free_port

STUNNEL = """\
foreground = yes
pid =
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[one]
client = {client}
accept = 127.0.0.1:{accept}
connect = 127.0.0.1:{connect}
{rest}
"""


class Process:
    """Pinned to one core; there once its port answers."""

    def __init__(self, argv, port, core, env=None):
        argv = ["taskset", "-c", str(core)] + argv
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        deadline = time.monotonic() + 10
        while True:
            try:
                socketlib.create_connection(("127.0.0.1", port)).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.end()
                    raise RuntimeError("did not start: " + " ".join(argv)) from None
                time.sleep(0.02)

    def cpu(self):
        return cpu_seconds(self.process.pid)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def make_certificate(directory):
    """A certificate that signs itself, for localhost."""
    key, cert = (os.path.join(directory, name) for name in ("key.pem", "cert.pem"))
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert]
    subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
    return key, cert


def stunnel(name, directory, args, client, accept, connect, rest):
    config = os.path.join(directory, name + ".conf")
    with open(config, "w") as file:
        file.write(STUNNEL.format(client=client, accept=accept, connect=connect, rest=rest))
    return Process([args.stunnel, config], accept, args.server_core)


class Setup:
    """One way to Redis: what is started, where children connect, and whether by TLS."""

    def __init__(self, side, how, directory, redis, tls_files, args):
        key, cert = tls_files
        own, between = free_port(), free_port()
        plain_listen, tls_listen = f"tcp://127.0.0.1:{own}", f"tls://127.0.0.1:{own}?cert={cert}&key={key}"
        by_tls = side == "children" and how == "tls"
        upstream = f"redis://127.0.0.1:{redis.plain}"
        if side == "upstream":
            upstream = {"plain": upstream, "tls": f"rediss://127.0.0.1:{redis.tls}", "stunnel": f"redis://127.0.0.1:{between}"}[how]
        self.processes = []
        if side == "upstream" and how == "stunnel":
            rest = f"CAfile = {cert}\nverifyChain = yes"
            self.processes.append(stunnel("up", directory, args, "yes", between, redis.tls, rest))
        argv = [args.broker, "serve", "--listen", tls_listen if by_tls else plain_listen, "--upstream", upstream, "--set", f"tls_ca_file={cert}"]
        self.processes.append(Process(argv, own, args.server_core))
        self.port, self.by_tls = own, by_tls
        if side == "children" and how == "stunnel":
            self.processes.append(stunnel("down", directory, args, "no", between, own, f"cert = {cert}\nkey = {key}"))
            self.port, self.by_tls = between, True
        self.cert = cert

    def cpu(self):
        return sum(process.cpu() for process in self.processes)

    def end(self):
        for process in reversed(self.processes):
            process.end()


class Redis(Process):
    """With and without TLS."""

    def __init__(self, directory, tls_files, args):
        key, cert = tls_files
        self.plain, self.tls = free_port(), free_port()
        argv = ["redis-server", "--port", str(self.plain), "--tls-port", str(self.tls), "--tls-cert-file", cert, "--tls-key-file", key,
                "--tls-ca-cert-file", cert, "--tls-auth-clients", "no", "--save", "", "--appendonly", "no", "--dir", directory]
        super().__init__(argv, self.plain, args.server_core)


def benchmark(setup, clients, depth, requests, args):
    """One run of redis-benchmark: requests/s."""
    argv = ["taskset", "-c", str(args.load_core), "redis-benchmark", "-p", str(setup.port), "-c", str(clients), "-P", str(depth),
            "-n", str(requests), "-d", "64", "-r", "1000", "--csv", "-t", "get"]
    if setup.by_tls:
        argv += ["--tls", "--cacert", setup.cert]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    rows = [line.replace('"', "").split(",") for line in done.stdout.splitlines() if line.startswith('"')]
    if done.returncode != 0 or len(rows) < 2:
        raise RuntimeError("redis-benchmark: " + done.stdout[-300:] + done.stderr[-300:])
    return float(dict(zip(rows[0], rows[-1]))["rps"])


def measure(setup, clients, depth, args):
    requests = args.requests * (1 if depth == 1 else depth // 2)
    # Connections are made in here, so that handshakes are a small part of what is measured.
    benchmark(setup, clients, depth, max(requests // 10, clients), args)
    before = setup.cpu()
    rate = benchmark(setup, clients, depth, requests, args)
    return rate, (setup.cpu() - before) * 1e6 / requests


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser.add_argument("--broker", default=os.path.join(root, "target", "release", "broker"))
    parser.add_argument("--stunnel", default=shutil.which("stunnel4") or "stunnel")
    parser.add_argument("--sides", default="children,upstream")
    parser.add_argument("--loads", default="50x1,50x16", help="CHILDRENxDEPTH, comma separated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=100_000, help="per run at depth 1; deeper runs take more")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1)
    return parser.parse_args()


def report(side, load, results):
    plain = statistics.median(cpu for _, cpu in results["plain"])
    print(f"\n{side}, {load[0]} children, P{load[1]}")
    print(f"{'':10} {'requests/s':>11} {'us/req':>8} {'adds':>8}   us/req of each round")
    for how, runs in results.items():
        rate, cpu = (statistics.median(column) for column in zip(*runs))
        each = " ".join(f"{run[1]:.2f}" for run in runs)
        print(f"{how:10} {rate:11.0f} {cpu:8.2f} {cpu - plain:8.2f}   {each}", flush=True)


def main():
    args = options()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loads = [tuple(int(part) for part in load.split("x")) for load in args.loads.split(",")]
    with tempfile.TemporaryDirectory(prefix="tls-") as directory:
        tls_files = make_certificate(directory)
        redis = Redis(directory, tls_files, args)
        try:
            seed = ["redis-benchmark", "-p", str(redis.plain), "-n", "20000", "-P", "16", "-d", "64", "-r", "1000", "-q", "-t", "set"]
            subprocess.run(seed, stdout=subprocess.DEVNULL, check=True)
            for side in args.sides.split(","):
                setups = {}
                try:
                    for how in ("plain", "tls", "stunnel"):
                        setups[how] = Setup(side, how, directory, redis, tls_files, args)
                    for load in loads:
                        results = {how: [] for how in setups}
                        for _ in range(args.rounds):
                            for how, setup in setups.items():
                                results[how].append(measure(setup, *load, args))
                        report(side, load, results)
                finally:
                    for setup in setups.values():
                        setup.end()
        finally:
            redis.end()


if __name__ == "__main__":
    main()
