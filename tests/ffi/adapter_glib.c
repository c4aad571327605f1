/* adapters/glib.h in a GLib main context. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <broker/adapters/glib.h>

#include "adapters.h"

struct drive {
    GMainContext *context;
    GSource *watching;
    int fd;
    void (*call)(int fd, void *data);
    void *data;
};

static void drive_open(struct drive *drive) {
    drive->context = g_main_context_new();
    drive->watching = NULL;
}

static void drive_turn(struct drive *drive) {
    g_main_context_iteration(drive->context, TRUE);
}

static void *drive_client_with(struct drive *drive, broker_client_t *client, broker_ended_cb ended, void *data) {
    broker_glib_t *adapter;
    CHECK_INT(broker_glib_attach_client(&adapter, drive->context, client, ended, data), BROKER_OK);
    return adapter;
}

static int drive_refusal(struct drive *drive, broker_client_t *client) {
    broker_glib_t *adapter;
    int code = broker_glib_attach_client(&adapter, drive->context, client, NULL, NULL);
    CHECK(adapter == NULL);
    return code;
}

static void *drive_loop(struct drive *drive, broker_loop_t *loop, struct end *end) {
    broker_glib_t *adapter;
    CHECK_INT(broker_glib_attach_loop(&adapter, drive->context, loop, note_end, end), BROKER_OK);
    return adapter;
}

static void drive_detach(void *adapter) {
    broker_glib_detach((broker_glib_t *)adapter);
}

/* Nothing: its descriptor is never readable again. */
static void drive_freed(struct drive *drive, struct end *end) {
    (void)drive;
    CHECK_INT(end->calls, 0);
}

static void drive_renew(struct drive *drive) {
    g_main_context_unref(drive->context);
    drive->context = g_main_context_new();
}

/* GLib polls whatever a number stands for, also in a context that was inherited. */
static int drive_hears_of_forks(struct drive *drive) {
    (void)drive;
    return 1;
}

static gboolean watched(gint fd, GIOCondition condition, gpointer data) {
    struct drive *drive = (struct drive *)data;
    (void)condition;
    drive->call(fd, drive->data);
    return G_SOURCE_CONTINUE;
}

static void drive_watch(struct drive *drive, int fd, void (*call)(int fd, void *data), void *data) {
    drive->call = call;
    drive->data = data;
    drive->watching = g_unix_fd_source_new(fd, G_IO_IN);
    g_source_set_callback(drive->watching, (GSourceFunc)(void (*)(void))watched, drive, NULL);
    g_source_attach(drive->watching, drive->context);
}

static void drive_close(struct drive *drive) {
    if (drive->watching) {
        g_source_destroy(drive->watching);
        g_source_unref(drive->watching);
    }
    /* Nothing of the adapters' is left in it. */
    CHECK(!g_main_context_pending(drive->context));
    g_main_context_unref(drive->context);
}

#include "adapter_situations.h"
