/*
 * What C tests of clients share: opening one, replies as one line of text, outcomes that are counted. Waits are
 * without a limit, so that a lost wake-up is a hang and the watchdog's.
 */
#ifndef CLIENT_H
#define CLIENT_H

#include "servers.h"

#include <sched.h>

/* ---- replies as text: +status -error :1 ,1.5 #t _ (nil) text [a b] {k v} ~[a] >[a] ---- */

struct page {
    char *at, *end;
};

static MAYBE_UNUSED void page_add(struct page *page, const char *text, size_t len)
{
    size_t room = (size_t)(page->end - page->at);
    size_t count = len < room ? len : room;
    memcpy(page->at, text, count);
    page->at += count;
    *page->at = '\0';
}

static MAYBE_UNUSED void render_into(struct page *page, const broker_reply_t *reply)
{
    static const char *const before[] = {"_", "+", "-", ":", ",", "#", "", "=", "(", "[", "{", "~[", ">["};
    int type = broker_reply_type(reply);
    CHECK(type >= BROKER_REPLY_NIL && type <= BROKER_REPLY_PUSH);
    page_add(page, before[type], strlen(before[type]));
    char number[32];
    size_t len = 0;
    const char *text = broker_reply_string(reply, &len);
    switch (type) {
    case BROKER_REPLY_NIL:
        break;
    case BROKER_REPLY_INTEGER:
        snprintf(number, sizeof number, "%lld", (long long)broker_reply_integer(reply));
        page_add(page, number, strlen(number));
        break;
    case BROKER_REPLY_BOOL:
        page_add(page, broker_reply_integer(reply) ? "t" : "f", 1);
        break;
    default:
        if (text != NULL) {
            CHECK(text[len] == '\0');
            page_add(page, text, len);
            break;
        }
        for (size_t i = 0; i < broker_reply_len(reply); i++) {
            if (i > 0)
                page_add(page, " ", 1);
            render_into(page, broker_reply_at(reply, i));
        }
        page_add(page, type == BROKER_REPLY_MAP ? "}" : "]", 1);
    }
}

/* The reply in words; cut to what fits. */
static MAYBE_UNUSED const char *render(const broker_reply_t *reply, char *buf, size_t size)
{
    struct page page = {buf, buf + size - 1};
    buf[0] = '\0';
    if (reply == NULL)
        return "(none)";
    render_into(&page, reply);
    return buf;
}

/* ---- clients ---- */

/* Settings: KEY, VALUE, ..., NULL. Timeouts that are not named suit a slow machine, and valgrind. */
static MAYBE_UNUSED broker_config_t *configure(const char *key, ...)
{
    static const char *const patient[] = {"client_connect_timeout", "client_queue_timeout", "connect_timeout",
                                          "queue_timeout"};
    broker_config_t *config = broker_config_new();
    va_list list;
    CHECK(config != NULL);
    for (size_t i = 0; i < sizeof patient / sizeof patient[0]; i++)
        CHECK_INT(broker_config_set(config, patient[i], "200s"), BROKER_OK);
    va_start(list, key);
    for (; key != NULL; key = va_arg(list, const char *)) {
        const char *value = va_arg(list, const char *);
        if (broker_config_set(config, key, value) != BROKER_OK)
            FAIL("%s", broker_config_error(config));
    }
    va_end(list);
    return config;
}

/* With these settings, which are freed, or with configure()'s. */
static MAYBE_UNUSED broker_client_t *open_client(const char *endpoint, broker_config_t *config)
{
    broker_client_t *client = NULL;
    char words[256] = "";
    config = config ? config : configure(NULL);
    int code = broker_client_new(&client, endpoint, config, words, sizeof words);
    if (code != BROKER_OK)
        FAIL("%s: %s %s", endpoint, broker_err_name(code), words);
    CHECK(client != NULL);
    CHECK_INT(broker_config_free(config), BROKER_OK);
    return client;
}

