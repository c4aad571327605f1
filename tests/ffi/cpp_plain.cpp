// broker.hpp without exceptions and RTTI: every outcome is a result. Also built with them, where it must do the same.
#include "cpp_check.hpp"

#include <memory>
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
    CODE(client.try_call({"BLPOP", "nobody", 0}, std::chrono::milliseconds(-5)), BROKER_ETIMEDOUT);
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
    block.clear();
    CODE(client.try_call(block), BROKER_EINVAL);

    broker::session session = OK(broker::session::open(client));
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
        words_are_texts_numbers_and_ranges,
        submitted_callables_come_in_order,
        transactions_sessions_and_optimism,
        futures_hold_results,
        subscriptions_end_with_their_object,
        configuration_says_what_is_wrong,
        the_state_and_pushes_are_told,
    });
}
