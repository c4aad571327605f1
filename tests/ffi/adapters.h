/*
 * What the tests of the adapters share: clients and brokers with patience, requests, and the ends of adapters. C99, and
 * C++17 as well.
 */
#ifndef ADAPTERS_H
#define ADAPTERS_H

#include "check.h"

/* Settings for a machine that is busy, and for valgrind. */
static MAYBE_UNUSED broker_config_t *patient(void) {
    broker_config_t *config = broker_config_new();
    CHECK_INT(broker_config_set(config, "client_connect_timeout", "200s"), BROKER_OK);
    CHECK_INT(broker_config_set(config, "client_queue_timeout", "200s"), BROKER_OK);
    return config;
}

static MAYBE_UNUSED broker_client_t *open_at(const char *endpoint) {
    broker_config_t *config = patient();
    broker_client_t *client = NULL;
    char words[256] = "";
    if (broker_client_new(&client, endpoint, config, words, sizeof words) != BROKER_OK) {
        FAIL("%s: %s", endpoint, words);
    }
    broker_config_free(config);
    return client;
}

static MAYBE_UNUSED broker_client_t *open_client(void) {
    return open_at(setting("BROKER_TEST_ENDPOINT"));
}

/* A broker inside the test, before the driver's Redis and with no listener. */
static MAYBE_UNUSED broker_loop_t *open_loop(void) {
    broker_config_t *config = broker_config_new();
    broker_loop_t *loop = NULL;
    char url[300], words[256] = "";
    snprintf(url, sizeof url, "unix://%s", setting("BROKER_TEST_REDIS"));
    CHECK_INT(broker_config_set(config, "upstream", url), BROKER_OK);
    CHECK_INT(broker_config_set(config, "connect_timeout", "200s"), BROKER_OK);
    CHECK_INT(broker_config_set(config, "queue_timeout", "200s"), BROKER_OK);
    if (broker_loop_new(&loop, config, words, sizeof words) != BROKER_OK) {
        FAIL("%s", words);
    }
    broker_config_free(config);
    return loop;
}

/* What a broker_ended_cb has told. */
struct end {
    int calls;
    int status;
};

static MAYBE_UNUSED void note_end(int status, void *data) {
    struct end *end = (struct end *)data;
    CHECK_INT(end->calls, 0);
    end->calls++;
    end->status = status;
}

static MAYBE_UNUSED void submit(broker_client_t *client, const char *name, const char *word, int timeout_ms,
                          broker_reply_cb cb, void *data) {
    const char *argv[3];
    argv[0] = name;
    argv[1] = word;
    argv[2] = "0";
    CHECK_INT(broker_client_submit(client, strcmp(name, "BLPOP") == 0 ? 3 : 2, argv, NULL, timeout_ms, NULL, cb, data),
              BROKER_OK);
}

#endif
