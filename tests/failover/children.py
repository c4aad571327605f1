"""The children of the broker in a failover run, all on one loop in a process of its own: writers, children that are idle until a
switch, blocked poppers, subscribers, a pusher. They check their own replies and record who answered when; `judge` draws the
conclusions. Times are those of CLOCK_MONOTONIC, in seconds, which all processes share."""

import asyncio
import collections
import gc
import time

from servers import NAME
from wire import LOSSES, PUSH, WRITE, ErrorReply, Link

# Between two writes of a writer.
THINK = 0.1
# Idle children begin one after the other, this far apart.
IDLE_STEP = 0.001
# How late the loop is, is looked at this often.
TICK = 0.005
# Elements and messages have to arrive within this, once nothing is wrong any more.
ARRIVAL = 10


class Child:
    """One program with one connection at a time, that connects again as clients do."""

    def __init__(self, load, kind, number):
        self.load, self.kind, self.name = load, kind, "%s%d" % (kind, number)
        self.link = None

    async def run(self):
        while True:
            try:
                self.link = await Link.to_broker(self.load.socket)
                await self.serve()
            except LOSSES:
                self.load.closed(self.kind)
                self.lost()
                await asyncio.sleep(0.01)

    def lost(self):
        """The connection has ended."""


class Counter(Child):
    """Counts on a key of its own, and knows what the count must be."""

    def __init__(self, load, kind, number):
        super().__init__(load, kind, number)
        self.tag = self.count = self.unknown = 0
        self.port = self.wanted = self.sent = None

    async def write(self):
        """One ECHO and one write, with one tag. The port of the server that has executed it."""
        self.tag += 1
        tag = b"%s-%d" % (self.name.encode(), self.tag)
        self.sent = time.monotonic()
        self.wanted = self.wanted or self.sent
        self.link.send("ECHO", tag)
        self.link.send("EVAL", WRITE, 1, "count:" + self.name, tag)
        echo, reply = await self.link.read(), await self.link.read()
        acked, sent, self.sent = time.monotonic(), self.sent, None
        if isinstance(reply, ErrorReply):
            self.load.error(self.kind, reply)
            return None
        if echo != tag or reply[0] != tag:
            self.load.broken("mismatch: %s got %r and %r for %r" % (self.name, echo, reply, tag))
            return None
        port = int(reply[2])
        self.load.writes.append((self.name, self.wanted, sent, acked, port))
        self.check(reply[1], port)
        self.wanted = None
        return port

    def check(self, count, port):
        """Each request counts once; one whose reply was lost may have. Only another server may know less."""
        if count > self.count + 1 + self.unknown:
            self.load.broken("executed twice: %s has %d after %d" % (self.name, count, self.count))
        if count <= self.count:
            self.load.undone += self.count + 1 - count
            if port == self.port:
                self.load.broken("undone: %s has %d after %d on one server" % (self.name, count, self.count))
        self.count, self.port, self.unknown = count, port, 0

    def lost(self):
        self.unknown += self.sent is not None
        self.sent = None


class Writer(Counter):
    async def serve(self):
        while True:
            await self.write()
            await asyncio.sleep(THINK)


