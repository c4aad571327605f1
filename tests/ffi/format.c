/*
 * format.h: what a format becomes, beside what hiredis makes of it; what is refused; the requests that are sent. C99,
 * and C++17 as well.
 */
#include "adapters.h"

#include <broker/format.h>

#include <hiredis/hiredis.h>
#include <locale.h>
#include <math.h>

/* ---- formats as text: each word in brackets ---- */

struct words {
    int code;
    size_t len;
    char text[8192];
};

static void put(struct words *words, const void *bytes, size_t len) {
    CHECK(words->len + len < sizeof words->text);
    memcpy(words->text + words->len, bytes, len);
    words->len += len;
}

static struct words our_words(const char *format, va_list args) {
    static struct words words;
    broker_format_t made;
    size_t i;
    memset(&words, 0, sizeof words);
    words.code = broker_format__make(&made, format, args);
    for (i = 0; words.code == BROKER_OK && i < made.count; i++) {
        put(&words, "[", 1);
        put(&words, made.argv[i], made.argvlen[i]);
        put(&words, "]", 1);
    }
    broker_format__free(&made);
    return words;
}

static struct words ours(const char *format, ...) {
    struct words words;
    va_list args;
    va_start(args, format);
    words = our_words(format, args);
    va_end(args);
    return words;
}

#define BECOMES(expected, ...) CHECK_TEXT(ours(__VA_ARGS__).text, expected)
#define IS_REFUSED(...) CHECK_INT(ours(__VA_ARGS__).code, BROKER_EINVAL)

static void words_are_split_at_spaces(void) {
    BECOMES("[PING]", "PING");
    BECOMES("[SET][key][value]", "SET key value");
    BECOMES("[SET][key][value]", "  SET   key value ");
    BECOMES("[SET][a:x y:b][]", "SET a:%s:b %s", "x y", "");
    BECOMES("[]", "%s", "");
    BECOMES("[][]", "%s %b", "", (const void *)NULL, (size_t)0);
    BECOMES("[100%][%]", "100%% %%");
    BECOMES("[a\tb]", "a\tb");
    IS_REFUSED("");
    IS_REFUSED("   ");
    IS_REFUSED((const char *)NULL);
}

static void bytes_may_be_any(void) {
    struct words words = ours("SET %b%b", "a\0b", (size_t)3, " \r\n", (size_t)3);
    CHECK_INT(words.len, 13);
    CHECK(memcmp(words.text, "[SET][a\0b \r\n]", 13) == 0);
    IS_REFUSED("SET %s", (const char *)NULL);
    IS_REFUSED("SET %b", (const void *)NULL, (size_t)1);
}

static void numbers_are_those_of_printf(void) {
    BECOMES("[-1][+2][003][ 4][5   x]", "%d %+d %03d % d %-4dx", -1, 2, 3, 4, 5);
    BECOMES("[-128][-32768][-9223372036854775808]", "%hhd %hd %lld", -128, -32768, LLONG_MIN);
    BECOMES("[18446744073709551615][1][-3][4]", "%zu %ju %td %ld", SIZE_MAX, (uintmax_t)1, (ptrdiff_t)-3, 4L);
    BECOMES("[0xff][FF][0177][42]", "%#x %X %#o %i", 255u, 255u, 127u, 42);
    BECOMES("[1.5][1.500000][1.50][1e+10][1.5]", "%g %f %.2lf %g %G", 1.5, 1.5, 1.5, 1e10, 1.5);
    BECOMES("[inf][-nan][0x1p+0]", "%f %f %a", (double)INFINITY, (double)-NAN, 1.0);
    BECOMES("[x00000012.50y]", "x%011.2fy", 12.5);
    CHECK_INT(ours("%999d", 1).len, 1001);
    CHECK_INT(ours("%999.999f", 1e300).len, 2 + 301 + 1 + 999);
}

static void anything_else_is_refused(void) {
    static const char *const formats[] = {"%",    "GET %", "%y",   "%c",  "%p",   "%n",  "%ls",    "%Lf",     "%lllld",
                                          "%hf",  "%-s",   "%5s",  "%.b", "%*d",  "%'d", "%1000d", "%.1000f", "%-+0# -d",
                                          "%1$d", "%zf",   "%hhhd", "% %", "%.",  "%5",  "%l"};
    size_t i;
    for (i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        if (ours(formats[i], 1, 1, 1).code != BROKER_EINVAL) {
            FAIL("%s", formats[i]);
        }
    }
}

