// Output of broker.hpp, which includes this file: errors, results and replies. Owns replies that were kept; knows no
// handle and sends nothing.
//
// License: MIT OR Apache-2.0.
#ifndef BROKER_REPLY_HPP
#define BROKER_REPLY_HPP

#include "../broker.h"

#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace broker {

// ---- errors and results ----

/// Codes in addition to those of broker.h, which are negative.
/// Redis answered with an error; the message is its text.
inline constexpr int error_reply = 1;
/// The reply cannot be converted to the requested type. The command was executed.
inline constexpr int wrong_type = 2;
/// A watched key was changed at every attempt. Nothing was executed.
inline constexpr int conflict = 3;

/// Why something failed.
struct failure {
    /// A code of broker.h or one of the three above.
    int code;
    std::string message;
    /// The first word of an error reply, such as "WRONGTYPE"; empty for everything else.
    std::string_view word() const noexcept {
        const std::string_view text = message;
        return code == error_reply ? text.substr(0, text.find(' ')) : std::string_view();
    }
};

#if defined(__cpp_exceptions)
/// Thrown by functions without try_: one of the classes below, or this class for the remaining codes.
class error : public std::runtime_error {
public:
    explicit error(const failure& why) : std::runtime_error(why.message), code_(why.code) {}
    int code() const noexcept { return code_; }

private:
    int code_;
};

/// BROKER_ETIMEDOUT: if the request had been sent, it may have been executed.
struct timeout_error : error { using error::error; };
/// BROKER_ELOST: executed once or not at all.
struct lost_error : error { using error::error; };
/// BROKER_ECONN: not sent, safe to repeat.
struct connection_error : error { using error::error; };
/// BROKER_ELIMIT and BROKER_EAGAIN: not executed, safe to repeat later.
struct limit_error : error { using error::error; };
/// BROKER_EAUTH.
struct auth_error : error { using error::error; };
/// BROKER_ECANCELED.
struct canceled_error : error { using error::error; };
/// BROKER_EFORKED: call after_fork() first.
struct forked_error : error { using error::error; };
/// wrong_type.
struct type_error : error { using error::error; };
/// conflict.
struct conflict_error : error { using error::error; };
/// error_reply: what() is the text.
struct reply_error : error {
    explicit reply_error(const failure& why) : error(why), word_(why.word()) {}
    /// Its first word, such as "WRONGTYPE".
    const std::string& word() const noexcept { return word_; }

private:
    std::string word_;
};

[[noreturn]] inline void raise(const failure& why) {
    switch (why.code) {
    case BROKER_ETIMEDOUT: throw timeout_error(why);
    case BROKER_ELOST: throw lost_error(why);
    case BROKER_ECONN: throw connection_error(why);
    case BROKER_ELIMIT:
    case BROKER_EAGAIN: throw limit_error(why);
    case BROKER_EAUTH: throw auth_error(why);
    case BROKER_ECANCELED: throw canceled_error(why);
    case BROKER_EFORKED: throw forked_error(why);
    case error_reply: throw reply_error(why);
    case wrong_type: throw type_error(why);
    case conflict: throw conflict_error(why);
    default: throw error(why);
    }
}
#else
[[noreturn]] inline void raise(const failure&) { std::abort(); }
#endif

// g++ 12, with enough inlining, takes the string of an empty variant for uninitialized.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
/// The value type of a T that is void.
struct nothing {};

/// A value, or a failure. value() of a failure throws; without exceptions it ends the process.
template <class T> class [[nodiscard]] result {
public:
    using value_type = std::conditional_t<std::is_void_v<T>, nothing, T>;

    result(value_type value) : value_(std::move(value)), why_{BROKER_OK, {}} {}
    result(failure why) : why_(std::move(why)) {}

    bool ok() const noexcept { return value_.has_value(); }
    explicit operator bool() const noexcept { return ok(); }
    /// BROKER_OK, or the failure's code.
    int code() const noexcept { return why_.code; }
    /// The failure's text; empty for a value.
    std::string_view message() const noexcept { return why_.message; }
    /// NULL for a value.
    const failure* fault() const noexcept { return ok() ? nullptr : &why_; }

    value_type& value() & { return check(), *value_; }
    const value_type& value() const& { return check(), *value_; }
    value_type&& value() && { return check(), *std::move(value_); }

private:
    void check() const {
        if (!ok()) raise(why_);
    }
    std::optional<value_type> value_;
    failure why_;
};

