"""The processes of a failover run: a master, two replicas, three sentinels and a broker in front of them. How they are started,
what is asked of them, and when they have recovered. Never what children see."""

import os
import signal
import socket
import subprocess
import time
import urllib.request

import redis

NAME = "main"
# Sentinels take a master for dead after this.
DOWN_AFTER_MS = 1500
# Two failovers that nobody has asked for are at least twice this apart.
FAILOVER_TIMEOUT_MS = 5000


def free_ports(count):
    """Below those that the system gives to outgoing connections: none of them takes one while its server is away."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        end = int(file.read().split()[0])
    found, port = [], end - 1 - os.getpid() % 5000
    while len(found) < count:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                found.append(port)
            except OSError:
                pass
        port -= 1
    return found


def wait_until(what, condition, seconds=60, pause=0.1):
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except redis.RedisError:
            pass
        if time.monotonic() > deadline:
            raise RuntimeError("not within %d s: %s" % (seconds, what))
        time.sleep(pause)


class Servers:
    def __init__(self, directory, broker):
        self.directory, self.broker = directory, broker
        ports = free_ports(8)
        self.redis_ports, self.sentinel_ports, self.tcp_port, self.metrics_port = ports[:3], ports[3:6], ports[6], ports[7]
        self.socket = os.path.join(directory, "broker.sock")
        self.processes = {}

    def spawn(self, name, argv):
        """In a process group of its own: where one is stopped, its group is sent SIGHUP once the shell of the run has ended."""
        with open(os.path.join(self.directory, name + ".log"), "a") as log:
            self.processes[name] = subprocess.Popen(
                argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=os.setpgrp)

    def start(self):
        for port in self.redis_ports:
            self.start_redis(port)
        for port in self.redis_ports[1:]:
            wait_until("a server answers", lambda: self.ask(port, "REPLICAOF", "127.0.0.1", self.redis_ports[0]))
        for port in self.sentinel_ports:
            self.start_sentinel(port)
        self.settle()
        sentinels = ",".join("127.0.0.1:%d" % port for port in self.sentinel_ports)
        self.spawn("broker", [
            self.broker, "serve",
            "--listen", "unix://" + self.socket, "--listen", "tcp://127.0.0.1:%d?insecure=1" % self.tcp_port,
            "--upstream", "redis+sentinel://%s/%s" % (sentinels, NAME), "--set", "on_upstream_loss=close", "--set", "queue_timeout=20s",
            "--set", "metrics_listen=tcp://127.0.0.1:%d" % self.metrics_port,
        ])
        with redis.Redis(unix_socket_path=self.socket, socket_timeout=5) as client:
            wait_until("the broker serves", lambda: client.set("begun", 1))

    def start_redis(self, port):
        """Always with this configuration, which is that of a master: so does one come back that was one."""
        own = os.path.join(self.directory, "redis-%d" % port)
        os.makedirs(own, exist_ok=True)
        self.spawn("redis-%d" % port, [
            "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", own,
            "--repl-diskless-sync-delay", "0", "--repl-backlog-size", "64mb",
        ])

    def start_sentinel(self, port):
        path = os.path.join(self.directory, "sentinel-%d.conf" % port)
        with open(path, "w") as file:
            file.write("port %d\nbind 127.0.0.1\ndir %s\n" % (port, self.directory))
            file.write("sentinel monitor %s 127.0.0.1 %d 2\n" % (NAME, self.redis_ports[0]))
            file.write("sentinel down-after-milliseconds %s %d\n" % (NAME, DOWN_AFTER_MS))
            file.write("sentinel failover-timeout %s %d\n" % (NAME, FAILOVER_TIMEOUT_MS))
            file.write("sentinel parallel-syncs %s 2\n" % NAME)
        self.spawn("sentinel-%d" % port, ["redis-server", path, "--sentinel"])

    def ask(self, port, *words):
        """One question on a connection of its own."""
        with redis.Redis(port=port, socket_timeout=2, decode_responses=True, retry=None, protocol=2) as client:
            return client.execute_command(*words)

    def redis_process(self, port):
        return self.processes["redis-%d" % port]

    def sentinel_process(self, port):
        return self.processes["sentinel-%d" % port]

    def sentinel_view(self, port):
        """SENTINEL MASTER, as a dictionary."""
        reply = self.ask(port, "SENTINEL", "MASTER", NAME)
        return dict(zip(reply[::2], reply[1::2]))

    def master_port(self):
        return int(self.sentinel_view(self.sentinel_ports[0])["port"])

    def replication(self, port):
        with redis.Redis(port=port, socket_timeout=2, decode_responses=True, retry=None) as client:
            return client.info("replication")

    def settle(self):
        """Waits until the sentinels agree, and both replicas are in step with the master. Sentinels that were not run for two
        seconds do nothing for thirty (TILT), so this takes long on a machine that has much other work."""
        wait_until("three sentinels, a master and two replicas in step", self.is_settled, 300)

    def is_settled(self):
        views = [self.sentinel_view(port) for port in self.sentinel_ports]
        masters = {int(view["port"]) for view in views}
        calm = all((view["flags"], view["num-slaves"], view["num-other-sentinels"]) == ("master", "2", "2") for view in views)
        if len(masters) != 1 or not calm:
            return False
        master = masters.pop()
        said = self.replication(master)
        online = [said.get("slave%d" % at, {}).get("state") for at in range(2)]
        if said["role"] != "master" or online != ["online", "online"]:
            return False
        return all(self.follows(port, master) for port in self.redis_ports if port != master)

    def follows(self, port, master):
        said = self.replication(port)
        return said["role"] == "slave" and int(said["master_port"]) == master and said["master_link_status"] == "up"

    def broker_totals(self):
        """What the broker has counted, by the names of its metrics without their prefix."""
        with urllib.request.urlopen("http://127.0.0.1:%d/metrics" % self.metrics_port, timeout=5) as answer:
            lines = [line.split() for line in answer.read().decode().splitlines() if line.startswith("broker_")]
        return {name.removeprefix("broker_"): float(value) for name, value, *_ in lines}

    def end(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
