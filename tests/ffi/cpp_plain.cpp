// broker.hpp without exceptions and RTTI: every outcome is a result. Also built with them, where it must do the same.
#include "cpp_check.hpp"

#include <map>
#include <memory>
#if defined(__cpp_impl_coroutine)
#include <span>
#endif
#include <thread>
#include <vector>

static void calls_give_values_and_codes() {
    broker::client client = connect();
    OK(client.try_call<void>("SET", "answer", 42));
    SAME(OK(client.try_call<int>("GET", "answer")), 42);
    SAME(OK(client.try_call<std::string>("GET", "answer")), "42");
    CHECK(!OK(client.try_call<std::optional<int>>("GET", "absent")));
    CODE(client.try_call<int>("GET", "absent"), broker::wrong_type);
    const auto refused = client.try_call<int>("LPUSH", "answer", "x");
    CODE(refused, broker::error_reply);
    SAME(refused.fault()->word(), "WRONGTYPE");
    CHECK(refused.message().rfind("WRONGTYPE Operation", 0) == 0);
    const auto unsupported = client.try_call("SELECT", 3);
    CODE(unsupported, BROKER_EUNSUPPORTED);
    CHECK(unsupported.message().size() > std::string_view(broker_strerror(BROKER_EUNSUPPORTED)).size());
    CHECK(unsupported.fault()->word().empty());
    CODE(client.try_call({"BLPOP", "nobody", 0}, std::chrono::milliseconds(30)), BROKER_ETIMEDOUT);
}

static void time_limits_are_durations() {
    using namespace std::chrono;
    SAME(broker::forever.ms(1), BROKER_FOREVER);
    SAME(broker::time_limit().ms(0), BROKER_FOREVER);
    SAME(broker::time_limit(milliseconds(-1)).ms(1), 1);
    SAME(broker::time_limit(seconds(0)).ms(0), 0);
    SAME(broker::time_limit(nanoseconds(1)).ms(0), 1);
    SAME(broker::time_limit(microseconds(1001)).ms(1), 2);
    SAME(broker::time_limit(duration<double>(0.25)).ms(1), 250);
    SAME(broker::time_limit(hours::max()).ms(1), INT_MAX);
    SAME(broker::time_limit(nanoseconds::max()).ms(1), INT_MAX);
    SAME(broker::time_limit(hours::min()).ms(0), 0);
    broker::client client = connect();
    // One that has passed is not one that never does.
    for (const auto passed : {milliseconds(-5), milliseconds(-1), milliseconds(0)})
        CODE(client.try_call({"BLPOP", "nobody", 0}, passed), BROKER_ETIMEDOUT);
    SAME(OK(client.try_call<std::string>({"PING"}, broker::forever)), "PONG");
    OK(client.try_wait(milliseconds(-1)));
    OK(client.try_wait(seconds(0)));
}

static void words_are_texts_numbers_and_ranges() {
    broker::client client = connect();
    const std::vector<std::string> keys{"r1", "r2"};
    const std::vector<std::pair<std::string, int>> pairs{{"r1", 1}, {"r2", -2}};
    OK(client.try_call<void>("MSET", pairs));
    SAME(OK(client.try_call<std::vector<int>>("MGET", keys))[1], -2);
    const std::vector<std::string> argv{"MGET", "r1", "r2"};
    SAME(OK(client.try_call<std::vector<int>>(argv)).size(), 2);
    SAME(OK(client.try_call<std::vector<int>>(argv, std::chrono::seconds(9))).size(), 2);
    const broker::command named{"DEL", keys};
    SAME(OK(client.try_call<int>(named)), 2);
    OK(client.try_call<void>("SET", "bytes", std::string_view("a\0b\r\n", 5)));
    SAME(OK(client.try_call<int>("STRLEN", "bytes")), 5);
    OK(client.try_call<void>("SET", "empty", std::string_view()));
    SAME(OK(client.try_call<std::string>("GET", "empty")), "");
    OK(client.try_call<void>("SET", "float", 0.1));
    SAME(OK(client.try_call<std::string>("GET", "float")), "0.1");
    SAME(OK(client.try_call<std::string>("ECHO", std::numeric_limits<std::int64_t>::min())), "-9223372036854775808");
    SAME(OK(client.try_call<std::string>("ECHO", std::numeric_limits<std::uint64_t>::max())), "18446744073709551615");
    SAME(OK(client.try_call<std::string>("ECHO", 1e300)), "1e+300");
    SAME(OK(client.try_call<std::string>("ECHO", 0.1F)), "0.1");
}

