/*
 * format.h: requests written as format strings, as in hiredis. Owns the memory of the words while they are built;
 * broker.h sends them.
 *
 *     broker_client_callf(client, 1000, &reply, "SET key:%d %s EX %d", number, value, 60);
 *
 * The format is split into words at spaces; an argument never splits a word and may be empty. Conversions:
 *
 *   %s  a string that ends at its NUL          const char *
 *   %b  bytes, which may be any                const void *, size_t
 *   %d %i %u %o %x %X                          as in printf(), with hh h l ll j z t
 *   %f %F %e %E %g %G %a %A                    as in printf(), with a decimal point in every locale
 *   %%  a percent sign
 *
 * Numbers accept the flags - + 0 # and space, and a width and a precision of up to three digits each. Any other character
 * after a percent sign, a NULL for %s or for %b with a size, and a format without a word return BROKER_EINVAL; nothing is
 * sent. BROKER_ESYS without memory.
 *
 * There is no quoting in the format: pass text with spaces, and text from outside, as an argument. The compiler does
 * not check the arguments; a string for a %d is undefined behaviour, as in printf().
 *
 * License: MIT OR Apache-2.0.
 */
#ifndef BROKER_FORMAT_H
#define BROKER_FORMAT_H

#include "../broker.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The words of a request while they are built: their bytes one after the other, and where each ends. */
typedef struct broker_format {
    va_list args;
    char *bytes;
    size_t len;
    size_t room;
    size_t *ends;
    size_t count;
    size_t ends_room;
    /* A word has begun, though it may be empty. */
    int in_word;
    /* Made from the above when all words are known. */
    const char **argv;
    size_t *argvlen;
} broker_format_t;

/* Makes room for `more` bytes. */
static inline int broker_format__reserve(broker_format_t *made, size_t more) {
    size_t room = made->room < 128 ? 128 : made->room;
    char *moved;
    if (more <= made->room - made->len) {
        return BROKER_OK;
    }
    while (room - made->len < more) {
        if (room > SIZE_MAX / 2) {
            return BROKER_ESYS;
        }
        room *= 2;
    }
    moved = (char *)realloc(made->bytes, room);
    if (!moved) {
        return BROKER_ESYS;
    }
    made->bytes = moved;
    made->room = room;
    return BROKER_OK;
}

static inline int broker_format__add(broker_format_t *made, const void *bytes, size_t len) {
    int code = broker_format__reserve(made, len);
    made->in_word = 1;
    if (code == BROKER_OK && len > 0) {
        memcpy(made->bytes + made->len, bytes, len);
        made->len += len;
    }
    return code;
}

static inline int broker_format__end_word(broker_format_t *made) {
    if (!made->in_word) {
        return BROKER_OK;
    }
    if (made->count == made->ends_room) {
        size_t room = made->ends_room ? made->ends_room * 2 : 16;
        size_t *moved = (size_t *)realloc(made->ends, room * sizeof *moved);
        if (!moved) {
            return BROKER_ESYS;
        }
        made->ends = moved;
        made->ends_room = room;
    }
    made->ends[made->count++] = made->len;
    made->in_word = 0;
    return BROKER_OK;
}

/* Skips the arguments of a conversion by their types. */
static inline void broker_format__skip(broker_format_t *made, char size, int is_double) {
    if (is_double) {
        (void)va_arg(made->args, double);
    } else if (size == 'l') {
        (void)va_arg(made->args, long);
    } else if (size == 'L') {
        (void)va_arg(made->args, long long);
    } else if (size == 'j') {
        (void)va_arg(made->args, intmax_t);
    } else if (size == 'z') {
        (void)va_arg(made->args, size_t);
    } else if (size == 't') {
        (void)va_arg(made->args, ptrdiff_t);
    } else {
        (void)va_arg(made->args, int);
    }
}

