/*
 * Included by every snippet: a busy machine needs more time than the defaults and the pages allow, so settings start with
 * longer timeouts and requests get twenty times their own. Without servers (SNIPPET_WITHOUT_SERVERS) there is nothing to
 * wait for, so timeouts are short. The examples, some of which
 * show a timeout, are compiled with PATIENCE_FOR_SETTINGS and keep what they ask for.
 */
#ifndef PATIENCE_H
#define PATIENCE_H

#include <broker.h>
#include <stdlib.h>

static inline int has_servers(void)
{
    return getenv("SNIPPET_WITHOUT_SERVERS") == NULL;
}

static inline broker_config_t *patient_config_new(void)
{
    static const char *const keys[] = {"connect_timeout", "queue_timeout", "client_connect_timeout",
                                       "client_queue_timeout"};
    broker_config_t *config = broker_config_new();
    unsigned int i;

    for (i = 0; i < sizeof keys / sizeof *keys; i++)
        broker_config_set(config, keys[i], has_servers() ? "20s" : "100ms");
    return config;
}

static inline int patient_client_new(broker_client_t **out, const char *endpoint, const broker_config_t *config,
                                     char *errbuf, size_t errlen)
{
    broker_config_t *own = config ? NULL : patient_config_new();
    int code = broker_client_new(out, endpoint, own ? own : config, errbuf, errlen);

    broker_config_free(own);
    return code;
}

#define broker_config_new patient_config_new
#define broker_client_new patient_client_new

#ifndef PATIENCE_FOR_SETTINGS

static inline int patient_timeout(int timeout_ms)
{
    return timeout_ms > 0 && has_servers() ? 20 * timeout_ms : timeout_ms;
}

static inline int patient_submit(broker_client_t *client, size_t argc, const char *const *argv, const size_t *argvlen,
                                 int timeout_ms, broker_req_t *req, broker_reply_cb cb, void *data)
{
    return broker_client_submit(client, argc, argv, argvlen, patient_timeout(timeout_ms), req, cb, data);
}

static inline int patient_call(broker_client_t *client, size_t argc, const char *const *argv, const size_t *argvlen,
                               int timeout_ms, broker_reply_t **out)
{
    return broker_client_call(client, argc, argv, argvlen, patient_timeout(timeout_ms), out);
}

#define broker_client_submit patient_submit
#define broker_client_call patient_call

#endif

#endif
