/*
 * uv.h: a broker_client_t or broker_loop_t in a libuv loop. Owns the libuv handles that watch it, never the client or
 * the loop. Link with libuv.
 *
 *     broker_uv_t *adapter;
 *     broker_uv_attach_client(&adapter, uv_default_loop(), client, NULL, NULL);
 *     uv_run(uv_default_loop(), UV_RUN_DEFAULT);
 *     broker_uv_detach(adapter);                    // before or after broker_client_free()
 *     uv_run(uv_default_loop(), UV_RUN_DEFAULT);    // libuv closes its handles here
 *
 * Callbacks run inside uv_run(), in its thread. Each turn of the libuv loop runs at most one step of the handle, so that
 * neither starves the other. Like any libuv handle, an attached one keeps uv_run() from returning until it is detached;
 * a broker_loop_t also until it has drained.
 *
 * In a forked process an adapter has ended. A worker does the following, in any order: uv_loop_fork(), before the next
 * uv_run(), as libuv requires; broker_client_after_fork() and then broker_uv_attach_client(); broker_uv_detach() of the
 * inherited adapter. None of it affects the parent's loop. A handle that follows a fork (broker_client_follow_fork()) is
 * detached and attached in the same way.
 *
 * With -std=c99 instead of gnu99, uv.h itself needs _POSIX_C_SOURCE defined as 200112L or more.
 *
 * License: MIT OR Apache-2.0.
 */
#ifndef BROKER_ADAPTERS_UV_H
#define BROKER_ADAPTERS_UV_H

#include "handle.h"

#include <uv.h>

/* An attached client or loop; its members are private. Lives until libuv has closed the two handles. */
typedef struct broker_uv {
    broker_adapter_t base;
    /* libuv handles that are not closed yet. */
    int open;
    /* Steps that are running. */
    int stepping;
    uv_poll_t poll;
    uv_timer_t timer;
} broker_uv_t;

static inline void broker_uv__free_when_over(broker_uv_t *adapter) {
    if (adapter->open == 0 && adapter->stepping == 0) {
        free(adapter);
    }
}

static inline void broker_uv__closed(uv_handle_t *handle) {
    broker_uv_t *adapter = (broker_uv_t *)handle->data;
    adapter->open -= 1;
    broker_uv__free_when_over(adapter);
}

static inline void broker_uv__on_timer(uv_timer_t *timer);

static inline void broker_uv__arm(broker_uv_t *adapter) {
    int timeout = broker_adapter_timeout(&adapter->base);
    if (timeout < 0) {
        uv_timer_stop(&adapter->timer);
    } else {
        uv_timer_start(&adapter->timer, broker_uv__on_timer, (uint64_t)timeout, 0);
    }
}

/* A callback may detach: the handles are closing then. */
static inline void broker_uv__step(broker_uv_t *adapter) {
    int status;
    adapter->stepping += 1;
    status = broker_adapter_step(&adapter->base);
    if (!uv_is_closing((uv_handle_t *)&adapter->poll) && !adapter->base.ended) {
        if (status > 0) {
            broker_uv__arm(adapter);
        } else {
            uv_poll_stop(&adapter->poll);
            uv_timer_stop(&adapter->timer);
            broker_adapter_end(&adapter->base, status);
        }
    }
    adapter->stepping -= 1;
    broker_uv__free_when_over(adapter);
}

static inline void broker_uv__on_timer(uv_timer_t *timer) {
    broker_uv__step((broker_uv_t *)timer->data);
}

static inline void broker_uv__on_readable(uv_poll_t *poll, int status, int events) {
    (void)status;
    (void)events;
    broker_uv__step((broker_uv_t *)poll->data);
}

/*
 * Stops watching and releases the adapter; the next turns of uv_run() free it. Call it once, in the thread
 * of the libuv loop, also from callbacks, before or after the handle is freed. NULL is allowed.
 */
static inline void broker_uv_detach(broker_uv_t *adapter) {
    if (!adapter) {
        return;
    }
    broker_adapter_touch(&adapter->base);
    uv_close((uv_handle_t *)&adapter->poll, broker_uv__closed);
    uv_close((uv_handle_t *)&adapter->timer, broker_uv__closed);
    broker_adapter_close(&adapter->base);
}

static inline int broker_uv__attach(broker_uv_t **out, uv_loop_t *loop, broker_client_t *client, broker_loop_t *broker,
                                    broker_ended_cb ended, void *data) {
    broker_uv_t *adapter = (broker_uv_t *)calloc(1, sizeof *adapter);
    int code;
    *out = NULL;
    if (!adapter) {
        return BROKER_ESYS;
    }
    code = broker_adapter_open(&adapter->base, client, broker, ended, data);
    if (code < 0) {
        free(adapter);
        return code;
    }
    code = uv_poll_init(loop, &adapter->poll, adapter->base.fd);
    if (code != 0) {
        broker_adapter_close(&adapter->base);
        free(adapter);
        errno = -code;
        return BROKER_ESYS;
    }
    uv_timer_init(loop, &adapter->timer);
    adapter->open = 2;
    adapter->poll.data = adapter->timer.data = adapter;
    code = uv_poll_start(&adapter->poll, UV_READABLE, broker_uv__on_readable);
    if (code != 0) {
        broker_uv_detach(adapter);
        errno = -code;
        return BROKER_ESYS;
    }
    broker_uv__arm(adapter);
    *out = adapter;
    return BROKER_OK;
}

/*
 * Watches a client in `loop`. The caller passes *out to broker_uv_detach(); it is NULL on failure. `ended` may be NULL.
 *
 * Returns the client's code if it is invalid; BROKER_ESYS without descriptors or memory.
 */
static inline int broker_uv_attach_client(broker_uv_t **out, uv_loop_t *loop, broker_client_t *client,
                                          broker_ended_cb ended, void *data) {
    return broker_uv__attach(out, loop, client, NULL, ended, data);
}

/* The same for an embedded broker. */
static inline int broker_uv_attach_loop(broker_uv_t **out, uv_loop_t *loop, broker_loop_t *broker,
                                        broker_ended_cb ended, void *data) {
    return broker_uv__attach(out, loop, NULL, broker, ended, data);
}

#endif /* BROKER_ADAPTERS_UV_H */
