// The threads that share a client, for shared_client.hpp, which includes this file. One of the waiting threads, the leader,
// works for all. Owns the pending requests and the C handle within one process; knows no types of replies.
//
// License: MIT OR Apache-2.0.
#ifndef BROKER_CROWD_HPP
#define BROKER_CROWD_HPP

#include "../broker.hpp"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include <pthread.h>

namespace broker {

namespace detail {

class crowd;

/// The words of a command, kept beyond the expression it was created in.
class kept_words {
public:
    void keep(const command& what) {
        bytes_.clear(), argv_.clear();
        argvlen_.assign(what.argvlen(), what.argvlen() + what.argc());
        for (std::size_t i = 0; i < what.argc(); ++i) bytes_.append(what.argv()[i], argvlen_[i]);
        std::size_t at = 0;
        for (const std::size_t len : argvlen_) argv_.push_back(bytes_.data() + at), at += len;
    }
    std::size_t argc() const noexcept { return argv_.size(); }
    const char* const* argv() const noexcept { return argv_.data(); }
    const std::size_t* argvlen() const noexcept { return argvlen_.data(); }

private:
    std::string bytes_;
    std::vector<const char*> argv_;
    std::vector<std::size_t> argvlen_;
};

/// A request of one thread, and where that thread sleeps. Reused; lives as long as its crowd. Guarded by the crowd's lock,
/// except the members below `lock`.
struct ticket {
    using clock = std::chrono::steady_clock;
    using instant = std::optional<clock::time_point>;
    enum class stage { queued, sent, over };
    enum class call { none, over, lead };

    explicit ticket(crowd& in) noexcept : of(&in) {}

    crowd* const of;
    stage at = stage::queued;
    /// The request: borrowed from the thread that waits for it, kept, or a transaction.
    const command* borrowed = nullptr;
    kept_words kept;
    std::optional<transaction> block;
    instant until;
    broker_req_t id = 0;
    /// Its thread sleeps and must be woken.
    bool awaited = false;
    /// No thread will take its outcome.
    bool dropped = false;
    bool canceled = false;
    /// C has not run its callback yet.
    bool in_c = false;

    int status = BROKER_OK;
    reply answer;
    std::string why;

    /// Link in the one list of requests it is in.
    ticket* next = nullptr;
    /// Link in the list of those that sleep or are to be woken.
    ticket* left = nullptr;
    ticket* right = nullptr;
    /// Why it is woken.
    call reason = call::none;

    std::mutex lock;
    std::condition_variable bell;
    call called = call::none;
};

/// Tickets in order of arrival, linked through one of their members.
template <ticket* ticket::*Next> class chain {
public:
    bool empty() const noexcept { return !first_; }
    void push(ticket& last) noexcept {
        last.*Next = nullptr;
        (first_ ? last_->*Next : first_) = &last;
        last_ = &last;
    }
    ticket* pop() noexcept {
        ticket* const one = first_;
        if (one) first_ = one->*Next;
        return one;
    }
    /// Appends all of `more`.
    void append(chain& more) noexcept {
        if (more.empty()) return;
        (first_ ? last_->*Next : first_) = more.first_;
        last_ = std::exchange(more, {}).last_;
    }

private:
    ticket* first_ = nullptr;
    ticket* last_ = nullptr;
};

/// The threads that share a client, within one process. At most one thread leads at a time; only the leader uses the C
/// handle, `done_` and `calls_`.
class crowd {
public:
    using clock = ticket::clock;
    using instant = ticket::instant;

    explicit crowd(broker_client_t* raw) noexcept : raw_(raw), born_(broker_fork_count()) {}
    crowd(const crowd&) = delete;
    crowd& operator=(const crowd&) = delete;
    /// No thread is inside any more.
    ~crowd() { broker_client_free(release()); }

    bool forked() const noexcept { return broker_fork_count() != born_; }
    /// NULL once it was released.
    broker_client_t* raw() const noexcept { return raw_.load(std::memory_order_relaxed); }
    /// Hands it out once, to be freed: later another client may have the same pointer.
    broker_client_t* release() noexcept { return raw_.exchange(nullptr, std::memory_order_relaxed); }
    /// Keeps it if it cannot be destroyed.
    crowd* beneath = nullptr;

