/*
 * What every C test begins with: checks that say what was expected, a watchdog, bounded waits, counting of
 * descriptors. One process per test; a failed check ends it with status 1, a hang is ended by SIGALRM.
 */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <broker.h>

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A program uses its own part of these files. */
#define MAYBE_UNUSED __attribute__((unused))

#define FAIL(...) (fprintf(stderr, "%s:%d: ", __FILE__, __LINE__), fprintf(stderr, __VA_ARGS__), \
                   fputc('\n', stderr), fflush(stderr), _exit(1))

#define CHECK(condition) ((condition) ? (void)0 : FAIL("failed: %s", #condition))

/* For numbers of any kind, codes among them: `actual` is evaluated once. */
#define CHECK_INT(actual, expected) check_int(__FILE__, __LINE__, #actual, (long long)(actual), (long long)(expected))

/* For texts that end with a NUL. */
#define CHECK_TEXT(actual, expected) check_text(__FILE__, __LINE__, #actual, (actual), (expected))

/* Any code that is no error. */
#define CHECK_OK(actual) check_ok(__FILE__, __LINE__, #actual, (long long)(actual))

/* The two arguments that a command takes: how many words, and the words. */
#define ARGV(...) sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *), ((const char *const[]){__VA_ARGS__})

static MAYBE_UNUSED const char *code_name(long long code)
{
    return code < 0 && code > -100 ? broker_err_name((int)code) : "";
}

static MAYBE_UNUSED void check_int(const char *file, int line, const char *what, long long actual, long long expected)
{
    if (actual == expected)
        return;
    fprintf(stderr, "%s:%d: %s is %lld %s, not %lld %s\n", file, line, what, actual, code_name(actual), expected,
            code_name(expected));
    _exit(1);
}

static MAYBE_UNUSED void check_ok(const char *file, int line, const char *what, long long actual)
{
    if (actual >= 0)
        return;
    fprintf(stderr, "%s:%d: %s is %lld %s\n", file, line, what, actual, code_name(actual));
    _exit(1);
}

static MAYBE_UNUSED void check_text(const char *file, int line, const char *what, const char *actual,
                                    const char *expected)
{
    if (actual != NULL && strcmp(actual, expected) == 0)
        return;
    fprintf(stderr, "%s:%d: %s is \"%.200s\", not \"%.200s\"\n", file, line, what, actual ? actual : "(null)", expected);
    _exit(1);
}

/* A value that the test's driver hands over. */
static MAYBE_UNUSED const char *setting(const char *name)
{
    const char *value = getenv(name);
    CHECK(value != NULL && value[0] != '\0');
    return value;
}

/* Seconds that anything observable may take: more under valgrind. */
static MAYBE_UNUSED int patience(void)
{
    const char *seconds = getenv("BROKER_TEST_PATIENCE");
    return seconds ? atoi(seconds) : 30;
}

/* Arms the watchdog: first thing in main(), and in each forked process, since alarms are not inherited. */
static MAYBE_UNUSED void begin(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    alarm((unsigned)patience());
}

static MAYBE_UNUSED long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Between two looks at a condition that nothing announces. The watchdog bounds the waiting. */
static MAYBE_UNUSED void pause_a_little(void)
{
    poll(NULL, 0, 2);
}

static MAYBE_UNUSED int bytes_to_read(int fd)
{
    struct pollfd one = {fd, POLLIN, 0};
    return poll(&one, 1, 0) == 1;
}

/* Waits until `fd` is readable, at most `ms`; whether it is. */
static MAYBE_UNUSED int wait_readable(int fd, int ms)
{
    struct pollfd one = {fd, POLLIN, 0};
    return poll(&one, 1, ms) == 1;
}

/* Ends a forked process: 0 for its parent's wait_child(). Runs exit handlers, and so the leak checkers. */
static MAYBE_UNUSED void end_child(void)
{
    exit(0);
}

/* The same for the copy of a process with more threads: what they held in their stacks looks lost to a leak checker,
   which looks at exit but not at exec. */
static MAYBE_UNUSED void end_child_of_threads(void)
{
    execl("/bin/true", "true", (char *)NULL);
    _exit(127);
}

/* Whether a copy of this process may wait for ever for memory: the address sanitizer of GCC 12 takes no lock of its
   allocator for a fork, and another thread that allocates meanwhile leaves it locked in the copy. */
#if defined(__SANITIZE_ADDRESS__)
#define ALLOCATOR_FORKS_LOCKED 1
#else
#define ALLOCATOR_FORKS_LOCKED 0
#endif

static MAYBE_UNUSED pid_t fork_or_fail(void)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        begin();
    return pid;
}

/* Waits for a process that must have ended well. */
static MAYBE_UNUSED void wait_child(pid_t pid)
{
    int status = 0;
    pid_t ended;
    do
        ended = waitpid(pid, &status, 0);
    while (ended < 0 && errno == EINTR);
    CHECK_INT(ended, pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        FAIL("process %d: %s %d", (int)pid, WIFSIGNALED(status) ? "signal" : "status",
             WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

static MAYBE_UNUSED void kill_child(pid_t pid)
{
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK_INT(waitpid(pid, NULL, 0), pid);
}

/* How many descriptors this process has. */
static MAYBE_UNUSED int count_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    int count = 0;
    CHECK(directory != NULL);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(directory) && atoi(entry->d_name) < 1000)
            count++;
    closedir(directory);
    return count;
}

/* One process tells another that something has happened, over a pipe both have. */
struct gate {
    int ends[2];
};

static MAYBE_UNUSED void gate_make(struct gate *gate)
{
    CHECK(pipe(gate->ends) == 0);
}

static MAYBE_UNUSED void gate_open(struct gate *gate)
{
    CHECK(write(gate->ends[1], "x", 1) == 1);
}

static MAYBE_UNUSED void gate_wait(struct gate *gate)
{
    char byte;
    ssize_t count;
    do
        count = read(gate->ends[0], &byte, 1);
    while (count < 0 && errno == EINTR);
    CHECK_INT(count, 1);
}

static MAYBE_UNUSED void gate_close(struct gate *gate)
{
    close(gate->ends[0]);
    close(gate->ends[1]);
}

/* A part of a program, which can be run alone by its name. */
struct part {
    const char *name;
    void (*run)(void);
};

/* Runs all parts, or the one that the command line names. */
static MAYBE_UNUSED void run_parts(int argc, char **argv, const struct part *parts, size_t count)
{
    int ran = 0;
    for (size_t i = 0; i < count; i++)
        if (argc < 2 || strcmp(argv[1], parts[i].name) == 0) {
            printf("%s\n", parts[i].name);
            parts[i].run();
            ran++;
        }
    CHECK(ran > 0);
}

#define RUN_PARTS(parts) run_parts(argc, argv, parts, sizeof parts / sizeof parts[0])

#endif
