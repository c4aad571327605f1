/*
 * An ordinary redis-plus-plus program that checks every reply. The only part of it that concerns the broker is the path
 * of the socket: with Redis' own unix socket it does the same.
 *
 *     redis_plus_plus SOCKET [RESP]
 *
 * RESP is 2, the default, or 3, for which redis-plus-plus needs hiredis 1.0 or newer. The last line is the number
 * of checked replies. Exits with 0 if every reply was the right one.
 */
#include <chrono>
#include <future>
#include <iostream>
#include <iterator>
#include <map>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include <sw/redis++/redis++.h>

namespace {

using namespace sw::redis;

// A reply that takes longer is lost. Longer than a request may wait for a connection.
constexpr std::chrono::seconds REPLY_TIMEOUT{15};
// How long the blocking pop may wait on the server; shorter, so that the server times out first.
constexpr std::chrono::seconds POP_TIMEOUT{5};
constexpr int PIPELINE = 100;

class Checks {
public:
    void operator()(bool right, const std::string &what) {
        ++checked_;
        if (right) {
            return;
        }
        ++wrong_;
        std::cerr << "redis_plus_plus: wrong reply: " << what << std::endl;
    }

    int checked() const { return checked_; }
    int wrong() const { return wrong_; }

private:
    int checked_ = 0;
    int wrong_ = 0;
};

// Several such programs may run at once: each has its own keys, in the cluster's one-slot notation.
std::string key(const std::string &name) {
    static const std::string prefix = "{redis_plus_plus:" + std::to_string(getpid()) + "}:";
    return prefix + name;
}

void strings(Redis &redis, Checks &check) {
    // A value may have any bytes, also those of the protocol.
    const std::string value("a\r\n$3\r\n\0b", 9);

    check(redis.ping() == "PONG", "PING");
    check(redis.set(key("string"), value), "SET");
    check(redis.get(key("string")) == OptionalString(value), "GET");
    check(redis.append(key("string"), "c") == static_cast<long long>(value.size() + 1), "APPEND");
    check(!redis.get(key("nothing")), "GET of no key");
    check(redis.incrby(key("counter"), 40) == 40, "INCRBY");
    check(redis.expire(key("counter"), std::chrono::minutes(1)), "EXPIRE");
    check(redis.ttl(key("counter")) > 0, "TTL");

    // An error reply is an exception; the connection stays usable.
    try {
        redis.lpush(key("string"), "element");
        check(false, "LPUSH to a string: no error");
    } catch (const ReplyError &error) {
        check(std::string(error.what()).rfind("WRONGTYPE", 0) == 0, "LPUSH to a string");
    }
    check(redis.echo("still there") == "still there", "ECHO");
}

void collections(Redis &redis, Checks &check) {
    const std::map<std::string, std::string> fields = {{"name", "Ada"}, {"born", "1815"}};
    std::map<std::string, std::string> hash;
    redis.hmset(key("hash"), fields.begin(), fields.end());
    redis.hgetall(key("hash"), std::inserter(hash, hash.end()));
    check(hash == fields, "HGETALL");

    std::vector<OptionalString> some;
    redis.hmget(key("hash"), {"born", "died"}, std::back_inserter(some));
    check(some == std::vector<OptionalString>{OptionalString("1815"), OptionalString()}, "HMGET");

    check(redis.sadd(key("set"), {"a", "b", "a"}) == 2, "SADD");
    check(redis.sismember(key("set"), "b"), "SISMEMBER");
    check(!redis.sismember(key("set"), "c"), "SISMEMBER of no member");

    using Scores = std::vector<std::pair<std::string, double>>;
    Scores scores;
    check(redis.zadd(key("zset"), {std::make_pair("x", 1.5), std::make_pair("y", 2.5)}) == 2, "ZADD");
    redis.zrangebyscore(key("zset"), UnboundedInterval<double>{}, std::back_inserter(scores));
    check(scores == Scores{{"x", 1.5}, {"y", 2.5}}, "ZRANGEBYSCORE");

    const std::string script = "return redis.call('INCRBY', KEYS[1], ARGV[1])";
    auto sum = redis.eval<long long>(script, {key("counter")}, {"2"});
    check(sum == 42, "EVAL");
}

// Many requests before the first reply; the replies must arrive in the order of the requests.
void pipelined(Redis &redis, Checks &check) {
    auto pipeline = redis.pipeline();
    for (int i = 0; i < PIPELINE; ++i) {
        pipeline.incr(key("pipelined"));
    }
    auto replies = pipeline.exec();
    check(replies.size() == PIPELINE, "number of replies to a pipeline");
    for (int i = 0; i < PIPELINE; ++i) {
        check(replies.get<long long>(static_cast<std::size_t>(i)) == i + 1, "INCR in a pipeline");
    }
}

// `piped` sends MULTI, the commands and EXEC together; otherwise each waits for the previous reply.
void transaction(Redis &redis, Checks &check, bool piped) {
    auto transaction = redis.transaction(piped);
    auto replies = transaction.set(key("tx"), "1").incr(key("tx")).get(key("tx")).exec();
    check(replies.get<bool>(0), "SET in MULTI");
    check(replies.get<long long>(1) == 2, "INCR in MULTI");
    check(replies.get<OptionalString>(2) == OptionalString("2"), "GET in MULTI");

    transaction.set(key("tx"), "discarded");
    transaction.discard();
    check(redis.get(key("tx")) == OptionalString("2"), "GET after DISCARD");
}

// Reads, changes and writes a key, and retries if another client has written it meanwhile: here that
// happens the first time only. A program with real contention would retry until it succeeds.
void optimistic(Redis &redis, Checks &check) {
    redis.set(key("watched"), "10");
    auto transaction = redis.transaction();
    auto same_connection = transaction.redis();
    for (int attempt = 1; attempt <= 2; ++attempt) {
        try {
            same_connection.watch(key("watched"));
            auto value = std::stoi(same_connection.get(key("watched")).value_or("0"));
            if (attempt == 1) {
                redis.set(key("watched"), "20"); // the other client, on another connection
            }
            transaction.set(key("watched"), std::to_string(value + 1)).exec();
            check(attempt == 2, "EXEC although the watched key has changed");
            break;
        } catch (const WatchError &) {
            check(attempt == 1, "null reply to EXEC although the watched key is unchanged");
        }
    }
    check(redis.get(key("watched")) == OptionalString("21"), "GET after the optimistic transaction");
}

// One thread waits for a job, another sends it: both use the same pool.
void blocking_pop(Redis &redis, Checks &check) {
    auto job = std::async(std::launch::async, [&redis] { return redis.blpop(key("jobs"), POP_TIMEOUT); });
    check(redis.rpush(key("jobs"), "job 1") > 0, "RPUSH");
    auto popped = job.get();
    check(popped && popped->first == key("jobs") && popped->second == "job 1", "BLPOP");
    check(!redis.blpop(key("jobs"), std::chrono::seconds(1)), "BLPOP of an empty list");
}

void subscriber(Redis &redis, Checks &check) {
    std::vector<std::string> messages;
    auto subscriber = redis.subscriber();
    subscriber.on_message([&](std::string channel, std::string message) {
        check(channel == key("channel"), "channel of a message");
        messages.push_back(std::move(message));
    });
    subscriber.on_meta([&](Subscriber::MsgType type, OptionalString channel, long long count) {
        auto subscribed = type == Subscriber::MsgType::SUBSCRIBE;
        check(channel == OptionalString(key("channel")), "channel of a confirmation");
        check(count == (subscribed ? 1 : 0), "number of channels in a confirmation");
    });

    subscriber.subscribe(key("channel"));
    subscriber.consume(); // the confirmation: messages published from now on will arrive
    check(redis.publish(key("channel"), "first") == 1, "PUBLISH");
    check(redis.publish(key("channel"), "second") == 1, "PUBLISH");
    subscriber.consume();
    subscriber.consume();
    check(messages == std::vector<std::string>{"first", "second"}, "messages");
    subscriber.unsubscribe(key("channel"));
    subscriber.consume();
}

void forget(Redis &redis) {
    redis.del({key("string"), key("counter"), key("hash"), key("set"), key("zset"), key("pipelined"),
               key("tx"), key("watched"), key("jobs")});
}

void work(const std::string &socket, int resp, Checks &check) {
    // The lines to change: before, they were type, host and port.
    ConnectionOptions options;
    options.type = ConnectionType::UNIX;
    options.path = socket;

    options.resp = resp;
    options.socket_timeout = REPLY_TIMEOUT;
    ConnectionPoolOptions pool;
    pool.size = 3;
    Redis redis(options, pool);

    strings(redis, check);
    collections(redis, check);
    pipelined(redis, check);
    transaction(redis, check, true);
    transaction(redis, check, false);
    optimistic(redis, check);
    blocking_pop(redis, check);
    subscriber(redis, check);
    forget(redis);
}

} // namespace

int main(int argc, char **argv) {
    const std::string resp = argc == 3 ? argv[2] : "2";
    if (argc < 2 || argc > 3 || (resp != "2" && resp != "3")) {
        std::cerr << "usage: redis_plus_plus SOCKET [2|3]" << std::endl;
        return 2;
    }
    Checks check;
    try {
        work(argv[1], resp == "3" ? 3 : 2, check);
    } catch (const std::exception &error) {
        // All of redis-plus-plus' own exceptions are sw::redis::Error, a std::exception.
        std::cerr << "redis_plus_plus: " << error.what() << std::endl;
        std::cout << "failed after " << check.checked() << " replies" << std::endl;
        return 1;
    }
    if (check.wrong() != 0) {
        std::cout << "failed: " << check.wrong() << " of " << check.checked() << " replies" << std::endl;
        return 1;
    }
    std::cout << "ok: " << check.checked() << " replies checked" << std::endl;
    return 0;
}
