// A client in C++17, with <broker.hpp>: replies as the types the program requests, lambdas, futures,
// subscriptions, an optimistic transaction, exceptions for failures, and one client for many threads.
//
//     client ENDPOINT
//
#include <chrono>
#include <iostream>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <broker/shared_client.hpp>

using namespace std::chrono_literals;

// One request, one reply of the type in angle brackets; words are text, numbers, pairs and ranges.
static void calls(broker::client &redis) {
    const std::map<std::string, int> marks = {{"Ada", 36}, {"Grace", 85}};
    redis.call<void>("SET", "client:answer", 42);
    redis.call<void>("HSET", "client:marks", marks);

    std::cout << "answer: " << redis.call<int>("GET", "client:answer") << "\n";
    std::cout << "nothing: " << redis.call<std::optional<int>>("GET", "client:nothing").value_or(-1) << "\n";
    std::cout << "marks:";
    for (const auto &[name, mark] : redis.call<std::map<std::string, int>>("HGETALL", "client:marks")) {
        std::cout << " " << name << "=" << mark;
    }
    std::cout << "\n";
}

// Each kind of failure has its own class, which says whether it is safe to repeat the request.
static void failures(broker::client &redis) {
    try {
        redis.call("LPUSH", "client:answer", "x");
    } catch (const broker::reply_error &error) { // an error from Redis
        std::cout << "refused: " << error.word() << "\n";
    }
    try {
        redis.call({"BLPOP", "client:nothing", 0}, 50ms);
    } catch (const broker::timeout_error &) { // may have been executed
        std::cout << "timed out\n";
    }
    // Without exceptions: a result, which is a value, or a code with a text.
    const auto number = redis.try_call<int>("ECHO", "seven");
    std::cout << "no number: " << std::boolalpha << (number.code() == broker::wrong_type) << "\n";
}

// Many requests at once; a callable or a future gets each outcome.
static void asynchronous(broker::client &redis) {
    int sum = 0, pending = 10;
    for (int i = 0; i < 10; ++i) {
        redis.submit<int>({"INCR", "client:count"}, [&](broker::result<int> count) {
            sum += count.value(); // throws a failure, which leaves the wait() below
            --pending;
        });
    }
    while (pending > 0) {
        redis.wait();
    }
    std::cout << "sum: " << sum << "\n";

    auto length = redis.submit_future<int>("STRLEN", "client:answer");
    while (length.wait_for(0s) != std::future_status::ready) {
        redis.wait(); // or any loop, in any thread, that processes the client
    }
    std::cout << "length: " << length.get() << "\n";
}

// A subscription lasts as long as its object.
static void messages(broker::client &redis) {
    std::vector<std::string> received;
    bool started = false;
    auto news = redis.subscribe("client:news", [&](broker::result<broker::message> got) {
        const auto &message = got.value();
        if (message.started) {
            started = true;
        } else {
            received.emplace_back(message.payload);
        }
    });
    while (!started) {
        redis.wait();
    }
    redis.call<void>("PUBLISH", "client:news", "first");
    redis.call<void>("PUBLISH", "client:news", "second");
    while (received.size() < 2) {
        redis.wait();
    }
    std::cout << "news: " << received[0] << ", " << received[1] << "\n";
}

// Reads, computes and writes; repeats all of that if another client has written meanwhile.
static void optimistic(broker::client &redis) {
    int attempts = 0;
    const auto twice = [&](broker::session &watching, broker::transaction &then) {
        const int value = watching.call<int>("GET", "client:answer");
        if (++attempts == 1) {
            redis.call<void>("SET", "client:answer", 100); // another client
        }
        then.add("SET", "client:answer", 2 * value).add("GET", "client:answer");
    };
    const auto [set, value] = redis.optimistic<std::tuple<std::string, int>>("client:answer", twice);
    std::cout << "twice: " << set << ", " << value << " at attempt " << attempts << "\n";
}

// Many threads on one connection: one of the waiting threads works for all.
static void threads(const std::string &endpoint) {
    const broker::shared_client redis(endpoint);
    std::vector<std::thread> workers;
    for (int i = 0; i < 8; ++i) {
        workers.emplace_back([&redis] {
            auto under_way = redis.submit<int>("INCR", "client:together");
            redis.call<void>({"INCR", "client:together"}, 5s);
            under_way.get();
        });
    }
    for (auto &worker : workers) {
        worker.join();
    }
    std::cout << "together: " << redis.call<int>("GET", "client:together") << "\n";
}

int main(int argc, char **argv) {
    if (argc != 2) {
        std::cerr << "usage: client ENDPOINT\n";
        return 2;
    }
    try {
        broker::client redis(argv[1]);
        calls(redis);
        failures(redis);
        asynchronous(redis);
        messages(redis);
        optimistic(redis);
        threads(argv[1]);
        redis.call<void>("DEL", "client:answer", "client:marks", "client:count", "client:together");
    } catch (const broker::error &error) {
        std::cerr << "client: " << broker_err_name(error.code()) << ": " << error.what() << "\n";
        return 1;
    }
    return 0;
}
