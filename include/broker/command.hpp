// Input of broker.hpp, which includes this file: time limits, the words of a command, transactions. Owns transactions and
// numbers converted to text; sends nothing.
//
// License: MIT OR Apache-2.0.
#ifndef BROKER_COMMAND_HPP
#define BROKER_COMMAND_HPP

#include "reply.hpp"

#include <array>
#include <charconv>
#include <chrono>
#include <forward_list>
#include <iterator>
#include <limits>
#include <memory>
#include <vector>

namespace broker {

using std::chrono::milliseconds;

/// A time limit: any duration, rounded up to milliseconds, or `forever`. A limit of zero or less has already passed: a
/// request then ends with BROKER_ETIMEDOUT unless its reply is available at once, and a wait does not wait.
class time_limit {
public:
    constexpr time_limit() noexcept = default;
    template <class Rep, class Period>
    constexpr time_limit(std::chrono::duration<Rep, Period> of) noexcept : ms_(rounded(of)) {}

    constexpr bool is_forever() const noexcept { return ms_ == BROKER_FOREVER; }
    /// The value for C, including BROKER_FOREVER; a limit that has passed becomes `least`.
    constexpr int ms(int least) const noexcept { return is_forever() || ms_ > least ? ms_ : least; }

private:
    /// A value beyond the range of C becomes the largest one, 24 days.
    template <class Duration> static constexpr int rounded(Duration of) noexcept {
        constexpr auto most = std::chrono::hours(24 * 24);
        if (!(of > Duration::zero())) return 0;
        if (of > most) return std::numeric_limits<int>::max();
        return static_cast<int>(std::chrono::ceil<milliseconds>(of).count());
    }
    int ms_ = BROKER_FOREVER;
};

/// No time limit.
inline constexpr time_limit forever;

class transaction;

namespace detail {

template <class T> struct is_word : std::true_type {};
template <class R, class P> struct is_word<std::chrono::duration<R, P>> : std::false_type {};
template <> struct is_word<time_limit> : std::false_type {};

template <class T> struct is_duration : std::false_type {};
template <class R, class P> struct is_duration<std::chrono::duration<R, P>> : std::true_type {};
template <class T> struct is_optional : std::false_type {};
template <class T> struct is_optional<std::optional<T>> : std::true_type {};
template <class T> struct is_tuple : std::false_type {};
template <class... T> struct is_tuple<std::tuple<T...>> : std::true_type {};
template <class A, class B> struct is_tuple<std::pair<A, B>> : std::true_type {};

/// Contiguous bytes, such as a std::vector<std::uint8_t>, std::array or std::span.
template <class T, class = void> struct is_bytes : std::false_type {};
template <class T>
struct is_bytes<T, std::void_t<decltype(std::data(std::declval<const T&>()), std::size(std::declval<const T&>()))>>
    : is_byte<std::remove_cv_t<std::remove_pointer_t<decltype(std::data(std::declval<const T&>()))>>> {};

/// A literal, or a buffer that need not be filled; a full one need not end with a NUL.
template <class T> struct is_chars : std::false_type {};
template <std::size_t N> struct is_chars<char[N]> : std::true_type {};

template <class T, class = void> struct is_range : std::false_type {};
template <class T> struct is_range<T, std::void_t<decltype(*std::begin(std::declval<const T&>()))>> : std::true_type {};

} // namespace detail

/// The words of one command, or a transaction. A word is text, contiguous bytes, an integer or a floating point number. A
/// char array, such as a literal, is one word up to its first NUL. A pair, a tuple and a range (also a map) are all of their
/// words; an optional pair, tuple or range is its words or none. Texts are not copied: a command is valid only within the
/// expression it is created in.
class command {
public:
    template <class... A> command(const A&... words) {
        static_assert(sizeof...(A) > 0, "a command has a name");
        argv_.reserve(sizeof...(A));
        argvlen_.reserve(sizeof...(A));
        (add(words), ...);
    }
    command(const transaction& block) noexcept : block_(&block) {}
    command(const command&) = delete;
    command& operator=(const command&) = delete;

