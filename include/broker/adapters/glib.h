/*
 * glib.h: a broker_client_t or broker_loop_t in a GLib main context (GTK, GIO). Owns the GSource that watches it, never
 * the client or the loop. GLib 2.36 or newer; link with glib-2.0.
 *
 *     broker_glib_t *adapter;
 *     broker_glib_attach_client(&adapter, NULL, client, NULL, NULL);
 *     g_main_loop_run(loop);
 *     broker_glib_detach(adapter);             // before or after broker_client_free()
 *
 * Callbacks run inside g_main_context_iteration(), in its thread, with G_PRIORITY_DEFAULT. Each dispatch is one step of
 * the handle, with the context's other sources in between, so that neither starves the other.
 *
 * In a forked process an adapter has ended, and so has the inherited context: GLib has no call to renew it, and its wakeup
 * descriptor is shared with the parent. A worker does the following, in any order: broker_client_after_fork(),
 * broker_glib_detach(). Then it creates a GMainContext of its own and attaches to that. A handle that follows a fork
 * (broker_client_follow_fork()) is detached and attached in the same way.
 *
 * License: MIT OR Apache-2.0.
 */
#ifndef BROKER_ADAPTERS_GLIB_H
#define BROKER_ADAPTERS_GLIB_H

#include "handle.h"

#include <glib-unix.h>
#include <glib.h>

/* An attached client or loop; its members are private. GLib allocates it, counts its references and frees it. */
typedef struct broker_glib {
    GSource source;
    broker_adapter_t base;
} broker_glib_t;

static inline void broker_glib__arm(broker_glib_t *adapter) {
    int timeout = broker_adapter_timeout(&adapter->base);
    g_source_set_ready_time(&adapter->source,
                            timeout < 0 ? -1 : g_get_monotonic_time() + (gint64)timeout * G_TIME_SPAN_MILLISECOND);
}

/* GLib keeps the source meanwhile, even if a callback detaches it. */
static inline gboolean broker_glib__dispatch(GSource *source, GSourceFunc unused, gpointer no_data) {
    broker_glib_t *adapter = (broker_glib_t *)(void *)source;
    int status = broker_adapter_step(&adapter->base);
    (void)unused;
    (void)no_data;
    if (g_source_is_destroyed(source)) {
        return G_SOURCE_REMOVE;
    }
    if (status > 0) {
        broker_glib__arm(adapter);
        return G_SOURCE_CONTINUE;
    }
    g_source_destroy(source);
    broker_adapter_end(&adapter->base, status);
    return G_SOURCE_REMOVE;
}

static inline void broker_glib__finalize(GSource *source) {
    broker_glib_t *adapter = (broker_glib_t *)(void *)source;
    /* Not if it was never opened. */
    if (adapter->base.list) {
        broker_adapter_close(&adapter->base);
    }
}

/*
 * Stops watching and releases the adapter. Call it once, in the thread of the context, also from callbacks, before
 * or after the handle is freed. NULL is allowed.
 */
static inline void broker_glib_detach(broker_glib_t *adapter) {
    if (!adapter) {
        return;
    }
    g_source_destroy(&adapter->source);
    g_source_unref(&adapter->source);
}

static inline int broker_glib__attach(broker_glib_t **out, GMainContext *context, broker_client_t *client,
                                      broker_loop_t *loop, broker_ended_cb ended, void *data) {
    static GSourceFuncs functions = {NULL, NULL, broker_glib__dispatch, broker_glib__finalize, NULL, NULL};
    broker_glib_t *adapter = (broker_glib_t *)(void *)g_source_new(&functions, sizeof *adapter);
    int code = broker_adapter_open(&adapter->base, client, loop, ended, data);
    *out = NULL;
    if (code < 0) {
        g_source_unref(&adapter->source);
        return code;
    }
    g_source_set_name(&adapter->source, "broker");
    g_source_add_unix_fd(&adapter->source, adapter->base.fd, G_IO_IN);
    broker_glib__arm(adapter);
    g_source_attach(&adapter->source, context);
    *out = adapter;
    return BROKER_OK;
}

/*
 * Watches a client in `context`, NULL for the default one. The caller passes *out to broker_glib_detach(); it is NULL
 * on failure. `ended` may be NULL.
 *
 * Returns the client's code if it is invalid; BROKER_ESYS without descriptors.
 */
static inline int broker_glib_attach_client(broker_glib_t **out, GMainContext *context, broker_client_t *client,
                                            broker_ended_cb ended, void *data) {
    return broker_glib__attach(out, context, client, NULL, ended, data);
}

/* The same for an embedded broker. */
static inline int broker_glib_attach_loop(broker_glib_t **out, GMainContext *context, broker_loop_t *loop,
                                          broker_ended_cb ended, void *data) {
    return broker_glib__attach(out, context, NULL, loop, ended, data);
}

#endif /* BROKER_ADAPTERS_GLIB_H */
