/*
 * Arguments at their edges: configurations, transactions, argv, buffers that are too small, handles of the wrong time,
 * the log sink and what may be called from it.
 */
#include "loop.h"

static void configurations(void)
{
    broker_config_t *config = broker_config_new();
    char buf[64] = "untouched", one[1] = {'x'};
    CHECK_TEXT(broker_config_error(config), "");
    CHECK_INT(broker_config_set(config, "lanes", "3"), BROKER_OK);
    CHECK_INT(broker_config_get(config, "lanes", buf, sizeof buf), 1);
    CHECK_TEXT(buf, "3");
    CHECK_INT(broker_config_set(config, "lanes", NULL), BROKER_OK);
    CHECK_INT(broker_config_get(config, "lanes", buf, sizeof buf), 1);
    CHECK_TEXT(buf, "1");
    CHECK_INT(broker_config_set(config, "no_such_key", "1"), BROKER_ECONFIG);
    CHECK(strlen(broker_config_error(config)) > 0);
    CHECK_INT(broker_config_set(config, "lanes", "many"), BROKER_ECONFIG);
    CHECK_INT(broker_config_set(config, "lanes", ""), BROKER_ECONFIG);
    CHECK(strstr(broker_config_error(config), "lanes") != NULL);
    CHECK_INT(broker_config_set(config, "lanes", "\xff\xfe"), BROKER_EINVAL);
    CHECK_INT(broker_config_set(config, "client_queue_timeout", "5s"), BROKER_OK);
    CHECK_INT(broker_config_get(config, "client_queue_timeout", buf, sizeof buf), 4);
    CHECK_TEXT(buf, "5000");
    CHECK_INT(broker_config_set(config, "client_protocol", "4"), BROKER_ECONFIG);
    CHECK_INT(broker_config_get(config, "no_such_key", buf, sizeof buf), BROKER_ECONFIG);
    CHECK_INT(broker_config_get(config, NULL, buf, sizeof buf), BROKER_EINVAL);
    CHECK_INT(broker_config_set(config, NULL, "x"), BROKER_EINVAL);
    /* As snprintf() does. */
    CHECK_INT(broker_config_get(config, "client_queue_timeout", buf, 3), 4);
    CHECK_TEXT(buf, "50");
    CHECK_INT(broker_config_get(config, "client_queue_timeout", one, 1), 4);
    CHECK_INT(one[0], 0);
    CHECK_INT(broker_config_get(config, "client_queue_timeout", NULL, 0), 4);
    CHECK_INT(broker_config_get(config, "client_queue_timeout", NULL, 5), BROKER_EINVAL);
    /* A password is told to nobody. */
    CHECK_INT(broker_config_set(config, "client_password", "hunter2"), BROKER_OK);
    CHECK_OK(broker_config_get(config, "client_password", buf, sizeof buf));
    CHECK(strstr(buf, "hunter2") == NULL);
    CHECK_INT(broker_config_set(config, "upstream", "redis://user:hunter2@h:99999"), BROKER_ECONFIG);
    CHECK(strstr(broker_config_error(config), "hunter2") == NULL);
    CHECK_INT(broker_config_free(config), BROKER_OK);
    CHECK_INT(broker_config_free(config), BROKER_ESTATE);
}

static void files(void)
{
    char path[PATH_SIZE], buf[64];
    broker_config_t *config = broker_config_new();
    private_path(path, "broker.toml");
    FILE *file = fopen(path, "we");
    CHECK(file != NULL && fputs("lanes = 2\nqueue_timeout = \"7s\"\n", file) >= 0 && fclose(file) == 0);
    CHECK_INT(broker_config_load(config, path), BROKER_OK);
    CHECK_OK(broker_config_get(config, "queue_timeout", buf, sizeof buf));
    CHECK_TEXT(buf, "7000");
    file = fopen(path, "we");
    CHECK(file != NULL && fputs("lanes = 4\nlanez = 3\n", file) >= 0 && fclose(file) == 0);
    CHECK_INT(broker_config_load(config, path), BROKER_ECONFIG);
    CHECK(strstr(broker_config_error(config), "2") != NULL && strstr(broker_config_error(config), "lanez") != NULL);
    CHECK_OK(broker_config_get(config, "lanes", buf, sizeof buf));
    CHECK_TEXT(buf, "2");
    CHECK_INT(broker_config_load(config, "/nonexistent"), BROKER_ESYS);
    CHECK_INT(broker_config_load(config, "/"), BROKER_ESYS);
    CHECK_INT(broker_config_load(config, NULL), BROKER_EINVAL);
    CHECK_INT(broker_config_free(config), BROKER_OK);
    unlink(path);
}

