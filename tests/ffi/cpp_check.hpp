// What every C++ test begins with, on top of check.h: checks of values and results, clients with patience, a token
// that counts how many of it live.
#ifndef CPP_CHECK_HPP
#define CPP_CHECK_HPP

#include "check.h"

#include <broker.hpp>

#include <initializer_list>
#include <string>
#include <string_view>

#define SAME(actual, expected) same(__FILE__, __LINE__, #actual, show(actual), show(expected))
/// The value of a result that must have one.
#define OK(...) sound(__FILE__, __LINE__, __VA_ARGS__)
/// The code of a result that must have failed.
#define CODE(expression, expected) SAME((expression).code(), expected)

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
    std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
    std::fflush(stderr);
    _exit(1);
}

inline std::string show(std::string_view text) { return std::string(text); }
inline std::string show(const char* text) { return text; }
template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>> std::string show(T number) {
    return std::to_string(number);
}

inline void same(const char* file, int line, const char* what, const std::string& actual, const std::string& expected) {
    if (actual != expected) fail(file, line, std::string(what) + " is " + actual + ", not " + expected);
}

template <class T> typename broker::result<T>::value_type sound(const char* file, int line, broker::result<T> got) {
    if (!got.ok()) fail(file, line, std::to_string(got.code()) + " " + std::string(got.message()));
    return std::move(got).value();
}

/// Runs the tests of a program. No descriptor may be left of them.
inline int run(std::initializer_list<void (*)()> tests) {
    begin();
    const int before = count_descriptors();
    for (const auto test : tests) test();
    SAME(count_descriptors(), before);
    std::puts("ok");
    return 0;
}

inline std::string unix_url(const char* name) { return std::string("unix://") + setting(name); }

/// Settings for a machine that is busy, and for valgrind.
inline broker::config patient(const char* protocol = "3") {
    broker::config config;
    OK(config.try_set("client_protocol", protocol));
    OK(config.try_set("client_connect_timeout", "200s"));
    OK(config.try_set("client_queue_timeout", "200s"));
    return config;
}

/// A client of the broker.
inline broker::client connect(const char* protocol = "3") {
    return OK(broker::client::open(setting("BROKER_TEST_ENDPOINT"), patient(protocol)));
}

/// A client of Redis itself.
inline broker::client connect_redis() {
    return OK(broker::client::open(unix_url("BROKER_TEST_REDIS"), patient()));
}

/// Captured by a callable, it tells how many callables are still there.
class token {
public:
    static inline int alive = 0;
    token() noexcept { ++alive; }
    token(token&&) noexcept { ++alive; }
    token(const token&) = delete;
    ~token() { --alive; }
};

#endif
