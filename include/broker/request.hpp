// Requests of broker.hpp, which includes this file: the callables, futures and coroutines that receive outcomes. Owns
// callables until their last call; opens and frees no handle.
//
// License: MIT OR Apache-2.0.
#ifndef BROKER_REQUEST_HPP
#define BROKER_REQUEST_HPP

#include "command.hpp"

#include <exception>
#include <functional>
#include <future>
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

// ---- callables that C will call ----

namespace detail {

class box;

/// State that belongs to one C handle and, for a client, to its sessions: the boxes that C may still call, and exceptions
/// of their callables. Lives until the C++ object and the last box are gone, since a handle freed in its own callback
/// still makes calls afterwards.
struct hub : std::enable_shared_from_this<hub> {
    /// NULL once it is being freed.
    broker_client_t* client = nullptr;
    /// The loop that drives the client, if any: it throws the exceptions of the client's callables.
    std::shared_ptr<hub> driver;
    /// For a loop: it is being freed, and C still makes last calls although its clients return BROKER_ESTATE.
    bool ending = false;
    box* first = nullptr;
    std::exception_ptr thrown;
    std::shared_ptr<std::function<void(reply_view)>> on_push;
    std::shared_ptr<std::function<void(bool, int)>> on_state;

    void rethrow() {
        if (thrown) std::rethrow_exception(std::exchange(thrown, nullptr));
    }
    /// Runs code that must not throw into C.
    template <class F> void guard(F&& body) noexcept {
        BROKER_HPP_TRY { body(); }
        BROKER_HPP_CATCH {
            std::exception_ptr& kept = driver ? driver->thrown : thrown;
            if (!kept) kept = std::current_exception();
        }
    }
    /// Destroys all boxes uncalled: for a forked process, where C drops them. No new one is created meanwhile, since the
    /// handle returns BROKER_EFORKED.
    inline void release() noexcept;
};

/// A handle's error text is that of its last refusal or lost connection, and of no other outcome.
inline bool is_worded(int code) noexcept {
    return code == BROKER_EUNSUPPORTED || code == BROKER_ECONN || code == BROKER_ELOST || code == BROKER_EAUTH ||
           code == BROKER_EPROTO || code == BROKER_ESYS || code == BROKER_ECONFIG;
}
inline failure why(int code, const broker_client_t* from) {
    return failure_of(code, is_worded(code) ? broker_client_error(from) : nullptr);
}
inline failure why(int code, const broker_loop_t* from) {
    return failure_of(code, is_worded(code) ? broker_loop_error(from) : nullptr);
}
template <class Handle> result<void> done(int code, const Handle* from) {
    if (code < 0) return why(code, from);
    return nothing();
}
/// A return value of C that is a count or a code.
template <class Handle> result<int> counted(int code, const Handle* from) {
    if (code < 0) return why(code, from);
    return code;
}

/// A callable that C holds as the `data` of its callback. Owned by C until its last call, and also by a holder (a
/// subscription, an awaitable) if there is one; the last owner deletes it.
class box {
public:
    box(std::shared_ptr<hub> owner, bool held) : hub_(std::move(owner)), held_(held), next_(hub_->first) {
        if (next_) next_->prev_ = this;
        hub_->first = this;
    }
    box(const box&) = delete;
    box& operator=(const box&) = delete;

    /// Called by C.
    static void arrive(broker_client_t* from, int status, const broker_reply_t* raw, void* data) noexcept {
        box& to = *static_cast<box*>(data);
        const std::shared_ptr<hub> keep = to.hub_;
        const reply_view view(raw);
        const bool last = to.is_last(status, view);
        if (!to.muted_) {
            to.running_ = true;
            keep->guard([&] { to.run(from, status, view); });
            to.running_ = false;
        }
        if (last) to.end();
        to.settle();
    }
    /// C will not call it, or not again. Call settle() afterwards.
    void end() noexcept {
        if (std::exchange(ended_, true)) return;
        (prev_ ? prev_->next_ : hub_->first) = next_;
        if (next_) next_->prev_ = prev_;
    }
    /// The holder releases it and wants no further call, although C may still make one. Call settle() afterwards.
    void drop() noexcept {
        held_ = false;
        muted_ = true;
    }
    /// Destroys it if it has no owner; waits for a running call.
    void settle() noexcept {
        if (running_ || !(ended_ || muted_)) return;
        running_ = true;
        clear();
        running_ = false;
        if (ended_ && !held_) delete this;
    }
    bool ended() const noexcept { return ended_; }
    bool muted() const noexcept { return muted_; }

