"""redis-py over TLS: requests, a pipeline, a transaction, a long value, a subscription, a blocked pop. Run by scripts/tls-clients."""

import sys
import threading

import redis

for protocol in (2, 3):
    client = redis.Redis(
        host="localhost", port=int(sys.argv[1]), ssl=True, ssl_ca_certs="ca.pem", ssl_certfile="client.pem",
        ssl_keyfile="client.key", protocol=protocol, socket_timeout=10,
    )
    client.delete("n", "q", "list")
    assert client.set("k", "v") and client.get("k") == b"v"
    with client.pipeline(transaction=False) as pipe:
        for _ in range(1000):
            pipe.incr("n")
        assert pipe.execute() == list(range(1, 1001))
    with client.pipeline() as pipe:
        pipe.watch("k")
        pipe.multi()
        pipe.set("k", "w")
        assert pipe.execute() == [True]
    long = b"x" * 3_000_000
    assert client.set("long", long) and client.get("long") == long
    listener = client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe("c")
    while not client.pubsub_numsub("c")[0][1]:
        pass
    assert client.publish("c", "m") == 1
    message = None
    while message is None:
        message = listener.get_message(timeout=10)
    assert message["data"] == b"m", message
    popped = []
    waiter = threading.Thread(target=lambda: popped.append(client.blpop("list", timeout=10)))
    waiter.start()
    client.rpush("list", "e")
    waiter.join()
    assert popped == [(b"list", b"e")] or popped == [[b"list", b"e"]], popped
print("redis-py", redis.__version__, "passes")
