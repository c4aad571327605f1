// broker.hpp: broker.h for C++17 and later. Header-only; owns handles, replies and callables, and starts no thread.
// broker.h has the contract of every function; the comments here add only what C++ changes.
//
// Handles (config, transaction, client, session, loop) are move-only and free themselves. Moving one does not move the C
// handle or its pending requests; a moved-from object may only be destroyed or assigned to. As in C, one thread at a time
// may use a handle and everything that came from it (sessions, subscriptions, awaitables); [any thread] marks exceptions.
// A client for many threads at once is in <broker/shared_client.hpp>.
//
//   broker::client redis("unix:///run/broker/broker.sock");
//   redis.call<void>("SET", "answer", 42);
//   auto answer = redis.call<std::optional<int>>("GET", "answer");
//   redis.submit<int>({"INCR", "hits"}, [](broker::result<int> hits) { if (hits.ok()) use(hits.value()); });
//   redis.call<std::string>({"BLMOVE", "from", "to", "LEFT", "RIGHT", 0}, std::chrono::seconds(5));
//
// Errors. Every function that can fail exists twice: try_x() returns a result<T>; x() returns the T and throws
// broker::error or one of its subclasses. Without exceptions (-fno-exceptions) there is only try_x(). A function that
// returns int returns the code of its counterpart in broker.h. All of a program is compiled with exceptions, or all of it
// without.
//
// Callables. submit() and post() accept move-only callables. An accepted callable is called exactly once, from inside
// process(), wait(), call(), run() or the handle's destructor (with BROKER_ECANCELED), and destroyed after that call.
// A refused callable is destroyed uncalled; so are all of a handle that is renewed or destroyed in a forked process.
// A callable may use its client and destroy it. No exception passes through C: the first one that leaves a callable is
// stored, and thrown by the process(), wait() or run() during or after which it happened. call() returns its own outcome
// and leaves the exception to them, since a reply must not be lost because of another request's callable. A program whose
// client is driven by an adapter uses rethrow(). Further exceptions until then are dropped.
//
// License: MIT OR Apache-2.0.
#ifndef BROKER_HPP
#define BROKER_HPP

#include "broker/request.hpp"

static_assert(BROKER_VERSION_HEX >= 0x00010000, "broker.hpp needs the broker.h it was installed with");

namespace broker {

/// Settings by name, as broker_config_t. Any number of loops and clients may copy one.
class config {
public:
    config() : raw_(broker_config_new()) {}
    result<void> try_set(const std::string& key, const std::string& value) {
        return done(broker_config_set(raw_.get(), key.c_str(), value.c_str()));
    }
    /// Reads a broker.toml.
    result<void> try_load(const std::string& path) { return done(broker_config_load(raw_.get(), path.c_str())); }
    /// Passwords are masked.
    result<std::string> try_get(const std::string& key) const {
        const int len = broker_config_get(raw_.get(), key.c_str(), nullptr, 0);
        if (len < 0) return *done(len).fault();
        std::string value(static_cast<std::size_t>(len) + 1, '\0');
        broker_config_get(raw_.get(), key.c_str(), value.data(), value.size());
        value.pop_back();
        return value;
    }
#if defined(__cpp_exceptions)
    config& set(const std::string& key, const std::string& value) { return try_set(key, value).value(), *this; }
    config& load(const std::string& path) { return try_load(path).value(), *this; }
    std::string get(const std::string& key) const { return try_get(key).value(); }
#endif
    broker_config_t* get() const noexcept { return raw_.get(); }

private:
    struct deleter {
        void operator()(broker_config_t* raw) const noexcept { broker_config_free(raw); }
    };
    result<void> done(int code) const { return detail::done_or(code, broker_config_error(raw_.get())); }
    std::unique_ptr<broker_config_t, deleter> raw_;
};

/// The argument of a subscription's callable.
struct message {
    /// Not a message: the subscription is active. From the second time on, messages may have been missed in between.
    bool started;
    /// Empty but for psubscribe().
    std::string_view pattern;
    std::string_view channel;
    std::string_view payload;
};

namespace detail {

class subscribed : public box {
public:
    explicit subscribed(std::shared_ptr<hub> owner) : box(std::move(owner), true) {}

protected:
    bool is_last(int status, reply_view view) const noexcept override { return status < 0 || view.is_error(); }
};

template <class F> class subscriber final : public subscribed {
public:
    subscriber(std::shared_ptr<hub> owner, F&& callable) : subscribed(std::move(owner)), call_(std::move(callable)) {}

protected:
    void run(broker_client_t* from, int status, reply_view view) override {
        auto got = outcome<reply_view>(status, view, from);
        std::invoke(*call_, got.ok() ? result<message>(read(view)) : result<message>(*got.fault()));
    }
    void clear() noexcept override { call_.reset(); }

private:
    /// [kind, name, count], [kind, channel, payload] or ["pmessage", pattern, channel, payload].
    static message read(reply_view push) noexcept {
        const std::string_view kind = push[0].str();
        if (kind == "psubscribe") return message{true, push[1].str(), {}, {}};
        if (kind == "subscribe" || kind == "ssubscribe") return message{true, {}, push[1].str(), {}};
        if (kind == "pmessage") return message{false, push[1].str(), push[2].str(), push[3].str()};
        return message{false, {}, push[1].str(), push[2].str()};
    }
    std::optional<F> call_;
};

} // namespace detail

/// A subscription. It ends with the object, or earlier when its callable gets a failure.
class subscription {
public:
    subscription() noexcept = default;
    subscription(detail::subscribed* held, broker_client_t* at) noexcept : held_(held), at_(at) {}
    subscription(subscription&& other) noexcept : held_(std::exchange(other.held_, nullptr)), at_(other.at_) {}
    subscription& operator=(subscription&& other) noexcept {
        subscription(std::move(other)).swap(*this);
        return *this;
    }
    ~subscription() { unsubscribe(); }

