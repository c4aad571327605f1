// Many threads of one process, each of which waits for one reply after the other: what benches/threads.py measures.
//
//     threads ENDPOINT WAY THREADS SECONDS
//
// WAY is `own` (a client for each thread), `shared` (broker::shared_client), `posted` (one thread does all input and
// output, the others post to it) or `locked` (one client behind a mutex). Every reply is checked. Prints the number of
// requests, the seconds they took and the seconds of processor time of this process.
#include <broker/shared_client.hpp>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include <sys/resource.h>

using clock_type = std::chrono::steady_clock;

static std::string endpoint;
static std::atomic<bool> stop{false};

/// One thread's work: each value has to come back.
template <class Call> static long work(int number, Call&& call) {
    const std::string key = "bench:threads:" + std::to_string(number);
    long done = 0;
    for (; !stop.load(std::memory_order_relaxed); done += 2) {
        call(broker::command("SET", key, done));
        if (call(broker::command("GET", key)).str() != std::to_string(done)) std::abort();
    }
    return done;
}

static long own(int number) {
    broker::client redis(endpoint);
    return work(number, [&](const broker::command& what) { return redis.call(what); });
}

static long shared(int number) {
    static broker::shared_client redis(endpoint);
    return work(number, [&](const broker::command& what) { return redis.call(what); });
}

static long locked(int number) {
    static broker::client redis(endpoint);
    static std::mutex lock;
    return work(number, [&](const broker::command& what) {
        const std::lock_guard<std::mutex> held(lock);
        return redis.call(what);
    });
}

/// The client, and the thread that does its input and output.
struct io {
    broker::client redis{endpoint};
    std::atomic<bool> over{false};
    std::thread thread{[this] {
        while (!over) redis.wait();
    }};
    ~io() {
        over = true;
        redis.wakeup();
        thread.join();
    }
};

static long posted(int number) {
    static io one;
    return work(number, [&](const broker::command& what) {
        std::promise<broker::reply> promise;
        auto future = promise.get_future();
        one.redis.post([&](int) {
            one.redis.submit<broker::reply>(what, [&](broker::result<broker::reply> got) {
                // Moved out first: the promise ends with the wait.
                auto own = std::move(promise);
                own.set_value(std::move(got).value());
            });
        });
        return future.get();
    });
}

static double processor_seconds() {
    rusage used{};
    getrusage(RUSAGE_SELF, &used);
    const auto seconds = [](const timeval& of) {
        return static_cast<double>(of.tv_sec) + 1e-6 * static_cast<double>(of.tv_usec);
    };
    return seconds(used.ru_utime) + seconds(used.ru_stime);
}

int main(int argc, char** argv) {
    const auto chosen = [&](const char* name) { return argc == 5 && std::strcmp(argv[2], name) == 0; };
    const auto way = chosen("own") ? own : chosen("shared") ? shared : chosen("posted") ? posted : locked;
    if (argc != 5 || (way == locked && !chosen("locked"))) {
        std::fputs("usage: threads ENDPOINT own|shared|posted|locked THREADS SECONDS\n", stderr);
        return 2;
    }
    endpoint = argv[1];
    std::atomic<long> requests{0};
    std::vector<std::thread> threads;
    const double before = processor_seconds();
    const auto start = clock_type::now();
    for (int i = 0; i < std::atoi(argv[3]); ++i) threads.emplace_back([&, i] { requests += way(i); });
    std::this_thread::sleep_for(std::chrono::duration<double>(std::atof(argv[4])));
    stop = true;
    for (auto& thread : threads) thread.join();
    const std::chrono::duration<double> took = clock_type::now() - start;
    std::printf("%ld %.6f %.6f\n", requests.load(), took.count(), processor_seconds() - before);
}
