/*
 * A broker embedded in a foreign epoll beside a flood on other sockets of the same epoll. Neither waits for the other:
 * the flood goes on until the workers have their requests answered, and the workers go on until 100 MiB of flood have
 * been read. Then, without the flood, each request has to wake the loop by itself.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <broker/adapters/epoll.h>

#include <sys/mman.h>
#include <sys/wait.h>

#include "adapters.h"

#define WORKERS 4
#define FLOODS 4
#define FLOOD_BYTES (100L << 20)
#define REQUESTS 1000
#define OWN_REQUESTS 1000
#define QUIET_REQUESTS 2000
#define CHUNK 65536

enum phase { FLOODED, QUIET };

/* Seen by all processes. */
struct board {
    volatile int phase;
    volatile long answered[WORKERS];
};

static struct board *board;
static char chunk[CHUNK];
static char own_key[32];

/* ---- the others ---- */

/* Writes until the reader has had enough and closes. */
static void flood(int number, int fd) {
    (void)number;
    begin();
    while (send(fd, chunk, sizeof chunk, MSG_NOSIGNAL) > 0) {
    }
    _exit(0);
}

/* One request after the other, so that each needs a wake-up of the broker's; its own count comes back. */
static void work(int worker, int fd) {
    char endpoint[32], key[64];
    const char *argv[2];
    broker_client_t *client;
    long i, quiet_from = -1;
    begin();
    snprintf(endpoint, sizeof endpoint, "fd://%d", fd);
    snprintf(key, sizeof key, "%s:%d", own_key, worker);
    argv[0] = "INCR";
    argv[1] = key;
    client = open_at(endpoint);
    for (i = 1; board->phase == FLOODED || quiet_from < 0 || i < quiet_from + QUIET_REQUESTS; i++) {
        broker_reply_t *reply;
        CHECK_INT(broker_client_call(client, 2, argv, NULL, BROKER_FOREVER, &reply), BROKER_OK);
        CHECK_INT(broker_reply_integer(reply), i);
        broker_reply_free(reply);
        board->answered[worker] = i;
        if (quiet_from < 0 && board->phase == QUIET) {
            quiet_from = i;
        }
    }
    broker_client_free(client);
    _exit(0);
}

/* The ends that this process keeps: a process forked later must not hold them open. */
static int kept[FLOODS + WORKERS];
static int kept_count;

static pid_t start(void (*run)(int worker, int fd), int worker) {
    int ends[2], i;
    pid_t pid;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        close(ends[0]);
        for (i = 0; i < kept_count; i++) {
            close(kept[i]);
        }
        run(worker, ends[1]);
    }
    close(ends[1]);
    kept[kept_count++] = ends[0];
    return pid;
}

