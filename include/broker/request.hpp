// Requests of broker.hpp, which includes it: what is sent, and the callables, futures and coroutines that wait for what
// comes back. Owns callables until their last call; opens and frees no handle.
//
// License: MIT OR Apache-2.0.
#ifndef BROKER_REQUEST_HPP
#define BROKER_REQUEST_HPP

#include "reply.hpp"

#include <array>
#include <chrono>
#include <exception>
#include <forward_list>
#include <functional>
#include <future>
#include <limits>
#include <memory>
#include <vector>
#if defined(__cpp_impl_coroutine)
#include <coroutine>
#endif

#if defined(__cpp_exceptions)
#define BROKER_HPP_TRY try
#define BROKER_HPP_CATCH catch (...)
#else
#define BROKER_HPP_TRY if (true)
#define BROKER_HPP_CATCH else
#endif

namespace broker {

using std::chrono::milliseconds;

// ---- what is sent ----

class transaction;

/// The words of one command, or a transaction. A word is a text, an integer or a floating point number; a pair stands
/// for two and a range for all of its words. Nothing is copied: a command is good for the expression it stands in.
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

    /// NULL unless it is one.
    const transaction* block() const noexcept { return block_; }
    std::size_t argc() const noexcept { return argv_.size(); }
    const char* const* argv() const noexcept { return argv_.data(); }
    const std::size_t* argvlen() const noexcept { return argvlen_.data(); }

private:
    void push(std::string_view word) {
        argv_.push_back(word.data() ? word.data() : "");
        argvlen_.push_back(word.size());
    }
    template <class K, class V> void add(const std::pair<K, V>& words) { add(words.first), add(words.second); }
    template <class T> void add(const T& word) {
        if constexpr (std::is_convertible_v<const T&, std::string_view>) {
            push(word);
        } else if constexpr (std::is_arithmetic_v<T>) {
            static_assert(!std::is_same_v<T, bool> && !std::is_same_v<T, char>, "a word is a text or a number");
            auto& text = numbers_.emplace_front();
            const auto written = std::to_chars(text.data(), text.data() + text.size(), word);
            push(std::string_view(text.data(), static_cast<std::size_t>(written.ptr - text.data())));
        } else {
            static_assert(std::is_reference_v<decltype(*std::begin(word))>, "the words of a range must outlive it");
            for (const auto& one : word) add(one);
        }
    }
    const transaction* block_ = nullptr;
    std::vector<const char*> argv_;
    std::vector<std::size_t> argvlen_;
    /// Where numbers stand as text; the elements of a list stay where they are.
    std::forward_list<std::array<char, 64>> numbers_;
};

/// Commands to be executed as one MULTI ... EXEC; may be sent any number of times, wherever a command may.
class transaction {
public:
    transaction() : raw_(broker_transaction_new()) {}
    template <class... A> result<void> try_add(const A&... words) {
        const command one(words...);
        return detail::done_or(broker_transaction_add(raw_.get(), one.argc(), one.argv(), one.argvlen()));
    }
#if defined(__cpp_exceptions)
    template <class... A> transaction& add(const A&... words) { return try_add(words...).value(), *this; }
#endif
    int clear() noexcept { return broker_transaction_clear(raw_.get()); }
    int size() const noexcept { return broker_transaction_len(raw_.get()); }
    broker_transaction_t* get() const noexcept { return raw_.get(); }

private:
    struct deleter {
        void operator()(broker_transaction_t* raw) const noexcept { broker_transaction_free(raw); }
    };
    std::unique_ptr<broker_transaction_t, deleter> raw_;
};

// ---- callables that C will call ----

namespace detail {

class box;

/// What belongs to one C handle beside it: the boxes that C may still call, and what has left them. Lives until the
/// C++ object and the last box have gone, since a handle freed in its own callback calls back after that.
struct hub : std::enable_shared_from_this<hub> {
    broker_client_t* client = nullptr;
    broker_loop_t* loop = nullptr;
    box* first = nullptr;
    std::exception_ptr thrown;
    std::shared_ptr<std::function<void(reply_view)>> on_push;
    std::shared_ptr<std::function<void(bool, int)>> on_state;

