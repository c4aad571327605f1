/*
 * Everything at once, by chance: requests, transactions, pops, sessions, subscriptions, cancellations, timeouts, forks,
 * and connections cut under way. Every request has exactly one outcome, of a kind that can be, and a reply that is its
 * own; nothing is executed twice. Arguments: a seed and how many steps.
 */
#include "proxy.h"

enum { SLOTS = 400, SESSIONS = 3, FEEDS = 4 };

/* What a request asked for, and so what its reply must be. */
enum kind { NOTHING_YET, ECHO, COUNT, BLOCK, POP, IN_SESSION };

struct slot {
    enum kind kind;
    int number, calls, canceled, timed;
    broker_req_t req;
    char word[32];
};

struct feed {
    broker_req_t sub;
    int open, over;
    /* Given up, and the last call of each is yet to come. */
    int ending;
};

static struct redis redis;
static broker_client_t *client;
static broker_client_t *sessions[SESSIONS];
static struct feed feeds[FEEDS];
static struct slot slots[SLOTS];
static struct slot *ignored;
static uint64_t state;
static int pending, outcomes, lost, forked, answered[2];

static unsigned chance(unsigned below)
{
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)(state >> 33) % below;
}

static void check_reply(const struct slot *slot, const broker_reply_t *reply)
{
    char text[128], expected[128];
    render(reply, text, sizeof text);
    switch (slot->kind) {
    case ECHO:
        CHECK_TEXT(text, slot->word);
        break;
    case COUNT:
        CHECK_INT(broker_reply_type(reply), BROKER_REPLY_INTEGER);
        break;
    case BLOCK:
        snprintf(expected, sizeof expected, "[%s %s]", slot->word, slot->word);
        CHECK_TEXT(text, expected);
        break;
    case POP:
        snprintf(expected, sizeof expected, "[list:%d ", slot->number % 4);
        CHECK(text[0] == '_' || strncmp(text, expected, strlen(expected)) == 0);
        break;
    case IN_SESSION:
        CHECK_TEXT(text, slot->word);
        break;
    default:
        FAIL("an outcome for nobody");
    }
}

static void step_inside(void);

static void outcome(broker_client_t *same, int status, const broker_reply_t *reply, void *data)
{
    struct slot *slot = data;
    CHECK((same == client || slot->kind == IN_SESSION) && !forked);
    CHECK_INT(slot->calls, 0);
    slot->calls = 1;
    pending--;
    outcomes++;
    switch (status) {
    case BROKER_OK:
        check_reply(slot, reply);
        answered[slot->kind == COUNT]++;
        break;
    case BROKER_ECANCELED:
        CHECK(slot->canceled || slot->kind == IN_SESSION || ignored == slots);
        break;
    case BROKER_ETIMEDOUT:
        CHECK(slot->timed);
        break;
    case BROKER_ELOST:
        lost++;
        break;
    case BROKER_ECONN:
        break;
    default:
        FAIL("%s for \"%s\"", broker_err_name(status), slot->word);
    }
    if (ignored == NULL && chance(8) == 0)
        step_inside();
}

static struct slot *free_slot(enum kind kind)
{
    for (int tries = 0; tries < 20; tries++) {
        int i = (int)chance(SLOTS);
        if (slots[i].kind != NOTHING_YET && slots[i].calls == 0)
            continue;
        static int numbers;
        slots[i] = (struct slot){kind, numbers++, 0, 0, 0, 0, ""};
        snprintf(slots[i].word, sizeof slots[i].word, "word-%d", slots[i].number);
        return &slots[i];
    }
    return NULL;
}

static void sent(struct slot *slot, int code)
{
    CHECK(code == BROKER_OK || code == BROKER_EAGAIN || (slot->kind == IN_SESSION && code == BROKER_ECONN));
    if (code == BROKER_OK)
        pending++;
    else
        slot->kind = NOTHING_YET;
}

static void submit(enum kind kind)
{
    struct slot *slot = free_slot(kind);
    char list[32];
    int timeout = chance(4) == 0 ? 1 + (int)chance(30) : BROKER_FOREVER;
    if (slot == NULL)
        return;
    slot->timed = timeout > 0;
    if (kind == ECHO) {
        sent(slot, broker_client_submit(client, ARGV("ECHO", slot->word), NULL, timeout, &slot->req, outcome, slot));
    } else if (kind == COUNT) {
        sent(slot, broker_client_submit(client, ARGV("INCR", "count"), NULL, timeout, &slot->req, outcome, slot));
    } else if (kind == POP) {
        snprintf(list, sizeof list, "list:%d", slot->number % 4);
        sent(slot, broker_client_submit(client, ARGV("BLPOP", list, "0.05"), NULL, timeout, &slot->req, outcome, slot));
    } else if (kind == BLOCK) {
        broker_transaction_t *block = broker_transaction_new();
        CHECK_INT(broker_transaction_add(block, ARGV("ECHO", slot->word), NULL), BROKER_OK);
        CHECK_INT(broker_transaction_add(block, ARGV("ECHO", slot->word), NULL), BROKER_OK);
        sent(slot, broker_client_submit_transaction(client, block, timeout, &slot->req, outcome, slot));
        CHECK_INT(broker_transaction_free(block), BROKER_OK);
    } else {
        broker_client_t *session = sessions[chance(SESSIONS)];
        if (session == NULL)
            slot->kind = NOTHING_YET;
        else
            sent(slot, broker_client_submit(session, ARGV("ECHO", slot->word), NULL, timeout, &slot->req, outcome, slot));
    }
}