    /// Whether its callable may still be called.
    bool active() const noexcept { return held_ && !held_->ended(); }
    /// Ends it: its callable is not called again, and is destroyed (if it is running, when it returns).
    void unsubscribe() noexcept {
        detail::subscribed* const held = std::exchange(held_, nullptr);
        if (!held) return;
        // C still owes one last call, in the next step; no callable receives it.
        if (!held->ended()) broker_client_cancel(at_, held->id);
        held->drop();
        held->settle();
    }
    void swap(subscription& other) noexcept {
        std::swap(held_, other.held_);
        std::swap(at_, other.at_);
    }

private:
    detail::subscribed* held_ = nullptr;
    broker_client_t* at_ = nullptr;
};

/// A session: one connection of a client, where WATCH is allowed. Created by client::open_session(). It may outlive the
/// client, but is then unusable.
class session : public detail::requests {
public:
    session(session&& other) noexcept = default;
    session& operator=(session&& other) noexcept {
        session taken(std::move(other));
        swap(taken);
        return *this;
    }
    ~session() { broker_client_free(raw_); }

    /// WATCH: the next transaction on this session replies NIL (use a std::optional) if one of the keys has changed.
    template <class... A> result<void> try_watch(const A&... keys) { return try_call<void>("WATCH", keys...); }
#if defined(__cpp_exceptions)
    template <class... A> void watch(const A&... keys) { try_watch(keys...).value(); }
#endif

private:
    friend class client;
    using requests::requests;
};

/// broker_client_t: a client of a broker, of Redis itself, or of the loop that created it.
class client : public detail::requests {
public:
    /// `endpoint` as in broker_client_new(); an empty one means BROKER_ENDPOINT.
    static result<client> open(const std::string& endpoint, const config& settings = {}) {
        char words[256] = "";
        client made(std::make_shared<detail::hub>());
        const char* const url = endpoint.empty() ? nullptr : endpoint.c_str();
        const int code = broker_client_new(&made.raw_, url, settings.get(), words, sizeof words);
        if (code < 0) return detail::failure_of(code, words);
        made.hub_->client = made.raw_;
        return made;
    }
#if defined(__cpp_exceptions)
    explicit client(const std::string& endpoint = {}, const config& settings = {})
        : client(open(endpoint, settings).value()) {}
#endif
    client(client&& other) noexcept = default;
    client& operator=(client&& other) noexcept {
        client taken(std::move(other));
        swap(taken);
        return *this;
    }
    ~client() {
        if (!hub_ || !raw_) return;
        release_if_forked();
        broker_client_on_push(raw_, nullptr, nullptr);
        broker_client_on_state(raw_, nullptr, nullptr);
        hub_->client = nullptr;
        broker_client_free(raw_);
    }