    failure why(int code) const {
        // The words of a handle are of its last refusal or lost connection: of no other outcome.
        const bool worded = code == BROKER_EUNSUPPORTED || code == BROKER_ECONN || code == BROKER_ELOST ||
                            code == BROKER_EAUTH || code == BROKER_EPROTO || code == BROKER_ESYS ||
                            code == BROKER_ECONFIG;
        if (!worded) return failure_of(code);
        return failure_of(code, client ? broker_client_error(client) : loop ? broker_loop_error(loop) : nullptr);
    }
    result<void> done(int code) const {
        if (code < 0) return why(code);
        return nothing();
    }
    int cancel(broker_req_t request) noexcept {
        return client ? broker_client_cancel(client, request) : broker_cancel(loop, request);
    }
    void rethrow() {
        if (thrown) std::rethrow_exception(std::exchange(thrown, nullptr));
    }
    /// Runs what must not throw into C.
    template <class F> void guard(F&& body) noexcept {
        BROKER_HPP_TRY { body(); }
        BROKER_HPP_CATCH {
            if (!thrown) thrown = std::current_exception();
        }
    }
    /// Destroys all boxes uncalled: for a forked process, where C forgets them. No new one comes up meanwhile, as the
    /// handle answers BROKER_EFORKED.
    inline void release() noexcept;
};

/// A callable on its way through C, as the `data` of its callback. Owned by C until its last call, and beyond that by
/// a holder (a subscription, an awaitable) if it has one; whoever is last deletes it.
class box {
public:
    box(std::shared_ptr<hub> owner, bool held) : hub_(std::move(owner)), held_(held), next_(hub_->first) {
        if (next_) next_->prev_ = this;
        hub_->first = this;
    }
    box(const box&) = delete;
    box& operator=(const box&) = delete;

    /// C calls.
    void arrive(int status, const broker_reply_t* raw) noexcept {
        const std::shared_ptr<hub> keep = hub_;
        const reply_view view(raw);
        const bool last = is_last(status, view);
        running_ = true;
        keep->guard([&] { run(status, view); });
        running_ = false;
        if (last) end();
        settle();
    }
    static void on_client(broker_client_t*, int status, const broker_reply_t* raw, void* data) {
        static_cast<box*>(data)->arrive(status, raw);
    }
    static void on_loop(broker_loop_t*, int status, const broker_reply_t* raw, void* data) {
        static_cast<box*>(data)->arrive(status, raw);
    }
    /// C will not call, or not again. Settle afterwards.
    void end() noexcept {
        if (std::exchange(ended_, true)) return;
        (prev_ ? prev_->next_ : hub_->first) = next_;
        if (next_) next_->prev_ = prev_;
    }
    /// The holder lets go. Settle afterwards.
    void drop() noexcept { held_ = false; }
    /// Frees what nobody needs any more; waits for a call under way.
    void settle() noexcept {
        if (running_ || !ended_) return;
        running_ = true;
        clear();
        running_ = false;
        if (!held_) delete this;
    }
    bool ended() const noexcept { return ended_; }
    hub& owner() const noexcept { return *hub_; }

protected:
    virtual ~box() = default;
    virtual void run(int status, reply_view view) = 0;
    virtual bool is_last(int, reply_view) const noexcept { return true; }
    /// Destroys the callable ahead of the box, whose holder may live on.
    virtual void clear() noexcept {}

private:
    std::shared_ptr<hub> hub_;
    bool held_;
    bool running_ = false;
    bool ended_ = false;
    box* next_;
    box* prev_ = nullptr;
};

inline void hub::release() noexcept {
    while (box* one = first) {
        one->end();
        one->settle();
    }
}

template <class R> result<R> outcome(const hub& from, int status, reply_view view) {
    if (status < 0) return from.why(status);
    if (view.is_error()) return failure{error_reply, std::string(view.str())};
    return view.try_as<R>();
}

/// A request's callable, taking a result<R>.
template <class R, class F> class request final : public box {
public:
    request(std::shared_ptr<hub> owner, F&& callable) : box(std::move(owner), false), call_(std::move(callable)) {}

protected:
    void run(int status, reply_view view) override { std::invoke(call_, outcome<R>(owner(), status, view)); }

private:
    F call_;
};

/// A timeout as C takes it: one that has passed already is 0, one beyond the range the longest there is.
template <class Int> Int clamp(milliseconds timeout) noexcept {
    constexpr auto most = static_cast<milliseconds::rep>(std::numeric_limits<Int>::max());
    return static_cast<Int>(timeout.count() < 0 ? 0 : timeout.count() > most ? most : timeout.count());
}

#if defined(__cpp_exceptions)
template <class R> void fulfil(std::promise<R>& promise, result<R>&& with) {
    try {
        if constexpr (std::is_void_v<R>) {
            with.value();
            promise.set_value();
        } else {
            promise.set_value(std::move(with).value());
        }
    } catch (...) {
        promise.set_exception(std::current_exception());
    }
}
#endif

/// Tells call("SET", key, value) from call(transaction, timeout).
template <class T> struct is_word : std::true_type {};
template <> struct is_word<command> : std::false_type {};
template <> struct is_word<transaction> : std::false_type {};
template <class R, class P> struct is_word<std::chrono::duration<R, P>> : std::false_type {};
template <class... A> using if_words = std::enable_if_t<std::conjunction_v<is_word<A>...>>;

#if defined(__cpp_impl_coroutine)
/// Where an outcome waits for its coroutine, or the coroutine for its outcome.
template <class R> class meeting final : public box {
public:
    explicit meeting(std::shared_ptr<hub> owner) : box(std::move(owner), true) {}
    std::optional<result<R>> here;
    std::coroutine_handle<> waiting;

protected:
    void run(int status, reply_view view) override {
        here.emplace(outcome<R>(owner(), status, view));
        if (auto coroutine = std::exchange(waiting, nullptr)) coroutine.resume();
    }
};
#endif

} // namespace detail