    /// Queues a request; `fill` sets what to send and may throw. Returns the code if the request is refused.
    template <class F> int ask(time_limit limit, ticket*& out, F&& fill) {
        if (const int code = refusal()) return code;
        const std::lock_guard<std::mutex> held(lock_);
        if (ended_) return ended_;
        ticket& made = fresh();
        struct unless_queued {
            crowd& of;
            ticket* one;
            ~unless_queued() {
                if (one) of.recycle(*one);
            }
        } kept{*this, &made};
        if (!limit.is_forever()) made.until = clock::now() + milliseconds(limit.ms(1));
        fill(made);
        queued_.push(made);
        kept.one = nullptr;
        ++queued_count_;
        out = &made;
        return BROKER_OK;
    }
    /// Makes the leader, if there is one, send the queued requests.
    void announce() {
        std::unique_lock<std::mutex> held(lock_);
        knock(held);
    }
    bool is_crowded() const {
        const std::lock_guard<std::mutex> held(lock_);
        return queued_count_ >= most_queued;
    }
    bool is_over(const ticket& one) const {
        if (refusal()) return true;
        const std::lock_guard<std::mutex> held(lock_);
        return one.at == ticket::stage::over;
    }
    /// Waits for an outcome until the given time; returns whether it is there. Without a leader it does one step for all,
    /// even if the time has passed. Do not call if refusal() returns a code.
    bool wait(ticket& mine, instant until) {
        if (refusal()) return false;
        const uncancelable all_the_time;
        std::unique_lock<std::mutex> held(lock_);
        while (mine.at != ticket::stage::over) {
            if (led_ && has_passed(until)) return false;
            const ticket::call woken = led_ ? sleep(mine, until, held) : ticket::call::lead;
            if (woken == ticket::call::over) return true;
            if (woken == ticket::call::none) continue;
            if (!std::exchange(led_, true)) let_others(held);
            return lead(mine, until, held);
        }
        return true;
    }
    /// Ends a ticket, after its outcome was taken or instead of taking it.
    void drop(ticket& one) {
        if (refusal() == BROKER_EFORKED) return;
        // Destroyed after the lock is released: a large one takes long.
        reply answer;
        std::unique_lock<std::mutex> held(lock_);
        one.dropped = true;
        if (one.at == ticket::stage::over) answer = std::move(one.answer);
        if (one.at == ticket::stage::over && !one.in_c) return recycle(one);
        if (one.at != ticket::stage::sent) return;
        to_cancel_ = true;
        if (!led_) return cancel_dropped();
        knock(held);
    }
    /// All waiting threads get BROKER_ECANCELED.
    void close() {
        if (forked()) return;
        const uncancelable all_the_time;
        std::unique_lock<std::mutex> held(lock_);
        if (std::exchange(ended_, BROKER_ESTATE)) return;
        closing_ = true;
        if (led_) return knock(held, true);
        led_ = true;
        leader_ = std::this_thread::get_id();
        shut(held);
        step_down(held);
    }
    /// The code if this thread or this process must not send requests.
    int refusal() const noexcept {
        if (forked()) return BROKER_EFORKED;
        return is_leader() ? BROKER_EREENTRANT : BROKER_OK;
    }

private:
    /// Above this number of futures without a waiting thread, submitting waits.
    static constexpr std::size_t most_queued = 16384;
    using requests_in_order = chain<&ticket::next>;
    using sleepers = chain<&ticket::right>;
    /// How many requests that found no room are retried in one step.
    static constexpr int most_retried = 64;

    struct uncancelable {
        int before = 0;
        uncancelable() noexcept { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before); }
        uncancelable(const uncancelable&) = delete;
        ~uncancelable() { pthread_setcancelstate(before, nullptr); }
    };

    bool is_leader() const noexcept { return leader_.load(std::memory_order_relaxed) == std::this_thread::get_id(); }
    static bool has_passed(const instant& until) { return until && clock::now() >= *until; }

    ticket& fresh() {
        if (free_.empty()) return *all_.emplace_back(std::make_unique<ticket>(*this));
        ticket& one = *free_.pop();
        one.at = ticket::stage::queued;
        one.borrowed = nullptr;
        one.until.reset();
        one.dropped = one.canceled = false;
        one.status = BROKER_OK;
        one.called = ticket::call::none;
        return one;
    }
    void recycle(ticket& one) {
        one.answer = reply();
        one.why.clear();
        one.block.reset();
        free_.push(one);
    }

    // ---- waiting threads ----

