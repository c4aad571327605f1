/*
 * uv.h: a broker_client_t or broker_loop_t in a libuv loop. Owns the libuv handles that watch it, never the client or
 * the loop. Link with libuv.
 *
 *     broker_uv_t *adapter;
 *     broker_uv_attach_client(&adapter, uv_default_loop(), client);
 *     uv_run(uv_default_loop(), UV_RUN_DEFAULT);
 *     broker_uv_detach(adapter);               (before or after broker_client_free())
 *     uv_run(uv_default_loop(), UV_RUN_DEFAULT);    (libuv closes its handles here)
 *
 * Callbacks run inside uv_run(), in its thread. Each turn of the libuv loop is one step of the handle at most, so that
 * neither starves the other. An attached handle keeps uv_run() going, as any libuv handle does, until it is detached;
 * a broker_loop_t also until it has drained.
 *
 * Under -std=c99 rather than gnu99, uv.h itself wants _POSIX_C_SOURCE defined as 200112L or more.
 *
 * License: MIT OR Apache-2.0.
 */
#ifndef BROKER_ADAPTERS_UV_H
#define BROKER_ADAPTERS_UV_H

#include "handle.h"

#include <stdlib.h>
#include <uv.h>

/* An attached client or loop; its members are the adapter's own. Lives until libuv has closed the two handles. */
typedef struct broker_uv {
    broker_adapter_handle_t handle;
    /* What broker_adapter_step() said last. */
    int status;
    int fd;
    /* libuv handles that are not closed yet. */
    int open;
    uv_poll_t poll;
    uv_timer_t timer;
} broker_uv_t;

static inline void broker_uv__closed(uv_handle_t *handle) {
    broker_uv_t *adapter = (broker_uv_t *)handle->data;
    adapter->open -= 1;
    if (adapter->open == 0) {
        free(adapter);
    }
}

static inline void broker_uv__on_timer(uv_timer_t *timer);

static inline void broker_uv__arm(broker_uv_t *adapter) {
    int timeout = broker_adapter_timeout(&adapter->handle);
    if (timeout < 0) {
        uv_timer_stop(&adapter->timer);
    } else {
        uv_timer_start(&adapter->timer, broker_uv__on_timer, (uint64_t)timeout, 0);
    }
}

/* A callback may detach: the adapter is closing then, but libuv frees nothing before this has returned. */
static inline void broker_uv__step(broker_uv_t *adapter) {
    adapter->status = broker_adapter_step(&adapter->handle);
    if (uv_is_closing((uv_handle_t *)&adapter->poll)) {
        return;
    }
    if (adapter->status > 0) {
        broker_uv__arm(adapter);
        return;
    }
    uv_poll_stop(&adapter->poll);
    uv_timer_stop(&adapter->timer);
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
 * Stops watching and gives the adapter up; it is freed by the next turns of uv_run(). To be called once, in the thread
 * of the libuv loop, also from callbacks, before or after the handle is freed. NULL is allowed.
 */
static inline void broker_uv_detach(broker_uv_t *adapter) {
    if (!adapter) {
        return;
    }
    uv_close((uv_handle_t *)&adapter->poll, broker_uv__closed);
    uv_close((uv_handle_t *)&adapter->timer, broker_uv__closed);
    close(adapter->fd);
}

static inline int broker_uv__attach(broker_uv_t **out, uv_loop_t *loop, broker_adapter_handle_t handle) {
    broker_uv_t *adapter = (broker_uv_t *)calloc(1, sizeof *adapter);
    int fd;
    *out = NULL;
    if (!adapter) {
        return BROKER_ESYS;
    }
    fd = broker_adapter_open(&handle);
    if (fd < 0 || uv_poll_init(loop, &adapter->poll, fd) != 0) {
        if (fd >= 0) {
            close(fd);
        }
        free(adapter);
        return fd < 0 ? fd : BROKER_ESYS;
    }
    uv_timer_init(loop, &adapter->timer);
    adapter->handle = handle;
    adapter->status = 1;
    adapter->fd = fd;
    adapter->open = 2;
    adapter->poll.data = adapter->timer.data = adapter;
    uv_poll_start(&adapter->poll, UV_READABLE, broker_uv__on_readable);
    broker_uv__arm(adapter);
    *out = adapter;
    return BROKER_OK;
}

/*
 * Watches a client in `loop`. *out is the caller's to give to broker_uv_detach(), NULL on failure. After
 * broker_client_after_fork(), detach and attach anew.
 *
 * A code of the client's if it is no good; BROKER_ESYS without descriptors or memory.
 */
static inline int broker_uv_attach_client(broker_uv_t **out, uv_loop_t *loop, broker_client_t *client) {
    broker_adapter_handle_t handle = {client, NULL};
    return broker_uv__attach(out, loop, handle);
}

/* The same for an embedded broker. */
static inline int broker_uv_attach_loop(broker_uv_t **out, uv_loop_t *loop, broker_loop_t *broker) {
    broker_adapter_handle_t handle = {NULL, broker};
    return broker_uv__attach(out, loop, handle);
}

/*
 * 1 while it watches. 0 after a broker_loop_t has drained, and below 0 the code with which processing ended, such as
 * BROKER_ESTATE for a handle that was freed: nothing is watched any more, and broker_uv_detach() is still to come.
 */
static inline int broker_uv_status(const broker_uv_t *adapter) {
    return adapter->status;
}

#endif /* BROKER_ADAPTERS_UV_H */