    /// In a forked process: makes the client usable again. Requests pending at the fork belong to the parent; their
    /// callables are destroyed uncalled here, and subscriptions have ended.
    result<void> try_after_fork() {
        release_if_forked();
        return detail::done(broker_client_after_fork(raw_), raw_);
    }
    /// One step that never waits; returns how many callbacks ran. BROKER_ESTATE if one of them destroyed the client.
    result<int> try_process() { return step(0); }
    /// The same, but waits for an event.
    result<int> try_wait(time_limit limit = forever) { return step(limit.ms(0)); }

    /// Subscribes to a channel; `callable` takes a result<message>. A failure is its last call.
    template <class F> result<subscription> try_subscribe(std::string_view channel, F callable) {
        return add(BROKER_CHANNEL, channel, std::move(callable));
    }
    /// The same for all channels that match a pattern.
    template <class F> result<subscription> try_psubscribe(std::string_view pattern, F callable) {
        return add(BROKER_PATTERN, pattern, std::move(callable));
    }
    /// The same for a shard channel.
    template <class F> result<subscription> try_ssubscribe(std::string_view channel, F callable) {
        return add(BROKER_SHARD, channel, std::move(callable));
    }
    result<session> try_open_session() {
        session made(hub_);
        const int code = broker_client_session(&made.raw_, raw_);
        if (code < 0) return detail::why(code, raw_);
        return made;
    }
    /// An optimistic transaction: watches `keys` (text or a range), lets `prepare(session&, transaction&)` read on
    /// the session and fill the transaction, and executes it; repeats all of that if a key has changed meanwhile, at most
    /// `attempts` times, and then fails with `conflict`. EXEC's reply is converted to R. If `prepare` adds no command, the
    /// result is BROKER_EINVAL.
    template <class R = reply, class Keys, class F>
    result<R> try_optimistic(const Keys& keys, F&& prepare, int attempts = 100) {
        using whole = std::conditional_t<std::is_void_v<R>, reply, R>;
        auto opened = try_open_session();
        if (!opened.ok()) return *opened.fault();
        session& own = opened.value();
        for (; attempts > 0; --attempts) {
            const auto watched = own.try_watch(keys);
            if (!watched.ok()) return *watched.fault();
            transaction block;
            std::invoke(prepare, own, block);
            auto done = own.try_call<std::optional<whole>>(block);
            if (!done.ok()) return *done.fault();
            if (!done.value()) continue;
            if constexpr (std::is_void_v<R>) {
                return nothing();
            } else {
                return std::move(*done.value());
            }
        }
        return failure{conflict, "the watched keys were changed by others at every attempt"};
    }
    /// [any thread] The next processing calls `callable` with an int, BROKER_OK, in the thread that processes. If the client
    /// ends first, the argument is BROKER_ECANCELED. In a forked process it is dropped.
    template <class F> result<void> try_post(F callable) {
        using posted = detail::posted<broker_client_t, F>;
        auto to = std::make_unique<posted>(hub_, std::move(callable));
        const int code = broker_client_post(raw_, posted::arrive, to.get());
        if (code >= 0) (void)to.release();
        return detail::done_or(code);
    }

#if defined(__cpp_exceptions)
    void after_fork() { try_after_fork().value(); }
    int process() { return stepped(0); }
    int wait(time_limit limit = forever) { return stepped(limit.ms(0)); }
    template <class F> subscription subscribe(std::string_view channel, F callable) {
        return try_subscribe(channel, std::move(callable)).value();
    }
    template <class F> subscription psubscribe(std::string_view pattern, F callable) {
        return try_psubscribe(pattern, std::move(callable)).value();
    }
    template <class F> subscription ssubscribe(std::string_view channel, F callable) {
        return try_ssubscribe(channel, std::move(callable)).value();
    }
    session open_session() { return try_open_session().value(); }
    template <class R = reply, class Keys, class F> R optimistic(const Keys& keys, F&& prepare, int attempts = 100) {
        return detail::take(try_optimistic<R>(keys, std::forward<F>(prepare), attempts));
    }
    template <class F> void post(F callable) { try_post(std::move(callable)).value(); }
#endif