/* More handles than are ever kept, ended at once: stale ones stay stale, fresh ones work, no memory grows without end. */
static void many_handles(void)
{
    enum { HANDLES = 3000 };
    static broker_transaction_t *handles[HANDLES];
    for (int i = 0; i < HANDLES; i++) {
        handles[i] = broker_transaction_new();
        CHECK_INT(broker_transaction_add(handles[i], ARGV("PING"), NULL), BROKER_OK);
        for (int j = 0; j < i && j < 10; j++)
            CHECK(handles[j] != handles[i]);
    }
    for (int i = 0; i < HANDLES; i++)
        CHECK_INT(broker_transaction_free(handles[i]), BROKER_OK);
    for (int i = HANDLES - 1; i >= 0; i--) {
        CHECK_INT(broker_transaction_free(handles[i]), BROKER_ESTATE);
    }
}

static void commands(void)
{
    broker_client_t *client = open_redis();
    broker_transaction_t *block = broker_transaction_new();
    struct outcome never = {0};
    broker_req_t req = 5;
    const char *const words[] = {"GET", NULL}, *const fine[] = {"GET", "k"}, *const empty[] = {""};
    const size_t none[] = {3, 0}, some[] = {3, 1}, zero[] = {0}, huge[] = {3, SIZE_MAX};
    CHECK_INT(broker_client_submit(client, 0, fine, NULL, BROKER_FOREVER, &req, keep, &never), BROKER_EINVAL);
    CHECK_INT(broker_client_submit(client, 2, NULL, NULL, BROKER_FOREVER, &req, keep, &never), BROKER_EINVAL);
    CHECK_INT(broker_client_submit(client, 2, words, NULL, BROKER_FOREVER, &req, keep, &never), BROKER_EINVAL);
    CHECK_INT(broker_client_submit(client, 2, words, some, BROKER_FOREVER, &req, keep, &never), BROKER_EINVAL);
    CHECK_INT(broker_client_submit(client, 2, fine, huge, BROKER_FOREVER, &req, keep, &never), BROKER_EINVAL);
    CHECK_INT(broker_client_submit(client, 1, empty, NULL, BROKER_FOREVER, &req, keep, &never), BROKER_EINVAL);
    CHECK_INT(broker_client_submit(client, 1, fine, zero, BROKER_FOREVER, &req, keep, &never), BROKER_EINVAL);
    CHECK_INT(broker_client_submit(client, SIZE_MAX, fine, NULL, BROKER_FOREVER, &req, keep, &never), BROKER_EINVAL);
    CHECK_INT(broker_client_submit(client, 2, fine, NULL, BROKER_FOREVER, &req, NULL, NULL), BROKER_EINVAL);
    CHECK_INT(broker_client_call(client, 0, NULL, NULL, BROKER_FOREVER, NULL), BROKER_EINVAL);
    CHECK_INT(broker_client_call(client, 2, words, none, BROKER_FOREVER, NULL), BROKER_OK);
    CHECK_INT(broker_transaction_add(block, 0, NULL, NULL), BROKER_EINVAL);
    CHECK_INT(broker_transaction_add(block, 1, empty, NULL), BROKER_EINVAL);
    CHECK_INT(broker_transaction_add(block, 2, words, some), BROKER_EINVAL);
    CHECK_INT(broker_client_submit_transaction(client, block, BROKER_FOREVER, NULL, keep, &never), BROKER_EINVAL);
    CHECK_INT(broker_client_submit_transaction(client, NULL, BROKER_FOREVER, NULL, keep, &never), BROKER_EINVAL);
    CHECK_INT(broker_transaction_free(block), BROKER_OK);
    CHECK_INT(broker_client_submit_transaction(client, block, BROKER_FOREVER, NULL, keep, &never), BROKER_ESTATE);
    CHECK_INT(broker_client_process(client, 0) >= 0, 1);
    EXPECT(client, "+PONG", "PING");
    close_client(client);
    CHECK_INT(never.calls, 0);
}

/* The reply of a call that failed is NULL, whatever was there. */
static void failed_calls(void)
{
    broker_client_t *client = open_redis();
    broker_reply_t *reply = (broker_reply_t *)&client;
    CHECK_INT(broker_client_call(client, ARGV("MULTI"), NULL, BROKER_FOREVER, &reply), BROKER_EUNSUPPORTED);
    CHECK(reply == NULL);
    reply = (broker_reply_t *)&client;
    CHECK_INT(broker_client_call(client, ARGV("BLPOP", "none", "0"), NULL, 20, &reply), BROKER_ETIMEDOUT);
    CHECK(reply == NULL);
    reply = (broker_reply_t *)&client;
    CHECK_INT(broker_client_call(client, 0, NULL, NULL, 20, &reply), BROKER_EINVAL);
    CHECK(reply == NULL);
    close_client(client);
    reply = (broker_reply_t *)&client;
    CHECK_INT(broker_client_call(client, ARGV("PING"), NULL, BROKER_FOREVER, &reply), BROKER_ESTATE);
    CHECK(reply == NULL);
}

/* A client freed in the middle of a call by the callback of another request. */
static void free_it(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    (void)reply;
    ++*(int *)data;
    CHECK_INT(status, BROKER_OK);
    CHECK_INT(broker_client_free(client), BROKER_OK);
    CHECK_INT(broker_client_submit(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, NULL), BROKER_ESTATE);
}

