// Callables: how often they are called, when they are destroyed, and where their exceptions go.
#include "cpp_check.hpp"

#include <memory>
#include <thread>
#include <vector>

struct boom : std::runtime_error {
    using std::runtime_error::runtime_error;
};

template <class F> static void throws(F&& body, const std::string& what) {
    try {
        body();
    } catch (const boom& thrown) {
        return SAME(thrown.what(), what);
    }
    CHECK(!"nothing was thrown");
}

static void codes_are_classes() {
    broker::client client = connect();
    try {
        client.call("LPUSH");
        CHECK(false);
    } catch (const broker::reply_error& error) {
        SAME(error.word(), "ERR");
        SAME(error.code(), broker::error_reply);
    }
    try {
        client.call({"BLPOP", "nobody", 0}, std::chrono::milliseconds(20));
        CHECK(false);
    } catch (const broker::timeout_error& error) {
        SAME(error.code(), BROKER_ETIMEDOUT);
    }
    try {
        broker::client nowhere("unix:///nonexistent/broker.sock");
        nowhere.call({"PING"}, std::chrono::seconds(20));
        CHECK(false);
    } catch (const broker::connection_error& error) {
        SAME(error.code(), BROKER_ECONN);
    }
    try {
        broker::config config = patient();
        config.set("client_requests_max", "2");
        broker::client small(setting("BROKER_TEST_ENDPOINT"), config);
        for (int i = 0; i < 3; ++i) small.submit("PING", [](auto) {});
        CHECK(false);
    } catch (const broker::limit_error& error) {
        SAME(error.code(), BROKER_EAGAIN);
    }
}

static void a_callable_is_destroyed_after_its_call() {
    broker::client client = connect();
    token::alive = 0;
    bool called = false;
    auto callable = [&, here = token(), own = std::make_unique<int>(7)](broker::result<std::string_view> got) {
        SAME(token::alive, 2);
        SAME(*own, 7);
        SAME(got.value(), "PONG");
        called = true;
    };
    client.submit<std::string_view>("PING", std::move(callable));
    // The one here has been moved from.
    SAME(token::alive, 2);
    while (!called) client.wait();
    SAME(token::alive, 1);
}

static void a_client_may_move_while_requests_are_pending() {
    int answers = 0;
    broker::client first = connect();
    for (int i = 0; i < 10; ++i) first.submit("PING", [&](auto got) { answers += got.ok(); });
    broker::client second = std::move(first);
    first = connect();
    first.submit("PING", [&](auto got) { answers += got.ok(); });
    std::vector<broker::client> many;
    many.push_back(std::move(first));
    many.push_back(std::move(second));
    while (answers < 11)
        for (auto& one : many) one.wait(std::chrono::milliseconds(1));
    SAME(answers, 11);
}

static void the_end_of_a_client_cancels() {
    token::alive = 0;
    std::vector<int> codes;
    {
        broker::client client = connect();
        broker::subscription outlives;
        for (int i = 0; i < 3; ++i)
            client.submit({"BLPOP", "nobody", 0}, [&, here = token()](auto got) { codes.push_back(got.code()); });
        outlives = client.subscribe("x", [&, here = token()](auto got) { codes.push_back(got.code()); });
        auto future = client.submit_future("BLPOP", "nobody", 0);
        {
            broker::client ends = std::move(client);
        }
        SAME(codes.size(), 4);
        for (const int code : codes) SAME(code, BROKER_ECANCELED);
        SAME(token::alive, 0);
        CHECK(!outlives.active());
        try {
            future.get();
            CHECK(false);
        } catch (const broker::canceled_error&) {
        }
    }
    SAME(token::alive, 0);
}

static void a_callable_may_destroy_its_client() {
    token::alive = 0;
    auto client = std::make_unique<broker::client>(connect());
    int canceled = 0, later = 0;
    const auto count = [&, raw = client.get()](auto got) {
        // The client is gone already: nothing more is taken.
        canceled += got.code() == BROKER_ECANCELED;
        (void)raw;
    };
    client->submit("PING", [&, here = token()](auto got) {
        CHECK(got.ok());
        client.reset();
        ++later;
    });
    for (int i = 0; i < 5; ++i) client->submit({"BLPOP", "nobody", 0}, count);
    auto subscription = std::make_unique<broker::subscription>(client->subscribe("x", [here = token()](auto) {}));
    try {
        for (;;) client->wait();
    } catch (const broker::error& error) {
        SAME(error.code(), BROKER_ESTATE);
    }
    CHECK(client == nullptr);
    SAME(later, 1);
    SAME(canceled, 5);
    SAME(token::alive, 0);
    subscription.reset();
}

static void whoever_is_told_of_the_state_may_destroy_the_client() {
    auto client = std::make_unique<broker::client>(connect());
    const auto here = std::make_shared<token>();
    SAME(client->on_state([&client, here](bool connected, int) {
        CHECK(connected);
        client->on_state([](bool, int) {});
        client.reset();
        throw boom("kept by nobody");
    }), BROKER_OK);
    broker_client_t* const raw = client->get();
    int code = 0;
    while (code >= 0) code = broker_client_process(raw, -1);
    SAME(code, BROKER_ESTATE);
    CHECK(client == nullptr);
    SAME(here.use_count(), 1);
}

