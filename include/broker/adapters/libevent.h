/*
 * libevent.h: a broker_client_t or broker_loop_t in a libevent base. Owns the two events that watch it, never the
 * client or the loop. Link with libevent_core.
 *
 *     broker_libevent_t *adapter;
 *     broker_libevent_attach_client(&adapter, base, client, NULL, NULL);
 *     event_base_dispatch(base);
 *     broker_libevent_detach(adapter);         // before or after broker_client_free(), before event_base_free()
 *
 * Callbacks run inside event_base_loop(), in its thread. Each event is one step of the handle, with the base's other
 * events in between, so that neither starves the other. An attached handle keeps event_base_dispatch() from returning
 * until it is detached; a broker_loop_t also until it has drained.
 *
 * In a forked process an adapter has ended. A worker does the following, in any order: event_reinit(), before the next
 * event_base_loop(), as libevent requires; broker_client_after_fork() and then broker_libevent_attach_client();
 * broker_libevent_detach() of the inherited adapter. None of it affects the parent's base. A handle that follows a fork
 * (broker_client_follow_fork()) is detached and attached in the same way.
 *
 * License: MIT OR Apache-2.0.
 */
#ifndef BROKER_ADAPTERS_LIBEVENT_H
#define BROKER_ADAPTERS_LIBEVENT_H

#include "handle.h"

#include <event2/event.h>
#include <sys/time.h>

/* An attached client or loop; its members are private. */
typedef struct broker_libevent {
    broker_adapter_t base;
    /* Steps that are running: the last one frees the adapter if it is detached meanwhile. */
    int stepping;
    int detached;
    /* `readable` has been added. */
    int watching;
    struct event *readable;
    struct event *timer;
} broker_libevent_t;

/* The events are deleted before the descriptor is closed: libevent removes it from its set by number. */
static inline void broker_libevent__close(broker_libevent_t *adapter) {
    broker_adapter_touch(&adapter->base);
    if (adapter->readable) {
        event_free(adapter->readable);
    }
    if (adapter->timer) {
        event_free(adapter->timer);
    }
    broker_adapter_close(&adapter->base);
}

static inline void broker_libevent__arm(broker_libevent_t *adapter, int timeout) {
    struct timeval after;
    if (timeout < 0) {
        event_del(adapter->timer);
        return;
    }
    after.tv_sec = timeout / 1000;
    after.tv_usec = timeout % 1000 * 1000;
    event_add(adapter->timer, &after);
}

/* Not in attach: the base may still be the parent process's then, and libevent registers with epoll at once. */
static inline int broker_libevent__watch(broker_libevent_t *adapter) {
    broker_adapter_touch(&adapter->base);
    if (!adapter->watching && event_add(adapter->readable, NULL) != 0) {
        return BROKER_ESYS;
    }
    adapter->watching = 1;
    return 1;
}

static inline void broker_libevent__on_event(evutil_socket_t fd, short events, void *data) {
    broker_libevent_t *adapter = (broker_libevent_t *)data;
    int status;
    (void)fd;
    (void)events;
    adapter->stepping += 1;
    status = broker_libevent__watch(adapter);
    if (status > 0) {
        status = broker_adapter_step(&adapter->base);
    }
    if (!adapter->detached && !adapter->base.ended) {
        if (status > 0) {
            broker_libevent__arm(adapter, broker_adapter_timeout(&adapter->base));
        } else {
            event_del(adapter->readable);
            event_del(adapter->timer);
            broker_adapter_end(&adapter->base, status);
        }
    }
    adapter->stepping -= 1;
    if (adapter->detached && !adapter->stepping) {
        free(adapter);
    }
}

/*
 * Stops watching and frees the adapter. Call it once, in the thread of the base, also from callbacks, before or
 * after the handle is freed. NULL is allowed.
 */
static inline void broker_libevent_detach(broker_libevent_t *adapter) {
    if (!adapter) {
        return;
    }
    broker_libevent__close(adapter);
    adapter->detached = 1;
    if (!adapter->stepping) {
        free(adapter);
    }
}

static inline int broker_libevent__attach(broker_libevent_t **out, struct event_base *base, broker_client_t *client,
                                          broker_loop_t *loop, broker_ended_cb ended, void *data) {
    broker_libevent_t *adapter = (broker_libevent_t *)calloc(1, sizeof *adapter);
    int code;
    *out = NULL;
    if (!adapter) {
        return BROKER_ESYS;
    }
    code = broker_adapter_open(&adapter->base, client, loop, ended, data);
    if (code < 0) {
        free(adapter);
        return code;
    }
    adapter->readable = event_new(base, adapter->base.fd, EV_READ | EV_PERSIST, broker_libevent__on_event, adapter);
    adapter->timer = event_new(base, -1, 0, broker_libevent__on_event, adapter);
    if (!adapter->readable || !adapter->timer) {
        broker_libevent__close(adapter);
        free(adapter);
        errno = ENOMEM;
        return BROKER_ESYS;
    }
    broker_libevent__arm(adapter, 0);
    *out = adapter;
    return BROKER_OK;
}

/*
 * Watches a client in `base`. The caller passes *out to broker_libevent_detach(); it is NULL on failure. `ended` may be
 * NULL.
 *
 * Returns the client's code if it is invalid; BROKER_ESYS without descriptors or memory.
 */
static inline int broker_libevent_attach_client(broker_libevent_t **out, struct event_base *base,
                                                broker_client_t *client, broker_ended_cb ended, void *data) {
    return broker_libevent__attach(out, base, client, NULL, ended, data);
}

/* The same for an embedded broker. */
static inline int broker_libevent_attach_loop(broker_libevent_t **out, struct event_base *base, broker_loop_t *loop,
                                              broker_ended_cb ended, void *data) {
    return broker_libevent__attach(out, base, NULL, loop, ended, data);
}

#endif /* BROKER_ADAPTERS_LIBEVENT_H */
