"""The kinds of failover: what is done to the servers, and how it is undone later. Never waits for what children do."""

import random
import signal
import time

import redis

from servers import NAME, wait_until


class Fault:
    """`inflict` causes the failover and returns when that was; `heal` undoes it, some time after the switch."""

    name = ""
    # Whether the old master answers READONLY before the switch is announced.
    refuses_writes = False

    def __init__(self, servers):
        self.servers = servers
        self.old = servers.master_port()

    def inflict(self):
        raise NotImplementedError

    def heal(self):
        pass

    def command(self, sentinels):
        """SENTINEL FAILOVER; a sentinel that is not ready for it says so and is asked again. When it was obeyed."""

        def accepted():
            return self.servers.ask(random.choice(sentinels), "SENTINEL", "FAILOVER", NAME)

        wait_until("a sentinel begins a failover", accepted)
        return time.monotonic()


class Command(Fault):
    """SENTINEL FAILOVER. The old master lives, can be reached and takes writes until the sentinels turn it round, ten seconds
    later."""

    name = "failover"

    def inflict(self):
        return self.command(self.servers.sentinel_ports)


class Kill(Fault):
    """kill -9. It comes back with its old configuration, as a master."""

    name = "kill"

    def inflict(self):
        process, began = self.servers.redis_process(self.old), time.monotonic()
        process.kill()
        process.wait()
        return began

    def heal(self):
        self.servers.start_redis(self.old)


class Stop(Fault):
    """SIGSTOP: its connections stand and nothing answers. It goes on later, as a master."""

    name = "stop"

    def inflict(self):
        self.servers.redis_process(self.old).send_signal(signal.SIGSTOP)
        return time.monotonic()

    def heal(self):
        self.servers.redis_process(self.old).send_signal(signal.SIGCONT)


class Demote(Fault):
    """SENTINEL FAILOVER, and REPLICAOF by hand at the old master once the other one is promoted: before the sentinels announce it,
    the old one is alive and answers READONLY."""

    name = "demote"
    refuses_writes = True

    def inflict(self):
        began = self.command(self.servers.sentinel_ports)
        others = [port for port in self.servers.redis_ports if port != self.old]
        promoted = []
        wait_until("a replica is promoted", lambda: promoted.extend(filter(self.is_master, others)) or promoted, 10, 0.005)
        self.servers.ask(self.old, "REPLICAOF", "127.0.0.1", promoted[0])
        return began

    def is_master(self, port):
        """One that is promoted ends its connections."""
        try:
            return self.servers.ask(port, "ROLE")[0] == "master"
        except redis.RedisError:
            return False


class CutOff(Fault):
    """SENTINEL FAILOVER while one sentinel is stopped. It wakes up later, with the old master and the old epoch."""

    name = "cut-off"

    def inflict(self):
        *others, self.stopped = random.sample(self.servers.sentinel_ports, 3)
        self.servers.sentinel_process(self.stopped).send_signal(signal.SIGSTOP)
        return self.command(others)

    def heal(self):
        self.servers.sentinel_process(self.stopped).send_signal(signal.SIGCONT)


KINDS = {kind.name: kind for kind in (Command, Kill, Stop, Demote, CutOff)}
