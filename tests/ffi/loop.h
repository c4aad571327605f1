/*
 * What C tests of the embedded loop share: making one, running it until something holds, outcomes that are counted,
 * clients over a socketpair.
 */
#ifndef LOOP_H
#define LOOP_H

#include "client.h"

/* A loop before the driver's Redis with further settings, listening on the private socket `name` if not NULL. */
static MAYBE_UNUSED broker_loop_t *open_loop(const char *name, const char *const *settings)
{
    char upstream[PATH_SIZE], path[PATH_SIZE], listen_url[PATH_SIZE + 8], words[256] = "";
    broker_loop_t *loop = NULL;
    snprintf(upstream, sizeof upstream, "unix://%s", setting("BROKER_TEST_REDIS"));
    broker_config_t *config = configure("upstream", upstream, (char *)NULL);
    if (name != NULL) {
        private_path(path, name);
        snprintf(listen_url, sizeof listen_url, "unix://%s", path);
        CHECK_INT(broker_config_set(config, "listen", listen_url), BROKER_OK);
    }
    for (; settings != NULL && settings[0] != NULL; settings += 2)
        CHECK_INT(broker_config_set(config, settings[0], settings[1]), BROKER_OK);
    int code = broker_loop_new(&loop, config, words, sizeof words);
    if (code != BROKER_OK)
        FAIL("%s %s", broker_err_name(code), words);
    CHECK_INT(broker_config_free(config), BROKER_OK);
    return loop;
}

/* The loop's own client, made when it is first asked for and freed by close_loop(). */
static MAYBE_UNUSED broker_client_t *own(broker_loop_t *loop)
{
    broker_client_t *client = broker_loop_data(loop);
    if (client == NULL) {
        CHECK_INT(broker_loop_client(&client, loop), BROKER_OK);
        CHECK_INT(broker_loop_set_data(loop, client), BROKER_OK);
    }
    return client;
}

/* What is pending on its own client gets BROKER_ECANCELED. */
static MAYBE_UNUSED void close_loop(broker_loop_t *loop)
{
    broker_client_t *client = broker_loop_data(loop);
    CHECK_INT(broker_loop_free(loop), BROKER_OK);
    CHECK_INT(broker_client_free(client), BROKER_OK);
}

static MAYBE_UNUSED void run_outcome(broker_loop_t *loop, const struct outcome *outcome)
{
    while (outcome->calls == 0)
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_ONCE));
}

#define EXPECT_OWN(loop, outcome, expected) \
    (run_outcome(loop, outcome), CHECK_INT((outcome)->status, BROKER_OK), CHECK_TEXT((outcome)->text, expected), \
     CHECK_INT((outcome)->calls, 1))

#define EXPECT_OWN_CODE(loop, outcome, code) \
    (run_outcome(loop, outcome), CHECK_INT((outcome)->status, code), CHECK_INT((outcome)->calls, 1))

/* One end becomes a child of the loop; the other is returned. */
static MAYBE_UNUSED int adopt_pair(broker_loop_t *loop)
{
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    CHECK_INT(broker_loop_adopt(loop, ends[0]), BROKER_OK);
    return ends[1];
}

static MAYBE_UNUSED broker_client_t *open_fd(int fd)
{
    char endpoint[32];
    snprintf(endpoint, sizeof endpoint, "fd://%d", fd);
    return open_client(endpoint, NULL);
}

static MAYBE_UNUSED uint64_t stat_of(broker_loop_t *loop, const char *name)
{
    uint64_t value = UINT64_MAX;
    CHECK_INT(broker_loop_stat(loop, name, &value), BROKER_OK);
    return value;
}

#endif