/* Where the system has a locale that writes a comma; the driver's machine may have none. */
static void a_point_in_every_locale(void) {
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "ps_AF.UTF-8"};
    size_t i;
    for (i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (setlocale(LC_NUMERIC, names[i])) {
            BECOMES("[1.5][2]", "%g %g", 1.5, 2.0);
        }
    }
    setlocale(LC_NUMERIC, "C");
}

/* What no locale of this machine may write: the text itself. */
static void every_point_becomes_one(void) {
    char comma[] = "-1,5e+10", arabic[] = "1\xd9\xab" "5";
    CHECK_INT(broker_format__with_point(comma, strlen(comma)), 8);
    CHECK_TEXT(comma, "-1.5e+10");
    CHECK_INT(broker_format__with_point(arabic, strlen(arabic)), 3);
    CHECK(memcmp(arabic, "1.5", 3) == 0);
}

/* ---- beside hiredis ---- */

static uint64_t state;

static unsigned dice(unsigned sides) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33) % sides;
}

/* RESP of our words, as hiredis writes it. */
static size_t our_resp(char *resp, size_t room, const char *format, va_list args, int *code) {
    broker_format_t made;
    size_t len = 0, i;
    *code = broker_format__make(&made, format, args);
    if (*code == BROKER_OK) {
        len = (size_t)snprintf(resp, room, "*%zu\r\n", made.count);
        for (i = 0; i < made.count; i++) {
            len += (size_t)snprintf(resp + len, room - len, "$%zu\r\n", made.argvlen[i]);
            CHECK(len + made.argvlen[i] + 3 < room);
            memcpy(resp + len, made.argv[i], made.argvlen[i]);
            len += made.argvlen[i];
            memcpy(resp + len, "\r\n", 2);
            len += 2;
        }
    }
    broker_format__free(&made);
    return len;
}

static void compare(const char *format, ...) {
    static char resp[1 << 16];
    va_list args;
    char *theirs = NULL;
    size_t len;
    int code, their_len;
    va_start(args, format);
    len = our_resp(resp, sizeof resp, format, args, &code);
    va_end(args);
    va_start(args, format);
    their_len = redisvFormatCommand(&theirs, format, args);
    va_end(args);
    /* hiredis sends a request without a word. */
    if (their_len == 4 && code == BROKER_EINVAL) {
        CHECK(memcmp(theirs, "*0\r\n", 4) == 0);
    } else if (their_len < 0 ? code != BROKER_EINVAL
                             : (code != BROKER_OK || len != (size_t)their_len || memcmp(resp, theirs, len) != 0)) {
        FAIL("\"%s\": %s, %zu bytes; hiredis %d bytes", format, broker_err_name(code), len, their_len);
    }
    redisFreeCommand(theirs);
}

/* A conversion of this letter with flags, a width and a precision by chance, as both languages have them. */
static void add_number(char *format, const char *letters) {
    static const char flags[] = "-+0# ";
    char *at = format + strlen(format);
    unsigned i;
    *at++ = '%';
    for (i = dice(3); i > 0; i--) {
        *at++ = flags[dice(5)];
    }
    at += dice(3) ? 0 : sprintf(at, "%u", 1 + dice(30));
    at += dice(3) ? 0 : sprintf(at, ".%u", dice(20));
    strcpy(at, letters);
}

static void add_text(char *format) {
    static const char *const texts[] = {" ", "  ", "a", "SET", ":", "%%", "x y", "\t", "{}", " %% "};
    unsigned i;
    for (i = dice(4); i > 0; i--) {
        strcat(format, texts[dice(10)]);
    }
}

/* Its arguments are always these, in this order. */
static void random_formats(void) {
    static const char *const integers[] = {"d", "i", "u", "o", "x", "X", "hd", "hhu"};
    static const char *const longs[] = {"ld", "lu", "lx"};
    static const char *const long_longs[] = {"lld", "llu", "llX"};
    static const char *const doubles[] = {"f", "e", "g", "G", "E", "a"};
    static const char *const strings[] = {"", "x", "two words", "%s", "\xff\r\n"};
    int i;
    for (i = 0; i < 5000; i++) {
        char format[256] = "";
        add_text(format);
        strcat(format, "%s");
        add_text(format);
        add_number(format, integers[dice(8)]);
        add_text(format);
        strcat(format, "%b");
        add_text(format);
        add_number(format, longs[dice(3)]);
        add_text(format);
        add_number(format, long_longs[dice(3)]);
        add_text(format);
        add_number(format, doubles[dice(6)]);
        add_text(format);
        strcat(format, dice(20) ? "%s" : "%y");
        compare(format, strings[dice(5)], (int)dice(1u << 31) - (1 << 30), "a\0b c", (size_t)dice(6),
                (long)state, (long long)state, (double)(int64_t)state / (1 + dice(1u << 30)), strings[dice(5)]);
    }
}

