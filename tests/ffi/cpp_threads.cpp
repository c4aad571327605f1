// One client for many threads: whose reply is whose, time limits, canceling, room, the end, forks.
#include "cpp_check.hpp"

#include <broker/shared_client.hpp>

#include <memory>
#include <random>
#include <thread>
#include <vector>

using namespace std::chrono_literals;

static broker::shared_client connect_all(const broker::config& config = patient()) {
    return OK(broker::shared_client::open(setting("BROKER_TEST_ENDPOINT"), config));
}

/// Runs `body(i)` in so many threads, and waits for them.
template <class F> static void in_threads(int count, F&& body) {
    std::vector<std::thread> threads;
    for (int i = 0; i < count; ++i) threads.emplace_back([&body, i] { body(i); });
    for (auto& thread : threads) thread.join();
}

/// Waits until Redis has so many clients blocked, with `meanwhile` between two looks.
template <class F> static void await_blocked(int count, F&& meanwhile) {
    broker::client redis = connect_redis();
    const std::string wanted = "blocked_clients:" + std::to_string(count) + "\r\n";
    while (OK(redis.try_call<std::string>("INFO", "clients")).find(wanted) == std::string::npos) meanwhile();
}
static void await_blocked(int count) { await_blocked(count, pause_a_little); }

/// Under valgrind, which the patience of the driver tells, a tenth.
static int rounds(int many) { return patience() > 100 ? many / 10 : many; }

static void one_thread_leads_itself() {
    const broker::shared_client redis = connect_all();
    OK(redis.try_call<void>("SET", "one", 1));
    SAME(OK(redis.try_call<int>("INCRBY", "one", 4)), 5);
    CODE(redis.try_call<int>("LPUSH", "one", 4), broker::error_reply);
    CODE(redis.try_call<int>("ECHO", "text"), broker::wrong_type);
    const auto unsupported = redis.try_call("WATCH", "one");
    CODE(unsupported, BROKER_EUNSUPPORTED);
    CHECK(unsupported.message().size() > std::string_view(broker_strerror(BROKER_EUNSUPPORTED)).size());
    CODE(redis.try_call("GET", static_cast<const char*>(nullptr)), BROKER_EINVAL);
    CODE(redis.submit("GET", static_cast<const char*>(nullptr)).try_get(), BROKER_EINVAL);
    CODE(redis.try_call({"BLPOP", "nobody", 0}, 20ms), BROKER_ETIMEDOUT);
    CODE(redis.try_call({"BLPOP", "nobody", 0}, -1ms), BROKER_ETIMEDOUT);
    broker::transaction block;
    OK(block.try_add("SET", "one", 7));
    OK(block.try_add("INCR", "one"));
    SAME(std::get<1>(OK(redis.try_call<std::tuple<std::string, int>>(block))), 8);
    auto later = redis.submit<std::tuple<std::string, int>>(std::move(block));
    SAME(std::get<1>(OK(later.try_get())), 8);
    CODE(later.try_get(), BROKER_ESTATE);
}

/// Nonces, time limits that pass and replies of many sizes: every thread gets its own, each once.
static void everyone_gets_their_own() {
    const broker::shared_client redis = connect_all();
    std::atomic<long> answered{0}, expired{0};
    in_threads(16, [&, seed = std::random_device()()](int me) {
        std::mt19937 random(seed + static_cast<unsigned>(me));
        const std::string name = std::to_string(me) + ":";
        for (int i = 0; i < rounds(1000); ++i) {
            const std::string nonce = name + std::to_string(i) + std::string(random() % 4 ? 0 : random() % 3000, 'x');
            if (random() % 16 == 0) {
                // May pass in the queue, at Redis, or not at all.
                const auto limit = std::chrono::microseconds(random() % 4000);
                const auto got = redis.try_call<std::string>({"ECHO", nonce}, limit);
                got.ok() ? SAME(got.value(), nonce) : CODE(got, BROKER_ETIMEDOUT);
                ++(got.ok() ? answered : expired);
            } else if (random() % 16 == 0) {
                CODE(redis.try_call({"BLPOP", "nobody:" + name, 0}, 1ms), BROKER_ETIMEDOUT);
                ++expired;
            } else {
                SAME(OK(redis.try_call<std::string>("ECHO", nonce)), nonce);
                ++answered;
            }
        }
    });
    SAME(answered + expired, 16 * rounds(1000));
    CHECK(expired > 0);
}

