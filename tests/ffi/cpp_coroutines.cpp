// Awaitables: order, cancellation with the frame, the end of the client.
#include "cpp_check.hpp"

#include <coroutine>
#include <memory>
#include <vector>

/// A coroutine that runs until its first wait, and is destroyed with the object if it has not ended by then.
class task {
public:
    struct promise_type {
        bool* done = nullptr;
        task get_return_object() { return task(std::coroutine_handle<promise_type>::from_promise(*this)); }
        std::suspend_never initial_suspend() noexcept { return {}; }
        std::suspend_always final_suspend() noexcept { return {}; }
        void return_void() {}
        /// Into whatever resumed it, so through the library's callback.
        void unhandled_exception() {
#if defined(__cpp_exceptions)
            throw;
#endif
        }
    };
    explicit task(std::coroutine_handle<promise_type> of) : of_(of) {}
    task(task&& other) noexcept : of_(std::exchange(other.of_, {})) {}
    ~task() {
        if (of_) of_.destroy();
    }
    bool done() const { return of_.done(); }

private:
    std::coroutine_handle<promise_type> of_;
};

static task without_exceptions(broker::client& client, std::vector<std::string>& seen) {
    auto first = client.try_async<int>("STRLEN", "absent");
    auto second = client.try_async<std::string>({"ECHO", "second"}, std::chrono::seconds(9));
    seen.push_back(OK(co_await second));
    SAME(OK(co_await first), 0);
    CODE(co_await client.try_async("WATCH", "x"), BROKER_EUNSUPPORTED);
    CODE(co_await client.try_async<int>("ECHO", "text"), broker::wrong_type);
    broker::transaction block;
    OK(block.try_add("SET", "c", 1));
    OK(block.try_add("INCR", "c"));
    SAME(std::get<1>(OK(co_await client.try_async<std::tuple<std::string, int>>(block))), 2);
    seen.push_back("end");
}

static void they_are_resumed_in_processing() {
    broker::client client = connect();
    std::vector<std::string> seen;
    const task running = without_exceptions(client, seen);
    CHECK(seen.empty());
    while (!running.done()) OK(client.try_wait());
    SAME(seen.size(), 2);
}

static task waits(broker::client& client, token here, int& code) {
    code = 1;
    auto got = co_await client.try_async("BLPOP", "nobody", 0);
    code = got.code();
    (void)here;
}

static void a_destroyed_frame_cancels() {
    broker::client client = connect();
    token::alive = 0;
    int code = 0;
    {
        const task running = waits(client, token(), code);
        OK(client.try_call("PING"));
        SAME(token::alive, 1);
    }
    SAME(token::alive, 0);
    SAME(code, 1);
    // Nobody waits at Redis any more.
    broker::client redis = connect_redis();
    while (OK(redis.try_call<std::string>("INFO", "clients")).find("blocked_clients:0\r\n") == std::string::npos)
        OK(client.try_wait(std::chrono::milliseconds(2)));
    // One that was never awaited.
    { const auto dropped = client.try_async("PING"); }
    OK(client.try_call("PING"));
}

static void the_end_of_the_client_resumes() {
    token::alive = 0;
    int code = 0;
    auto client = std::make_unique<broker::client>(connect());
    const task running = waits(*client, token(), code);
    OK(client->try_call("PING"));
    client.reset();
    CHECK(running.done());
    SAME(code, BROKER_ECANCELED);
}

static task ends_the_client(std::unique_ptr<broker::client>& client, int& code) {
    OK(co_await client->try_async("PING"));
    auto pending = client->try_async("BLPOP", "nobody", 0);
    client.reset();
    code = (co_await pending).code();
}

static void a_coroutine_may_destroy_its_client() {
    int code = 0;
    auto client = std::make_unique<broker::client>(connect());
    const task running = ends_the_client(client, code);
    while (client) (void)client->try_wait();
    CHECK(running.done());
    SAME(code, BROKER_ECANCELED);
}

#if defined(__cpp_exceptions)
static task with_exceptions(broker::client& client, int& sum) {
    for (int i = 0; i < 10; ++i) sum += co_await client.async<int>("INCR", "coroutine");
    try {
        co_await client.async<int>("LPUSH", "coroutine", 1);
        CHECK(false);
    } catch (const broker::reply_error& error) {
        SAME(error.word(), "WRONGTYPE");
    }
    co_await client.async<void>("SUBSCRIBE", "x");
}

static void what_they_throw_is_thrown_by_processing() {
    broker::client client = connect();
    client.call<void>("DEL", "coroutine");
    int sum = 0;
    const task running = with_exceptions(client, sum);
    try {
        for (;;) client.wait();
    } catch (const broker::error& error) {
        SAME(error.code(), BROKER_EUNSUPPORTED);
    }
    SAME(sum, 55);
}
#endif

int main() {
    return run({
        they_are_resumed_in_processing,
        a_destroyed_frame_cancels,
        the_end_of_the_client_resumes,
        a_coroutine_may_destroy_its_client,
#if defined(__cpp_exceptions)
        what_they_throw_is_thrown_by_processing,
#endif
    });
}
