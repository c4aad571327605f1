// broker.hpp: broker.h for C++17 and later. Header-only; owns handles, replies and callables, and starts no thread.
// It never changes what broker.h says of a function: read the contract there, and here what C++ adds.
//
// Handles (config, transaction, client, session, loop) are move-only and free themselves. Moving one leaves the C
// handle and whatever is pending where they are; a moved-from object may only be destroyed or assigned to. As in C, a
// handle and all that came from it (sessions, subscriptions, awaitables) is for one thread at a time.
//
//   broker::client redis("unix:///run/broker/broker.sock");
//   redis.call<void>("SET", "answer", 42);
//   auto answer = redis.call<std::optional<int>>("GET", "answer");
//   redis.submit({"INCR", "hits"}, [](broker::result<int> hits) { if (hits.ok()) use(hits.value()); });
//   redis.call<std::string>({"BLMOVE", "from", "to", "LEFT", "RIGHT", 0}, std::chrono::seconds(5));
//
// Errors. Every function that can fail stands here twice: try_x() returns a result<T>; x() returns the T and throws
// broker::error or one of its subclasses. Without exceptions (-fno-exceptions) there is only try_x(). A function that
// returns int gives the code of its twin in broker.h. One program is compiled with exceptions or without, not both.
//
// Callables. What submit() takes may be move-only. If submit() succeeded it is called exactly once, from inside
// process(), wait(), call(), run() or the handle's destructor (with BROKER_ECANCELED), and destroyed after that call.
// If it failed, and in a forked process when the handle is renewed or destroyed there, it is destroyed uncalled.
// A callable may use its client and destroy it. No exception crosses C: the first one that leaves a callable is kept
// and thrown by the process(), wait() or run() in which, or after which, it happened; call() returns its own outcome
// and leaves it for them, since a reply must not be lost over another request's callback. A program whose client is
// driven by an adapter asks rethrow(). What leaves another callable before that is dropped.
//
// License: MIT OR Apache-2.0.
#ifndef BROKER_HPP
#define BROKER_HPP

#include "broker/request.hpp"

static_assert(BROKER_VERSION_HEX >= 0x00010000, "broker.hpp needs the broker.h it was installed with");

