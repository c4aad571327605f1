/*
 * The files in /etc that say where names lead, and the port of name servers: those of a test. Stands in for open64() and
 * connect() of the system, in a program or preloaded. BROKER_TEST_ETC names a directory with `hosts`, `resolv.conf` and
 * `port`; without it, and without a `port`, everything is as it is.
 */
#ifndef ETC_H
#define ETC_H

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { DNS_PORT = 53 };

/* The path of a file of the test's. Returns 0 if there is none. */
static int etc_path(char path[PATH_MAX], const char *name)
{
    const char *directory = getenv("BROKER_TEST_ETC");
    return directory != NULL && snprintf(path, PATH_MAX, "%s/%s", directory, name) < PATH_MAX;
}

int open64(const char *path, int flags, ...)
{
    char own[PATH_MAX];
    int (*real)(const char *, int, ...);
    *(void **)&real = dlsym(RTLD_NEXT, "open64");
    va_list rest;
    va_start(rest, flags);
    int mode = flags & O_CREAT ? va_arg(rest, int) : 0;
    va_end(rest);
    int names = strcmp(path, "/etc/hosts") == 0 || strcmp(path, "/etc/resolv.conf") == 0;
    return real(names && etc_path(own, path + strlen("/etc/")) ? own : path, flags, mode);
}

static in_port_t etc_port(void)
{
    char path[PATH_MAX];
    unsigned port = 0;
    FILE *file = etc_path(path, "port") ? fopen(path, "re") : NULL;
    if (file != NULL) {
        if (fscanf(file, "%u", &port) != 1)
            port = 0;
        fclose(file);
    }
    return (in_port_t)(port > 0 ? port : DNS_PORT);
}

/* With the argument as glibc declares it: a union of pointers. */
int connect(int fd, __CONST_SOCKADDR_ARG any, socklen_t len)
{
    const struct sockaddr *address = any.__sockaddr__;
    int (*real)(int, const struct sockaddr *, socklen_t);
    *(void **)&real = dlsym(RTLD_NEXT, "connect");
    struct sockaddr_in own;
    if (address->sa_family == AF_INET && len >= sizeof own) {
        memcpy(&own, address, sizeof own);
        if (own.sin_port == htons(DNS_PORT)) {
            own.sin_port = htons(etc_port());
            return real(fd, (const struct sockaddr *)&own, sizeof own);
        }
    }
    return real(fd, address, len);
}

#endif
