"""redis-py's Sentinel client beside the broker, with the settings it comes with: threads that write all the time. What it is
compared by is recorded as for the children of the broker."""

import threading
import time

import redis
from redis.sentinel import Sentinel

from servers import NAME
from wire import WRITE

THINK = 0.03
TIMEOUT = 2


class Peers:
    def __init__(self, sentinels, count):
        self.sentinels = [("127.0.0.1", port) for port in sentinels]
        self.lock = threading.Lock()
        self.clear()
        for number in range(count):
            threading.Thread(target=self.write, args=("redis-py%d" % number,), daemon=True).start()

    def clear(self):
        self.writes, self.failures, self.faults, self.undone = [], 0, [], 0

    def write(self, name):
        master = Sentinel(self.sentinels, socket_timeout=TIMEOUT).master_for(NAME, socket_timeout=TIMEOUT)
        tag, last, wanted = 0, 0, None
        while True:
            tag += 1
            sent = time.monotonic()
            wanted = wanted or sent
            own = b"%s-%d" % (name.encode(), tag)
            try:
                echo, count, port = master.eval(WRITE, 1, "count:" + name, own)
            except redis.RedisError:
                with self.lock:
                    self.failures += 1
                time.sleep(THINK)
                continue
            with self.lock:
                self.writes.append((name, wanted, sent, time.monotonic(), int(port)))
                if echo != own:
                    self.faults.append("redis-py got %r for %r" % (echo, own))
                self.undone += max(0, last + 1 - count)
            last, wanted = count, None
            time.sleep(THINK)

    def collect(self):
        with self.lock:
            record = {name: getattr(self, name) for name in ("writes", "failures", "faults", "undone")}
            self.clear()
            return record


def main(options, pipe):
    peers = Peers(options["sentinels"], options["peers"])
    while pipe.recv() == "collect":
        pipe.send(peers.collect())