/// Several requests of a thread at once, some of which nobody wants in the end.
static void what_is_submitted_comes_to_its_own() {
    const broker::shared_client redis = connect_all();
    in_threads(8, [&](int me) {
        std::mt19937 random(static_cast<unsigned>(me));
        const std::string key = "counter:" + std::to_string(me);
        OK(redis.try_call<void>("DEL", key));
        for (int i = 0; i < rounds(100); ++i) {
            std::vector<broker::pending<std::int64_t>> under_way;
            for (int k = 0; k < 10; ++k) under_way.push_back(redis.submit<std::int64_t>("INCR", key));
            auto unwanted = redis.submit("BLPOP", "nobody", 0);
            if (random() % 2) unwanted.wait_for(std::chrono::microseconds(random() % 300));
            if (random() % 4 == 0) under_way.pop_back();
            // In the order in which they were sent, whichever is asked first.
            const auto last = OK(under_way.back().try_get());
            for (std::size_t k = 0; k + 1 < under_way.size(); ++k)
                SAME(OK(under_way[k].try_get()), last - static_cast<std::int64_t>(under_way.size() - 1 - k));
        }
    });
    // What nobody waits for any more does not wait at Redis either.
    OK(redis.try_call("PING"));
    await_blocked(0);
}

static void a_sleeping_leader_is_woken() {
    const broker::shared_client redis = connect_all();
    std::thread waits([&] { SAME((OK(redis.try_call<std::array<std::string, 2>>("BLPOP", "wake", 0))[1]), "now"); });
    await_blocked(1);
    // It leads, and nothing else would wake it.
    in_threads(8, [&](int me) { SAME(OK(redis.try_call<int>("ECHO", me)), me); });
    OK(redis.try_call<int>("RPUSH", "wake", "now"));
    waits.join();
}

static void waiting_may_end_before_the_outcome() {
    const broker::shared_client redis = connect_all();
    auto pop = redis.submit<std::array<std::string, 2>>("BLPOP", "late", 0);
    CHECK(!pop.ready());
    // Nothing is sent while nobody waits.
    await_blocked(1, [&] { CHECK(!pop.wait_for(5ms)); });
    std::thread other([&] { CHECK(!pop.wait_for(5ms)); });
    OK(redis.try_call<int>("ECHO", 1));
    other.join();
    OK(redis.try_call<int>("RPUSH", "late", "x"));
    while (!pop.ready()) pop.wait_for(1s);
    SAME(OK(pop.try_get())[1], "x");
}

static void asking_again_and_again_is_enough() {
    const broker::shared_client redis = connect_all();
    auto one = redis.submit<int>("ECHO", 1);
    while (!one.wait_for(0ms)) pause_a_little();
    CHECK(one.ready());
    SAME(OK(one.try_get()), 1);
}

static void those_without_room_wait() {
    broker::config small = patient();
    OK(small.try_set("client_requests_max", "2"));
    OK(small.try_set("client_connections_max", "2"));
    const broker::shared_client redis = connect_all(small);
    in_threads(16, [&](int me) {
        for (int i = 0; i < rounds(100); ++i) SAME(OK(redis.try_call<int>("ECHO", me * 1000 + i)), me * 1000 + i);
    });
    std::vector<broker::pending<int>> many;
    for (int i = 0; i < 100; ++i) many.push_back(redis.submit<int>("ECHO", i));
    for (int i = 99; i >= 0; --i) SAME(OK(many[static_cast<std::size_t>(i)].try_get()), i);
    // Their time passes though C has never heard of them.
    in_threads(6, [&](int) { CODE(redis.try_call({"BLPOP", "nobody", 0}, 30ms), BROKER_ETIMEDOUT); });
    // With nothing under way there is nothing to wait for.
    broker::config none = patient();
    OK(none.try_set("client_connections_max", "0"));
    CODE(connect_all(none).try_call("BLPOP", "nobody", 0), BROKER_EAGAIN);
}

