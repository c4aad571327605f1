/*
 * Much at once: 10,000 requests in flight, a full queue, values of 64 MiB, binary words, requests submitted by the
 * callbacks of others. Over Redis itself and over a broker.
 */
#include "client.h"

enum { FLOOD = 10000, BIG = 64 * 1024 * 1024 };

static long long next_of_row;

static void next_number(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    (void)client;
    CHECK_INT(status, BROKER_OK);
    CHECK_INT(broker_reply_integer(reply), ++next_of_row);
    CHECK(data == &next_of_row);
}

static void flood(broker_client_t *client)
{
    next_of_row = 0;
    EXPECT(client, "+OK", "SET", "k", "0");
    for (int i = 0; i < FLOOD; i++)
        CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, 60000, NULL, next_number, &next_of_row), BROKER_OK);
    CHECK_INT(next_of_row, 0);
    while (next_of_row < FLOOD)
        CHECK_OK(broker_client_process(client, -1));
    EXPECT(client, "10000", "GET", "k");
}

/* The same, driven as a foreign loop does: sleep on the descriptor for as long as the timeout says, then process. */
static void flood_in_a_loop(broker_client_t *client)
{
    int fd = broker_client_fd(client);
    next_of_row = 0;
    EXPECT(client, "+OK", "SET", "k", "0");
    for (int i = 0; i < FLOOD; i++)
        CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, NULL, next_number, &next_of_row), BROKER_OK);
    while (next_of_row < FLOOD) {
        struct pollfd one = {fd, POLLIN, 0};
        CHECK(poll(&one, 1, broker_client_timeout(client)) >= 0);
        CHECK_OK(broker_client_process(client, 0));
        CHECK_INT(broker_client_fd(client), fd);
    }
}

struct chain {
    int left;
    int ran;
};

static void link_of_chain(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    struct chain *chain = data;
    CHECK_INT(status, BROKER_OK);
    CHECK_INT(broker_reply_integer(reply), ++chain->ran);
    int before = chain->ran;
    if (chain->left-- > 0)
        CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, NULL, link_of_chain, chain), BROKER_OK);
    /* Never from inside submit. */
    CHECK_INT(chain->ran, before);
}

static void chains(broker_client_t *client)
{
    struct chain chain = {1000, 0};
    EXPECT(client, "+OK", "SET", "k", "0");
    CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, NULL, link_of_chain, &chain), BROKER_OK);
    wait_count(client, &chain.ran, 1001);
}

static char *big_value(void)
{
    char *value = malloc(BIG);
    CHECK(value != NULL);
    for (size_t i = 0; i < BIG; i++)
        value[i] = (char)(i * 2654435761u >> 13);
    return value;
}

static void big_values(broker_client_t *client)
{
    char *value = big_value();
    const char *const set[] = {"SET", "big", value};
    const size_t lens[] = {3, 3, BIG};
    broker_reply_t *reply = NULL;
    struct outcome beside = {0};
    CHECK_INT(broker_client_call(client, 3, set, lens, BROKER_FOREVER, NULL), BROKER_OK);
    EXPECT(client, ":67108864", "STRLEN", "big");
    CHECK_INT(broker_client_submit(client, ARGV("ECHO", "beside"), NULL, BROKER_FOREVER, NULL, keep, &beside), BROKER_OK);
    CHECK_INT(broker_client_call(client, ARGV("GET", "big"), NULL, BROKER_FOREVER, &reply), BROKER_OK);
    size_t len = 0;
    const char *got = broker_reply_string(reply, &len);
    CHECK_INT(len, BIG);
    CHECK(memcmp(got, value, BIG) == 0 && got[BIG] == '\0');
    broker_reply_free(reply);
    EXPECT_OUTCOME(client, &beside, "beside");
    EXPECT(client, ":1", "DEL", "big");
    free(value);
}