static void words_are_arrays_of_char_up_to_their_nul() {
    broker::client client = connect();
    const char full[] = {'f', 'u', 'l', 'l'};
    const char buffer[100] = "short";
    const char rows[][2] = {{'a', 'b'}, {'c', '\0'}};
    SAME(OK(client.try_call<std::string>("ECHO", full)), "full");
    SAME(OK(client.try_call<std::string>("ECHO", buffer)), "short");
    SAME(OK(client.try_call<std::string>("ECHO", "a\0b")), "a");
    SAME(OK(client.try_call<std::string>("ECHO", std::string_view("a\0b", 3))), std::string_view("a\0b", 3));
    OK(client.try_call<void>("DEL", "rows"));
    SAME(OK(client.try_call<int>("RPUSH", "rows", rows)), 2);
    SAME(OK(client.try_call<std::vector<std::string>>("LRANGE", "rows", 0, -1))[0], "ab");
}

static void words_are_bytes_tuples_and_maps() {
    broker::client client = connect();
    const std::vector<std::uint8_t> bytes{0, 255, '\r', '\n', 7};
    const std::array<std::byte, 2> pair{std::byte{1}, std::byte{0}};
    const unsigned char raw[] = {'r', 'a', 'w'};
    SAME(OK(client.try_call<int>("DEL", "b", "h")), 0);
    OK(client.try_call<void>("SET", "b", bytes));
    CHECK(OK(client.try_call<std::vector<std::uint8_t>>("GET", "b")) == bytes);
    CHECK(OK(client.try_call<std::vector<std::byte>>("GET", "b"))[1] == std::byte{255});
    SAME(OK(client.try_call<int>("STRLEN", std::vector<std::byte>())), 0);
    OK(client.try_call<void>("HSET", "h", std::map<std::string, std::vector<std::uint8_t>>{{"f", bytes}, {"g", {}}}));
    SAME(OK(client.try_call<int>("HSTRLEN", "h", "f")), 5);
    OK(client.try_call<void>("HSET", "h", std::make_tuple("t", 1, std::string("u"), pair), "raw", raw));
    SAME(OK(client.try_call<int>("HSTRLEN", "h", "u")), 2);
    SAME(OK(client.try_call<std::string>("HGET", "h", "raw")), "raw");
    // What may be left out is left out as a whole.
    std::optional<std::pair<const char*, int>> expiry;
    OK(client.try_call<void>("SET", "b", "x", expiry));
    SAME(OK(client.try_call<std::chrono::seconds>("TTL", "b")).count(), -1);
    expiry.emplace("PX", 100000);
    OK(client.try_call<void>("SET", "b", "x", expiry));
    CHECK(OK(client.try_call<std::chrono::milliseconds>("PTTL", "b")) > std::chrono::seconds(50));
#if defined(__cpp_lib_span)
    OK(client.try_call<void>("SET", "b", std::span(bytes).subspan(1, 2)));
    SAME(OK(client.try_call<std::string>("GET", "b")), "\xff\r");
    OK(client.try_call<void>("SET", "b", std::as_bytes(std::span(raw))));
    SAME(OK(client.try_call<std::string>("GET", "b")), "raw");
    const std::vector<std::string> fields{"raw", "u"};
    SAME(OK(client.try_call<std::vector<std::string>>("HMGET", "h", std::span(fields)))[0], "raw");
#endif
}

static void a_null_text_is_refused() {
    broker::client client = connect();
    const char* const nothing = nullptr;
    token::alive = 0;
    const auto refused = client.try_call("SET", "k", nothing);
    CODE(refused, BROKER_EINVAL);
    CHECK(refused.message().find("NULL") != std::string_view::npos);
    CODE(client.try_call(nothing), BROKER_EINVAL);
    CODE(client.try_call("MGET", std::vector<const char*>{"a", nothing, "b"}), BROKER_EINVAL);
    CODE(client.try_submit({"GET", nothing}, [here = token()](auto) { CHECK(false); }), BROKER_EINVAL);
    CODE(client.try_submit_future("GET", nothing).get(), BROKER_EINVAL);
    broker::transaction block;
    CODE(block.try_add("GET", nothing), BROKER_EINVAL);
    SAME(block.size(), 0);
    SAME(token::alive, 0);
    // An empty one is a text.
    SAME(OK(client.try_call<std::string>("ECHO", std::string_view())), "");
}

