// A client for many threads at once, over one connection and without a thread of its own. One of the waiting threads, the
// leader, sends the requests of all of them in one write and processes the replies; when its own reply is there, it passes
// the lead to another one. Owns the C handle and the pending requests. It has no callables, subscriptions or sessions; a
// broker::client has.
//
//   broker::shared_client redis;                    // for any number of threads, by reference or copied into them
//   auto name = redis.call<std::string>("GET", "name");
//   auto hits = redis.submit<int>("INCR", "hits");  // makes progress while any thread waits ...
//   redis.call<void>("INCR", "pages");
//   use(hits.get());                                // ... and once this one does
//
// Copies share the connection, which is closed with the last one; each `pending` counts as a copy. Requests are sent and
// replies received only while a thread waits, in call(), get() or wait_for(). Requests of one thread are sent in their
// order, unless too many were in progress: such a request waits for room, and later ones may overtake it.
//
// Forks. In a forked process everything fails with BROKER_EFORKED, whatever other threads were doing at the fork, until
// after_fork() makes all copies usable again. Requests pending at the fork belong to the parent. A waiting thread cannot
// be canceled (pthread_cancel), and a log callback that runs while its thread leads gets BROKER_EREENTRANT.
//
// License: MIT OR Apache-2.0.
#ifndef BROKER_SHARED_CLIENT_HPP
#define BROKER_SHARED_CLIENT_HPP

#include "crowd.hpp"

