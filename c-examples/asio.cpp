// A client on an io_context of Boost.Asio, through <broker/adapters/asio.hpp>, in a parent and in a worker that it
// forks: both increment the same key, each with its own connection.
//
//     asio [ENDPOINT]
//
// With -DBROKER_ASIO_STANDALONE it uses standalone Asio.
#include <cstdio>
#include <cstdlib>

#include <sys/wait.h>
#include <unistd.h>

#include <broker.h>
#include <broker/adapters/asio.hpp>
#include <broker/format.h>

namespace {

constexpr int rounds = 1000;

void check(int code, const char *what) {
    if (code < 0) {
        std::fprintf(stderr, "asio: %s: %s\n", what, broker_strerror(code));
        std::exit(1);
    }
}

// One request after the other, until all are answered; then nothing is left to watch, and run() returns.
struct counter {
    broker_asio::io_context &context;
    broker_client_t *client;
    broker_asio_t *adapter = nullptr;
    int left = rounds;

    void start() {
        check(broker_asio_attach_client(&adapter, context.get_executor(), client), "attach");
        next();
    }

    void next() {
        check(broker_client_submitf(client, 5000, nullptr, answered, this, "INCR asio:counter"), "INCR");
    }

    // Runs inside run().
    static void answered(broker_client_t *, int status, const broker_reply_t *, void *data) {
        auto &self = *static_cast<counter *>(data);
        check(status, "INCR");
        if (--self.left > 0) {
            self.next();
        } else {
            broker_asio_detach(self.adapter);
        }
    }
};

// A worker renews what it has inherited: the context, then the client.
int work(broker_asio::io_context &context, broker_client_t *client) {
    context.notify_fork(broker_asio::io_context::fork_child);
    check(broker_client_after_fork(client), "after_fork");
    counter own{context, client};
    own.start();
    context.run();
    broker_client_free(client);
    return 0;
}

} // namespace

int main(int argc, char **argv) {
    broker_asio::io_context context;
    broker_client_t *client;
    broker_reply_t *reply;
    char text[256];

    if (broker_client_new(&client, argc > 1 ? argv[1] : nullptr, nullptr, text, sizeof text) != BROKER_OK) {
        std::fprintf(stderr, "asio: %s\n", text);
        return 1;
    }
    check(broker_client_callf(client, 5000, nullptr, "DEL asio:counter"), "DEL");

    context.notify_fork(broker_asio::io_context::fork_prepare);
    const pid_t worker = fork();
    if (worker == 0) {
        return work(context, client);
    }
    context.notify_fork(broker_asio::io_context::fork_parent);
    counter own{context, client};
    own.start();
    context.run();

    int status = 1;
    waitpid(worker, &status, 0);
    check(broker_client_callf(client, 5000, &reply, "GET asio:counter"), "GET");
    std::printf("counted to %s in two processes\n", broker_reply_string(reply, nullptr));
    broker_reply_free(reply);
    broker_client_free(client);
    return status == 0 ? 0 : 1;
}