namespace broker {

/// Settings by name, as broker_config_t: one for any number of loops and clients, which copy it.
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

/// What a subscription brings.
struct message {
    /// Not a message: the subscription is in force. The second time, messages may have been missed in between.
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
    broker_req_t id = 0;

protected:
    bool is_last(int status, reply_view view) const noexcept override { return status < 0 || view.is_error(); }
};

template <class F> class subscriber final : public subscribed {
public:
    subscriber(std::shared_ptr<hub> owner, F&& callable) : subscribed(std::move(owner)), call_(std::move(callable)) {}

protected:
    void run(int status, reply_view view) override {
        auto got = outcome<reply_view>(owner(), status, view);
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

/// A subscription; ends with the object, or before it when its callable gets a failure.
class subscription {
public:
    subscription() noexcept = default;
    explicit subscription(detail::subscribed* held) noexcept : held_(held) {}
    subscription(subscription&& other) noexcept : held_(std::exchange(other.held_, nullptr)) {}
    subscription& operator=(subscription&& other) noexcept {
        subscription(std::move(other)).swap(*this);
        return *this;
    }
    ~subscription() { unsubscribe(); }

    /// Whether its callable may still be called.
    bool active() const noexcept { return held_ && !held_->ended(); }
    /// Its callable is not called again, and destroyed (when it returns, if it is what is running).
    void unsubscribe() noexcept {
        detail::subscribed* const held = std::exchange(held_, nullptr);
        if (!held) return;
        // If C says that it is over, the last call is yet to come.
        if (broker_client_cancel(held->owner().client, held->id) == BROKER_OK) held->end();
        held->drop();
        held->settle();
    }
    void swap(subscription& other) noexcept { std::swap(held_, other.held_); }

private:
    detail::subscribed* held_ = nullptr;
};

class session;

/// A client of a broker, or of Redis itself: broker_client_t.
class client : public detail::calling<client> {
public:
    /// `endpoint` as in broker_client_new(); an empty one is BROKER_ENDPOINT's.
    static result<client> open(const std::string& endpoint, const config& settings = {}) {
        char words[256] = "";
        client made(std::make_shared<detail::hub>());
        const char* const url = endpoint.empty() ? nullptr : endpoint.c_str();
        const int code = broker_client_new(&made.hub_->client, url, settings.get(), words, sizeof words);
        if (code < 0) return detail::failure_of(code, words);
        return made;
    }
#if defined(__cpp_exceptions)
    explicit client(const std::string& endpoint = {}, const config& settings = {})
        : client(open(endpoint, settings).value()) {}
#endif
    client(client&& other) noexcept = default;
    client& operator=(client&& other) noexcept {
        client(std::move(other)).hub_.swap(hub_);
        return *this;
    }
    ~client() {
        if (!hub_) return;
        broker_client_t* const raw = hub_->client;
        if (broker_client_connected(raw) == BROKER_EFORKED) hub_->release();
        broker_client_on_push(raw, nullptr, nullptr);
        broker_client_on_state(raw, nullptr, nullptr);
        hub_->client = nullptr;
        broker_client_free(raw);
    }

    /// In a forked process: makes the client usable again. What was pending belongs to the parent; its callables are
    /// destroyed uncalled here, and subscriptions are over.
    result<void> try_after_fork() {
        if (broker_client_connected(hub_->client) == BROKER_EFORKED) hub_->release();
        return hub_->done(broker_client_after_fork(hub_->client));
    }
    /// One step that never waits; how many callbacks ran. BROKER_ESTATE if one of them destroyed the client.
    result<int> try_process() {
        const auto keep = hub_;
        return counted(*keep, broker_client_process(keep->client, 0));
    }
    /// The same, but waits for something to happen: up to `timeout`, or for as long as it takes.
    result<int> try_wait(milliseconds timeout) {
        const auto keep = hub_;
        return counted(*keep, broker_client_process(keep->client, detail::clamp<int>(timeout)));
    }
    result<int> try_wait() {
        const auto keep = hub_;
        return counted(*keep, broker_client_process(keep->client, -1));
    }

    /// Subscribes to a channel; `callable` takes a result<message>, and after a failure nothing more.
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
    /// An optimistic transaction: watches `keys` (a text or a range), lets `prepare(session&, transaction&)` read on
    /// the session and fill the transaction, executes it, and all that again if a key changed meanwhile; at most
    /// `attempts` times, then it is a `conflict`. R is what EXEC's reply becomes.
    template <class R = reply, class Keys, class F>
    result<R> try_optimistic(const Keys& keys, F&& prepare, int attempts = 100);

#if defined(__cpp_exceptions)
    void after_fork() { try_after_fork().value(); }
    int process() { return thrown([&] { return try_process(); }); }
    int wait(milliseconds timeout) { return thrown([&] { return try_wait(timeout); }); }
    int wait() { return thrown([&] { return try_wait(); }); }
    template <class F> subscription subscribe(std::string_view channel, F callable) {
        return try_subscribe(channel, std::move(callable)).value();
    }
    template <class F> subscription psubscribe(std::string_view pattern, F callable) {
        return try_psubscribe(pattern, std::move(callable)).value();
    }
    template <class F> subscription ssubscribe(std::string_view channel, F callable) {
        return try_ssubscribe(channel, std::move(callable)).value();
    }
    template <class R = reply, class Keys, class F> R optimistic(const Keys& keys, F&& prepare, int attempts = 100) {
        return detail::take(try_optimistic<R>(keys, std::forward<F>(prepare), attempts));
    }
#endif

    /// `callable`, a copyable one, takes a reply_view: every push that belongs to no subscription.
    template <class F> int on_push(F callable) {
        hub_->on_push = std::make_shared<std::function<void(reply_view)>>(std::move(callable));
        return broker_client_on_push(hub_->client, pushed, hub_.get());
    }
    /// `callable`, a copyable one, takes (bool connected, int reason).
    template <class F> int on_state(F callable) {
        hub_->on_state = std::make_shared<std::function<void(bool, int)>>(std::move(callable));
        return broker_client_on_state(hub_->client, stated, hub_.get());
    }
    bool connected() const noexcept { return broker_client_connected(hub_->client) == 1; }
    int flush() noexcept { return broker_client_flush(hub_->client); }
    /// [any thread]
    int wakeup() noexcept { return broker_client_wakeup(hub_->client); }
    int fd() const noexcept { return broker_client_fd(hub_->client); }
    int timeout() const noexcept { return broker_client_timeout(hub_->client); }
    /// For functions of broker.h and the adapters; not to be freed.
    broker_client_t* get() const noexcept { return hub_->client; }

private:
    friend class detail::submitting<client>;
    friend class detail::calling<client>;
    friend class session;
    using calling::calling;

    int send(const command& what, std::uint32_t limit, broker_req_t* id, detail::box* to) noexcept {
        broker_client_t* const raw = hub_->client;
        const auto cb = detail::box::on_client;
        if (what.block()) return broker_client_submit_transaction(raw, what.block()->get(), limit, id, cb, to);
        return broker_client_submit(raw, what.argc(), what.argv(), what.argvlen(), limit, id, cb, to);
    }
    int ask(const command& what, std::uint32_t limit, broker_reply_t** out) noexcept {
        broker_client_t* const raw = hub_->client;
        if (what.block()) return broker_client_call_transaction(raw, what.block()->get(), limit, out);
        return broker_client_call(raw, what.argc(), what.argv(), what.argvlen(), limit, out);
    }
    template <class F> result<subscription> add(int kind, std::string_view name, F&& callable) {
        static_assert(std::is_invocable_v<F&, result<message>>, "the callable takes a broker::result<broker::message>");
        auto* const to = new detail::subscriber<F>(hub_, std::move(callable));
        const char* const text = name.data() ? name.data() : "";
        auto done = hub_->done(broker_client_subscribe(hub_->client, kind, text, name.size(), &to->id, detail::box::on_client,
                                                       static_cast<detail::box*>(to)));
        if (!done.ok()) to->end();
        subscription made(to);
        if (!done.ok()) return *done.fault();
        return made;
    }
    static result<int> counted(const detail::hub& from, int code) {
        if (code < 0) return from.why(code);
        return code;
    }
#if defined(__cpp_exceptions)
    template <class F> int thrown(F&& step) {
        const auto keep = hub_;
        const result<int> ran = step();
        keep->rethrow();
        return ran.value();
    }
#endif
    /// The callable may set another one in its place, or destroy the client: both stay until it returns.
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

/// A connection of its own within a client: broker_client_t. May outlive the client, and is then of no more use.
class session : public detail::calling<session> {
public:
    static result<session> open(client& of) {
        session made(of.hub_);
        const int code = broker_client_session(&made.raw_, of.get());
        if (code < 0) return of.hub_->why(code);
        return made;
    }
#if defined(__cpp_exceptions)
    explicit session(client& of) : session(open(of).value()) {}
    template <class... A> void watch(const A&... keys) { try_watch(keys...).value(); }
#endif
    session(session&& other) noexcept
        : calling(std::move(other)), raw_(std::exchange(other.raw_, nullptr)) {}
    session& operator=(session&& other) noexcept {
        session taken(std::move(other));
        std::swap(raw_, taken.raw_);
        hub_.swap(taken.hub_);
        return *this;
    }
    ~session() { broker_client_free(raw_); }

    /// WATCH: the next transaction on this session replies NIL (ask for a std::optional) if one of them has changed.
    template <class... A> result<void> try_watch(const A&... keys) { return try_call<void>("WATCH", keys...); }
    broker_client_t* get() const noexcept { return raw_; }

private:
    friend class detail::submitting<session>;
    friend class detail::calling<session>;
    using calling::calling;

    int send(const command& what, std::uint32_t limit, broker_req_t* id, detail::box* to) noexcept {
        const auto cb = detail::box::on_client;
        if (what.block()) return broker_client_submit_transaction(raw_, what.block()->get(), limit, id, cb, to);
        return broker_client_submit(raw_, what.argc(), what.argv(), what.argvlen(), limit, id, cb, to);
    }
    int ask(const command& what, std::uint32_t limit, broker_reply_t** out) noexcept {
        if (what.block()) return broker_client_call_transaction(raw_, what.block()->get(), limit, out);
        return broker_client_call(raw_, what.argc(), what.argv(), what.argvlen(), limit, out);
    }
    broker_client_t* raw_ = nullptr;
};

template <class R, class Keys, class F>
result<R> client::try_optimistic(const Keys& keys, F&& prepare, int attempts) {
    auto opened = session::open(*this);
    if (!opened.ok()) return *opened.fault();
    session& own = opened.value();
    for (; attempts > 0; --attempts) {
        const auto watched = own.try_watch(keys);
        if (!watched.ok()) return *watched.fault();
        transaction block;
        std::invoke(prepare, own, block);
        auto done = own.try_call<std::optional<R>>(block);
        if (!done.ok()) return *done.fault();
        if (done.value()) return std::move(*done.value());
    }
    return failure{conflict, "the watched keys were changed by others at every attempt"};
}

/// The broker itself, embedded: broker_loop_t. Its own requests go through submit() and its kin.
class loop : public detail::submitting<loop> {
public:
    static result<loop> open(const config& settings) {
        char words[256] = "";
        loop made(std::make_shared<detail::hub>());
        const int code = broker_loop_new(&made.hub_->loop, settings.get(), words, sizeof words);
        if (code < 0) return detail::failure_of(code, words);
        return made;
    }
#if defined(__cpp_exceptions)
    explicit loop(const config& settings) : loop(open(settings).value()) {}
#endif
    loop(loop&& other) noexcept = default;
    loop& operator=(loop&& other) noexcept {
        loop(std::move(other)).hub_.swap(hub_);
        return *this;
    }
    /// Not from one of its callables: C cannot close a loop there, and the process ends.
    ~loop() {
        if (!hub_) return;
        release_if_forked();
        if (broker_loop_free(hub_->loop) == BROKER_EREENTRANT) std::abort();
    }

    /// Runs in a mode of broker_loop_run(); whether there is work to come.
    result<bool> try_run(int mode = BROKER_RUN_DEFAULT) {
        const int code = broker_loop_run(hub_->loop, mode);
        if (code < 0) return hub_->why(code);
        return code > 0;
    }
    result<void> try_drain() { return hub_->done(broker_loop_drain(hub_->loop, -1)); }
    result<void> try_drain(milliseconds timeout) {
        return hub_->done(broker_loop_drain(hub_->loop, detail::clamp<int>(timeout)));
    }
    result<void> try_reload(const config& settings) {
        return hub_->done(broker_loop_reload(hub_->loop, settings.get()));
    }
    result<std::string> try_endpoint(std::size_t i = 0) const {
        const int len = broker_loop_endpoint(hub_->loop, i, nullptr, 0);
        if (len < 0) return hub_->why(len);
        std::string url(static_cast<std::size_t>(len) + 1, '\0');
        broker_loop_endpoint(hub_->loop, i, url.data(), url.size());
        url.pop_back();
        return url;
    }
    /// On success the loop owns `fd`.
    result<void> try_adopt_fd(int fd) { return hub_->done(broker_loop_adopt(hub_->loop, fd)); }
    /// In a forked process: closes what was inherited; the loop is then only good for its destructor.
    result<void> try_after_fork() {
        release_if_forked();
        return hub_->done(broker_loop_after_fork(hub_->loop));
    }
    result<std::uint64_t> try_stat(const std::string& name) const {
        std::uint64_t value = 0;
        const int code = broker_loop_stat(hub_->loop, name.c_str(), &value);
        if (code < 0) return hub_->why(code);
        return value;
    }
#if defined(__cpp_exceptions)
    bool run(int mode = BROKER_RUN_DEFAULT) {
        const result<bool> more = try_run(mode);
        hub_->rethrow();
        return more.value();
    }
    void drain() { try_drain().value(); }
    void drain(milliseconds timeout) { try_drain(timeout).value(); }
    void reload(const config& settings) { try_reload(settings).value(); }
    std::string endpoint(std::size_t i = 0) const { return try_endpoint(i).value(); }
    void adopt_fd(int fd) { try_adopt_fd(fd).value(); }
    void after_fork() { try_after_fork().value(); }
    std::uint64_t stat(const std::string& name) const { return try_stat(name).value(); }
#endif
    /// [any thread; async-signal-safe]
    int stop() noexcept { return broker_loop_stop(hub_->loop); }
    int fd() const noexcept { return broker_loop_fd(hub_->loop); }
    int timeout() const noexcept { return broker_loop_timeout(hub_->loop); }
    /// For functions of broker.h and the adapters; not to be closed.
    broker_loop_t* get() const noexcept { return hub_->loop; }

private:
    friend class detail::submitting<loop>;
    using submitting::submitting;

    int send(const command& what, std::uint32_t limit, broker_req_t* id, detail::box* to) noexcept {
        broker_loop_t* const raw = hub_->loop;
        const auto cb = detail::box::on_loop;
        if (what.block()) return broker_submit_transaction(raw, what.block()->get(), limit, id, cb, to);
        return broker_submit(raw, what.argc(), what.argv(), what.argvlen(), limit, id, cb, to);
    }
    void release_if_forked() noexcept {
        if (broker_loop_fd(hub_->loop) == BROKER_EFORKED) hub_->release();
    }
};

} // namespace broker

#endif // BROKER_HPP
