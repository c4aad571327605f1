/* adapters/libevent.h in a libevent base. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <broker/adapters/libevent.h>

#include "adapters.h"

struct drive {
    struct event_base *base;
    struct event *watching;
    void (*call)(int fd, void *data);
    void *data;
};

static void drive_open(struct drive *drive) {
    drive->base = event_base_new();
    drive->watching = NULL;
    CHECK(drive->base != NULL);
}

static void drive_turn(struct drive *drive) {
    CHECK(event_base_loop(drive->base, EVLOOP_ONCE) == 0);
}

static void *drive_client_with(struct drive *drive, broker_client_t *client, broker_ended_cb ended, void *data) {
    broker_libevent_t *adapter;
    CHECK_INT(broker_libevent_attach_client(&adapter, drive->base, client, ended, data), BROKER_OK);
    return adapter;
}

static int drive_refusal(struct drive *drive, broker_client_t *client) {
    broker_libevent_t *adapter;
    int code = broker_libevent_attach_client(&adapter, drive->base, client, NULL, NULL);
    CHECK(adapter == NULL);
    return code;
}

static void *drive_loop(struct drive *drive, broker_loop_t *loop, struct end *end) {
    broker_libevent_t *adapter;
    CHECK_INT(broker_libevent_attach_loop(&adapter, drive->base, loop, note_end, end), BROKER_OK);
    return adapter;
}

static void drive_detach(void *adapter) {
    broker_libevent_detach((broker_libevent_t *)adapter);
}

/* Nothing: its descriptor is never readable again. */
static void drive_freed(struct drive *drive, struct end *end) {
    (void)drive;
    CHECK_INT(end->calls, 0);
}

#define DRIVE_ATTACHES_EARLY

static void drive_renew(struct drive *drive) {
    CHECK_INT(event_reinit(drive->base), 0);
}

static int drive_hears_of_forks(struct drive *drive) {
    drive_renew(drive);
    return 1;
}

static void watched(evutil_socket_t fd, short events, void *data) {
    struct drive *drive = (struct drive *)data;
    (void)events;
    drive->call((int)fd, drive->data);
}

static void drive_watch(struct drive *drive, int fd, void (*call)(int fd, void *data), void *data) {
    drive->call = call;
    drive->data = data;
    drive->watching = event_new(drive->base, fd, EV_READ | EV_PERSIST, watched, drive);
    CHECK_INT(event_add(drive->watching, NULL), 0);
}

static void drive_close(struct drive *drive) {
    if (drive->watching) {
        event_free(drive->watching);
    }
    /* No event of the adapters' is left: there is nothing to dispatch. */
    CHECK_INT(event_base_dispatch(drive->base), 1);
    event_base_free(drive->base);
}

#include "adapter_situations.h"
