/*
 * The situations that every adapter must master, included by a program that has defined over its own event loop, as
 * struct drive with functions drive_...: open, close, turn (one turn that waits), client_with and loop (attach; an
 * adapter), detach, refusal (the code of an attempt to attach), freed (what is seen of a client that was freed), watch
 * (call back while a descriptor is readable), renew (what a worker does so that it has a loop of its own),
 * hears_of_forks (whether an adapter that a worker has not detached can hear of it; makes ready for that); and
 * DRIVE_ATTACHES_EARLY if a worker may attach before it renews the loop.
 */

#include <sys/syscall.h>

#define IN_FLIGHT 10000

static void *drive_client(struct drive *drive, broker_client_t *client, struct end *end) {
    return drive_client_with(drive, client, note_end, end);
}

/* ---- 10,000 requests in flight, beside a descriptor that is always readable ---- */

struct flight {
    int answered;
    int in_flight_at_first;
};

static int ticks;

static void tick(int fd, void *data) {
    char byte;
    int peer = *(int *)data;
    CHECK_INT(read(fd, &byte, 1), 1);
    CHECK_INT(write(peer, &byte, 1), 1);
    ticks++;
}

static void landed(broker_client_t *client, int status, const broker_reply_t *reply, void *data) {
    struct flight *flight = (struct flight *)data;
    (void)client;
    CHECK_INT(status, BROKER_OK);
    CHECK_INT(atoi(broker_reply_string(reply, NULL)), flight->answered);
    flight->answered++;
}

static void ten_thousand_in_flight(void) {
    struct drive drive;
    struct flight flight = {0, 0};
    struct end end = {0, 0};
    broker_client_t *client = open_client();
    int ends[2], turns = 0, i;
    void *adapter;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    drive_open(&drive);
    adapter = drive_client(&drive, client, &end);
    ticks = 0;
    drive_watch(&drive, ends[0], tick, &ends[1]);
    CHECK_INT(write(ends[1], "x", 1), 1);
    for (i = 0; i < IN_FLIGHT; i++) {
        char number[16];
        snprintf(number, sizeof number, "%d", i);
        submit(client, "ECHO", number, BROKER_FOREVER, landed, &flight);
    }
    CHECK_INT(flight.answered, 0);
    while (flight.answered < IN_FLIGHT) {
        int before = ticks;
        drive_turn(&drive);
        turns++;
        /* The library has not kept the turn for itself: whoever was readable has been served in it. */
        CHECK(ticks > before);
    }
    CHECK_INT(end.calls, 0);
    printf("in flight %d, answered %d, turns %s ticks\n", IN_FLIGHT, flight.answered, ticks >= turns ? "<=" : ">");
    drive_detach(adapter);
    CHECK_INT(broker_client_free(client), BROKER_OK);
    drive_close(&drive);
    close(ends[0]);
    close(ends[1]);
}

/* ---- timeouts ---- */

static void keep_status(broker_client_t *client, int status, const broker_reply_t *reply, void *data) {
    (void)client;
    (void)reply;
    *(int *)data = status;
}

static void a_timeout_needs_no_event(void) {
    struct drive drive;
    broker_client_t *client = open_client();
    struct end end = {0, 0};
    int status = 1;
    void *adapter;
    drive_open(&drive);
    adapter = drive_client(&drive, client, &end);
    submit(client, "BLPOP", "nobody", 30, keep_status, &status);
    while (status == 1) {
        drive_turn(&drive);
    }
    CHECK_INT(status, BROKER_ETIMEDOUT);
    drive_detach(adapter);
    broker_client_free(client);
    drive_close(&drive);
}

/* ---- detaching and freeing inside a callback ---- */

struct scene {
    struct drive drive;
    broker_client_t *client;
    void *adapter;
    struct end end;
    int outcomes;
    int canceled;
    struct scene *next;
    pid_t worker;
};

static void open_scene(struct scene *scene) {
    memset(scene, 0, sizeof *scene);
    drive_open(&scene->drive);
    scene->client = open_client();
    scene->adapter = drive_client(&scene->drive, scene->client, &scene->end);
}

static void detach_here(broker_client_t *client, int status, const broker_reply_t *reply, void *data) {
    struct scene *scene = (struct scene *)data;
    (void)client;
    (void)reply;
    CHECK_INT(status, BROKER_OK);
    drive_detach(scene->adapter);
    scene->adapter = NULL;
    scene->outcomes++;
}

static void count_here(broker_client_t *client, int status, const broker_reply_t *reply, void *data) {
    struct scene *scene = (struct scene *)data;
    (void)client;
    (void)reply;
    scene->outcomes++;
    scene->canceled += status == BROKER_ECANCELED;
}

