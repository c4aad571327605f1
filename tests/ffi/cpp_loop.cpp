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
    int left = 3;
    loop.submit<std::string>({"ECHO", "own"}, [&](auto got) { SAME(got.value(), "own"), --left; });
    broker::transaction block;
    block.add("SET", "l", 1).add("INCR", "l");
    loop.submit<std::tuple<std::string, int>>(block, [&](auto got) { SAME(std::get<1>(got.value()), 2), --left; });
    loop.submit<int>({"GET", "none"}, [&](auto got) {
        CODE(got, broker::wrong_type);
        CODE(loop.try_run(), BROKER_EREENTRANT);
        --left;
    });
    CODE(loop.try_submit("SELECT", [](auto) { CHECK(false); }), BROKER_EUNSUPPORTED);
    auto future = loop.submit_future<int>("STRLEN", "none");
    while (left > 0) CHECK(loop.run(BROKER_RUN_ONCE));
    SAME(future.get(), 0);
    loop.submit("PING", [](auto) { throw std::runtime_error("from a callable"); });
    try {
        for (;;) loop.run(BROKER_RUN_ONCE);
    } catch (const std::runtime_error& error) {
        SAME(error.what(), "from a callable");
    }
    std::thread stopper([&] { SAME(loop.stop(), BROKER_OK); });
    CHECK(loop.run());
    stopper.join();
    loop.drain(std::chrono::seconds(5));
    CHECK(!loop.run());
}

static void its_end_cancels() {
    token::alive = 0;
    int code = 0;
    {
        broker::loop loop(settings());
        loop.submit({"BLPOP", "nobody", 0}, [&, here = token()](auto got) { code = got.code(); });
        loop.run(BROKER_RUN_NOWAIT);
        broker::loop moved = std::move(loop);
        SAME(token::alive, 1);
    }
    SAME(code, BROKER_ECANCELED);
    SAME(token::alive, 0);
}

static void a_worker_over_a_socketpair() {
    token::alive = 0;
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    auto loop = std::make_unique<broker::loop>(settings());
    int code = 0;
    loop->submit({"BLPOP", "nobody", 0}, [&, here = token()](auto got) { code = got.code(); });
    loop->adopt_fd(ends[0]);
    CODE(loop->try_adopt_fd(-1), BROKER_EINVAL);
    const pid_t worker = fork();
    CHECK(worker >= 0);
    if (worker == 0) {
        begin();
        loop->after_fork();
        SAME(token::alive, 0);
        loop.reset();
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
        its_end_cancels,
        a_worker_over_a_socketpair,
    });
}