static void what_is_posted_runs_once() {
    token::alive = 0;
    std::vector<int> seen;
    {
        broker::client client = connect();
        std::thread other([&] {
            for (int i = 0; i < 3; ++i)
                OK(client.try_post([&seen, i, own = std::make_unique<token>()](int status) {
                    SAME(status, BROKER_OK);
                    seen.push_back(i);
                }));
        });
        while (seen.size() < 3) OK(client.try_wait());
        other.join();
        SAME(token::alive, 0);
        OK(client.try_post([&seen, here = token()](int status) { seen.push_back(status); }));
    }
    SAME(seen.size(), 4);
    for (int i = 0; i < 3; ++i) SAME(seen[static_cast<std::size_t>(i)], i);
    SAME(seen[3], BROKER_ECANCELED);
    SAME(token::alive, 0);
}

static void submitted_callables_come_in_order() {
    broker::client client = connect();
    OK(client.try_call<void>("DEL", "n"));
    std::vector<int> seen;
    for (int i = 0; i < 100; ++i) {
        OK(client.try_submit<int>({"INCR", "n"}, [&seen, own = std::make_unique<int>(i)](broker::result<int> got) {
            SAME(OK(got), *own + 1);
            seen.push_back(*own);
        }));
    }
    CHECK(seen.empty());
    while (seen.size() < 100) OK(client.try_wait());
    for (int i = 0; i < 100; ++i) SAME(seen[static_cast<std::size_t>(i)], i);

    token::alive = 0;
    const auto refused = client.try_submit({"SUBSCRIBE", "x"}, [here = token()](auto) { CHECK(false); });
    CODE(refused, BROKER_EUNSUPPORTED);
    SAME(token::alive, 0);
}

static void transactions_sessions_and_optimism() {
    broker::client client = connect();
    broker::transaction block;
    OK(block.try_add("SET", "t", 1));
    OK(block.try_add("INCRBY", "t", 4));
    CODE(block.try_add("WATCH", "t"), BROKER_EUNSUPPORTED);
    SAME(block.size(), 2);
    const auto both = OK(client.try_call<std::tuple<std::string, int>>(block));
    SAME(std::get<0>(both), "OK");
    SAME(std::get<1>(both), 5);
    OK(block.try_add("LPUSH", "t", "x"));
    CODE((client.try_call<std::tuple<std::string, int, int>>(block)), broker::error_reply);
    SAME(block.size(), 3);
    block = broker::transaction();
    CODE(client.try_call(block), BROKER_EINVAL);

    broker::session session = OK(client.try_open_session());
    OK(session.try_watch("t"));
    OK(client.try_call<void>("SET", "t", "changed"));
    OK(block.try_add("SET", "t", "mine"));
    CHECK(!OK(session.try_call<std::optional<broker::reply>>(block)));
    SAME(OK(client.try_call<std::string>("GET", "t")), "changed");

    int attempts = 0;
    OK(client.try_call<void>("SET", "t", 10));
    const auto raise = [&](broker::session& own, broker::transaction& then) {
        const int now = OK(own.try_call<int>("GET", "t"));
        if (++attempts < 3) OK(client.try_call<void>("INCR", "t"));
        OK(then.try_add("SET", "t", now * 2));
    };
    OK(client.try_optimistic<std::tuple<std::string>>("t", raise));
    SAME(attempts, 3);
    SAME(OK(client.try_call<int>("GET", "t")), 24);
    const auto hopeless = [&](broker::session&, broker::transaction& then) {
        OK(client.try_call<void>("INCR", "t"));
        OK(then.try_add("SET", "t", 0));
    };
    CODE(client.try_optimistic(std::vector<std::string>{"t", "u"}, hopeless, 3), broker::conflict);
    SAME(OK(client.try_call<int>("GET", "t")), 27);
    OK(client.try_optimistic<void>("t", [](auto&, broker::transaction& then) { OK(then.try_add("SET", "t", 3)); }));
    SAME(OK(client.try_call<int>("GET", "t")), 3);
    CODE(client.try_optimistic<void>("t", [](auto&, auto&) {}), BROKER_EINVAL);
}