static void detach_and_attach_again(void) {
    struct scene scene;
    open_scene(&scene);
    submit(scene.client, "ECHO", "x", BROKER_FOREVER, detach_here, &scene);
    while (scene.adapter != NULL) {
        drive_turn(&scene.drive);
    }
    submit(scene.client, "ECHO", "x", BROKER_FOREVER, count_here, &scene);
    scene.adapter = drive_client(&scene.drive, scene.client, &scene.end);
    while (scene.outcomes < 2) {
        drive_turn(&scene.drive);
    }
    CHECK_INT(scene.canceled, 0);
    drive_detach(scene.adapter);
    broker_client_free(scene.client);
    drive_close(&scene.drive);
}

static void free_here(broker_client_t *client, int status, const broker_reply_t *reply, void *data) {
    struct scene *scene = (struct scene *)data;
    (void)reply;
    CHECK_INT(status, BROKER_OK);
    CHECK_INT(broker_client_free(client), BROKER_OK);
    scene->outcomes++;
}

static void free_and_detach_here(broker_client_t *client, int status, const broker_reply_t *reply, void *data) {
    detach_here(client, status, reply, data);
    CHECK_INT(broker_client_free(client), BROKER_OK);
}

/* Opens the next client where the descriptors of this one are free again: a number that is still watched would show. */
static void open_the_next(broker_client_t *client, int status, const broker_reply_t *reply, void *data) {
    struct scene *scene = (struct scene *)data;
    count_here(client, status, reply, data);
    scene->next->client = open_client();
    scene->next->adapter = drive_client(&scene->drive, scene->next->client, &scene->next->end);
    submit(scene->next->client, "ECHO", "x", BROKER_FOREVER, count_here, scene->next);
}

static void freed_in_a_callback(broker_reply_cb ends) {
    struct scene scene, next;
    memset(&next, 0, sizeof next);
    open_scene(&scene);
    scene.next = &next;
    submit(scene.client, "ECHO", "x", BROKER_FOREVER, ends, &scene);
    submit(scene.client, "BLPOP", "nobody", BROKER_FOREVER, open_the_next, &scene);
    submit(scene.client, "BLPOP", "nobody", BROKER_FOREVER, count_here, &scene);
    while (next.outcomes == 0) {
        drive_turn(&scene.drive);
    }
    CHECK_INT(scene.outcomes, 3);
    CHECK_INT(scene.canceled, 2);
    CHECK_INT(next.canceled, 0);
    /* Whoever detaches does not hear of the end. */
    CHECK_INT(scene.end.calls, scene.adapter != NULL);
    if (scene.adapter != NULL) {
        CHECK_INT(scene.end.status, BROKER_ESTATE);
        drive_detach(scene.adapter);
    }
    drive_detach(next.adapter);
    broker_client_free(next.client);
    drive_close(&scene.drive);
}

static void freed_before_it_is_detached(void) {
    struct scene scene;
    open_scene(&scene);
    submit(scene.client, "BLPOP", "nobody", BROKER_FOREVER, count_here, &scene);
    CHECK_INT(broker_client_free(scene.client), BROKER_OK);
    CHECK_INT(scene.canceled, 1);
    drive_freed(&scene.drive, &scene.end);
    drive_detach(scene.adapter);
    drive_close(&scene.drive);
}

static void what_cannot_be_attached(void) {
    struct drive drive;
    broker_client_t *client = open_client();
    broker_client_free(client);
    drive_open(&drive);
    CHECK_INT(drive_refusal(&drive, client), BROKER_ESTATE);
    drive_close(&drive);
}

/* ---- the end may detach ---- */

static void detach_at_the_end(int status, void *data) {
    struct scene *scene = (struct scene *)data;
    note_end(status, &scene->end);
    drive_detach(scene->adapter);
    scene->adapter = NULL;
}

static void detached_at_its_end(void) {
    struct scene scene;
    open_scene(&scene);
    drive_detach(scene.adapter);
    scene.adapter = drive_client_with(&scene.drive, scene.client, detach_at_the_end, &scene);
    submit(scene.client, "ECHO", "x", BROKER_FOREVER, free_here, &scene);
    while (scene.adapter != NULL) {
        drive_turn(&scene.drive);
    }
    CHECK_INT(scene.end.status, BROKER_ESTATE);
    drive_close(&scene.drive);
}

/* ---- an embedded broker, and clients of it in the same loop ---- */

static void own_outcome(broker_client_t *client, int status, const broker_reply_t *reply, void *data) {
    (void)client;
    (void)reply;
    CHECK_INT(status, BROKER_OK);
    ++*(int *)data;
}