class Idle(Counter):
    """Sends nothing until a switch is announced; then it writes until the new master answers."""

    def __init__(self, load, kind, number):
        super().__init__(load, kind, number)
        self.delay = number * IDLE_STEP
        self.called, self.target, self.began = asyncio.Event(), None, None

    def call(self, target):
        self.target, self.began = target, None
        self.called.set()

    async def serve(self):
        while True:
            await self.until_called()
            if self.began is None:
                await asyncio.sleep(self.delay)
                self.began = time.monotonic()
            if await self.write() == self.target:
                self.load.idle.append((self.began, time.monotonic()))
                self.called.clear()

    async def until_called(self):
        """Or until the connection ends."""
        if self.called.is_set():
            return
        called = asyncio.ensure_future(self.called.wait())
        ended = asyncio.ensure_future(self.link.reader.read(1))
        done, waiting = await asyncio.wait({called, ended}, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if ended in done:
            raise ConnectionError("closed")


class Popper(Child):
    """Blocked on a list of its own nearly all the time; every second one without a timeout."""

    def __init__(self, load, kind, number):
        super().__init__(load, kind, number)
        self.timeout = 0 if number % 2 else 20

    async def serve(self):
        while True:
            try:
                reply = await self.link.ask("BLPOP", "list:" + self.name, self.timeout)
            except ErrorReply as error:
                self.load.error(self.kind, error)
                continue
            if reply is not None:
                if reply[0] != b"list:" + self.name.encode():
                    self.load.broken("mismatch: %s popped from %r" % (self.name, reply[0]))
                self.load.popped[reply[1].decode()] += 1


class Subscriber(Child):
    listens = False

    async def serve(self):
        self.link.send("SUBSCRIBE", "news")
        while True:
            reply = await self.link.read()
            if isinstance(reply, ErrorReply):
                self.load.error(self.kind, reply)
                raise ConnectionError(str(reply))
            if reply[0] == b"message":
                self.load.heard.append((self.name, reply[2].decode()))
            else:
                self.listens = True

    def lost(self):
        self.listens = False


class Load:
    def __init__(self, options, pipe):
        self.pipe, self.socket, self.sentinels = pipe, options["socket"], options["sentinels"]
        self.announced = True
        self.pushing = None
        self.pushes, self.expected, self.popped = 0, [], collections.Counter()
        self.clear()
        kinds = ((Writer, "writer"), (Idle, "idle"), (Popper, "popper"), (Subscriber, "subscriber"))
        self.children = [kind(self, name, number) for kind, name in kinds for number in range(options[name])]

    def clear(self):
        self.writes, self.idle, self.heard, self.late = [], [], [], []
        self.closes, self.errors, self.faults = {}, {}, []
        self.undone = 0

    def closed(self, kind):
        self.closes[kind] = self.closes.get(kind, 0) + 1

    def error(self, kind, error):
        key = "%s: %s" % (kind, str(error)[:60])
        self.errors[key] = self.errors.get(key, 0) + 1

    def broken(self, what):
        self.faults.append(what)

    async def listen(self, port):
        """An independent subscriber at one sentinel."""
        while True:
            try:
                link = await Link.to_port(port)
                link.send("SUBSCRIBE", "+switch-master")
                while True:
                    reply = await link.read()
                    if reply[0] == b"message":
                        self.heard_switch(reply[2].decode().split())
            except LOSSES:
                await asyncio.sleep(0.2)

    def heard_switch(self, words):
        """Only the first of a round says when."""
        at, (name, _, old, _, new) = time.monotonic(), words
        if name != NAME or self.announced:
            return
        self.announced = True
        for child in self.of("idle"):
            child.call(int(new))
        self.pipe.send(("switch", at, int(old), int(new)))
        self.pushing = asyncio.create_task(self.push_after(int(new)))

    async def push_after(self, new):
        """As soon as the new master takes writes, each popper gets an element there."""
        for popper in self.of("popper"):
            await self.push(popper, new)

    def of(self, kind):
        return [child for child in self.children if child.kind == kind]

    async def push(self, popper, server=None):
        """Until it is acknowledged, by this server if one is named. A try whose outcome is unknown is not expected to arrive."""
        while True:
            self.pushes += 1
            element = "element-%d" % self.pushes
            try:
                link = await Link.to_broker(self.socket)
                reply = await link.ask("EVAL", PUSH, 1, "list:" + popper.name, element)
                link.close()
                if server in (None, int(reply[2])):
                    self.expected.append(element)
                    return
            except (*LOSSES, ErrorReply):
                await asyncio.sleep(0.01)

    async def probe(self):
        """Once all is well again: each popper gets one element more, each subscriber a message."""
        if self.pushing:
            await self.pushing
        for popper in self.of("popper"):
            await self.push(popper)
        deadline = time.monotonic() + ARRIVAL
        while not all(child.listens for child in self.of("subscriber")) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        link = await Link.to_broker(self.socket)
        await link.ask("PUBLISH", "news", "message-%d" % self.pushes)
        link.close()
        messages = {(child.name, "message-%d" % self.pushes) for child in self.of("subscriber")}
        while time.monotonic() < deadline:
            if set(self.expected) <= set(self.popped) and messages <= set(self.heard):
                break
            await asyncio.sleep(0.05)
        self.judge_arrivals(messages)

    def judge_arrivals(self, messages):
        for element, times in self.popped.items():
            if times > 1:
                self.broken("popped twice: " + element)
                self.popped[element] = 1
        for element in set(self.expected) - set(self.popped):
            self.broken("not popped: " + element)
        for name, _ in messages - set(self.heard):
            self.broken("no message for " + name)
        if len(self.heard) > len(set(self.heard)):
            self.broken("a message came twice")
        self.expected = []

    async def watch_lag(self):
        while True:
            began = time.monotonic()
            await asyncio.sleep(TICK)
            now = time.monotonic()
            self.late.append((now, now - began - TICK))

    async def obey(self):
        """`round` begins one, `collect` ends it and is answered with what was recorded."""
        orders = asyncio.Queue()
        asyncio.get_running_loop().add_reader(self.pipe.fileno(), lambda: orders.put_nowait(self.pipe.recv()))
        while True:
            order = await orders.get()
            if order == "end":
                return
            if order == "collect":
                await self.probe()
                names = ("writes", "idle", "late", "closes", "errors", "faults", "undone")
                self.pipe.send(("record", {name: getattr(self, name) for name in names} | {"popped": len(self.popped)}))
            # Garbage is collected between rounds alone: its pauses would look like the broker's.
            self.clear()
            gc.collect()
            if order == "round":
                self.announced = False
                self.pipe.send(("ready",))

    async def run(self):
        others = [self.watch_lag(), *(self.listen(port) for port in self.sentinels)]
        self.tasks = [asyncio.create_task(task) for task in (*(child.run() for child in self.children), *others)]
        for task in self.tasks:
            task.add_done_callback(self.ended)
        await self.obey()

    def ended(self, task):
        """None does by itself."""
        if not task.cancelled():
            self.broken("a task has ended: %r" % task.exception())


def main(options, pipe):
    gc.disable()
    asyncio.run(Load(options, pipe).run())