namespace detail {

template <class T> T take(result<T>&& from) {
    if constexpr (std::is_void_v<T>) {
        from.value();
    } else {
        return std::move(from).value();
    }
}

inline failure failure_of(int code, const char* words = nullptr) {
    std::string message = broker_strerror(code);
    if (words && *words) message.append(": ").append(words);
    return failure{code, std::move(message)};
}

inline result<void> done_or(int code, const char* words = nullptr) {
    if (code < 0) return failure_of(code, words);
    return nothing();
}

/// Whether a T owns its data, so that it may outlive the reply.
template <class T> struct owns : std::true_type {};
template <template <class...> class C, class... A> struct owns<C<A...>> : std::conjunction<owns<A>...> {};
template <> struct owns<std::string_view> : std::false_type {};
template <class T, std::size_t N> struct owns<std::array<T, N>> : owns<T> {};

/// The element types of binary text.
template <class T> struct is_byte : std::disjunction<std::is_same<T, unsigned char>, std::is_same<T, std::byte>> {};

} // namespace detail

// ---- replies ----

/// Converts a reply to a T. Specialise it with a `static result<T> from(reply_view)` for types of your own.
template <class T, class = void> struct convert;

/// A reply, or a part of one, owned by a callback or by a `reply`. Cheap to copy.
class reply_view {
public:
    class iterator;

    reply_view() noexcept = default;
    explicit reply_view(const broker_reply_t* raw) noexcept : raw_(raw) {}

    /// One of BROKER_REPLY_*. A missing value, such as an element beyond the last, is NIL.
    int type() const noexcept { return raw_ ? broker_reply_type(raw_) : BROKER_REPLY_NIL; }
    bool is_nil() const noexcept { return type() == BROKER_REPLY_NIL; }
    bool is_error() const noexcept { return type() == BROKER_REPLY_ERROR; }
    /// Whether it has elements: an ARRAY, MAP, SET or PUSH.
    bool is_aggregate() const noexcept { return type() >= BROKER_REPLY_ARRAY; }
    /// The bytes of text of any kind; data() is NULL for other types.
    std::string_view str() const noexcept {
        std::size_t len = 0;
        const char* text = broker_reply_string(raw_, &len);
        return text ? std::string_view(text, len) : std::string_view();
    }
    std::int64_t integer() const noexcept { return broker_reply_integer(raw_); }
    double number() const noexcept { return broker_reply_double(raw_); }
    std::size_t size() const noexcept { return broker_reply_len(raw_); }
    reply_view operator[](std::size_t i) const noexcept { return reply_view(broker_reply_at(raw_, i)); }
    iterator begin() const noexcept;
    iterator end() const noexcept;
    /// The bytes as received, for another parser.
    std::string_view raw() const noexcept {
        std::size_t len = 0;
        const char* bytes = broker_reply_raw(raw_, &len);
        return bytes ? std::string_view(bytes, len) : std::string_view();
    }
    const broker_reply_t* get() const noexcept { return raw_; }

    /// The reply as a T: integers, floating point, bool (BOOL, or INTEGER 0 and 1), std::string, std::string_view (valid as
    /// long as the reply), std::vector of std::uint8_t or std::byte (the bytes of text), std::chrono durations (an integer,
    /// in their unit), std::optional (empty for NIL), std::pair, std::tuple, std::array, containers, and containers of
    /// pairs (maps) whether Redis sends a map, a flat list or a list of pairs. Numbers are also read from text. Nothing is
    /// guessed: anything else is wrong_type, and an error inside a reply is error_reply.
    template <class T> result<T> try_as() const { return convert<T>::from(*this); }
#if defined(__cpp_exceptions)
    template <class T> T as() const { return detail::take(try_as<T>()); }
#endif

protected:
    const broker_reply_t* raw_ = nullptr;
};

class reply_view::iterator {
public:
    using iterator_category = std::input_iterator_tag;
    using value_type = reply_view;
    using difference_type = std::ptrdiff_t;
    using pointer = const reply_view*;
    using reference = reply_view;

    iterator() noexcept = default;
    iterator(reply_view of, std::size_t at) noexcept : of_(of), at_(at) {}
    reply_view operator*() const noexcept { return of_[at_]; }
    iterator& operator++() noexcept { return ++at_, *this; }
    iterator operator++(int) noexcept { return iterator(of_, at_++); }
    bool operator==(const iterator& other) const noexcept { return at_ == other.at_; }
    bool operator!=(const iterator& other) const noexcept { return at_ != other.at_; }

private:
    reply_view of_;
    std::size_t at_ = 0;
};

inline reply_view::iterator reply_view::begin() const noexcept { return iterator(*this, 0); }
inline reply_view::iterator reply_view::end() const noexcept { return iterator(*this, size()); }