static void futures_hold_results() {
    broker::client client = connect();
    auto first = client.try_submit_future<int>("STRLEN", "absent");
    auto second = client.try_submit_future<std::string>({"ECHO", "x"}, std::chrono::seconds(9));
    auto refused = client.try_submit_future("MULTI");
    CODE(refused.get(), BROKER_EUNSUPPORTED);
    while (second.wait_for(std::chrono::seconds(0)) != std::future_status::ready) OK(client.try_wait());
    SAME(OK(first.get()), 0);
    SAME(OK(second.get()), "x");
}

static void subscriptions_end_with_their_object() {
    broker::client client = connect();
    std::vector<std::string> seen;
    const auto note = [&](broker::result<broker::message> got) {
        const broker::message message = OK(got);
        std::string line = message.started ? "start" : "message";
        line.append(" ").append(message.pattern).append(" ").append(message.channel);
        seen.push_back(line.append(" ").append(message.payload));
    };
    broker::subscription plain = OK(client.try_subscribe("news", note));
    while (seen.empty()) OK(client.try_wait());
    broker::subscription pattern = OK(client.try_psubscribe("ne*", note));
    while (seen.size() < 2) OK(client.try_wait());
    SAME(seen[0], "start  news ");
    SAME(seen[1], "start ne*  ");
    SAME(OK(client.try_call<int>("PUBLISH", "news", "hello")), 2);
    while (seen.size() < 4) OK(client.try_wait());
    SAME(seen[2], "message  news hello");
    SAME(seen[3], "message ne* news hello");
    pattern = broker::subscription();
    CHECK(plain.active() && !pattern.active());
    OK(client.try_call<void>("PUBLISH", "news", "again"));
    while (seen.size() < 5) OK(client.try_wait());
    SAME(seen[4], "message  news again");
    // Its callable is gone with it, though C has a last call to make.
    token::alive = 0;
    { const auto brief = OK(client.try_subscribe("brief", [here = token()](auto) { CHECK(false); })); }
    SAME(token::alive, 0);
    OK(client.try_call("PING"));
    seen.clear();
    broker::subscription shard = OK(client.try_ssubscribe("shard", note));
    while (seen.empty()) OK(client.try_wait());
    OK(client.try_call<int>("SPUBLISH", "shard", "s"));
    while (seen.size() < 2) OK(client.try_wait());
    SAME(seen[1], "message  shard s");
}

static void configuration_says_what_is_wrong() {
    broker::config config = patient();
    OK(config.try_set("client_name", "cpp"));
    SAME(OK(config.try_get("client_name")), "cpp");
    const auto wrong = config.try_set("client_colour", "red");
    CODE(wrong, BROKER_ECONFIG);
    CHECK(wrong.message().find("client_colour") != std::string_view::npos);
    CODE(config.try_load("/nonexistent"), BROKER_ESYS);
    const auto malformed = broker::client::open("nonsense");
    CODE(malformed, BROKER_EINVAL);
    CHECK(malformed.message().find(": ") != std::string_view::npos);

    broker::client named = OK(broker::client::open(setting("BROKER_TEST_ENDPOINT"), config));
    SAME(OK(named.try_call<std::string>("CLIENT", "GETNAME")), "cpp");
    CHECK(named.connected());
}

static void the_state_and_pushes_are_told() {
    // Straight to Redis: a broker's shared lanes cannot track for one of their children.
    broker::client client = connect_redis();
    std::vector<int> states;
    int pushes = 0;
    SAME(client.on_state([&](bool connected, int reason) { states.push_back(connected ? 1 : reason); }), BROKER_OK);
    SAME(client.on_push([&](broker::reply_view push) { pushes += push[0].str() == "invalidate"; }), BROKER_OK);
    OK(client.try_call<void>("CLIENT", "TRACKING", "ON"));
    while (states.empty()) OK(client.try_wait());
    SAME(states[0], 1);
    OK(client.try_call<void>("GET", "tracked"));
    broker::client other = connect();
    OK(other.try_call<void>("SET", "tracked", 1));
    while (pushes == 0) OK(client.try_wait());
}

int main() {
    return run({
        calls_give_values_and_codes,
        time_limits_are_durations,
        words_are_texts_numbers_and_ranges,
        words_are_arrays_of_char_up_to_their_nul,
        words_are_bytes_tuples_and_maps,
        a_null_text_is_refused,
        what_is_posted_runs_once,
        submitted_callables_come_in_order,
        transactions_sessions_and_optimism,
        futures_hold_results,
        subscriptions_end_with_their_object,
        configuration_says_what_is_wrong,
        the_state_and_pushes_are_told,
    });
}
