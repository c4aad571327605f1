// The example of asio.hpp: a client whose first outcome stops the loop.
#include <broker.h>
#include <boost/asio.hpp>
#include <broker/adapters/asio.hpp>
#include <cstdio>

static boost::asio::io_context context;
static bool failed = true;

static void on_reply(broker_client_t *, int status, const broker_reply_t *, void *) {
    failed = status != BROKER_OK;
    if (failed) std::fprintf(stderr, "%s\n", broker_strerror(status));
    context.stop();
}

int main() {
    broker_client_t *client;
    const char *words[] = {"PING"};
    if (broker_client_new(&client, nullptr, nullptr, nullptr, 0) != BROKER_OK) return 1;
    broker_client_submit(client, 1, words, nullptr, 1000, nullptr, on_reply, nullptr);
    SNIPPET
    broker_client_free(client);
    return failed;
}
