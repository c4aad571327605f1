// The broker inside a C++ program: its own requests, a client over a socketpair, a forked worker, its end.
#include "cpp_check.hpp"

#include <memory>
#include <thread>

#include <sys/socket.h>
#include <sys/wait.h>

static broker::config settings() {
    broker::config config;
    config.set("connect_timeout", "200s").set("queue_timeout", "200s");
    config.set("upstream", unix_url("BROKER_TEST_REDIS"));
    config.set("listen", unix_url("BROKER_TEST_DIRECTORY") + "/cpp_loop.sock");
    return config;
}

static void its_own_requests() {
    broker::loop loop(settings());
    SAME(loop.endpoint().rfind("unix:///", 0), 0);
    CODE(loop.try_endpoint(1), BROKER_EINVAL);
    CODE(loop.try_stat("nonsense"), BROKER_EINVAL);
    broker::client own = loop.client();
    int left = 3;
    own.submit<std::string>({"ECHO", "own"}, [&](auto got) { SAME(got.value(), "own"), --left; });
    broker::transaction block;
    block.add("SET", "l", 1).add("INCR", "l");
    own.submit<std::tuple<std::string, int>>(block, [&](auto got) { SAME(std::get<1>(got.value()), 2), --left; });
    own.submit<int>({"GET", "none"}, [&](auto got) {
        CODE(got, broker::wrong_type);
        CODE(loop.try_run(), BROKER_EREENTRANT);
        --left;
    });
    CODE(own.try_submit("SELECT", [](auto) { CHECK(false); }), BROKER_EUNSUPPORTED);
    CODE(own.try_wait(), BROKER_EUNSUPPORTED);
    auto future = own.submit_future<int>("STRLEN", "none");
    while (left > 0) CHECK(loop.run(BROKER_RUN_ONCE));
    // A call runs the loop.
    SAME(own.call<std::string>("ECHO", "called"), "called");
    SAME(future.get(), 0);
    own.submit("PING", [](auto) { throw std::runtime_error("from a callable"); });
    try {
        for (;;) loop.run(BROKER_RUN_ONCE);
    } catch (const std::runtime_error& error) {
        SAME(error.what(), "from a callable");
    }
    bool posted = false;
    std::thread poster([&] { loop.post([&](int status) { SAME(status, BROKER_OK), posted = true; }); });
    while (!posted) loop.run(BROKER_RUN_ONCE);
    poster.join();
    std::thread stopper([&] { SAME(loop.stop(), BROKER_OK); });
    CHECK(loop.run());
    stopper.join();
    loop.drain(std::chrono::seconds(5));
    CHECK(!loop.run());
}

static void its_clients_watch_and_subscribe() {
    broker::loop loop(settings());
    broker::client own = loop.client();
    own.call<void>("SET", "w", 1);
    int attempts = 0;
    const auto raise = [&](broker::session& session, broker::transaction& then) {
        const int now = session.call<int>("GET", "w");
        if (++attempts == 1) own.call<void>("SET", "w", 5);
        then.add("SET", "w", now + 1);
    };
    own.optimistic("w", raise);
    SAME(attempts, 2);
    SAME(own.call<int>("GET", "w"), 6);
    std::string seen;
    auto held = own.subscribe("inside", [&](auto got) { seen += got.value().started ? "+" : got.value().payload; });
    while (seen.empty()) loop.run(BROKER_RUN_ONCE);
    own.call<void>("PUBLISH", "inside", "news");
    while (seen.size() < 2) loop.run(BROKER_RUN_ONCE);
    SAME(seen, "+news");
}

static void its_end_cancels() {
    token::alive = 0;
    int code = 0;
    std::optional<broker::client> outlives;
    {
        broker::loop loop(settings());
        outlives = loop.client();
        outlives->submit({"BLPOP", "nobody", 0}, [&, here = token()](auto got) { code = got.code(); });
        loop.run(BROKER_RUN_NOWAIT);
        broker::loop moved = std::move(loop);
        SAME(token::alive, 1);
    }
    SAME(code, BROKER_ECANCELED);
    SAME(token::alive, 0);
    CODE(outlives->try_call("PING"), BROKER_ESTATE);
}

static void at_its_end_a_callable_may_destroy_its_client() {
    token::alive = 0;
    int canceled = 0;
    auto loop = std::make_unique<broker::loop>(settings());
    auto own = std::make_unique<broker::client>(loop->client());
    for (int i = 0; i < 4; ++i) {
        own->submit({"BLPOP", "nobody", 0}, [&, here = token()](auto got) {
            canceled += got.code() == BROKER_ECANCELED;
            own.reset();
        });
    }
    loop->run(BROKER_RUN_NOWAIT);
    loop.reset();
    CHECK(own == nullptr);
    SAME(canceled, 4);
    SAME(token::alive, 0);
}

static void a_worker_over_a_socketpair() {
    token::alive = 0;
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    auto loop = std::make_unique<broker::loop>(settings());
    auto own = std::make_unique<broker::client>(loop->client());
    int code = 0;
    own->submit({"BLPOP", "nobody", 0}, [&, here = token()](auto got) { code = got.code(); });
    loop->adopt(ends[0]);
    CODE(loop->try_adopt(-1), BROKER_EINVAL);
    const pid_t worker = fork();
    CHECK(worker >= 0);
    if (worker == 0) {
        begin();
        CODE(loop->try_run(), BROKER_EFORKED);
        CODE(own->try_call("PING"), BROKER_EFORKED);
        loop.reset();
        own.reset();
        SAME(token::alive, 0);
        {
            broker::client client("fd://" + std::to_string(ends[1]), patient());
            SAME(client.call<std::string>("ECHO", "worker"), "worker");
        }
        std::exit(0);
    }
    close(ends[1]);
    int status = -1;
    while (waitpid(worker, &status, WNOHANG) == 0) loop->run(BROKER_RUN_NOWAIT);
    SAME(status, 0);
    loop.reset();
    SAME(code, BROKER_ECANCELED);
}

int main() {
    return run({
        its_own_requests,
        its_clients_watch_and_subscribe,
        its_end_cancels,
        at_its_end_a_callable_may_destroy_its_client,
        a_worker_over_a_socketpair,
    });
}
