/*
 * The servers around a C test: Redis, which the driver has started, asked directly and without the library; the
 * broker's own binary, started and killed by the test.
 */
#ifndef SERVERS_H
#define SERVERS_H

#include "check.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/prctl.h>

#define PATH_SIZE 256

static MAYBE_UNUSED int connect_unix(const char *path)
{
    struct sockaddr_un address = {0};
    address.sun_family = AF_UNIX;
    CHECK(strlen(path) < sizeof address.sun_path);
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    close(fd);
    return -1;
}

/* A connection to Redis that knows nothing of the library; named, so that it is not counted. */
struct redis {
    int fd;
    char *text;
    size_t len, size;
};

static MAYBE_UNUSED void redis_take(struct redis *redis)
{
    if (redis->len + 4096 > redis->size) {
        redis->size = redis->size * 2 + 8192;
        redis->text = realloc(redis->text, redis->size);
        CHECK(redis->text != NULL);
    }
    ssize_t count = read(redis->fd, redis->text + redis->len, redis->size - redis->len - 1);
    if (count <= 0)
        FAIL("Redis closed the test's own connection");
    redis->len += (size_t)count;
    redis->text[redis->len] = '\0';
}

/* Sends one inline command; the reply as it comes, a bulk without its header. Valid until the next. */
static MAYBE_UNUSED const char *redis_ask(struct redis *redis, const char *format, ...)
{
    char line[1024];
    va_list list;
    va_start(list, format);
    int len = vsnprintf(line, sizeof line - 2, format, list);
    va_end(list);
    CHECK(len > 0 && (size_t)len < sizeof line - 2);
    memcpy(line + len, "\r\n", 2);
    CHECK_INT(write(redis->fd, line, (size_t)len + 2), len + 2);
    redis->len = 0;
    char *end;
    do
        redis_take(redis);
    while ((end = strstr(redis->text, "\r\n")) == NULL);
    if (redis->text[0] != '$') {
        *end = '\0';
        return redis->text;
    }
    long count = atol(redis->text + 1);
    if (count < 0)
        return "(nil)";
    size_t header = (size_t)(end + 2 - redis->text);
    while (redis->len < header + (size_t)count + 2)
        redis_take(redis);
    redis->text[header + (size_t)count] = '\0';
    return redis->text + header;
}

static MAYBE_UNUSED struct redis redis_connect(void)
{
    struct redis redis = {connect_unix(setting("BROKER_TEST_REDIS")), NULL, 0, 0};
    CHECK(redis.fd >= 0);
    CHECK_TEXT(redis_ask(&redis, "CLIENT SETNAME test-direct"), "+OK");
    return redis;
}

static MAYBE_UNUSED void redis_close(struct redis *redis)
{
    close(redis->fd);
    free(redis->text);
    redis->text = NULL;
}

/* How many connections Redis itself counts, without the tests' own; of those whose line has `part`, if not NULL. */
static MAYBE_UNUSED int redis_clients_with(struct redis *redis, const char *part)
{
    const char *line = redis_ask(redis, "CLIENT LIST");
    int count = 0;
    while (line != NULL && strncmp(line, "id=", 3) == 0) {
        const char *end = strchr(line, '\n');
        size_t len = end ? (size_t)(end - line) : strlen(line);
        const char *own = strstr(line, "name=test-direct"), *has = part ? strstr(line, part) : line;
        if ((own == NULL || own > line + len) && has != NULL && has < line + len)
            count++;
        line = end ? end + 1 : NULL;
    }
    return count;
}

static MAYBE_UNUSED int redis_clients(struct redis *redis)
{
    return redis_clients_with(redis, NULL);
}

static MAYBE_UNUSED void redis_wait_clients(struct redis *redis, const char *part, int count)
{
    long long start = now_ms();
    while (redis_clients_with(redis, part) != count) {
        if (now_ms() - start > patience() * 500LL)
            FAIL("Redis counts %d connections, not %d:\n%s", redis_clients_with(redis, part), count,
                 redis_ask(redis, "CLIENT LIST"));
        pause_a_little();
    }
}

/* A number out of INFO. */
static MAYBE_UNUSED long long redis_info(struct redis *redis, const char *section, const char *field)
{
    const char *at = strstr(redis_ask(redis, "INFO %s", section), field);
    CHECK(at != NULL && at[strlen(field)] == ':');
    return atoll(at + strlen(field) + 1);
}

/* ---- the broker as a process of its own ---- */

struct server {
    pid_t pid;
    int output;
    char socket[PATH_SIZE];
    char endpoint[PATH_SIZE + 8];
};

static MAYBE_UNUSED void private_path(char *path, const char *name)
{
    snprintf(path, PATH_SIZE, "%s/%s", setting("BROKER_TEST_DIRECTORY"), name);
}

/* Starts the broker's binary before `upstream`; `settings` are KEY=VALUE, the last NULL. Returns once it listens. */
static MAYBE_UNUSED struct server serve_at(const char *name, const char *upstream, const char *const *settings)
{
    struct server server;
    int ends[2];
    private_path(server.socket, name);
    snprintf(server.endpoint, sizeof server.endpoint, "unix://%s", server.socket);
    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    server.pid = fork();
    CHECK(server.pid >= 0);
    if (server.pid == 0) {
        const char *argv[32] = {"broker", "serve", "--listen", server.endpoint, "--upstream", upstream};
        int argc = 6;
        /* Patient by default: a setting given later wins. */
        argv[argc++] = "--set";
        argv[argc++] = "queue_timeout=20s";
        argv[argc++] = "--set";
        argv[argc++] = "connect_timeout=20s";
        for (; settings != NULL && *settings != NULL && argc < 29; settings++) {
            argv[argc++] = "--set";
            argv[argc++] = *settings;
        }
        argv[argc] = NULL;
        dup2(ends[1], 1);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execv(setting("BROKER_TEST_BINARY"), (char *const *)argv);
        _exit(127);
    }
    close(ends[1]);
    server.output = ends[0];
    char line[512];
    ssize_t count = read(ends[0], line, sizeof line);
    if (count <= 0 || strncmp(line, "listening ", 10) != 0)
        FAIL("the broker did not start");
    return server;
}

static MAYBE_UNUSED struct server serve(const char *const *settings)
{
    char upstream[PATH_SIZE];
    snprintf(upstream, sizeof upstream, "unix://%s", setting("BROKER_TEST_REDIS"));
    return serve_at("b.sock", upstream, settings);
}

static MAYBE_UNUSED void server_kill(struct server *server)
{
    kill_child(server->pid);
    close(server->output);
    unlink(server->socket);
}

#endif