static int ended_well(pid_t pid, int options) {
    int status = 0;
    if (waitpid(pid, &status, options) != pid) {
        return 0;
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return 1;
}

/* ---- the parent ---- */

struct parent {
    broker_loop_t *loop;
    broker_client_t *client;
    broker_epoll_t *adapter;
    struct end end;
    int epfd;
    int floods[FLOODS];
    long flood_bytes[FLOODS];
    long own_answered;
    long own_quiet;
    /* Turns in which a flooding socket was readable, and those in which the broker was as well. */
    long turns;
    long turns_shared;
};

static void ask_own(struct parent *parent);

static void own_answer(broker_client_t *client, int status, const broker_reply_t *reply, void *data) {
    struct parent *parent = (struct parent *)data;
    (void)client;
    CHECK_INT(status, BROKER_OK);
    CHECK_INT(broker_reply_integer(reply), parent->own_answered + 1);
    parent->own_answered++;
    if (board->phase == QUIET) {
        parent->own_quiet++;
    }
    if (board->phase == FLOODED || parent->own_quiet < QUIET_REQUESTS) {
        ask_own(parent);
    }
}

static void ask_own(struct parent *parent) {
    const char *argv[2];
    argv[0] = "INCR";
    argv[1] = own_key;
    CHECK_INT(broker_client_submit(parent->client, 2, argv, NULL, BROKER_FOREVER, NULL, own_answer, parent), BROKER_OK);
}

static void turn(struct parent *parent) {
    struct epoll_event events[16];
    int ready = 0, flooded = 0, count, i;
    count = epoll_wait(parent->epfd, events, 16, broker_epoll_timeout(parent->adapter, -1));
    CHECK(count >= 0);
    for (i = 0; i < count; i++) {
        if (events[i].data.u32 == FLOODS) {
            ready = 1;
        } else {
            ssize_t got = read(parent->floods[events[i].data.u32], chunk, sizeof chunk);
            CHECK(got > 0);
            parent->flood_bytes[events[i].data.u32] += got;
            flooded = 1;
        }
    }
    parent->turns += flooded;
    parent->turns_shared += flooded && ready;
    broker_epoll_dispatch(parent->adapter, ready);
    CHECK_INT(parent->end.calls, 0);
}

static int everybody_had_enough(const struct parent *parent) {
    long bytes = 0;
    int i;
    for (i = 0; i < FLOODS; i++) {
        bytes += parent->flood_bytes[i];
        if (parent->flood_bytes[i] < FLOOD_BYTES / FLOODS / 2) {
            return 0;
        }
    }
    for (i = 0; i < WORKERS; i++) {
        if (board->answered[i] < REQUESTS) {
            return 0;
        }
    }
    return bytes >= FLOOD_BYTES && parent->own_answered >= OWN_REQUESTS;
}

static void embed(struct parent *parent) {
    struct epoll_event event;
    int i;
    parent->epfd = epoll_create1(EPOLL_CLOEXEC);
    event.events = EPOLLIN;
    for (i = 0; i < FLOODS; i++) {
        event.data.u64 = (uint64_t)i;
        CHECK_INT(epoll_ctl(parent->epfd, EPOLL_CTL_ADD, parent->floods[i], &event), 0);
    }
    parent->loop = open_loop();
    event.data.u64 = FLOODS;
    CHECK_INT(broker_epoll_attach_loop(&parent->adapter, parent->epfd, event.data, parent->loop, note_end,
                                       &parent->end),
              BROKER_OK);
    CHECK_INT(broker_loop_client(&parent->client, parent->loop), BROKER_OK);
}

int main(void) {
    struct parent parent;
    pid_t floods[FLOODS], workers[WORKERS];
    int i, left = WORKERS;
    begin();
    memset(&parent, 0, sizeof parent);
    snprintf(own_key, sizeof own_key, "flood:%d", (int)getpid());
    board = (struct board *)mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(board != (struct board *)MAP_FAILED);
    for (i = 0; i < FLOODS; i++) {
        floods[i] = start(flood, i);
        parent.floods[i] = kept[i];
    }
    for (i = 0; i < WORKERS; i++) {
        workers[i] = start(work, i);
    }
    embed(&parent);
    for (i = 0; i < WORKERS; i++) {
        CHECK_INT(broker_loop_adopt(parent.loop, kept[FLOODS + i]), BROKER_OK);
    }
    ask_own(&parent);
    while (!everybody_had_enough(&parent)) {
        turn(&parent);
    }
    printf("turns with flood %s, shared with the broker %s\n", parent.turns > 0 ? "yes" : "no",
           parent.turns_shared > 0 ? "yes" : "no");
    for (i = 0; i < FLOODS; i++) {
        close(parent.floods[i]);
        CHECK(ended_well(floods[i], 0));
    }
    board->phase = QUIET;
    while (left > 0 || parent.own_quiet < QUIET_REQUESTS) {
        turn(&parent);
        for (i = 0; i < WORKERS; i++) {
            if (workers[i] != 0 && ended_well(workers[i], WNOHANG)) {
                workers[i] = 0;
                left--;
            }
        }
    }
    broker_epoll_detach(parent.adapter);
    CHECK_INT(broker_client_free(parent.client), BROKER_OK);
    CHECK_INT(broker_loop_free(parent.loop), BROKER_OK);
    close(parent.epfd);
    munmap(board, sizeof *board);
    puts("ok");
    return 0;
}
