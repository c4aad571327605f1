"""RESP2 for the children of the failover run: one connection, requests and their replies in order. It never connects again by
itself and never repeats a request."""

import asyncio

# Counts on the caller's own key; answers with the caller's tag, the count, and the port of the server that has executed it.
WRITE = """\
local count = redis.call('INCR', KEYS[1])
return {ARGV[1], count, string.match(redis.call('INFO', 'server'), 'tcp_port:(%d+)')}"""

# The same for an element of a list.
PUSH = """\
redis.call('RPUSH', KEYS[1], ARGV[1])
return {ARGV[1], 1, string.match(redis.call('INFO', 'server'), 'tcp_port:(%d+)')}"""

# What a connection that ends looks like.
LOSSES = (ConnectionError, asyncio.IncompleteReadError, OSError)


class ErrorReply(Exception):
    """What the server has answered, without the minus."""


def encode(*words):
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        word = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
    return b"".join(parts)


class Link:
    """One connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def to_broker(cls, path):
        return cls(*await asyncio.open_unix_connection(path))

    @classmethod
    async def to_port(cls, port):
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, *words):
        self.writer.write(encode(*words))

    async def ask(self, *words):
        """The reply; raises what is an error reply."""
        self.send(*words)
        reply = await self.read()
        if isinstance(reply, ErrorReply):
            raise reply
        return reply

    async def read(self):
        """The next reply; an error reply is a value here, as it may stand in an array."""
        line = await self.reader.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("closed")
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            return None if rest == b"-1" else (await self.reader.readexactly(int(rest) + 2))[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [await self.read() for _ in range(int(rest))]
        if kind == b":":
            return int(rest)
        return ErrorReply(rest.decode()) if kind == b"-" else rest

    def close(self):
        self.writer.close()
