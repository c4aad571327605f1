/*
 * asio.hpp: a broker_client_t or broker_loop_t in an io_context, of Boost.Asio or of standalone Asio (1.18 or newer,
 * Boost 1.74). Owns the descriptor and the timer that watch it, never the client or the loop. BROKER_ASIO_BOOST or
 * BROKER_ASIO_STANDALONE select one of them; without either, standalone Asio is used if ASIO_STANDALONE is defined or
 * Boost.Asio is not installed, otherwise Boost.Asio. Requires exceptions: not for -fno-exceptions.
 *
 *     broker_asio_t *adapter;
 *     broker_asio_attach_client(&adapter, context.get_executor(), client);
 *     context.run();
 *     broker_asio_detach(adapter);             // before or after broker_client_free(), before the io_context ends
 *
 * Callbacks run inside run(), one step of the handle at a time, with the context's other handlers in between, so that
 * neither starves the other. If several threads run the context, attach to a strand, and use the client and the adapter
 * only on that strand. An attached handle keeps run() from returning until it is detached; a broker_loop_t also until it
 * has drained.
 *
 * In a forked process an adapter has ended. A worker does the following, in any order: notify_fork(fork_child) on the
 * context, as Asio requires, before it runs the context, starts anything else on it or destroys it;
 * broker_client_after_fork() and then broker_asio_attach_client(); broker_asio_detach() of the inherited adapter. None of
 * it affects the parent's context. A handle that follows a fork (broker_client_follow_fork()) is detached and attached in
 * the same way.
 *
 * License: MIT OR Apache-2.0.
 */
#ifndef BROKER_ADAPTERS_ASIO_HPP
#define BROKER_ADAPTERS_ASIO_HPP

#include "handle.h"

#include <chrono>
#include <memory>
#include <system_error>
#include <utility>

#if !defined(BROKER_ASIO_STANDALONE) && !defined(BROKER_ASIO_BOOST)
#if defined(ASIO_STANDALONE)
#define BROKER_ASIO_STANDALONE
#elif defined(__has_include)
#if __has_include(<boost/asio/io_context.hpp>)
#define BROKER_ASIO_BOOST
#else
#define BROKER_ASIO_STANDALONE
#endif
#else
#define BROKER_ASIO_BOOST
#endif
#endif

#if defined(BROKER_ASIO_STANDALONE)
#include <asio/any_io_executor.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
namespace broker_asio = ::asio;
typedef std::error_code broker_asio_error_t;
#else
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
namespace broker_asio = ::boost::asio;
typedef boost::system::error_code broker_asio_error_t;
#endif

/* An attached client or loop; its members are private. Lives until Asio has completed the operations it started. */
class broker_asio_t : public std::enable_shared_from_this<broker_asio_t> {
public:
    broker_asio_t(const broker_asio_t &) = delete;
    broker_asio_t &operator=(const broker_asio_t &) = delete;

    explicit broker_asio_t(const broker_asio::any_io_executor &executor) : descriptor_(executor), timer_(executor) {
    }

    static int attach(broker_asio_t **out, const broker_asio::any_io_executor &executor, broker_client_t *client,
                      broker_loop_t *loop, broker_ended_cb ended, void *data) {
        std::shared_ptr<broker_asio_t> made;
        *out = nullptr;
        try {
            made = std::make_shared<broker_asio_t>(executor);
            const int code = broker_adapter_open(&made->base_, client, loop, ended, data);
            if (code < 0) {
                return code;
            }
            made->open_ = true;
            made->self_ = made;
            broker_asio::post(executor, [made] { made->start(); });
        } catch (...) {
            if (made) {
                made->self_.reset();
            }
            errno = ENOMEM;
            return BROKER_ESYS;
        }
        *out = made.get();
        return BROKER_OK;
    }

    void detach() {
        const std::shared_ptr<broker_asio_t> here = std::move(self_);
        stop();
        close();
    }

    ~broker_asio_t() {
        close();
    }

private:
    /* Not in attach: the context may still be the parent process's then, and Asio registers with epoll at once. */
    void start() {
        broker_asio_error_t failed;
        if (!self_) {
            return;
        }
        broker_adapter_touch(&base_);
        descriptor_.assign(base_.fd, failed);
        if (failed) {
            errno = failed.value();
            end(BROKER_ESYS);
            return;
        }
        watch();
        arm();
    }

    void watch() {
        auto here = shared_from_this();
        descriptor_.async_wait(broker_asio::posix::stream_descriptor::wait_read,
                               [here](const broker_asio_error_t &failed) { here->on_readable(failed); });
    }

    void arm() {
        const int timeout = broker_adapter_timeout(&base_);
        if (timeout < 0) {
            timer_.cancel();
            return;
        }
        auto here = shared_from_this();
        timer_.expires_after(std::chrono::milliseconds(timeout));
        timer_.async_wait([here](const broker_asio_error_t &failed) {
            if (!failed) {
                here->step();
            }
        });
    }

    void on_readable(const broker_asio_error_t &failed) {
        if (failed == broker_asio::error::operation_aborted) {
            return;
        }
        step();
        if (self_ && !base_.ended) {
            watch();
        }
    }

    /* A callback may detach. */
    void step() {
        if (!self_ || base_.ended) {
            return;
        }
        const int status = broker_adapter_step(&base_);
        if (!self_ || base_.ended) {
            return;
        }
        if (status > 0) {
            arm();
        } else {
            end(status);
        }
    }

    void end(int status) {
        stop();
        broker_adapter_end(&base_, status);
    }

    /* Asio releases the descriptor, which it does not own. */
    void stop() {
        broker_adapter_touch(&base_);
        timer_.cancel();
        if (descriptor_.is_open()) {
            descriptor_.release();
        }
    }

    void close() {
        if (open_) {
            open_ = false;
            broker_adapter_close(&base_);
        }
    }

    broker_adapter_t base_{};
    bool open_ = false;
    /* Until it is detached. */
    std::shared_ptr<broker_asio_t> self_;
    broker_asio::posix::stream_descriptor descriptor_;
    broker_asio::steady_timer timer_;
};

/*
 * Watches a client on `executor`, that of an io_context or a strand. The caller passes *out to broker_asio_detach(); it is
 * null on failure. Errors of Asio are reported to `ended`, as BROKER_ESYS.
 *
 * Returns the client's code if it is invalid; BROKER_ESYS without descriptors or memory.
 */
inline int broker_asio_attach_client(broker_asio_t **out, const broker_asio::any_io_executor &executor,
                                     broker_client_t *client, broker_ended_cb ended = nullptr, void *data = nullptr) {
    return broker_asio_t::attach(out, executor, client, nullptr, ended, data);
}

/* The same for an embedded broker. */
inline int broker_asio_attach_loop(broker_asio_t **out, const broker_asio::any_io_executor &executor,
                                   broker_loop_t *loop, broker_ended_cb ended = nullptr, void *data = nullptr) {
    return broker_asio_t::attach(out, executor, nullptr, loop, ended, data);
}

/*
 * Stops watching and releases the adapter. Call it once, on the executor, also from callbacks, before or after the
 * handle is freed. Null is allowed.
 */
inline void broker_asio_detach(broker_asio_t *adapter) {
    if (adapter) {
        adapter->detach();
    }
}

#endif /* BROKER_ADAPTERS_ASIO_HPP */