static void a_full_house_does_not_hold_up_the_others() {
    broker::config small = patient();
    OK(small.try_set("client_connections_max", "2"));
    const broker::shared_client redis = connect_all(small);
    std::atomic<int> popped{0};
    std::vector<std::thread> poppers;
    for (int i = 0; i < 6; ++i)
        poppers.emplace_back([&] { OK(redis.try_call("BLPOP", "house", 0)), ++popped; });
    await_blocked(2);
    for (int i = 0; i < 6; ++i) OK(redis.try_call<int>("RPUSH", "house", i));
    for (auto& one : poppers) one.join();
    SAME(popped.load(), 6);
}

static void closing_ends_all_waits() {
    broker::shared_client redis = connect_all();
    std::vector<std::thread> waiting;
    // Each of its own key: what asks alike shares leases.
    for (int i = 0; i < 6; ++i)
        waiting.emplace_back([&, i] { CODE(redis.try_call("BLPOP", i, 0), BROKER_ECANCELED); });
    await_blocked(6);
    auto queued = redis.submit("BLPOP", "nobody", 0);
    redis.close();
    for (auto& one : waiting) one.join();
    CODE(queued.try_get(), BROKER_ECANCELED);
    CODE(redis.try_call("PING"), BROKER_ESTATE);
    CODE(redis.submit("PING").try_get(), BROKER_ESTATE);
    redis.close();
    redis = connect_all();
    SAME(OK(redis.try_call<std::string>("PING")), "PONG");
    // Nobody leads.
    auto alone = redis.submit("PING");
    redis.close();
    CODE(alone.try_get(), BROKER_ECANCELED);
}

/// There is room for one that blocks and for others: those that would block as well hold up nobody.
static void a_crowd_that_blocks_does_not_hold_up_the_others() {
    broker::config small = patient();
    OK(small.try_set("client_connections_max", "1"));
    OK(small.try_set("client_requests_max", "50"));
    const broker::shared_client redis = connect_all(small);
    std::vector<broker::pending<broker::reply>> blocking;
    for (int i = 0; i < 500; ++i) blocking.push_back(redis.submit("BLPOP", "nobody", 0));
    std::vector<broker::pending<int>> others;
    for (int i = 0; i < 200; ++i) others.push_back(redis.submit<int>("ECHO", i));
    for (int i = 0; i < 200; ++i) SAME(OK(others[static_cast<std::size_t>(i)].try_get()), i);
    SAME(OK(redis.try_call<int>("ECHO", 7)), 7);
}

/// Whatever the leader is at, sending, waiting or about to hand over, it sees that it is to end.
static void closing_is_noticed_by_a_leader_that_is_awake() {
    for (int i = 0; i < rounds(200); ++i) {
        broker::shared_client redis = connect_all();
        const auto wait_for_the_end = [&](broker::time_limit each) {
            int code = BROKER_ETIMEDOUT;
            while (code == BROKER_ETIMEDOUT) code = redis.try_call({"BLPOP", "nobody", 0}, each).code();
            CHECK(code == BROKER_ECANCELED || code == BROKER_ESTATE);
        };
        std::thread waits(wait_for_the_end, broker::forever);
        std::thread asks(wait_for_the_end, 1ms);
        for (int k = i % 3; k >= 0; --k) OK(redis.try_call("PING"));
        redis.close();
        waits.join();
        asks.join();
    }
}

/// What C says of a freed handle it says for a thousand handles or so; then the same pointer is a new client's.
static void a_closed_one_leaves_later_clients_alone() {
    std::optional<broker::shared_client> closed = connect_all();
    OK(closed->try_call("PING"));
    closed->close();
    for (int i = 0; i < 1024; ++i) connect();
    std::vector<broker::client> later;
    for (int i = 0; i < 40; ++i) later.push_back(connect());
    CODE(closed->try_after_fork(), BROKER_ESTATE);
    closed.reset();
    for (auto& client : later) OK(client.try_call("PING"));
}

static void the_last_copy_ends_it() {
    std::optional<broker::pending<int>> outlives;
    {
        const broker::shared_client redis = connect_all();
        broker::shared_client copy = redis;
        outlives = copy.submit<int>("ECHO", 3);
        const auto dropped = redis.submit<int>("ECHO", 4);
    }
    SAME(OK(outlives->try_get()), 3);
    outlives.reset();
}