    /// `callable`, a copyable one, takes a reply_view: every push that belongs to no subscription.
    template <class F> int on_push(F callable) {
        hub_->on_push = std::make_shared<std::function<void(reply_view)>>(std::move(callable));
        return broker_client_on_push(raw_, pushed, hub_.get());
    }
    /// `callable`, a copyable one, takes (bool connected, int reason).
    template <class F> int on_state(F callable) {
        hub_->on_state = std::make_shared<std::function<void(bool, int)>>(std::move(callable));
        return broker_client_on_state(raw_, stated, hub_.get());
    }
    bool connected() const noexcept { return broker_client_connected(raw_) == 1; }
    /// While on, a fork() moves the client to the forked process; this process loses it.
    int follow_fork(bool on) noexcept { return broker_client_follow_fork(raw_, on); }
    /// [any thread; async-signal-safe]
    int wakeup() noexcept { return broker_client_wakeup(raw_); }
    int fd() const noexcept { return broker_client_fd(raw_); }
    int timeout() const noexcept { return broker_client_timeout(raw_); }

private:
    friend class loop;
    using requests::requests;

    template <class F> result<subscription> add(int kind, std::string_view name, F&& callable) {
        static_assert(std::is_invocable_v<F&, result<message>>, "the callable takes a broker::result<broker::message>");
        auto* const to = new detail::subscriber<F>(hub_, std::move(callable));
        const char* const text = name.data() ? name.data() : "";
        const int code = broker_client_subscribe(raw_, kind, text, name.size(), &to->id, detail::box::arrive,
                                                 static_cast<detail::box*>(to));
        if (code < 0) to->end();
        subscription made(to, raw_);
        if (code < 0) return detail::why(code, raw_);
        return made;
    }
    result<int> step(int ms) {
        // Its own callables may destroy the client during the call.
        const auto keep = hub_;
        broker_client_t* const raw = raw_;
        return detail::counted(broker_client_process(raw, ms), raw);
    }
#if defined(__cpp_exceptions)
    int stepped(int ms) {
        const auto keep = hub_;
        const result<int> ran = step(ms);
        keep->rethrow();
        return ran.value();
    }
#endif
    /// If the client's loop has been freed, C no longer says which loop it was; then no call is pending either, except
    /// while the loop is being freed.
    void release_if_forked() noexcept {
        const int code = broker_client_connected(raw_);
        const bool has_calls_to_come = hub_->driver && hub_->driver->ending;
        if (code == BROKER_EFORKED || (code == BROKER_ESTATE && !has_calls_to_come)) hub_->release();
    }
    /// The callable may replace itself or destroy the client: the callable and its state stay until it returns.
    template <class F, class... A> static void tell(const std::shared_ptr<detail::hub>& from, F callable, A... with) {
        from->guard([&] { (*callable)(with...); });
    }
    static void pushed(broker_client_t*, const broker_reply_t* push, void* data) {
        auto& from = *static_cast<detail::hub*>(data);
        tell(from.shared_from_this(), from.on_push, reply_view(push));
    }
    static void stated(broker_client_t*, int connected, int reason, void* data) {
        auto& from = *static_cast<detail::hub*>(data);
        tell(from.shared_from_this(), from.on_state, connected != 0, reason);
    }
};

/// broker_loop_t: the broker, embedded. The program's own requests use a client of the loop: client().
class loop {
public:
    static result<loop> open(const config& settings) {
        char words[256] = "";
        loop made(std::make_shared<detail::hub>());
        const int code = broker_loop_new(&made.raw_, settings.get(), words, sizeof words);
        if (code < 0) return detail::failure_of(code, words);
        return made;
    }
#if defined(__cpp_exceptions)
    explicit loop(const config& settings) : loop(open(settings).value()) {}
#endif
    loop(loop&& other) noexcept : hub_(std::move(other.hub_)), raw_(std::exchange(other.raw_, nullptr)) {}
    loop& operator=(loop&& other) noexcept {
        loop taken(std::move(other));
        hub_.swap(taken.hub_);
        std::swap(raw_, taken.raw_);
        return *this;
    }
    /// Not from a callable of the loop or of its clients: C cannot free a loop there, and the process is terminated.
    ~loop() {
        if (!raw_) return;
        hub_->ending = true;
        if (broker_loop_free(raw_) == BROKER_EREENTRANT) std::abort();
        hub_->ending = false;
    }

