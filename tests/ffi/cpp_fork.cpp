// A fork with callables pending: here they are released uncalled, in the parent they are called as ever.
#include "cpp_check.hpp"

#include <memory>

#include <sys/wait.h>

static void expect_good_end(pid_t pid) {
    int status = 0;
    SAME(waitpid(pid, &status, 0), pid);
    SAME(status, 0);
}

/// Runs `body` in a forked process, which must end well.
template <class F> static void in_a_fork(F&& body) {
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        begin();
        body();
        // Runs the exit handlers, and so the leak checkers, but not the destructors of the parent's locals.
        std::exit(0);
    }
    expect_good_end(pid);
}

struct pending {
    broker::client client = connect();
    int answers = 0;
    broker::subscription subscription;
    std::future<std::string> future;

    pending() {
        token::alive = 0;
        subscription = client.subscribe("f", [here = token()](auto) {});
        client.call<void>("PING");
        for (int i = 0; i < 10; ++i) client.submit("PING", [this, here = token()](auto got) { answers += got.ok(); });
        client.submit({"BLPOP", "later", 0}, [this, here = token()](auto got) { answers += got.ok(); });
        future = client.submit_future<std::string>("ECHO", "x");
        SAME(token::alive, 12);
    }
    void finish() {
        broker::client other = connect();
        other.call<void>("RPUSH", "later", "now");
        while (answers < 11) client.wait();
        SAME(future.get(), "x");
        SAME(token::alive, 1);
        CHECK(subscription.active());
    }
};

static void a_copy_starts_afresh() {
    auto state = std::make_unique<pending>();
    in_a_fork([&] {
        CODE(state->client.try_call("PING"), BROKER_EFORKED);
        CODE(state->client.try_submit("PING", [here = token()](auto) { CHECK(false); }), BROKER_EFORKED);
        SAME(token::alive, 12);
        state->client.after_fork();
        SAME(token::alive, 0);
        CHECK(!state->subscription.active());
        try {
            state->future.get();
            CHECK(false);
        } catch (const std::future_error&) {
        }
        SAME(state->client.call<std::string>("ECHO", "mine"), "mine");
        SAME(state->answers, 0);
        state.reset();
    });
    CODE(state->client.try_after_fork(), BROKER_ESTATE);
    SAME(token::alive, 12);
    state->finish();
}

static void a_copy_may_only_destroy() {
    auto state = std::make_unique<pending>();
    in_a_fork([&] {
        state.reset();
        SAME(token::alive, 0);
    });
    state->finish();
}

static void a_copy_made_in_a_callable_destroys_the_client() {
    auto state = std::make_unique<pending>();
    pid_t pid = -1;
    state->client.submit("PING", [&, here = token()](auto) {
        pid = fork();
        CHECK(pid >= 0);
        if (pid > 0) return;
        begin();
        state.reset();
        // All but the one that is running.
        SAME(token::alive, 1);
    });
    try {
        while (pid < 0) state->client.wait();
    } catch (const broker::error&) {
        SAME(pid, 0);
        SAME(token::alive, 0);
    }
    if (pid == 0) std::exit(0);
    expect_good_end(pid);
    state->finish();
}

/// Says that its callable is gone by using the client.
struct farewell {
    broker::client* client;
    explicit farewell(broker::client& of) : client(&of) {}
    farewell(farewell&& other) noexcept : client(std::exchange(other.client, nullptr)) {}
    farewell(const farewell&) = delete;
    ~farewell() {
        if (client) CODE(client->try_submit("PING", [](auto) { CHECK(false); }), BROKER_EFORKED);
    }
};

static void a_destroyed_callable_may_try_to_submit() {
    auto client = std::make_unique<broker::client>(connect());
    bool answered = false;
    client->submit("PING", [&, last = std::make_unique<farewell>(*client)](auto) mutable {
        last->client = nullptr;
        answered = true;
    });
    in_a_fork([&] {
        client->after_fork();
        SAME(client->call<std::string>("PING"), "PONG");
        client.reset();
    });
    while (!answered) client->wait();
}

/// The handle goes with the copy that is made, and so do its callables.
static void a_client_may_follow() {
    auto state = std::make_unique<pending>();
    SAME(state->client.follow_fork(true), BROKER_OK);
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        begin();
        SAME(state->client.follow_fork(false), BROKER_OK);
        SAME(token::alive, 12);
        state->finish();
        state.reset();
        SAME(token::alive, 0);
        std::exit(0);
    }
    CODE(state->client.try_call("PING"), BROKER_EFORKED);
    state.reset();
    SAME(token::alive, 0);
    expect_good_end(pid);
}

int main() {
    return run({
        a_copy_starts_afresh,
        a_copy_may_only_destroy,
        a_copy_made_in_a_callable_destroys_the_client,
        a_destroyed_callable_may_try_to_submit,
        a_client_may_follow,
    });
}
