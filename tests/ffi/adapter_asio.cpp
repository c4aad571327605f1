/* adapters/asio.hpp in an io_context, of whichever Asio the compiler's command line has chosen. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <broker/adapters/asio.hpp>

#include "adapters.h"

struct drive {
    broker_asio::io_context *context;
    broker_asio::posix::stream_descriptor *watching;
    void (*call)(int fd, void *data);
    void *data;
};

static void drive_open(struct drive *drive) {
    drive->context = new broker_asio::io_context;
    drive->watching = nullptr;
}

/* Asio runs one handler at a time: waits for one, then runs those that were due with it. */
static void drive_turn(struct drive *drive) {
    bool over = false;
    drive->context->restart();
    CHECK(drive->context->run_one() == 1);
    broker_asio::post(*drive->context, [&over] { over = true; });
    while (!over) {
        drive->context->restart();
        drive->context->run_one();
    }
}

static void *drive_client_with(struct drive *drive, broker_client_t *client, broker_ended_cb ended, void *data) {
    broker_asio_t *adapter;
    CHECK_INT(broker_asio_attach_client(&adapter, drive->context->get_executor(), client, ended, data), BROKER_OK);
    return adapter;
}

static int drive_refusal(struct drive *drive, broker_client_t *client) {
    broker_asio_t *adapter;
    int code = broker_asio_attach_client(&adapter, drive->context->get_executor(), client);
    CHECK(adapter == nullptr);
    return code;
}

static void *drive_loop(struct drive *drive, broker_loop_t *loop, struct end *end) {
    broker_asio_t *adapter;
    CHECK_INT(broker_asio_attach_loop(&adapter, drive->context->get_executor(), loop, note_end, end), BROKER_OK);
    return adapter;
}

static void drive_detach(void *adapter) {
    broker_asio_detach(static_cast<broker_asio_t *>(adapter));
}

/* Nothing: its descriptor is never readable again. */
static void drive_freed(struct drive *drive, struct end *end) {
    (void)drive;
    CHECK_INT(end->calls, 0);
}

/* The adapters have nothing done by Asio before the context runs; so the worker may be late to tell it. */
#define DRIVE_ATTACHES_EARLY

static void drive_renew(struct drive *drive) {
    drive->context->notify_fork(broker_asio::execution_context::fork_child);
}

static int drive_hears_of_forks(struct drive *drive) {
    drive_renew(drive);
    return 1;
}

static void watch_on(struct drive *drive) {
    drive->watching->async_wait(broker_asio::posix::stream_descriptor::wait_read,
                                [drive](const broker_asio_error_t &failed) {
                                    if (!failed) {
                                        drive->call(drive->watching->native_handle(), drive->data);
                                        watch_on(drive);
                                    }
                                });
}

static void drive_watch(struct drive *drive, int fd, void (*call)(int fd, void *data), void *data) {
    drive->call = call;
    drive->data = data;
    drive->watching = new broker_asio::posix::stream_descriptor(*drive->context, fd);
    watch_on(drive);
}

/* Nothing of the adapters' keeps the context going. */
static void drive_close(struct drive *drive) {
    if (drive->watching) {
        drive->watching->release();
        delete drive->watching;
    }
    drive->context->restart();
    drive->context->run();
    delete drive->context;
}

#include "adapter_situations.h"