/* Redis reads numbers with a decimal point, whatever the locale writes. */
static inline size_t broker_format__with_point(char *text, size_t len) {
    static const char of_numbers[] = "0123456789+- abcdefinxpABCDEFINXP";
    size_t from, to = 0;
    for (from = 0; from < len; from++) {
        if (strchr(of_numbers, text[from])) {
            text[to++] = text[from];
        } else if (to == 0 || text[to - 1] != '.') {
            text[to++] = '.';
        }
    }
    return to;
}

/* One number, by vsnprintf(): `conversion` is complete and valid. Some thousand bytes at most. */
static inline int broker_format__number(broker_format_t *made, const char *conversion, char size, int is_double) {
    va_list args;
    int len, code;
    char *text;
    va_copy(args, made->args);
    len = vsnprintf(NULL, 0, conversion, args);
    va_end(args);
    if (len < 0) {
        return BROKER_EINVAL;
    }
    code = broker_format__reserve(made, (size_t)len + 1);
    if (code < 0) {
        return code;
    }
    text = made->bytes + made->len;
    va_copy(args, made->args);
    vsnprintf(text, (size_t)len + 1, conversion, args);
    va_end(args);
    made->len += is_double ? broker_format__with_point(text, (size_t)len) : (size_t)len;
    made->in_word = 1;
    broker_format__skip(made, size, is_double);
    return BROKER_OK;
}

/* How many of the characters `of` are at `text`, at most `limit`. */
static inline size_t broker_format__span(const char *text, const char *of, size_t limit) {
    size_t len = 0;
    while (len < limit && text[len] && strchr(of, text[len])) {
        len++;
    }
    return len;
}

/* The conversion of a number: flags, width, precision, size, letter. `*at` is behind the percent sign. */
static inline int broker_format__conversion(broker_format_t *made, const char **at) {
    /* %, five flags, three digits, a point, three digits, two letters, a letter, NUL. */
    char conversion[17];
    const char *start = *at - 1, *p = *at;
    char size = 0;
    int is_double;
    p += broker_format__span(p, "-+0# ", 5);
    p += broker_format__span(p, "0123456789", 3);
    if (*p == '.') {
        p++;
        p += broker_format__span(p, "0123456789", 3);
    }
    if (*p && strchr("hljzt", *p)) {
        size = *p++;
        if ((size == 'h' || size == 'l') && *p == size) {
            size = size == 'l' ? 'L' : 'h';
            p++;
        }
    }
    is_double = *p && strchr("fFeEgGaA", *p) && (size == 0 || size == 'l');
    if (!is_double && (!*p || !strchr("diouxX", *p))) {
        return BROKER_EINVAL;
    }
    p++;
    memcpy(conversion, start, (size_t)(p - start));
    conversion[p - start] = '\0';
    *at = p;
    return broker_format__number(made, conversion, size, is_double);
}

/* The conversion behind a percent sign; moves `*at` past it. */
static inline int broker_format__argument(broker_format_t *made, const char **at) {
    const char *text;
    size_t len;
    switch (**at) {
    case '%':
        ++*at;
        return broker_format__add(made, "%", 1);
    case 's':
        ++*at;
        text = va_arg(made->args, const char *);
        return text ? broker_format__add(made, text, strlen(text)) : BROKER_EINVAL;
    case 'b':
        ++*at;
        text = (const char *)va_arg(made->args, const void *);
        len = va_arg(made->args, size_t);
        return text || len == 0 ? broker_format__add(made, text, len) : BROKER_EINVAL;
    default:
        return broker_format__conversion(made, at);
    }
}

static inline int broker_format__words(broker_format_t *made, const char *format) {
    const char *at = format;
    int code = BROKER_OK;
    while (code == BROKER_OK && *at) {
        size_t len = strcspn(at, " %");
        if (len > 0) {
            code = broker_format__add(made, at, len);
            at += len;
        } else if (*at == ' ') {
            at++;
            code = broker_format__end_word(made);
        } else {
            at++;
            code = broker_format__argument(made, &at);
        }
    }
    return code == BROKER_OK ? broker_format__end_word(made) : code;
}