    /// Creates a client for the program's own requests, without a socket. run() drives it and throws exceptions of its
    /// callables; its call() runs the loop meanwhile. It may be destroyed before or after the loop.
    result<broker::client> try_client() {
        broker::client made(std::make_shared<detail::hub>());
        const int code = broker_loop_client(&made.raw_, raw_);
        if (code < 0) return detail::why(code, raw_);
        made.hub_->client = made.raw_;
        made.hub_->driver = hub_;
        return made;
    }
    /// Runs the loop in a mode of broker_loop_run(); returns whether there is work to come.
    result<bool> try_run(int mode = BROKER_RUN_DEFAULT) {
        const int code = broker_loop_run(raw_, mode);
        if (code < 0) return detail::why(code, raw_);
        return code > 0;
    }
    result<void> try_drain(time_limit limit = forever) { return done(broker_loop_drain(raw_, limit.ms(0))); }
    result<void> try_reload(const config& settings) { return done(broker_loop_reload(raw_, settings.get())); }
    result<std::string> try_endpoint(std::size_t i = 0) const {
        const int len = broker_loop_endpoint(raw_, i, nullptr, 0);
        if (len < 0) return detail::why(len, raw_);
        std::string url(static_cast<std::size_t>(len) + 1, '\0');
        broker_loop_endpoint(raw_, i, url.data(), url.size());
        url.pop_back();
        return url;
    }
    /// On success the loop owns `fd`.
    result<void> try_adopt(int fd) { return done(broker_loop_adopt(raw_, fd)); }
    result<std::uint64_t> try_stat(const std::string& name) const {
        std::uint64_t value = 0;
        const int code = broker_loop_stat(raw_, name.c_str(), &value);
        if (code < 0) return detail::why(code, raw_);
        return value;
    }
    /// [any thread] As client::post(), called from inside run().
    template <class F> result<void> try_post(F callable) {
        using posted = detail::posted<broker_loop_t, F>;
        auto to = std::make_unique<posted>(hub_, std::move(callable));
        const int code = broker_loop_post(raw_, posted::arrive, to.get());
        if (code >= 0) (void)to.release();
        return detail::done_or(code);
    }
#if defined(__cpp_exceptions)
    broker::client client() { return try_client().value(); }
    bool run(int mode = BROKER_RUN_DEFAULT) {
        const result<bool> more = try_run(mode);
        hub_->rethrow();
        return more.value();
    }
    void drain(time_limit limit = forever) { try_drain(limit).value(); }
    void reload(const config& settings) { try_reload(settings).value(); }
    std::string endpoint(std::size_t i = 0) const { return try_endpoint(i).value(); }
    void adopt(int fd) { try_adopt(fd).value(); }
    std::uint64_t stat(const std::string& name) const { return try_stat(name).value(); }
    template <class F> void post(F callable) { try_post(std::move(callable)).value(); }
#endif
    /// [any thread; async-signal-safe]
    int stop() noexcept { return broker_loop_stop(raw_); }
    /// While on, a fork() moves the loop and its clients to the forked process: for daemon() and double forks.
    int follow_fork(bool on) noexcept { return broker_loop_follow_fork(raw_, on); }
    int fd() const noexcept { return broker_loop_fd(raw_); }
    int timeout() const noexcept { return broker_loop_timeout(raw_); }
    /// For functions of broker.h and for adapters; do not free it.
    broker_loop_t* get() const noexcept { return raw_; }

private:
    explicit loop(std::shared_ptr<detail::hub> of) noexcept : hub_(std::move(of)) {}
    result<void> done(int code) const { return detail::done(code, raw_); }

    std::shared_ptr<detail::hub> hub_;
    broker_loop_t* raw_ = nullptr;
};

} // namespace broker

#endif // BROKER_HPP