    /// False if one of its texts is a NULL pointer: sending it is refused with BROKER_EINVAL.
    bool sound() const noexcept { return sound_; }
    /// NULL unless it is a transaction.
    const transaction* block() const noexcept { return block_; }
    std::size_t argc() const noexcept { return argv_.size(); }
    const char* const* argv() const noexcept { return argv_.data(); }
    const std::size_t* argvlen() const noexcept { return argvlen_.data(); }

private:
    void push(std::string_view word) {
        argv_.push_back(word.data() ? word.data() : "");
        argvlen_.push_back(word.size());
    }
    template <class T> void add(const T& word) {
        if constexpr (detail::is_chars<T>::value) {
            const std::string_view whole(word, std::extent_v<T>);
            push(whole.substr(0, whole.find('\0')));
        } else if constexpr (std::is_pointer_v<T> && std::is_convertible_v<T, const char*>) {
            word ? push(word) : void(sound_ = false);
        } else if constexpr (std::is_arithmetic_v<T>) {
            add_number(word);
        } else if constexpr (std::is_convertible_v<const T&, std::string_view>) {
            static_assert(!std::is_null_pointer_v<T>, "NULL is not a word");
            push(word);
        } else {
            add_words(word);
        }
    }
    template <class T> void add_number(T number) {
        static_assert(!std::is_same_v<T, bool> && !std::is_same_v<T, char>,
                      "a word is text or a number: convert a bool or a char to the one that is meant");
        auto& text = numbers_.emplace_front();
        const auto written = std::to_chars(text.data(), text.data() + text.size(), number);
        push(std::string_view(text.data(), static_cast<std::size_t>(written.ptr - text.data())));
    }
    template <class T> void add_words(const T& words) {
        static_assert(!detail::is_duration<T>::value, "the command determines the unit of a duration: pass its count()");
        if constexpr (detail::is_bytes<T>::value) {
            push(std::string_view(reinterpret_cast<const char*>(std::data(words)), std::size(words)));
        } else if constexpr (detail::is_tuple<T>::value) {
            std::apply([this](const auto&... each) { (add(each), ...); }, words);
        } else if constexpr (detail::is_optional<T>::value) {
            using inner = typename T::value_type;
            static_assert(!std::is_arithmetic_v<inner> && !std::is_convertible_v<const inner&, std::string_view> &&
                              !detail::is_bytes<inner>::value,
                          "a missing word would shift the words behind it: put an optional word into a tuple with its "
                          "name, or use value_or()");
            if (words) add(*words);
        } else {
            static_assert(detail::is_range<T>::value, "a word is text, bytes or a number; pairs, tuples and ranges are several words");
            add_range(words);
        }
    }
    template <class T> void add_range(const T& words) {
        using each = decltype(*std::begin(words));
        static_assert(std::is_reference_v<each> || std::is_arithmetic_v<each>, "the words of a range must outlive it");
        constexpr bool has_an_end = !std::is_same_v<std::decay_t<each>, T>;
        static_assert(has_an_end, "a std::filesystem::path is a range of paths: pass its string()");
        if constexpr (has_an_end) {
            for (const auto& one : words) add(one);
        }
    }
    const transaction* block_ = nullptr;
    bool sound_ = true;
    std::vector<const char*> argv_;
    std::vector<std::size_t> argvlen_;
    /// Storage of numbers as text; elements of a list do not move.
    std::forward_list<std::array<char, 64>> numbers_;
};

namespace detail {

template <> struct is_word<command> : std::false_type {};
template <> struct is_word<transaction> : std::false_type {};
/// Distinguishes call("SET", key, value) from call(transaction, timeout).
template <class... A> using if_words = std::enable_if_t<std::conjunction_v<is_word<A>...>>;

inline failure refusal() { return failure_of(BROKER_EINVAL, "a word of the command is NULL"); }

} // namespace detail

/// Commands to be executed as one MULTI ... EXEC. Can be sent any number of times, wherever a command can.
class transaction {
public:
    transaction() : raw_(broker_transaction_new()) {}
    template <class... A> result<void> try_add(const A&... words) {
        const command one(words...);
        if (!one.sound()) return detail::refusal();
        const int code = broker_transaction_add(raw_.get(), one.argc(), one.argv(), one.argvlen());
        if (code == BROKER_OK) ++size_;
        return detail::done_or(code);
    }
#if defined(__cpp_exceptions)
    template <class... A> transaction& add(const A&... words) { return try_add(words...).value(), *this; }
#endif
    /// The number of commands.
    std::size_t size() const noexcept { return size_; }
    broker_transaction_t* get() const noexcept { return raw_.get(); }

private:
    struct deleter {
        void operator()(broker_transaction_t* raw) const noexcept { broker_transaction_free(raw); }
    };
    std::unique_ptr<broker_transaction_t, deleter> raw_;
    std::size_t size_ = 0;
};

} // namespace broker

#endif // BROKER_COMMAND_HPP