/* The arguments for the functions of broker.h. */
static inline int broker_format__vector(broker_format_t *made) {
    size_t i, start = 0;
    if (made->count == 0) {
        return BROKER_EINVAL;
    }
    made->argv = (const char **)malloc(made->count * sizeof *made->argv);
    made->argvlen = (size_t *)malloc(made->count * sizeof *made->argvlen);
    if (!made->argv || !made->argvlen) {
        return BROKER_ESYS;
    }
    for (i = 0; i < made->count; i++) {
        /* Empty words alone may have needed no memory. */
        made->argv[i] = made->bytes ? made->bytes + start : "";
        made->argvlen[i] = made->ends[i] - start;
        start = made->ends[i];
    }
    return BROKER_OK;
}

/* Builds the words. Call broker_format__free() afterwards, whatever the result. */
static inline int broker_format__make(broker_format_t *made, const char *format, va_list args) {
    int code;
    memset(made, 0, sizeof *made);
    if (!format) {
        return BROKER_EINVAL;
    }
    va_copy(made->args, args);
    code = broker_format__words(made, format);
    va_end(made->args);
    return code == BROKER_OK ? broker_format__vector(made) : code;
}

static inline void broker_format__free(broker_format_t *made) {
    free(made->bytes);
    free(made->ends);
    free((void *)made->argv);
    free(made->argvlen);
}

/* broker_client_submit() with a format and a va_list, which is not ended. */
static inline int broker_client_vsubmitf(broker_client_t *client, int timeout_ms, broker_req_t *req,
                                         broker_reply_cb cb, void *data, const char *format, va_list args) {
    broker_format_t made;
    int code = broker_format__make(&made, format, args);
    if (code == BROKER_OK) {
        code = broker_client_submit(client, made.count, made.argv, made.argvlen, timeout_ms, req, cb, data);
    }
    broker_format__free(&made);
    return code;
}

/* broker_client_submit() with a format. */
static inline int broker_client_submitf(broker_client_t *client, int timeout_ms, broker_req_t *req,
                                        broker_reply_cb cb, void *data, const char *format, ...) {
    va_list args;
    int code;
    va_start(args, format);
    code = broker_client_vsubmitf(client, timeout_ms, req, cb, data, format, args);
    va_end(args);
    return code;
}

/* broker_client_call() with a format and a va_list, which is not ended. */
static inline int broker_client_vcallf(broker_client_t *client, int timeout_ms, broker_reply_t **out,
                                       const char *format, va_list args) {
    broker_format_t made;
    int code = broker_format__make(&made, format, args);
    if (code == BROKER_OK) {
        code = broker_client_call(client, made.count, made.argv, made.argvlen, timeout_ms, out);
    } else if (out) {
        *out = NULL;
    }
    broker_format__free(&made);
    return code;
}

/* broker_client_call() with a format. */
static inline int broker_client_callf(broker_client_t *client, int timeout_ms, broker_reply_t **out,
                                      const char *format, ...) {
    va_list args;
    int code;
    va_start(args, format);
    code = broker_client_vcallf(client, timeout_ms, out, format, args);
    va_end(args);
    return code;
}

/* broker_transaction_add() with a format and a va_list, which is not ended. */
static inline int broker_transaction_vaddf(broker_transaction_t *transaction, const char *format, va_list args) {
    broker_format_t made;
    int code = broker_format__make(&made, format, args);
    if (code == BROKER_OK) {
        code = broker_transaction_add(transaction, made.count, made.argv, made.argvlen);
    }
    broker_format__free(&made);
    return code;
}

/* broker_transaction_add() with a format. */
static inline int broker_transaction_addf(broker_transaction_t *transaction, const char *format, ...) {
    va_list args;
    int code;
    va_start(args, format);
    code = broker_transaction_vaddf(transaction, format, args);
    va_end(args);
    return code;
}

#endif /* BROKER_FORMAT_H */