static void a_broker_and_its_clients(void) {
    struct drive drive;
    struct scene child;
    struct end end = {0, 0};
    broker_loop_t *loop = open_loop();
    broker_client_t *client;
    int ends[2], own = 0, i;
    char endpoint[32];
    void *adapter;
    memset(&child, 0, sizeof child);
    drive_open(&drive);
    adapter = drive_loop(&drive, loop, &end);
    CHECK_INT(broker_loop_client(&client, loop), BROKER_OK);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    CHECK_INT(broker_loop_adopt(loop, ends[0]), BROKER_OK);
    snprintf(endpoint, sizeof endpoint, "fd://%d", ends[1]);
    child.client = open_at(endpoint);
    child.adapter = drive_client(&drive, child.client, &child.end);
    for (i = 1; i <= 100; i++) {
        submit(child.client, "ECHO", "x", BROKER_FOREVER, count_here, &child);
        while (child.outcomes < i) {
            drive_turn(&drive);
        }
        /* From outside of every callback: nothing but the adapter can wake the broker. */
        submit(client, "ECHO", "x", BROKER_FOREVER, own_outcome, &own);
        while (own < i) {
            drive_turn(&drive);
        }
    }
    CHECK_INT(child.canceled, 0);
    drive_detach(child.adapter);
    CHECK_INT(broker_client_free(child.client), BROKER_OK);
    CHECK_INT(broker_client_free(client), BROKER_OK);
    CHECK_INT(broker_loop_drain(loop, 5000), BROKER_OK);
    while (end.calls == 0) {
        drive_turn(&drive);
    }
    CHECK_INT(end.status, 0);
    drive_detach(adapter);
    CHECK_INT(broker_loop_free(loop), BROKER_OK);
    drive_close(&drive);
}

/* ---- forks ---- */

static int is_epoll(int fd) {
    char path[64], target[64];
    ssize_t len;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    len = readlink(path, target, sizeof target - 1);
    target[len > 0 ? len : 0] = '\0';
    return strcmp(target, "anon_inode:[eventpoll]") == 0;
}

/* What all epoll sets of this process hold, in words. */
static void look_at_sets(char *words, size_t room) {
    size_t len = 0;
    int fd;
    for (fd = 0; fd < 1000; fd++) {
        char path[64];
        FILE *file;
        if (!is_epoll(fd)) {
            continue;
        }
        snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
        file = fopen(path, "r");
        CHECK(file != NULL);
        len += (size_t)snprintf(words + len, room - len, "set %d\n", fd);
        len += fread(words + len, 1, room - len - 1, file);
        words[len] = '\0';
        fclose(file);
        CHECK(len + 200 < room);
    }
}

static void ask(struct scene *scene) {
    int before = scene->outcomes;
    submit(scene->client, "ECHO", "x", BROKER_FOREVER, count_here, scene);
    while (scene->outcomes == before) {
        drive_turn(&scene->drive);
    }
    CHECK_INT(scene->canceled, 0);
    CHECK_INT(scene->end.calls, 0);
}

/* One letter per step: l renews the loop, f the client, d detaches what was inherited, a attaches anew. */
static void work(struct scene *scene, const char *steps) {
    void *inherited = scene->adapter;
    for (; *steps; steps++) {
        switch (*steps) {
        case 'l':
            drive_renew(&scene->drive);
            break;
        case 'f':
            CHECK_INT(broker_client_after_fork(scene->client), BROKER_OK);
            break;
        case 'd':
            drive_detach(inherited);
            break;
        default:
            scene->adapter = drive_client(&scene->drive, scene->client, &scene->end);
        }
    }
    ask(scene);
    ask(scene);
    drive_detach(scene->adapter);
    CHECK_INT(broker_client_free(scene->client), BROKER_OK);
    drive_close(&scene->drive);
}

/* A fork that runs no fork handlers. */
static pid_t clone_or_fail(void) {
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    CHECK(pid >= 0);
    if (pid == 0) {
        begin();
    }
    return pid;
}

/* Forks a worker that does this, beside which the parent's sets stay what they are, and its client hears as before. */
static void beside(struct scene *scene, pid_t (*copy)(void), void (*worker)(struct scene *scene, const char *steps), const char *steps) {
    static char before[1 << 16], after[1 << 16];
    pid_t pid;
    look_at_sets(before, sizeof before);
    pid = copy();
    if (pid == 0) {
        worker(scene, steps);
        end_child();
    }
    wait_child(pid);
    look_at_sets(after, sizeof after);
    CHECK_TEXT(after, before);
    ask(scene);
}