    /// Wakes a leader that waits for replies, once for all requests queued since it began to wait.
    void knock(std::unique_lock<std::mutex>& held, bool anyway = false) {
        if (!asleep_ || (knocked_ && !anyway)) return;
        knocked_ = true;
        held.unlock();
        broker_client_wakeup(raw());
    }
    /// Sleeps until its outcome is there, until it is chosen to lead, or until the time. Returns without the lock if it is
    /// complete.
    ticket::call sleep(ticket& mine, const instant& until, std::unique_lock<std::mutex>& held) {
        link(mine);
        if (mine.at == ticket::stage::queued) knock(held);
        if (held) held.unlock();
        if (!is_called(mine, until)) {
            held.lock();
            if (mine.awaited) return unlink(mine), ticket::call::none;
            // Another thread is about to wake it.
            held.unlock();
            is_called(mine, {});
        }
        const ticket::call reason = std::exchange(mine.called, ticket::call::none);
        if (reason == ticket::call::lead) held.lock();
        return reason;
    }
    static bool is_called(ticket& mine, const instant& until) {
        std::unique_lock<std::mutex> asleep(mine.lock);
        const auto called = [&mine] { return mine.called != ticket::call::none; };
        if (until) return mine.bell.wait_until(asleep, *until, called);
        mine.bell.wait(asleep, called);
        return true;
    }
    void link(ticket& one) noexcept {
        one.awaited = true;
        one.right = nullptr;
        one.left = last_;
        (last_ ? last_->right : first_) = &one;
        last_ = &one;
    }
    void unlink(ticket& one) noexcept {
        one.awaited = false;
        (one.left ? one.left->right : first_) = one.right;
        (one.right ? one.right->left : last_) = one.left;
    }
    /// To be woken after the lock is released.
    void summon(ticket& one, ticket::call reason) noexcept {
        unlink(one);
        one.reason = reason;
        ++summoned_;
        calls_.push(one);
    }
    static void call(sleepers calls) {
        for (ticket* one = calls.pop(); one;) {
            ticket& to = *one;
            one = calls.pop();
            // From here on another thread may use it.
            const std::lock_guard<std::mutex> awake(to.lock);
            to.called = to.reason;
            to.bell.notify_one();
        }
    }

    // ---- the leader ----