    broker_req_t id = 0;

protected:
    virtual ~box() = default;
    virtual void run(broker_client_t* from, int status, reply_view view) = 0;
    virtual bool is_last(int, reply_view) const noexcept { return true; }
    /// Destroys the callable before the box, which its holder or C may still need. May be called again.
    virtual void clear() noexcept {}

private:
    std::shared_ptr<hub> hub_;
    bool held_;
    bool running_ = false;
    bool ended_ = false;
    bool muted_ = false;
    box* next_;
    box* prev_ = nullptr;
};

inline void hub::release() noexcept {
    while (box* one = first) {
        one->end();
        one->settle();
    }
}

template <class R> result<R> outcome(int status, reply_view view, const broker_client_t* from) {
    if (status < 0) return why(status, from);
    if (view.is_error()) return failure{error_reply, std::string(view.str())};
    return view.try_as<R>();
}

/// A request's callable, taking a result<R>.
template <class R, class F> class request final : public box {
public:
    request(std::shared_ptr<hub> owner, F&& callable) : box(std::move(owner), false), call_(std::move(callable)) {}

protected:
    void run(broker_client_t* from, int status, reply_view view) override {
        std::invoke(call_, outcome<R>(status, view, from));
    }

private:
    F call_;
};

/// A callable posted by any thread: called with BROKER_OK, or with BROKER_ECANCELED if the handle ends first.
template <class Handle, class F> class posted {
public:
    static_assert(std::is_invocable_v<F&, int>, "the callable takes an int, BROKER_OK or BROKER_ECANCELED");
    posted(std::shared_ptr<hub> owner, F&& callable) : hub_(std::move(owner)), call_(std::move(callable)) {}
    static void arrive(Handle*, int status, void* data) noexcept {
        const std::unique_ptr<posted> self(static_cast<posted*>(data));
        self->hub_->guard([&] { std::invoke(self->call_, status); });
    }

private:
    std::shared_ptr<hub> hub_;
    F call_;
};

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

#if defined(__cpp_impl_coroutine)
/// Where an outcome waits for its coroutine, or a coroutine for its outcome.
template <class R> class meeting final : public box {
public:
    explicit meeting(std::shared_ptr<hub> owner) : box(std::move(owner), true) {}
    std::optional<result<R>> here;
    std::coroutine_handle<> waiting;

protected:
    void run(broker_client_t* from, int status, reply_view view) override {
        here.emplace(outcome<R>(status, view, from));
        if (auto coroutine = std::exchange(waiting, nullptr)) coroutine.resume();
    }
};
#endif

} // namespace detail

