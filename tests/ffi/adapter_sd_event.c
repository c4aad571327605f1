/* adapters/sd_event.h in an sd-event loop. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <broker/adapters/sd_event.h>

#include "adapters.h"

struct drive {
    sd_event *event;
    sd_event_source *watching;
    void (*call)(int fd, void *data);
    void *data;
};

static void drive_open(struct drive *drive) {
    CHECK_INT(sd_event_new(&drive->event), 0);
    drive->watching = NULL;
}

/* sd-event dispatches one source in a turn, the one that has waited longest: the adapter has two, the test a third. */
static void drive_turn(struct drive *drive) {
    int more = sd_event_run(drive->event, UINT64_MAX);
    CHECK(more >= 0);
    for (int i = 0; i < 2 && more > 0; i++) {
        more = sd_event_run(drive->event, 0);
    }
}

static void *drive_client_with(struct drive *drive, broker_client_t *client, broker_ended_cb ended, void *data) {
    broker_sd_event_t *adapter;
    CHECK_INT(broker_sd_event_attach_client(&adapter, drive->event, client, ended, data), BROKER_OK);
    return adapter;
}

static int drive_refusal(struct drive *drive, broker_client_t *client) {
    broker_sd_event_t *adapter;
    int code = broker_sd_event_attach_client(&adapter, drive->event, client, NULL, NULL);
    CHECK(adapter == NULL);
    return code;
}

static void *drive_loop(struct drive *drive, broker_loop_t *loop, struct end *end) {
    broker_sd_event_t *adapter;
    CHECK_INT(broker_sd_event_attach_loop(&adapter, drive->event, loop, note_end, end), BROKER_OK);
    return adapter;
}

static void drive_detach(void *adapter) {
    broker_sd_event_detach((broker_sd_event_t *)adapter);
}

/* Nothing: its descriptor is never readable again. */
static void drive_freed(struct drive *drive, struct end *end) {
    (void)drive;
    CHECK_INT(end->calls, 0);
}

static void drive_renew(struct drive *drive) {
    sd_event_unref(drive->event);
    CHECK_INT(sd_event_new(&drive->event), 0);
}

/* The inherited loop refuses to run, and so to say anything. */
static int drive_hears_of_forks(struct drive *drive) {
    CHECK_INT(sd_event_run(drive->event, 0), -ECHILD);
    return 0;
}

static int watched(sd_event_source *source, int fd, uint32_t events, void *data) {
    struct drive *drive = (struct drive *)data;
    (void)source;
    (void)events;
    drive->call(fd, drive->data);
    return 0;
}

static void drive_watch(struct drive *drive, int fd, void (*call)(int fd, void *data), void *data) {
    drive->call = call;
    drive->data = data;
    CHECK(sd_event_add_io(drive->event, &drive->watching, fd, EPOLLIN, watched, drive) >= 0);
}

static void drive_close(struct drive *drive) {
    if (drive->watching) {
        sd_event_source_set_enabled(drive->watching, SD_EVENT_OFF);
        sd_event_source_unref(drive->watching);
    }
    CHECK(sd_event_unref(drive->event) == NULL);
}

#include "adapter_situations.h"