    /// Works for all until its own outcome is there or until the time; returns which, without the lock.
    bool lead(ticket& mine, const instant& until, std::unique_lock<std::mutex>& held) {
        leader_ = std::this_thread::get_id();
        do {
            if (closing_) {
                shut(held);
                break;
            }
            send();
            asleep_ = true;
            knocked_ = false;
            const int ms = done_.empty() && untried_.empty() ? patience(until) : 0;
            held.unlock();
            const int code = broker_client_process(raw(), ms);
            // This thread's log callback has forked: it is the only thread now, and others may have held the lock.
            if (forked()) return give_up(mine), true;
            held.lock();
            asleep_ = false;
            settle();
            if (closing_) shut(held);
            if (code < 0) fail(code);
            if (mine.at != ticket::stage::over) let_others(held);
        } while (mine.at != ticket::stage::over && !has_passed(until));
        const bool over = mine.at == ticket::stage::over;
        step_down(held);
        return over;
    }
    /// Wakes the threads whose outcome is there, and gives them time to submit more, so that requests of many threads are
    /// sent in one write.
    void let_others(std::unique_lock<std::mutex>& held) {
        const sleepers calls = std::exchange(calls_, {});
        summoned_ = 0;
        held.unlock();
        call(calls);
        std::this_thread::yield();
        held.lock();
    }
    /// Passes the lead to the next waiting thread, if any. It is woken halfway: requests of the first half are in progress
    /// while the second half begins to run.
    void step_down(std::unique_lock<std::mutex>& held) {
        if (closing_) shut(held);
        sleepers early;
        for (std::size_t half = summoned_ / 2; half > 0; --half) early.push(*calls_.pop());
        const sleepers late = std::exchange(calls_, {});
        led_ = first_ != nullptr;
        if (led_) summon(*first_, ticket::call::lead);
        const sleepers next = std::exchange(calls_, {});
        summoned_ = 0;
        leader_ = std::thread::id();
        held.unlock();
        call(early);
        call(next);
        call(late);
    }
    void give_up(ticket& mine) noexcept {
        mine.status = BROKER_EFORKED;
        mine.at = ticket::stage::over;
        leader_ = std::thread::id();
    }
    /// Passes all queued requests to C.
    void send() {
        if (to_cancel_) cancel_dropped();
        // Requests that stall again go behind all untried ones: often there is room for only one kind of request.
        if (std::exchange(room_, false)) untried_.append(stalled_);
        for (int i = 0; i < most_retried && !untried_.empty(); ++i) send_one(*untried_.pop());
        while (ticket* one = queued_.pop()) {
            --queued_count_;
            send_one(*one);
        }
    }
    void send_one(ticket& one) {
        if (one.dropped) return recycle(one);
        int ms = BROKER_FOREVER;
        if (one.until) {
            ms = time_limit(*one.until - clock::now()).ms(0);
            if (ms == 0) return finish(one, BROKER_ETIMEDOUT);
        }
        const int code = submit(one, ms);
        if (code == BROKER_OK) {
            one.at = ticket::stage::sent;
            one.in_c = true;
            ++sent_;
        } else if (code == BROKER_EAGAIN && sent_ > 0) {
            stalled_.push(one);
        } else {
            finish(one, code);
        }
    }
    int submit(ticket& one, int ms) noexcept {
        const transaction* const block = one.borrowed ? one.borrowed->block() : one.block ? &*one.block : nullptr;
        if (block) return broker_client_submit_transaction(raw(), block->get(), ms, &one.id, arrived, &one);
        const auto words = [&](const auto& of) {
            return broker_client_submit(raw(), of.argc(), of.argv(), of.argvlen(), ms, &one.id, arrived, &one);
        };
        return one.borrowed ? words(*one.borrowed) : words(one.kept);
    }
    static void arrived(broker_client_t*, int status, const broker_reply_t* raw, void* data) noexcept {
        ticket& one = *static_cast<ticket*>(data);
        // Requests ended by fail() may be taken by now.
        if (one.at == ticket::stage::over) return one.of->done_.push(one);
        one.answer = reply(reply_view(raw));
        one.of->finish(one, status);
    }
    void finish(ticket& one, int status) {
        const char* const words = is_worded(status) ? broker_client_error(raw()) : nullptr;
        if (words) one.why = words;
        one.status = status;
        done_.push(one);
    }
    /// Outcomes that C has delivered since.
    void settle() {
        while (ticket* one = done_.pop()) {
            if (std::exchange(one->in_c, false)) --sent_, room_ = true;
            one->at = ticket::stage::over;
            if (one->dropped) {
                recycle(*one);
            } else if (one->awaited) {
                summon(*one, ticket::call::over);
            }
        }
    }
    /// How long it may wait for replies: C does not know the time limits of requests it had no room for.
    int patience(instant until) {
        requests_in_order stalled = std::exchange(stalled_, {});
        while (ticket* one = stalled.pop()) {
            if (one->until && (!until || *one->until < *until)) until = one->until;
            has_passed(one->until) ? finish(*one, BROKER_ETIMEDOUT) : stalled_.push(*one);
        }
        return until ? time_limit(*until - clock::now()).ms(0) : BROKER_FOREVER;
    }
    void cancel_dropped() {
        to_cancel_ = false;
        for (const auto& one : all_) {
            if (one->at != ticket::stage::sent || !one->dropped || std::exchange(one->canceled, true)) continue;
            broker_client_cancel(raw(), one->id);
        }
    }
    void shut(std::unique_lock<std::mutex>& held) {
        closing_ = false;
        held.unlock();
        broker_client_free(release());
        held.lock();
        fail(BROKER_ECANCELED);
    }
    /// Ends all pending requests when C does not.
    void fail(int code) {
        if (code == BROKER_EPANIC || code == BROKER_ESTATE) ended_ = code;
        while (ticket* one = queued_.pop()) finish(*one, code);
        while (ticket* one = untried_.pop()) finish(*one, code);
        while (ticket* one = stalled_.pop()) finish(*one, code);
        queued_count_ = 0;
        settle();
        for (const auto& one : all_) {
            if (one->at != ticket::stage::sent) continue;
            one->at = ticket::stage::over;
            one->status = code;
            if (one->awaited) summon(*one, ticket::call::over);
        }
    }

    std::atomic<broker_client_t*> raw_;
    const unsigned born_;
    mutable std::mutex lock_;
    /// Whether a thread leads or has been chosen to.
    bool led_ = false;
    /// Whether the leader must be woken to see queued requests, and whether it has been.
    bool asleep_ = false;
    bool knocked_ = false;
    bool closing_ = false;
    bool to_cancel_ = false;
    /// Whether there may be room again for stalled requests.
    bool room_ = false;
    /// The code of every request once the client has ended.
    int ended_ = BROKER_OK;
    std::size_t sent_ = 0;
    /// The number of elements in `calls_`.
    std::size_t summoned_ = 0;
    std::size_t queued_count_ = 0;
    std::atomic<std::thread::id> leader_{};
    requests_in_order queued_;
    /// Requests for which there was no room.
    requests_in_order stalled_;
    /// Those of them not retried since there may be room again.
    requests_in_order untried_;
    requests_in_order done_;
    requests_in_order free_;
    sleepers calls_;
    ticket* first_ = nullptr;
    ticket* last_ = nullptr;
    std::vector<std::unique_ptr<ticket>> all_;
};

} // namespace detail

} // namespace broker

#endif // BROKER_CROWD_HPP