static void the_first_exception_is_thrown_by_processing() {
    broker::client client = connect();
    int calls = 0;
    client.submit("PING", [&](auto) { ++calls, throw boom("first"); });
    client.submit("PING", [&](auto) { ++calls, throw boom("second"); });
    throws([&] { while (true) client.wait(); }, "first");
    while (calls < 2) client.wait();
    client.submit("PING", [&](auto) { throw boom("during a call"); });
    SAME(client.call<std::string>("ECHO", "mine"), "mine");
    throws([&] { client.rethrow(); }, "during a call");
    client.rethrow();
    SAME(client.call<std::string>("PING"), "PONG");
    // The C interface knows nothing of it: what drives the client from there finds it in rethrow().
    client.submit("PING", [&](auto) { throw 7; });
    bool kept = false;
    while (!kept) {
        CHECK(broker_client_process(client.get(), -1) >= 0);
        try {
            client.rethrow();
        } catch (int thrown) {
            kept = thrown == 7;
        }
    }
}

static void a_throwing_subscriber_stays_subscribed() {
    broker::client client = connect();
    int messages = 0;
    auto held = client.subscribe("t", [&](broker::result<broker::message> got) {
        if (got.value().started) throw boom("at the start");
        ++messages;
    });
    throws([&] { while (true) client.wait(); }, "at the start");
    client.call<void>("PUBLISH", "t", "1");
    while (messages == 0) client.wait();
}

static void a_subscription_may_end_inside_its_callable() {
    token::alive = 0;
    broker::client client = connect();
    broker::subscription held;
    int calls = 0;
    held = client.subscribe("e", [&, here = token()](auto) {
        ++calls;
        held.unsubscribe();
        SAME(token::alive, 1);
    });
    while (calls == 0) client.wait();
    SAME(token::alive, 0);
    client.call<void>("PUBLISH", "e", "late");
    client.call<void>("PING");
    SAME(calls, 1);
    held.unsubscribe();

    // One that its own callable owns goes with it.
    auto own = std::make_shared<broker::subscription>();
    std::weak_ptr<broker::subscription> seen = own;
    *own = client.subscribe("o", [own, here = token()](auto) {});
    own.reset();
    CHECK(!seen.expired());
    { const broker::client ends = std::move(client); }
    CHECK(seen.expired());
    SAME(token::alive, 0);
}

static void canceling_is_an_outcome() {
    broker::client client = connect();
    int code = 0;
    const broker_req_t request = client.submit({"BLPOP", "nobody", 0}, [&](auto got) { code = got.code(); });
    CHECK(client.cancel(request));
    CHECK(!client.cancel(request));
    SAME(code, 0);
    while (code == 0) client.wait();
    SAME(code, BROKER_ECANCELED);
    CHECK(!client.cancel(request));
}

static void a_callable_may_submit_and_not_process() {
    broker::client client = connect();
    int depth = 0;
    std::function<void(broker::result<std::string>)> again = [&](broker::result<std::string> got) {
        SAME(got.value(), "PONG");
        CODE(client.try_process(), BROKER_EREENTRANT);
        CODE(client.try_call("PING"), BROKER_EREENTRANT);
        if (++depth < 50) client.submit<std::string>("PING", again);
    };
    client.submit<std::string>("PING", again);
    while (depth < 50) client.wait();
}

static void a_future_is_for_another_thread() {
    broker::client client = connect();
    auto future = client.submit_future<std::string>("ECHO", "over there");
    std::string got;
    std::thread waiter([&] { got = future.get(); });
    client.call<void>("PING");
    waiter.join();
    SAME(got, "over there");
    try {
        client.submit_future("WATCH", "k").get();
        CHECK(false);
    } catch (const broker::error& error) {
        SAME(error.code(), BROKER_EUNSUPPORTED);
    }
    auto wrong = client.submit_future<int>("ECHO", "text");
    client.call<void>("PING");
    try {
        wrong.get();
        CHECK(false);
    } catch (const broker::type_error&) {
    }
}

static void a_session_outlives_its_client() {
    auto client = std::make_unique<broker::client>(connect());
    broker::session session = client->open_session();
    session.watch("a", "b");
    broker::session moved = std::move(session);
    SAME(moved.call<std::string>("PING"), "PONG");
    client.reset();
    CODE(moved.try_call("PING"), BROKER_ESTATE);
}

int main() {
    return run({
        codes_are_classes,
        a_callable_is_destroyed_after_its_call,
        a_client_may_move_while_requests_are_pending,
        the_end_of_a_client_cancels,
        a_callable_may_destroy_its_client,
        whoever_is_told_of_the_state_may_destroy_the_client,
        the_first_exception_is_thrown_by_processing,
        a_throwing_subscriber_stays_subscribed,
        a_subscription_may_end_inside_its_callable,
        canceling_is_an_outcome,
        a_callable_may_submit_and_not_process,
        a_future_is_for_another_thread,
        a_session_outlives_its_client,
    });
}