#if defined(__cpp_impl_coroutine)
/// What async() returns. The request is under way already, so that several may be before the first is awaited; the
/// coroutine is resumed from processing. Destroyed while it is pending, with a coroutine's frame or without, it cancels
/// the request and resumes nobody. When the client is freed the coroutine is resumed with BROKER_ECANCELED; in a
/// forked process it never is. Await it once.
template <class R, bool Throws> class [[nodiscard]] awaitable {
public:
    awaitable(detail::meeting<R>* met, broker_req_t request) noexcept : met_(met), request_(request) {}
    awaitable(awaitable&& other) noexcept : met_(std::exchange(other.met_, nullptr)), request_(other.request_) {}
    awaitable& operator=(awaitable&& other) noexcept {
        std::swap(met_, other.met_);
        std::swap(request_, other.request_);
        return *this;
    }
    ~awaitable() {
        if (!met_) return;
        met_->waiting = nullptr;
        if (!met_->ended()) met_->owner().cancel(request_);
        met_->drop();
        met_->settle();
    }
    bool await_ready() const noexcept { return met_->here.has_value(); }
    void await_suspend(std::coroutine_handle<> coroutine) noexcept { met_->waiting = coroutine; }
    auto await_resume() {
        if constexpr (Throws) {
            return detail::take(std::move(*met_->here));
        } else {
            return std::move(*met_->here);
        }
    }

private:
    detail::meeting<R>* met_;
    broker_req_t request_;
};
#endif