/// A log callback runs in the thread that leads, which cannot wait for itself.
static void a_log_callback_may_not_call() {
    // A peer that does not speak the protocol, which is worth a line of log.
    const std::string path = std::string(setting("BROKER_TEST_DIRECTORY")) + "/nonsense.sock";
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    CHECK(listen(listener, 5) == 0);
    std::thread peer([&] {
        for (int fd; (fd = accept(listener, nullptr, nullptr)) >= 0; close(fd)) {
            // Who has given up meanwhile misses it.
            (void)!send(fd, "nonsense\r\n", 10, MSG_NOSIGNAL);
            char byte;
            while (read(fd, &byte, 1) > 0) continue;
        }
    });
    static std::atomic<int> refused{0};
    const auto redis = OK(broker::shared_client::open("unix://" + path));
    const auto tell = [](int, const char*, std::size_t, const void*, void* data) {
        if (data) refused += static_cast<const broker::shared_client*>(data)->try_call("PING").code() == BROKER_EREENTRANT;
    };
    CHECK(broker_log_set(BROKER_LOG_ERROR, tell, const_cast<broker::shared_client*>(&redis)) >= 0);
    in_threads(4, [&](int) { CHECK(!redis.try_call("PING").ok()); });
    CHECK(refused > 0);
    CHECK(broker_log_set(BROKER_LOG_OFF, nullptr, nullptr) >= 0);
    redis.close();
    CHECK(shutdown(listener, SHUT_RDWR) == 0);
    peer.join();
    close(listener);
    unlink(path.c_str());
}

/// A process of threads forks again and again: nothing that they held hangs the copy, and they notice nothing.
static void a_fork_beside_leading_threads() {
    if (ALLOCATOR_FORKS_LOCKED) return;
    const broker::shared_client redis = connect_all();
    std::atomic<bool> stop{false};
    std::thread others([&] {
        in_threads(4, [&](int me) {
            for (int i = 0; !stop; ++i) SAME(OK(redis.try_call<int>("ECHO", i + me)), i + me);
        });
    });
    auto inherited = redis.submit<int>("ECHO", 9);
    for (int i = 0; i < rounds(30); ++i) {
        OK(redis.try_call("PING"));
        const pid_t pid = fork_or_fail();
        if (pid == 0) {
            CODE(redis.try_call("PING"), BROKER_EFORKED);
            CODE(redis.submit("PING").try_get(), BROKER_EFORKED);
            OK(redis.try_after_fork());
            CODE(inherited.try_get(), BROKER_EFORKED);
            const auto echo = [&](int me) { SAME(OK(redis.try_call<int>("ECHO", -me)), -me); };
#if defined(__SANITIZE_THREAD__)
            // Which knows of no threads in the copy of a process that has some.
            echo(1);
#else
            in_threads(4, echo);
#endif
            end_child_of_threads();
        }
        wait_child(pid);
    }
    CODE(redis.try_after_fork(), BROKER_ESTATE);
    SAME(OK(inherited.try_get()), 9);
    stop = true;
    others.join();
}

static void a_copy_may_only_destroy() {
    auto redis = std::make_unique<broker::shared_client>(connect_all());
    auto pending = std::make_unique<broker::pending<int>>(redis->submit<int>("ECHO", 9));
    OK(redis->try_call("PING"));
    const pid_t pid = fork_or_fail();
    if (pid == 0) {
        redis.reset();
        pending.reset();
        end_child();
    }
    wait_child(pid);
    SAME(OK(pending->try_get()), 9);
}

int main() {
    return run({
        one_thread_leads_itself,
        everyone_gets_their_own,
        what_is_submitted_comes_to_its_own,
        a_sleeping_leader_is_woken,
        waiting_may_end_before_the_outcome,
        asking_again_and_again_is_enough,
        those_without_room_wait,
        a_full_house_does_not_hold_up_the_others,
        a_crowd_that_blocks_does_not_hold_up_the_others,
        closing_ends_all_waits,
        closing_is_noticed_by_a_leader_that_is_awake,
        a_closed_one_leaves_later_clients_alone,
        the_last_copy_ends_it,
        a_log_callback_may_not_call,
        a_fork_beside_leading_threads,
        a_copy_may_only_destroy,
    });
}