static void workers_in_every_order(void) {
    static const char *const orders[] = {"lfda", "ldfa", "flda", "fdla", "dfla", "dlfa", "lfad"};
    struct scene scene;
    size_t i;
    open_scene(&scene);
    ask(&scene);
    for (i = 0; i < sizeof orders / sizeof orders[0]; i++) {
        beside(&scene, fork_or_fail, work, orders[i]);
    }
#ifdef DRIVE_ATTACHES_EARLY
    beside(&scene, fork_or_fail, work, "fdal");
    beside(&scene, fork_or_fail, work, "fald");
    beside(&scene, fork_or_fail, work, "dfal");
#endif
    drive_detach(scene.adapter);
    CHECK_INT(broker_client_free(scene.client), BROKER_OK);
    drive_close(&scene.drive);
}

/* Goes on with what was inherited: the adapter ends, once, whether or not the client has been renewed. */
static void forget(struct scene *scene, const char *steps) {
    if (*steps == 'f') {
        CHECK_INT(broker_client_after_fork(scene->client), BROKER_OK);
    }
    if (drive_hears_of_forks(&scene->drive)) {
        while (scene->end.calls == 0) {
            drive_turn(&scene->drive);
        }
        CHECK_INT(scene->end.status, BROKER_EFORKED);
    }
    drive_detach(scene->adapter);
    CHECK_INT(broker_client_free(scene->client), BROKER_OK);
    drive_close(&scene->drive);
}

static void workers_without_fork_handlers(void) {
    struct scene scene;
    open_scene(&scene);
    ask(&scene);
    beside(&scene, clone_or_fail, work, "dlfa");
    beside(&scene, clone_or_fail, work, "fdla");
    drive_detach(scene.adapter);
    CHECK_INT(broker_client_free(scene.client), BROKER_OK);
    drive_close(&scene.drive);
}

static void workers_that_forget(void) {
    struct scene scene;
    open_scene(&scene);
    ask(&scene);
    beside(&scene, fork_or_fail, forget, "");
    beside(&scene, fork_or_fail, forget, "f");
    drive_detach(scene.adapter);
    CHECK_INT(broker_client_free(scene.client), BROKER_OK);
    drive_close(&scene.drive);
}

/* The worker detaches in the very callback, and comes back into its copy of the parent's turn. */
static void fork_here(broker_client_t *client, int status, const broker_reply_t *reply, void *data) {
    struct scene *scene = (struct scene *)data;
    (void)client;
    (void)reply;
    CHECK_INT(status, BROKER_OK);
    scene->outcomes++;
    scene->worker = fork_or_fail();
    if (scene->worker == 0) {
        drive_detach(scene->adapter);
    }
}

static void a_worker_forked_in_a_callback(void) {
    struct scene scene;
    open_scene(&scene);
    submit(scene.client, "ECHO", "x", BROKER_FOREVER, fork_here, &scene);
    while (scene.outcomes == 0) {
        drive_turn(&scene.drive);
    }
    if (scene.worker == 0) {
        work(&scene, "lfa");
        end_child();
    }
    wait_child(scene.worker);
    ask(&scene);
    drive_detach(scene.adapter);
    CHECK_INT(broker_client_free(scene.client), BROKER_OK);
    drive_close(&scene.drive);
}

/* As daemon() does: the client goes on in the child, with its connection, in a loop of the child's own. */
static void a_client_that_follows(const char *steps) {
    struct scene scene;
    pid_t pid;
    open_scene(&scene);
    ask(&scene);
    CHECK_INT(broker_client_follow_fork(scene.client, 1), BROKER_OK);
    pid = fork_or_fail();
    if (pid == 0) {
        CHECK_INT(broker_client_follow_fork(scene.client, 0), BROKER_OK);
        work(&scene, steps);
        end_child();
    }
    wait_child(pid);
    CHECK_INT(broker_client_connected(scene.client), BROKER_EFORKED);
    drive_detach(scene.adapter);
    broker_client_free(scene.client);
    drive_close(&scene.drive);
}

int main(void) {
    struct drive drive;
    int before;
    begin();
    /* What the event library keeps for the whole process is not the adapter's. */
    drive_open(&drive);
    drive_close(&drive);
    before = count_descriptors();
    ten_thousand_in_flight();
    a_timeout_needs_no_event();
    detach_and_attach_again();
    freed_in_a_callback(free_here);
    freed_in_a_callback(free_and_detach_here);
    freed_before_it_is_detached();
    what_cannot_be_attached();
    detached_at_its_end();
    a_broker_and_its_clients();
    workers_in_every_order();
    workers_without_fork_handlers();
    workers_that_forget();
    a_worker_forked_in_a_callback();
    a_client_that_follows("lda");
    a_client_that_follows("dla");
    CHECK_INT(count_descriptors(), before);
    puts("ok");
    return 0;
}