/* Any byte in any word, empty words, NULs; the raw bytes of a reply; a NULL word of no length. */
static void binary(broker_client_t *client)
{
    char all[256];
    broker_reply_t *reply = NULL;
    size_t len = 0;
    for (int i = 0; i < 256; i++)
        all[i] = (char)i;
    const char *const set[] = {"SET", all, all}, *const get[] = {"GET", all}, *const echo[] = {"ECHO", NULL};
    const size_t set_lens[] = {3, 256, 256}, echo_lens[] = {4, 0};
    CHECK_INT(broker_client_call(client, 3, set, set_lens, BROKER_FOREVER, NULL), BROKER_OK);
    CHECK_INT(broker_client_call(client, 2, get, set_lens, BROKER_FOREVER, &reply), BROKER_OK);
    const char *got = broker_reply_string(reply, &len);
    CHECK(len == 256 && memcmp(got, all, 256) == 0 && got[256] == '\0');
    const char *raw = broker_reply_raw(reply, &len);
    CHECK(len == 6 + 256 + 2 && memcmp(raw, "$256\r\n", 6) == 0 && memcmp(raw + 6, all, 256) == 0);
    CHECK(memcmp(raw + 262, "\r\n", 2) == 0);
    broker_reply_free(reply);
    CHECK_INT(broker_client_call(client, 2, echo, echo_lens, BROKER_FOREVER, &reply), BROKER_OK);
    CHECK_TEXT(broker_reply_string(reply, &len), "");
    CHECK_INT(len, 0);
    broker_reply_free(reply);
}

/* Above the limits, nothing is queued and nobody is called; below them again, all goes on. */
static void full(const char *endpoint)
{
    broker_config_t *config = configure("client_requests_max", "100", "client_bytes_max", "1MiB", (char *)NULL);
    broker_client_t *client = open_client(endpoint, config);
    static char value[800 * 1024];
    struct outcome outcomes[100] = {{0}}, refused = {0};
    broker_req_t req = 77;
    EXPECT(client, "+OK", "SET", "k", "0");
    for (int i = 0; i < 100; i++)
        CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, NULL, keep, &outcomes[i]), BROKER_OK);
    CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, &req, keep, &refused), BROKER_EAGAIN);
    CHECK_INT(broker_client_call(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, NULL), BROKER_EAGAIN);
    CHECK(strlen(broker_client_error(client)) > 0);
    for (int i = 0; i < 100; i++)
        wait_outcome(client, &outcomes[i]);
    EXPECT(client, "100", "GET", "k");
    CHECK_INT(refused.calls, 0);
    memset(value, 'v', sizeof value - 1);
    struct outcome first = {0}, second = {0};
    CHECK_INT(broker_client_submit(client, ARGV("SET", "v", value), NULL, BROKER_FOREVER, NULL, keep, &first), BROKER_OK);
    CHECK_INT(broker_client_submit(client, ARGV("SET", "v", value), NULL, BROKER_FOREVER, NULL, keep, &second), BROKER_EAGAIN);
    EXPECT_OUTCOME(client, &first, "+OK");
    CHECK_INT(broker_client_submit(client, ARGV("SET", "v", value), NULL, BROKER_FOREVER, NULL, keep, &second), BROKER_OK);
    EXPECT_OUTCOME(client, &second, "+OK");
    close_client(client);
}

static void all(const char *endpoint)
{
    broker_client_t *client = open_client(endpoint, NULL);
    flood(client);
    flood_in_a_loop(client);
    chains(client);
    binary(client);
    big_values(client);
    close_client(client);
    full(endpoint);
}

int main(int argc, char **argv)
{
    static const char *const settings[] = {"child_output_max=256MiB", NULL};
    begin();
    if (argc < 2 || strcmp(argv[1], "redis") == 0) {
        char endpoint[PATH_SIZE + 8];
        snprintf(endpoint, sizeof endpoint, "unix://%s", setting("BROKER_TEST_REDIS"));
        all(endpoint);
    }
    if (argc < 2 || strcmp(argv[1], "broker") == 0) {
        struct server server = serve(settings);
        all(server.endpoint);
        server_kill(&server);
    }
    return 0;
}
