/*
 * sd_event.h: a broker_client_t or broker_loop_t in an sd-event loop. Owns the two event sources that watch it, never
 * the client or the loop. Link with libsystemd.
 *
 *     broker_sd_event_t *adapter;
 *     broker_sd_event_attach_client(&adapter, event, client, NULL, NULL);
 *     sd_event_loop(event);
 *     broker_sd_event_detach(adapter);         // before or after broker_client_free()
 *
 * Callbacks run inside sd_event_run(), in its thread, with SD_EVENT_PRIORITY_NORMAL. Each event is one step of the
 * handle, with the loop's other events in between, so that neither starves the other.
 *
 * In a forked process an adapter has ended, and so has the inherited sd_event, whose functions return -ECHILD there. A
 * worker does the following, in any order: broker_client_after_fork(), broker_sd_event_detach(), sd_event_unref(). Then it
 * creates an sd_event of its own (sd_event_new()) and attaches to that. A handle that follows a fork
 * (broker_client_follow_fork()) is detached and attached in the same way.
 *
 * With -std=c99 instead of gnu99 it needs _POSIX_C_SOURCE defined as 199309L or more, for the clock.
 *
 * License: MIT OR Apache-2.0.
 */
#ifndef BROKER_ADAPTERS_SD_EVENT_H
#define BROKER_ADAPTERS_SD_EVENT_H

#include "handle.h"

#include <systemd/sd-event.h>
#include <time.h>

/* An attached client or loop; its members are private. */
typedef struct broker_sd_event {
    broker_adapter_t base;
    /* Steps that are running: the last one frees the adapter if it is detached meanwhile. */
    int stepping;
    int detached;
    sd_event_source *readable;
    sd_event_source *timer;
} broker_sd_event_t;

/* Uses the clock, since sd_event_now() is the time at the beginning of the turn. 0: at once. */
static inline uint64_t broker_sd_event__after(int timeout_ms) {
    struct timespec now;
    if (timeout_ms == 0 || clock_gettime(CLOCK_MONOTONIC, &now) != 0) {
        return 0;
    }
    return ((uint64_t)now.tv_sec * 1000 + (uint64_t)timeout_ms) * 1000 + (uint64_t)now.tv_nsec / 1000;
}

static inline void broker_sd_event__arm(broker_sd_event_t *adapter) {
    int timeout = broker_adapter_timeout(&adapter->base);
    if (timeout < 0) {
        sd_event_source_set_enabled(adapter->timer, SD_EVENT_OFF);
        return;
    }
    sd_event_source_set_time(adapter->timer, broker_sd_event__after(timeout));
    sd_event_source_set_enabled(adapter->timer, SD_EVENT_ONESHOT);
}

static inline void broker_sd_event__stop(broker_sd_event_t *adapter) {
    sd_event_source_set_enabled(adapter->readable, SD_EVENT_OFF);
    sd_event_source_set_enabled(adapter->timer, SD_EVENT_OFF);
}

static inline void broker_sd_event__step(broker_sd_event_t *adapter) {
    int status;
    adapter->stepping += 1;
    status = broker_adapter_step(&adapter->base);
    if (!adapter->detached && !adapter->base.ended) {
        if (status > 0) {
            broker_sd_event__arm(adapter);
        } else {
            broker_sd_event__stop(adapter);
            broker_adapter_end(&adapter->base, status);
        }
    }
    adapter->stepping -= 1;
    if (adapter->detached && !adapter->stepping) {
        free(adapter);
    }
}

static inline int broker_sd_event__on_readable(sd_event_source *source, int fd, uint32_t events, void *data) {
    (void)source;
    (void)fd;
    (void)events;
    broker_sd_event__step((broker_sd_event_t *)data);
    return 0;
}

static inline int broker_sd_event__on_timer(sd_event_source *source, uint64_t usec, void *data) {
    (void)source;
    (void)usec;
    broker_sd_event__step((broker_sd_event_t *)data);
    return 0;
}

/* The sources are removed before the descriptor is closed: sd-event removes it from its set by number. */
static inline void broker_sd_event__close(broker_sd_event_t *adapter) {
    broker_adapter_touch(&adapter->base);
    if (adapter->readable) {
        sd_event_source_set_enabled(adapter->readable, SD_EVENT_OFF);
        sd_event_source_unref(adapter->readable);
    }
    if (adapter->timer) {
        sd_event_source_set_enabled(adapter->timer, SD_EVENT_OFF);
        sd_event_source_unref(adapter->timer);
    }
    broker_adapter_close(&adapter->base);
}

/*
 * Stops watching and frees the adapter. Call it once, in the thread of the loop, also from callbacks, before or
 * after the handle is freed. NULL is allowed.
 */
static inline void broker_sd_event_detach(broker_sd_event_t *adapter) {
    if (!adapter) {
        return;
    }
    broker_sd_event__close(adapter);
    adapter->detached = 1;
    if (!adapter->stepping) {
        free(adapter);
    }
}

static inline int broker_sd_event__attach(broker_sd_event_t **out, sd_event *event, broker_client_t *client,
                                          broker_loop_t *loop, broker_ended_cb ended, void *data) {
    broker_sd_event_t *adapter = (broker_sd_event_t *)calloc(1, sizeof *adapter);
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
    code = sd_event_add_io(event, &adapter->readable, adapter->base.fd, EPOLLIN, broker_sd_event__on_readable, adapter);
    if (code >= 0) {
        code = sd_event_add_time(event, &adapter->timer, CLOCK_MONOTONIC, 0, 1, broker_sd_event__on_timer, adapter);
    }
    if (code < 0) {
        broker_sd_event__close(adapter);
        free(adapter);
        errno = -code;
        return BROKER_ESYS;
    }
    broker_sd_event__arm(adapter);
    *out = adapter;
    return BROKER_OK;
}

/*
 * Watches a client in `event`. The caller passes *out to broker_sd_event_detach(); it is NULL on failure. `ended` may
 * be NULL.
 *
 * Returns the client's code if it is invalid; BROKER_ESYS without descriptors or memory, or for another process's
 * `event`.
 */
static inline int broker_sd_event_attach_client(broker_sd_event_t **out, sd_event *event, broker_client_t *client,
                                                broker_ended_cb ended, void *data) {
    return broker_sd_event__attach(out, event, client, NULL, ended, data);
}

/* The same for an embedded broker. */
static inline int broker_sd_event_attach_loop(broker_sd_event_t **out, sd_event *event, broker_loop_t *loop,
                                              broker_ended_cb ended, void *data) {
    return broker_sd_event__attach(out, event, NULL, loop, ended, data);
}

#endif /* BROKER_ADAPTERS_SD_EVENT_H */