/* ---- requests ---- */

static int vcall(broker_client_t *client, broker_reply_t **reply, const char *format, ...) {
    va_list args;
    int code;
    va_start(args, format);
    code = broker_client_vcallf(client, BROKER_FOREVER, reply, format, args);
    va_end(args);
    return code;
}

static void note_echo(broker_client_t *client, int status, const broker_reply_t *reply, void *data) {
    (void)client;
    CHECK_INT(status, BROKER_OK);
    CHECK_TEXT(broker_reply_string(reply, NULL), "number 7");
    ++*(int *)data;
}

static void requests_are_sent(void) {
    broker_client_t *client = open_client();
    broker_transaction_t *transaction = broker_transaction_new();
    broker_reply_t *reply = NULL;
    broker_req_t req = 0;
    int echoes = 0;
    CHECK_INT(broker_client_callf(client, BROKER_FOREVER, &reply, "SET f:%d %b", 7, "a b\0c", (size_t)5), BROKER_OK);
    broker_reply_free(reply);
    CHECK_INT(vcall(client, &reply, "STRLEN %s", "f:7"), BROKER_OK);
    CHECK_INT(broker_reply_integer(reply), 5);
    broker_reply_free(reply);
    CHECK_INT(broker_client_submitf(client, BROKER_FOREVER, &req, note_echo, &echoes, "ECHO %s", "number 7"),
              BROKER_OK);
    CHECK(req != 0);
    while (echoes == 0) {
        CHECK_OK(broker_client_process(client, BROKER_FOREVER));
    }
    CHECK_INT(broker_transaction_addf(transaction, "SET f:%d %s", 7, "1"), BROKER_OK);
    CHECK_INT(broker_transaction_addf(transaction, "INCRBY f:7 %lld", 41LL), BROKER_OK);
    CHECK_INT(broker_transaction_addf(transaction, "GET %y"), BROKER_EINVAL);
    CHECK_INT(broker_client_call_transaction(client, transaction, BROKER_FOREVER, &reply), BROKER_OK);
    CHECK_INT(broker_reply_len(reply), 2);
    CHECK_INT(broker_reply_integer(broker_reply_at(reply, 1)), 42);
    broker_reply_free(reply);
    /* What is refused is not sent, and says so as the functions beneath do. */
    CHECK_INT(broker_client_submitf(client, BROKER_FOREVER, NULL, note_echo, &echoes, "ECHO %y"), BROKER_EINVAL);
    CHECK_INT(broker_client_submitf(client, 0, NULL, note_echo, &echoes, "ECHO x"), BROKER_EINVAL);
    reply = (broker_reply_t *)client;
    CHECK_INT(broker_client_callf(client, BROKER_FOREVER, &reply, "%s", (const char *)NULL), BROKER_EINVAL);
    CHECK(reply == NULL);
    CHECK_INT(broker_client_callf(NULL, BROKER_FOREVER, &reply, "PING"), BROKER_EINVAL);
    CHECK_INT(echoes, 1);
    CHECK_INT(broker_transaction_free(transaction), BROKER_OK);
    CHECK_INT(broker_client_free(client), BROKER_OK);
}

int main(void) {
    const char *seed = getenv("BROKER_TEST_SEED");
    begin();
    state = seed && *seed ? strtoull(seed, NULL, 10) : (uint64_t)now_ms() * 1000003 + (uint64_t)getpid();
    state += state == 0;
    printf("seed %llu\n", (unsigned long long)state);
    words_are_split_at_spaces();
    bytes_may_be_any();
    numbers_are_those_of_printf();
    anything_else_is_refused();
    a_point_in_every_locale();
    every_point_becomes_one();
    random_formats();
    requests_are_sent();
    puts("ok");
    return 0;
}