namespace broker {

namespace detail {

/// State shared by the copies of a client: its crowd, which a forked process replaces.
class shared {
public:
    explicit shared(broker_client_t* raw) : now_(new crowd(raw)) {}
    shared(const shared&) = delete;
    shared& operator=(const shared&) = delete;
    ~shared() {
        crowd* const last = now_;
        if (!last->forked()) {
            delete last;
        } else {
            broker_client_free(last->release());
            forget(last);
        }
    }
    crowd& now() const noexcept { return *now_; }
    result<void> after_fork() {
        crowd* const old = now_;
        if (!old->raw()) return failure_of(BROKER_ESTATE);
        const int code = broker_client_after_fork(old->raw());
        if (code < 0) return why(code, old->raw());
        now_ = new crowd(old->release());
        forget(old);
        return nothing();
    }

private:
    /// Threads of the parent may have held its locks, so it cannot be destroyed.
    static void forget(crowd* old) noexcept {
        old->beneath = forgotten_;
        while (!forgotten_.compare_exchange_weak(old->beneath, old)) {
        }
    }
    static inline std::atomic<crowd*> forgotten_{nullptr};
    std::atomic<crowd*> now_;
};

} // namespace detail

/// A pending outcome, returned by shared_client::submit(). For one thread at a time. Destroyed before its outcome was
/// taken, it cancels the request.
template <class R> class [[nodiscard]] pending {
public:
    pending(pending&& other) noexcept
        : of_(std::move(other.of_)), in_(other.in_), mine_(std::exchange(other.mine_, nullptr)),
          refused_(std::move(other.refused_)) {}
    pending& operator=(pending&& other) noexcept {
        std::swap(of_, other.of_);
        std::swap(in_, other.in_);
        std::swap(mine_, other.mine_);
        std::swap(refused_, other.refused_);
        return *this;
    }
    ~pending() {
        if (mine_) in_->drop(*mine_);
    }
    /// Whether get() would return at once.
    bool ready() const { return !mine_ || in_->is_over(*mine_); }
    /// Waits at most this long, and works for other threads too; returns whether get() would return at once. If no other
    /// thread waits, it sends and receives once even with a limit of zero, so a program may poll without waiting.
    bool wait_for(time_limit limit) const {
        using clock = detail::ticket::clock;
        if (!mine_) return true;
        if (limit.is_forever()) return in_->wait(*mine_, {}) || in_->refusal();
        return in_->wait(*mine_, clock::now() + milliseconds(limit.ms(0))) || in_->refusal();
    }
    /// Waits for the outcome and takes it, once. BROKER_EFORKED in a forked process.
    result<R> try_get() {
        if (!mine_) return refused_;
        if (!in_->wait(*mine_, {})) return detail::failure_of(in_->refusal());
        refused_ = detail::failure_of(BROKER_ESTATE);
        const struct taking {
            pending& of;
            ~taking() { of.in_->drop(*std::exchange(of.mine_, nullptr)); }
        } taking{*this};
        if (mine_->status < 0) return detail::failure_of(mine_->status, mine_->why.c_str());
        return detail::outcome<R>(BROKER_OK, mine_->answer, nullptr);
    }
#if defined(__cpp_exceptions)
    R get() { return detail::take(try_get()); }
#endif

private:
    friend class shared_client;
    pending(const std::shared_ptr<detail::shared>& of) : of_(of), in_(&of->now()) {}

    std::shared_ptr<detail::shared> of_;
    detail::crowd* in_;
    detail::ticket* mine_ = nullptr;
    /// The failure, if there is nothing to wait for.
    failure refused_{BROKER_ESTATE, {}};
};

class shared_client {
public:
    /// As client::open().
    static result<shared_client> open(const std::string& endpoint, const config& settings = {}) {
        char words[256] = "";
        broker_client_t* raw = nullptr;
        const char* const url = endpoint.empty() ? nullptr : endpoint.c_str();
        const int code = broker_client_new(&raw, url, settings.get(), words, sizeof words);
        if (code < 0) return detail::failure_of(code, words);
        return shared_client(std::make_shared<detail::shared>(raw));
    }
    /// Sends a request and waits for its outcome.
    template <class R = reply> result<R> try_call(const command& what, time_limit limit = forever) const {
        const auto borrow = [&what](detail::ticket& to) { to.borrowed = &what; };
        return ask<R>(what.sound(), limit, borrow).try_get();
    }
    template <class R = reply, class... A, class = detail::if_words<A...>> result<R> try_call(const A&... words) const {
        return try_call<R>(command(words...));
    }
    /// Submits a request. A transaction is taken over.
    template <class R = reply> pending<R> submit(const command& what, time_limit limit = forever) const {
        const auto keep = [&what](detail::ticket& to) { to.kept.keep(what); };
        return queue<R>(what.sound() && !what.block(), limit, keep);
    }
    template <class R = reply> pending<R> submit(transaction what, time_limit limit = forever) const {
        return queue<R>(true, limit, [&what](detail::ticket& to) { to.block = std::move(what); });
    }
    template <class R = reply, class... A, class = detail::if_words<A...>> pending<R> submit(const A&... words) const {
        return submit<R>(command(words...));
    }
    /// Closes the connection for all copies: waiting threads get BROKER_ECANCELED, later requests BROKER_ESTATE.
    void close() const { of_->now().close(); }
    /// In a forked process, before other threads use it: makes all copies usable again.
    result<void> try_after_fork() const { return of_->after_fork(); }
#if defined(__cpp_exceptions)
    explicit shared_client(const std::string& endpoint = {}, const config& settings = {})
        : shared_client(open(endpoint, settings).value()) {}
    template <class R = reply> R call(const command& what, time_limit limit = forever) const {
        return detail::take(try_call<R>(what, limit));
    }
    template <class R = reply, class... A, class = detail::if_words<A...>> R call(const A&... words) const {
        return detail::take(try_call<R>(command(words...)));
    }
    void after_fork() const { try_after_fork().value(); }
#endif

private:
    explicit shared_client(std::shared_ptr<detail::shared> of) noexcept : of_(std::move(of)) {}

    template <class R, class F> pending<R> ask(bool sound, time_limit limit, F&& fill) const {
        static_assert(detail::owns<R>::value, "the reply ends with the call: request a type that owns its data");
        pending<R> made(of_);
        if (!sound) {
            made.refused_ = detail::refusal();
        } else if (const int code = made.in_->ask(limit, made.mine_, fill)) {
            made.refused_ = detail::failure_of(code);
        }
        return made;
    }
    template <class R, class F> pending<R> queue(bool sound, time_limit limit, F&& fill) const {
        auto made = ask<R>(sound, limit, fill);
        if (!made.mine_) return made;
        if (made.in_->is_crowded()) return made.wait_for(forever), std::move(made);
        made.in_->announce();
        return made;
    }
    std::shared_ptr<detail::shared> of_;
};

} // namespace broker

#endif // BROKER_SHARED_CLIENT_HPP