/// An owned reply; any thread may destroy it. Views of it, its parts and its texts are invalid afterwards.
class reply : public reply_view {
public:
    reply() noexcept = default;
    /// Takes ownership of a reply from broker_reply_dup() or a call function of broker.h.
    explicit reply(broker_reply_t* owned) noexcept : reply_view(owned) {}
    /// Keeps a borrowed reply, or a part of one, without a copy.
    explicit reply(reply_view borrowed) noexcept : reply_view(broker_reply_dup(borrowed.get())) {}
    reply(reply&& other) noexcept : reply_view(std::exchange(other.raw_, nullptr)) {}
    reply& operator=(reply&& other) noexcept {
        std::swap(raw_, other.raw_);
        return *this;
    }
    ~reply() { broker_reply_free(const_cast<broker_reply_t*>(raw_)); }
};

namespace detail {

template <> struct owns<reply_view> : std::false_type {};

/// The error for a reply that is not `wanted`.
inline failure mismatch(reply_view from, const char* wanted) {
    if (from.is_error()) return failure{error_reply, std::string(from.str())};
    static constexpr const char* names[] = {"NIL",    "STATUS",   "ERROR",  "INTEGER", "DOUBLE", "BOOL", "STRING",
                                            "VERBATIM", "BIGNUM", "ARRAY", "MAP",     "SET",    "PUSH"};
    const auto type = static_cast<std::size_t>(from.type());
    const std::string name = type < std::size(names) ? names[type] : "unknown";
    return failure{wrong_type, "a reply of type " + name + " where " + wanted + " was requested"};
}

inline failure beyond_range() {
    return failure{wrong_type, "a number out of range of the requested type"};
}

inline bool is_text(reply_view from) { return from.str().data() != nullptr && !from.is_error(); }

template <class T> result<T> parse(reply_view from, const char* wanted) {
    const std::string_view text = from.str();
    T number{};
    if (!is_text(from)) return mismatch(from, wanted);
    const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (fault == std::errc::invalid_argument || end != text.data() + text.size()) return mismatch(from, wanted);
    if (fault != std::errc()) return beyond_range();
    return number;
}

template <class T> struct is_pair : std::false_type {};
template <class K, class V> struct is_pair<std::pair<K, V>> : std::true_type {};

/// The element type to fill a container with: the value_type of a map has a const key, which cannot be moved.
template <class V> struct element { using type = V; };
template <class K, class V> struct element<std::pair<const K, V>> { using type = std::pair<K, V>; };

template <class T, class = void> struct is_container : std::false_type {};
template <class T>
struct is_container<T, std::void_t<decltype(std::declval<T&>().insert(
                           std::declval<T&>().end(), std::declval<typename T::value_type>()))>> : std::true_type {};
template <class T> struct is_bytes_vector : std::false_type {};
template <class T> struct is_bytes_vector<std::vector<T>> : is_byte<T> {};

template <class Pair> result<Pair> pair_of(reply_view first, reply_view second) {
    auto key = first.try_as<typename Pair::first_type>();
    if (!key.ok()) return *key.fault();
    auto value = second.try_as<typename Pair::second_type>();
    if (!value.ok()) return *value.fault();
    return Pair(std::move(key).value(), std::move(value).value());
}

} // namespace detail