static void freed_inside(void)
{
    broker_client_t *client = open_redis();
    struct outcome behind[10] = {{0}};
    broker_reply_t *reply = (broker_reply_t *)&client;
    int calls = 0;
    CHECK_INT(broker_client_submit(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL, free_it, &calls), BROKER_OK);
    for (int i = 0; i < 10; i++)
        CHECK_INT(broker_client_submit(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &behind[i]), BROKER_OK);
    CHECK_INT(broker_client_call(client, ARGV("PING"), NULL, BROKER_FOREVER, &reply), BROKER_ECANCELED);
    CHECK(reply == NULL);
    CHECK_INT(calls, 1);
    for (int i = 0; i < 10; i++)
        CHECK_INT(behind[i].calls, 1);
    CHECK_INT(broker_client_free(client), BROKER_ESTATE);
}

/* ---- the log ---- */

struct log {
    broker_loop_t *loop;
    int lines, named, refused;
};

static void log_line(int level, const char *msg, size_t len, const void *handle, void *data)
{
    struct log *log = data;
    CHECK(level >= BROKER_LOG_ERROR && level <= BROKER_LOG_TRACE);
    CHECK(strlen(msg) == len && len > 0 && strchr(msg, '\n') == NULL);
    log->lines++;
    CHECK(handle == NULL || log->loop == NULL || handle == log->loop);
    log->named += handle != NULL;
    if (log->loop != NULL) {
        CHECK_INT(broker_loop_run(log->loop, BROKER_RUN_NOWAIT), BROKER_EREENTRANT);
        CHECK_INT(broker_loop_timeout(log->loop), BROKER_EREENTRANT);
        CHECK_INT(broker_loop_free(log->loop), BROKER_EREENTRANT);
        CHECK_INT(broker_loop_stop(log->loop), BROKER_OK);
        log->refused++;
    }
    /* Another handle is free to use. */
    broker_config_t *config = broker_config_new();
    CHECK_INT(broker_config_free(config), BROKER_OK);
}

static void log_itself(int level, const char *msg, size_t len, const void *handle, void *data)
{
    (void)level, (void)msg, (void)len, (void)handle;
    ++*(int *)data;
    CHECK_INT(broker_log_set(BROKER_LOG_OFF, NULL, NULL), BROKER_OK);
}

static void logging(void)
{
    struct log log = {0};
    struct outcome outcome = {0};
    int once = 0;
    CHECK_INT(broker_log_set(6, log_line, &log), BROKER_EINVAL);
    CHECK_INT(broker_log_set(-1, log_line, &log), BROKER_EINVAL);
    CHECK_INT(broker_log_set(BROKER_LOG_TRACE, log_line, &log), BROKER_OK);
    broker_loop_t *loop = open_loop(NULL, NULL);
    log.loop = loop;
    CHECK_INT(broker_client_submit(own(loop), ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
    EXPECT_OWN(loop, &outcome, "+PONG");
    CHECK(log.refused > 0 && log.named > 0);
    log.loop = NULL;
    close_loop(loop);
    /* The sink can be taken away from inside itself. */
    CHECK_INT(broker_log_set(BROKER_LOG_TRACE, log_itself, &once), BROKER_OK);
    loop = open_loop(NULL, NULL);
    outcome.calls = 0;
    CHECK_INT(broker_client_submit(own(loop), ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
    EXPECT_OWN(loop, &outcome, "+PONG");
    close_loop(loop);
    CHECK_INT(once, 1);
    int lines = log.lines;
    CHECK_INT(broker_log_set(BROKER_LOG_OFF, log_line, &log), BROKER_OK);
    close_loop(open_loop(NULL, NULL));
    CHECK_INT(log.lines, lines);
    CHECK_INT(broker_log_set(BROKER_LOG_TRACE, NULL, NULL), BROKER_OK);
}

static void words(void)
{
    for (int code = -100; code <= 1; code++) {
        const char *name = broker_err_name(code), *sentence = broker_strerror(code);
        CHECK(name != NULL && sentence != NULL && strlen(name) > 0 && strlen(sentence) > 0);
    }
    CHECK_TEXT(broker_err_name(BROKER_OK), "BROKER_OK");
    CHECK_TEXT(broker_err_name(BROKER_EAGAIN), "BROKER_EAGAIN");
    CHECK_TEXT(broker_err_name(BROKER_EPANIC), "BROKER_EPANIC");
    CHECK(broker_err_name(INT_MIN) != NULL && broker_strerror(INT_MAX) != NULL);
    CHECK_INT(broker_version(), BROKER_VERSION_HEX);
}

int main(int argc, char **argv)
{
    static const struct part parts[] = {
        {"configurations", configurations}, {"files", files},       {"many_handles", many_handles},
        {"commands", commands},             {"failed_calls", failed_calls}, {"freed_inside", freed_inside},
        {"logging", logging},               {"words", words},
    };
    begin();
    RUN_PARTS(parts);
    return 0;
}