static void cancel(void)
{
    struct slot *slot = &slots[chance(SLOTS)];
    int over = slot->kind == NOTHING_YET || slot->calls > 0;
    if (slot->req == 0)
        return;
    int code = broker_client_cancel(client, slot->req);
    /* Known already although the callback has not run yet: that is ESTATE as well. */
    CHECK(code == BROKER_ESTATE || (code == BROKER_OK && !over && !slot->canceled));
    slot->canceled = slot->canceled || code == BROKER_OK;
}

static void change_session(void)
{
    int i = (int)chance(SESSIONS);
    if (sessions[i] != NULL) {
        CHECK_INT(broker_client_free(sessions[i]), BROKER_OK);
        sessions[i] = NULL;
        return;
    }
    int code = broker_client_session(&sessions[i], client);
    CHECK(code == BROKER_OK || (code == BROKER_EAGAIN && sessions[i] == NULL));
}

static void told(broker_client_t *same, int status, const broker_reply_t *push, void *data)
{
    struct feed *feed = data;
    CHECK(same == client && feed->open && !forked && status == BROKER_OK);
    CHECK_INT(broker_reply_type(push), BROKER_REPLY_PUSH);
    CHECK_TEXT(broker_reply_string(broker_reply_at(push, 1), NULL), "news");
}

static void ended(broker_client_t *same, int status, const broker_reply_t *push, void *data)
{
    struct feed *feed = data;
    if (status == BROKER_OK) {
        told(same, status, push, data);
        return;
    }
    CHECK_INT(status, BROKER_ECANCELED);
    if (feed->ending > 0) {
        feed->ending--;
        return;
    }
    CHECK(ignored == slots);
    feed->open = 0;
}

static void change_feed(void)
{
    struct feed *feed = &feeds[chance(FEEDS)];
    if (feed->open) {
        CHECK_INT(broker_client_cancel(client, feed->sub), BROKER_OK);
        feed->open = 0;
        feed->ending++;
        return;
    }
    int code = broker_client_subscribe(client, BROKER_CHANNEL, "news", 4, &feed->sub, ended, feed);
    CHECK(code == BROKER_OK || code == BROKER_EAGAIN);
    feed->open = code == BROKER_OK;
}

/* Whatever the parent is at, the child has a client, and nothing of the parent's. */
static void fork_now(void)
{
    pid_t pid = fork_or_fail();
    if (pid != 0) {
        wait_child(pid);
        return;
    }
    forked = 1;
    if (chance(2) == 0) {
        close_client(client);
        _exit(0);
    }
    CHECK_INT(broker_client_after_fork(client), BROKER_OK);
    EXPECT(client, "child", "ECHO", "child");
    close_client(client);
    _exit(0);
}

static void step_inside(void)
{
    switch (chance(6)) {
    case 0:
        cancel();
        break;
    case 1:
        change_feed();
        break;
    case 2:
        change_session();
        break;
    default:
        submit((enum kind)(ECHO + chance(5)));
    }
}

static void step(void)
{
    switch (chance(40)) {
    case 0:
        proxy_cut();
        break;
    case 1:
        redis_ask(&redis, "PUBLISH news x");
        redis_ask(&redis, "RPUSH list:%d x", (int)chance(4));
        break;
    case 2:
        if (chance(10) == 0)
            fork_now();
        break;
    case 3:
        change_feed();
        break;
    case 4:
        change_session();
        break;
    case 5:
    case 6:
        cancel();
        break;
    case 7:
    case 8:
    case 9:
        CHECK_OK(broker_client_process(client, 0));
        break;
    case 10:
        CHECK_OK(broker_client_process(client, 1));
        break;
    case 11:
        CHECK_OK(broker_client_process(client, 0));
        break;
    case 12: {
        int code = broker_client_call(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL);
        CHECK(code == BROKER_OK || code == BROKER_ELOST || code == BROKER_EAGAIN);
        break;
    }
    case 13:
        proxy_trickle((int)chance(2));
        break;
    default:
        submit((enum kind)(ECHO + chance(5)));
    }
}

static void settle(void)
{
    proxy_trickle(0);
    ignored = slots + 1;
    while (pending > 0)
        CHECK_OK(broker_client_process(client, -1));
    ignored = NULL;
}

int main(int argc, char **argv)
{
    const char *given = argc > 1 ? argv[1] : NULL;
    int steps = argc > 2 ? atoi(argv[2]) : 5000;
    begin();
    state = given && *given ? strtoull(given, NULL, 10) : (uint64_t)now_ms() * 1000003u + (uint64_t)getpid();
    printf("seed %" PRIu64 "\n", state);
    proxy_start();
    redis = redis_connect();
    client = open_client(proxy.endpoint, configure("client_requests_max", "200", "client_connections_max", "12", (char *)NULL));
    CHECK_TEXT(redis_ask(&redis, "SET count 0"), "+OK");
    for (int i = 0; i < steps; i++) {
        step();
        if (i % 1000 == 999)
            settle();
    }
    settle();
    /* Those with a reply were executed; no more were than were sent. */
    int executed = atoi(redis_ask(&redis, "GET count"));
    CHECK(answered[1] <= executed);
    for (int i = 0; i < 50; i++)
        submit((enum kind)(ECHO + chance(4)));
    /* What is pending is canceled. */
    ignored = slots;
    close_client(client);
    CHECK_INT(pending, 0);
    for (int i = 0; i < SESSIONS; i++)
        CHECK_INT(broker_client_free(sessions[i]), BROKER_OK);
    redis_wait_clients(&redis, NULL, 0);
    printf("%d outcomes, %d lost, %d and %d answered\n", outcomes, lost, answered[0], answered[1]);
    redis_close(&redis);
    proxy_end();
    return 0;
}