static MAYBE_UNUSED broker_client_t *open_redis(void)
{
    char endpoint[PATH_SIZE + 8];
    snprintf(endpoint, sizeof endpoint, "unix://%s", setting("BROKER_TEST_REDIS"));
    return open_client(endpoint, NULL);
}

static MAYBE_UNUSED void close_client(broker_client_t *client)
{
    CHECK_INT(broker_client_free(client), BROKER_OK);
}

static MAYBE_UNUSED void expect_at(const char *file, int line, broker_client_t *client, const char *expected,
                                   size_t argc, const char *const *argv)
{
    broker_reply_t *reply = NULL;
    char text[512];
    int code = broker_client_call(client, argc, argv, NULL, BROKER_FOREVER, &reply);
    if (code != BROKER_OK) {
        fprintf(stderr, "%s:%d: %s: %s %s\n", file, line, argv[0], broker_err_name(code), broker_client_error(client));
        _exit(1);
    }
    check_text(file, line, argv[0], render(reply, text, sizeof text), expected);
    broker_reply_free(reply);
}

/* Calls and compares the reply in words. */
#define EXPECT(client, expected, ...) expect_at(__FILE__, __LINE__, client, expected, ARGV(__VA_ARGS__))

static MAYBE_UNUSED long long call_integer(broker_client_t *client, size_t argc, const char *const *argv)
{
    broker_reply_t *reply = NULL;
    CHECK_INT(broker_client_call(client, argc, argv, NULL, BROKER_FOREVER, &reply), BROKER_OK);
    CHECK_INT(broker_reply_type(reply), BROKER_REPLY_INTEGER);
    long long number = broker_reply_integer(reply);
    broker_reply_free(reply);
    return number;
}

/* ---- outcomes ---- */

struct outcome {
    int calls;
    int status;
    char text[128];
};

/* A callback that keeps what it got; `data` is a struct outcome. */
static MAYBE_UNUSED void keep(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    struct outcome *outcome = data;
    (void)client;
    CHECK((status == BROKER_OK) == (reply != NULL));
    outcome->calls++;
    outcome->status = status;
    snprintf(outcome->text, sizeof outcome->text, "%s", reply ? render(reply, (char[128]){0}, 128) : "");
}

static MAYBE_UNUSED void wait_outcome(broker_client_t *client, const struct outcome *outcome)
{
    while (outcome->calls == 0)
        CHECK_OK(broker_client_process(client, -1));
}

/* Waits for the outcome, which must be this reply and the only one. */
#define EXPECT_OUTCOME(client, outcome, expected) \
    (wait_outcome(client, outcome), CHECK_INT((outcome)->status, BROKER_OK), CHECK_TEXT((outcome)->text, expected), \
     CHECK_INT((outcome)->calls, 1))

/* The same for a code. */
#define EXPECT_CODE(client, outcome, code) \
    (wait_outcome(client, outcome), CHECK_INT((outcome)->status, code), CHECK_INT((outcome)->calls, 1))

/* Waits for a callback's `count` to reach `wanted`. */
static MAYBE_UNUSED void wait_count(broker_client_t *client, const int *count, int wanted)
{
    while (*count < wanted)
        CHECK_OK(broker_client_process(client, -1));
}

/* Until another thread waits on the client: refused once, it may be between two steps by the next time. */
static MAYBE_UNUSED void wait_in_use(broker_client_t *client)
{
    for (int refused = 0; refused < 200; sched_yield())
        refused = broker_client_connected(client) == BROKER_EREENTRANT ? refused + 1 : 0;
}

/* A broker_state_cb that counts losses in an int. Asking whether it is connected would miss one that is over. */
static MAYBE_UNUSED void count_loss(broker_client_t *client, int connected, int reason, void *data)
{
    (void)client;
    CHECK((connected == 1) == (reason == BROKER_OK));
    if (!connected)
        ++*(int *)data;
}

#endif