template <> struct convert<void> {
    static result<void> from(reply_view) { return nothing(); }
};
template <> struct convert<reply_view> {
    static result<reply_view> from(reply_view r) { return r; }
};
template <> struct convert<reply> {
    static result<reply> from(reply_view r) { return reply(r); }
};
template <> struct convert<bool> {
    static result<bool> from(reply_view r) {
        const bool number = r.type() == BROKER_REPLY_INTEGER && (r.integer() == 0 || r.integer() == 1);
        if (number || r.type() == BROKER_REPLY_BOOL) return r.integer() == 1;
        return detail::mismatch(r, "a bool");
    }
};
template <class T> struct convert<T, std::enable_if_t<std::is_integral_v<T> && !std::is_same_v<T, bool>>> {
    static result<T> from(reply_view r) {
        if (r.type() != BROKER_REPLY_INTEGER) return detail::parse<T>(r, "an integer");
        const std::int64_t number = r.integer();
        const T cut = static_cast<T>(number);
        const bool same = static_cast<std::int64_t>(cut) == number && (cut < T(0)) == (number < 0);
        if (!same) return detail::beyond_range();
        return cut;
    }
};
template <class T> struct convert<T, std::enable_if_t<std::is_floating_point_v<T>>> {
    static result<T> from(reply_view r) {
        if (r.type() != BROKER_REPLY_DOUBLE && r.type() != BROKER_REPLY_INTEGER) return detail::parse<T>(r, "a number");
        const double number = r.number();
        if (std::isfinite(number) && std::fabs(number) > std::numeric_limits<T>::max()) return detail::beyond_range();
        return static_cast<T>(number);
    }
};
template <> struct convert<std::string_view> {
    static result<std::string_view> from(reply_view r) {
        return detail::is_text(r) ? result<std::string_view>(r.str()) : detail::mismatch(r, "text");
    }
};
template <> struct convert<std::string> {
    static result<std::string> from(reply_view r) {
        return detail::is_text(r) ? result<std::string>(std::string(r.str())) : detail::mismatch(r, "text");
    }
};
template <class Byte> struct convert<std::vector<Byte>, std::enable_if_t<detail::is_byte<Byte>::value>> {
    static result<std::vector<Byte>> from(reply_view r) {
        if (!detail::is_text(r)) return detail::mismatch(r, "text");
        const auto* const bytes = reinterpret_cast<const Byte*>(r.str().data());
        return std::vector<Byte>(bytes, bytes + r.str().size());
    }
};
/// Replies of PTTL and TTL: -1 and -2 are kept.
template <class Rep, class Period> struct convert<std::chrono::duration<Rep, Period>> {
    static result<std::chrono::duration<Rep, Period>> from(reply_view r) {
        auto count = r.try_as<Rep>();
        if (!count.ok()) return *count.fault();
        return std::chrono::duration<Rep, Period>(count.value());
    }
};
template <class T> struct convert<std::optional<T>> {
    static result<std::optional<T>> from(reply_view r) {
        if (r.is_nil()) return std::optional<T>();
        auto value = r.try_as<T>();
        if (!value.ok()) return *value.fault();
        return std::optional<T>(std::move(value).value());
    }
};
template <class A, class B> struct convert<std::pair<A, B>> {
    static result<std::pair<A, B>> from(reply_view r) {
        if (!r.is_aggregate() || r.size() != 2) return detail::mismatch(r, "a pair");
        return detail::pair_of<std::pair<A, B>>(r[0], r[1]);
    }
};
template <class... T> struct convert<std::tuple<T...>> {
    static result<std::tuple<T...>> from(reply_view r) {
        if (!r.is_aggregate() || r.size() != sizeof...(T)) return detail::mismatch(r, "another number of elements");
        return build(r, std::index_sequence_for<T...>());
    }

private:
    template <std::size_t... I>
    static result<std::tuple<T...>> build(reply_view r, std::index_sequence<I...>) {
        std::tuple<result<T>...> parts{r[I].template try_as<T>()...};
        const failure* why = nullptr;
        ((why = why ? why : std::get<I>(parts).fault()), ...);
        if (why) return *why;
        return std::tuple<T...>(std::move(std::get<I>(parts)).value()...);
    }
};
template <class T, std::size_t N> struct convert<std::array<T, N>> {
    static result<std::array<T, N>> from(reply_view r) {
        if (!r.is_aggregate() || r.size() != N) return detail::mismatch(r, "another number of elements");
        return build(r, std::make_index_sequence<N>());
    }

private:
    template <std::size_t... I>
    static result<std::array<T, N>> build(reply_view r, std::index_sequence<I...>) {
        std::array<result<T>, N> parts{{r[I].template try_as<T>()...}};
        for (const auto& part : parts) {
            if (!part.ok()) return *part.fault();
        }
        return std::array<T, N>{{std::move(parts[I]).value()...}};
    }
};
template <class T>
struct convert<T, std::enable_if_t<detail::is_container<T>::value && !detail::is_bytes_vector<T>::value>> {
    using element = typename detail::element<typename T::value_type>::type;

    static result<T> from(reply_view r) {
        T out;
        if (!r.is_aggregate()) return detail::mismatch(r, "a list");
        if constexpr (detail::is_pair<element>::value) {
            const bool nested = r.type() != BROKER_REPLY_MAP && r[0].is_aggregate() && r[0].size() == 2;
            if (!nested && r.size() % 2 != 0) return detail::mismatch(r, "a list of pairs");
            for (std::size_t i = 0; !nested && i < r.size(); i += 2) {
                if (auto why = add(out, detail::pair_of<element>(r[i], r[i + 1]))) return *why;
            }
            if (!nested) return out;
        }
        for (const reply_view one : r) {
            if (auto why = add(out, one.try_as<element>())) return *why;
        }
        return out;
    }

private:
    static std::optional<failure> add(T& out, result<element>&& one) {
        if (!one.ok()) return *one.fault();
        out.insert(out.end(), std::move(one).value());
        return std::nullopt;
    }
};

} // namespace broker

#endif // BROKER_REPLY_HPP