#if defined(__cpp_impl_coroutine)
/// The result of async(). The request has already been submitted, so several may be in progress before the first is
/// awaited; the coroutine resumes during processing. Destroyed while it is pending, also with a coroutine's frame, it
/// cancels the request and resumes no coroutine. When the client is freed, the coroutine resumes with BROKER_ECANCELED; in
/// a forked process it never does. Await it once.
template <class R, bool Throws> class [[nodiscard]] awaitable {
public:
    awaitable(detail::meeting<R>* met, broker_client_t* at) noexcept : met_(met), at_(at) {}
    awaitable(awaitable&& other) noexcept : met_(std::exchange(other.met_, nullptr)), at_(other.at_) {}
    awaitable& operator=(awaitable&& other) noexcept {
        std::swap(met_, other.met_);
        std::swap(at_, other.at_);
        return *this;
    }
    ~awaitable() {
        if (!met_) return;
        met_->waiting = nullptr;
        if (!met_->ended()) broker_client_cancel(at_, met_->id);
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
    /// The handle it was sent on; C detects a cancel on a handle that has been freed.
    broker_client_t* at_;
};
#endif

namespace detail {

/// The functions of a client and of a session. Time limits are `forever` unless given.
class requests {
public:
    /// Sends a request; `callable` takes its outcome, a result<R>. The default R, and any other view, is valid until the
    /// callable returns. An error reply from Redis is a failure; inside the reply of a transaction it is an element.
    template <class R = reply_view, class F>
    result<broker_req_t> try_submit(const command& what, F callable, time_limit limit = forever) {
        static_assert(std::is_invocable_v<F&, result<R>>, "the callable takes a broker::result<R>");
        box* const to = new request<R, F>(hub_, std::move(callable));
        // Read before the call: C owns the box from here on.
        broker_req_t id = 0;
        auto sent = send(what, limit, &id, to);
        if (sent.ok()) return id;
        to->end();
        to->settle();
        return *sent.fault();
    }
    /// Sends a request; a future receives its outcome during processing: in another thread, or before get().
    template <class R = reply>
    std::future<result<R>> try_submit_future(const command& what, time_limit limit = forever) {
        static_assert(owns<R>::value, "a future outlives the reply: request a type that owns its data");
        std::promise<result<R>> promise;
        auto future = promise.get_future();
        auto keep = [promise = std::move(promise)](result<R> got) mutable { promise.set_value(std::move(got)); };
        auto sent = try_submit<R>(what, std::move(keep), limit);
        if (sent.ok()) return future;
        std::promise<result<R>> refused;
        refused.set_value(*sent.fault());
        return refused.get_future();
    }
    template <class R = reply, class... A, class = if_words<A...>>
    std::future<result<R>> try_submit_future(const A&... words) {
        return try_submit_future<R>(command(words...));
    }
    /// False if it is already complete. Otherwise its callable gets BROKER_ECANCELED in the next processing.
    bool cancel(broker_req_t request) noexcept { return broker_client_cancel(raw_, request) == BROKER_OK; }

    /// Sends a request and waits for its outcome; callables of other requests run meanwhile. Not from a callable.
    template <class R = reply> result<R> try_call(const command& what, time_limit limit = forever) {
        static_assert(owns<R>::value, "the reply ends with the call: request a type that owns its data");
        if (!what.sound()) return refusal();
        broker_client_t* const raw = raw_;
        broker_reply_t* answer = nullptr;
        const int ms = limit.ms(1);
        const int code = what.block() ? broker_client_call_transaction(raw, what.block()->get(), ms, &answer)
                                      : broker_client_call(raw, what.argc(), what.argv(), what.argvlen(), ms, &answer);
        const reply owned(answer);
        return outcome<R>(code, owned, raw);
    }
    template <class R = reply, class... A, class = if_words<A...>> result<R> try_call(const A&... words) {
        return try_call<R>(command(words...));
    }
#if defined(__cpp_exceptions)
    template <class R = reply_view, class F>
    broker_req_t submit(const command& what, F callable, time_limit limit = forever) {
        return try_submit<R>(what, std::move(callable), limit).value();
    }
    /// The future throws what call() would throw, refusals too; std::future_error after a fork.
    template <class R = reply> std::future<R> submit_future(const command& what, time_limit limit = forever) {
        static_assert(owns<R>::value, "a future outlives the reply: request a type that owns its data");
        std::promise<R> promise;
        auto future = promise.get_future();
        auto keep = [promise = std::move(promise)](result<R> got) mutable { fulfil(promise, std::move(got)); };
        auto sent = try_submit<R>(what, std::move(keep), limit);
        if (sent.ok()) return future;
        std::promise<R> refused;
        fulfil(refused, result<R>(*sent.fault()));
        return refused.get_future();
    }
    template <class R = reply, class... A, class = if_words<A...>> std::future<R> submit_future(const A&... words) {
        return submit_future<R>(command(words...));
    }
    template <class R = reply> R call(const command& what, time_limit limit = forever) {
        return take(try_call<R>(what, limit));
    }
    template <class R = reply, class... A, class = if_words<A...>> R call(const A&... words) {
        return take(try_call<R>(command(words...)));
    }
    /// Throws the stored exception of a callable, if any.
    void rethrow() { (hub_->driver ? *hub_->driver : *hub_).rethrow(); }
#endif
#if defined(__cpp_impl_coroutine)
    /// `co_await client.async<R>("GET", key)`; see `awaitable`.
    template <class R = reply> awaitable<R, false> try_async(const command& what, time_limit limit = forever) {
        return meet<R, false>(what, limit);
    }
    template <class R = reply, class... A, class = if_words<A...>> awaitable<R, false> try_async(const A&... words) {
        return meet<R, false>(command(words...), forever);
    }
#if defined(__cpp_exceptions)
    template <class R = reply> awaitable<R, true> async(const command& what, time_limit limit = forever) {
        return meet<R, true>(what, limit);
    }
    template <class R = reply, class... A, class = if_words<A...>> awaitable<R, true> async(const A&... words) {
        return meet<R, true>(command(words...), forever);
    }
#endif
#endif
    /// For functions of broker.h and for adapters; do not free it.
    broker_client_t* get() const noexcept { return raw_; }

protected:
    explicit requests(std::shared_ptr<hub> of) noexcept : hub_(std::move(of)) {}
    requests(requests&& other) noexcept : hub_(std::move(other.hub_)), raw_(std::exchange(other.raw_, nullptr)) {}
    ~requests() = default;
    void swap(requests& other) noexcept {
        hub_.swap(other.hub_);
        std::swap(raw_, other.raw_);
    }

    std::shared_ptr<hub> hub_;
    broker_client_t* raw_ = nullptr;

private:
    result<void> send(const command& what, time_limit limit, broker_req_t* id, box* to) {
        if (!what.sound()) return refusal();
        const int ms = limit.ms(1);
        const int code = what.block()
                             ? broker_client_submit_transaction(raw_, what.block()->get(), ms, id, box::arrive, to)
                             : broker_client_submit(raw_, what.argc(), what.argv(), what.argvlen(), ms, id, box::arrive, to);
        return done(code, raw_);
    }
#if defined(__cpp_impl_coroutine)
    template <class R, bool Throws> awaitable<R, Throws> meet(const command& what, time_limit limit) {
        static_assert(owns<R>::value, "a coroutine outlives the reply: request a type that owns its data");
        auto* const to = new meeting<R>(hub_);
        auto sent = send(what, limit, &to->id, to);
        if (!sent.ok()) {
            to->here.emplace(*sent.fault());
            to->end();
        }
        return awaitable<R, Throws>(to, raw_);
    }
#endif
};

} // namespace detail

} // namespace broker

#undef BROKER_HPP_TRY
#undef BROKER_HPP_CATCH

#endif // BROKER_REQUEST_HPP