namespace detail {

/// What every handle that takes requests can do. A timeout of 0 waits for as long as it takes.
template <class Self> class submitting {
public:
    /// Sends a request; `callable` takes its outcome, a result<R>. The default R, and any other view, ends with the
    /// callable's call. An error reply of Redis' is a failure; inside a transaction's reply it is an element.
    template <class R = reply_view, class F>
    result<broker_req_t> try_submit(const command& what, F callable, milliseconds timeout = {}) {
        static_assert(std::is_invocable_v<F&, result<R>>, "the callable takes a broker::result<R>");
        broker_req_t id = 0;
        box* const to = new request<R, F>(hub_, std::move(callable));
        auto sent = hub_->done(self().send(what, limit(timeout), &id, to));
        if (!sent.ok()) {
            to->end();
            to->settle();
            return *sent.fault();
        }
        return id;
    }
    /// Sends a request whose outcome comes to a future, once somebody processes: in another thread, or before get().
    template <class R = reply>
    std::future<result<R>> try_submit_future(const command& what, milliseconds timeout = {}) {
        static_assert(owns<R>::value, "a future outlives the reply: ask for a type that owns what it holds");
        std::promise<result<R>> promise;
        auto future = promise.get_future();
        auto keep = [promise = std::move(promise)](result<R> got) mutable { promise.set_value(std::move(got)); };
        auto sent = try_submit<R>(what, std::move(keep), timeout);
        if (sent.ok()) return future;
        std::promise<result<R>> refused;
        refused.set_value(*sent.fault());
        return refused.get_future();
    }
    template <class R = reply, class... A, class = if_words<A...>>
    std::future<result<R>> try_submit_future(const A&... words) {
        return try_submit_future<R>(command(words...));
    }
    /// False if its outcome is known already. Otherwise its callable gets BROKER_ECANCELED from the next processing.
    bool cancel(broker_req_t request) noexcept { return hub_->cancel(request) == BROKER_OK; }

#if defined(__cpp_exceptions)
    template <class R = reply_view, class F>
    broker_req_t submit(const command& what, F callable, milliseconds timeout = {}) {
        return try_submit<R>(what, std::move(callable), timeout).value();
    }
    /// The future throws what call() would throw, refusals too; std::future_error after a fork.
    template <class R = reply> std::future<R> submit_future(const command& what, milliseconds timeout = {}) {
        static_assert(owns<R>::value, "a future outlives the reply: ask for a type that owns what it holds");
        std::promise<R> promise;
        auto future = promise.get_future();
        auto keep = [promise = std::move(promise)](result<R> got) mutable { fulfil(promise, std::move(got)); };
        auto sent = try_submit<R>(what, std::move(keep), timeout);
        if (sent.ok()) return future;
        std::promise<R> refused;
        fulfil(refused, result<R>(*sent.fault()));
        return refused.get_future();
    }
    template <class R = reply, class... A, class = if_words<A...>> std::future<R> submit_future(const A&... words) {
        return submit_future<R>(command(words...));
    }
    /// Throws what has left a callable, if something has.
    void rethrow() { hub_->rethrow(); }
#endif
#if defined(__cpp_impl_coroutine)
    /// `co_await client.async<R>("GET", key)`; see `awaitable`.
    template <class R = reply> awaitable<R, false> try_async(const command& what, milliseconds timeout = {}) {
        return post<R, false>(what, timeout);
    }
    template <class R = reply, class... A, class = if_words<A...>> awaitable<R, false> try_async(const A&... words) {
        return post<R, false>(command(words...), {});
    }
#if defined(__cpp_exceptions)
    template <class R = reply> awaitable<R, true> async(const command& what, milliseconds timeout = {}) {
        return post<R, true>(what, timeout);
    }
    template <class R = reply, class... A, class = if_words<A...>> awaitable<R, true> async(const A&... words) {
        return post<R, true>(command(words...), {});
    }
#endif
#endif

protected:
    submitting() = default;
    explicit submitting(std::shared_ptr<hub> of) noexcept : hub_(std::move(of)) {}

    /// A negative timeout has passed already, which for C is not 0: that waits for ever.
    static std::uint32_t limit(milliseconds timeout) noexcept {
        return timeout.count() < 0 ? 1 : clamp<std::uint32_t>(timeout);
    }
    std::shared_ptr<hub> hub_;

private:
    Self& self() noexcept { return static_cast<Self&>(*this); }

#if defined(__cpp_impl_coroutine)
    template <class R, bool Throws> awaitable<R, Throws> post(const command& what, milliseconds timeout) {
        static_assert(owns<R>::value, "a coroutine outlives the reply: ask for a type that owns what it holds");
        broker_req_t id = 0;
        auto* const to = new meeting<R>(hub_);
        auto sent = hub_->done(self().send(what, limit(timeout), &id, to));
        if (!sent.ok()) {
            to->here.emplace(*sent.fault());
            to->end();
        }
        return awaitable<R, Throws>(to, id);
    }
#endif
};

/// What a client and its sessions can do beyond that.
template <class Self> class calling : public submitting<Self> {
public:
    /// Sends a request and waits for its outcome; callables of other requests run meanwhile. Not from a callable.
    template <class R = reply> result<R> try_call(const command& what, milliseconds timeout = {}) {
        static_assert(owns<R>::value, "the reply ends with the call: ask for a type that owns what it holds");
        const std::shared_ptr<hub> keep = this->hub_;
        broker_reply_t* raw = nullptr;
        const int code = static_cast<Self&>(*this).ask(what, this->limit(timeout), &raw);
        const reply owned(raw);
        return outcome<R>(*keep, code, owned);
    }
    template <class R = reply, class... A, class = if_words<A...>> result<R> try_call(const A&... words) {
        return try_call<R>(command(words...));
    }
#if defined(__cpp_exceptions)
    template <class R = reply> R call(const command& what, milliseconds timeout = {}) {
        return take(try_call<R>(what, timeout));
    }
    template <class R = reply, class... A, class = if_words<A...>> R call(const A&... words) {
        return take(try_call<R>(command(words...)));
    }
#endif

protected:
    using submitting<Self>::submitting;
};

} // namespace detail

} // namespace broker

#undef BROKER_HPP_TRY
#undef BROKER_HPP_CATCH

#endif // BROKER_REQUEST_HPP
