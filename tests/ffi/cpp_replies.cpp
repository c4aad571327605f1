// What replies become: each conversion over RESP2 and RESP3, and each that must be refused.
#include "cpp_check.hpp"

#include <cmath>
#include <list>
#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <vector>

using std::map;
using std::optional;
using std::pair;
using std::set;
using std::string;
using std::string_view;
using std::tuple;
using std::vector;

/// A type of the program's own.
struct point {
    int x, y;
};
template <> struct broker::convert<point> {
    static result<point> from(reply_view r) {
        auto both = r.try_as<std::pair<int, int>>();
        if (!both.ok()) return *both.fault();
        return point{both.value().first, both.value().second};
    }
};

template <class T> static void refuse(const broker::reply& reply, int code = broker::wrong_type) {
    const auto got = reply.try_as<T>();
    SAME(got.code(), code);
    CHECK(!got.message().empty());
    try {
        (void)reply.as<T>();
        CHECK(false);
    } catch (const broker::type_error& error) {
        SAME(code, broker::wrong_type);
        SAME(error.what(), got.message());
    } catch (const broker::reply_error& error) {
        SAME(code, broker::error_reply);
        SAME(error.what(), got.message());
    }
}

static broker::reply lua(broker::client& client, const string& script) {
    return client.call("EVAL", "redis.setresp(3); return " + script, 0);
}

static void data_of_both_protocols(broker::client& client) {
    client.call<void>("DEL", "h", "z", "s", "l", "x");
    client.call<void>("HSET", "h", map<string, int>{{"a", 1}, {"b", 2}});
    client.call<void>("ZADD", "z", 1, "one", 2.5, "two");
    client.call<void>("SADD", "s", "m");
    client.call<void>("RPUSH", "l", 3, 4);
    client.call<void>("XADD", "x", "1-1", "f", "v");

    CHECK((client.call<map<string, int>>("HGETALL", "h") == map<string, int>{{"a", 1}, {"b", 2}}));
    SAME((client.call<std::unordered_map<string, string>>("HGETALL", "h")["b"]), "2");
    CHECK((client.call<vector<pair<string, int>>>("HGETALL", "h")[0] == pair<string, int>("a", 1)));
    SAME(client.call<vector<string>>("HGETALL", "h").size(), 4);
    CHECK((client.call<set<string>>("SMEMBERS", "s") == set<string>{"m"}));
    SAME(client.call<std::unordered_set<string>>("SMEMBERS", "s").count("m"), 1);
    CHECK((client.call<vector<pair<string, double>>>("ZRANGE", "z", 0, -1, "WITHSCORES") ==
           vector<pair<string, double>>{{"one", 1}, {"two", 2.5}}));
    CHECK((client.call<map<string, double>>("ZRANGE", "z", 0, -1, "WITHSCORES").at("two") == 2.5));
    CHECK(client.call<double>("ZSCORE", "z", "two") == 2.5);
    CHECK(client.call<optional<float>>("ZSCORE", "z", "two") == 2.5F);
    CHECK(!client.call<optional<double>>("ZSCORE", "z", "none"));
    CHECK((client.call<std::list<unsigned char>>("LRANGE", "l", 0, -1) == std::list<unsigned char>{3, 4}));
    CHECK((client.call<std::array<int, 2>>("LRANGE", "l", 0, -1) == std::array<int, 2>{3, 4}));
    CHECK((client.call<std::array<optional<string>, 2>>("MGET", "none", "none") == std::array<optional<string>, 2>{}));
    CHECK((client.call<vector<std::array<string, 2>>>("EVAL", "return {{'a','b'},{'c','d'}}", 0)[1][0] == "c"));
    CHECK((client.call<vector<vector<std::uint8_t>>>("LRANGE", "l", 0, 0) == vector<vector<std::uint8_t>>{{'3'}}));
    CHECK((client.call<optional<vector<std::byte>>>("GET", "none") == std::nullopt));
    client.call<void>("EXPIRE", "l", 1000);
    CHECK(client.call<std::chrono::seconds>("TTL", "l") > std::chrono::minutes(15));
    CHECK(client.call<std::chrono::milliseconds>("PTTL", "l") <= std::chrono::seconds(1000));
    CHECK(client.call<std::chrono::seconds>("TTL", "none") == std::chrono::seconds(-2));
    CHECK(client.call<std::chrono::duration<double>>("ECHO", "0.5") == std::chrono::milliseconds(500));
    SAME(client.call<point>("LRANGE", "l", 0, -1).y, 4);
    CHECK((client.call<vector<point>>("EVAL", "return {{1,2},{3,4}}", 0)[1].x == 3));
    CHECK((client.call<vector<optional<string>>>("MGET", "none", "none")[1] == std::nullopt));
    CHECK((client.call<tuple<int, string>>("EVAL", "return {1, 'x'}", 0) == tuple<int, string>(1, "x")));
    using entry = pair<string, map<string, string>>;
    const auto streams = client.call<map<string, vector<entry>>>("XREAD", "STREAMS", "x", 0);
    SAME(streams.at("x")[0].second.at("f"), "v");
    CHECK((client.call<vector<entry>>("XRANGE", "x", "-", "+")[0].first == "1-1"));
    CHECK((client.call<vector<pair<string, int>>>("HGETALL", "none").empty()));
    CHECK(client.call<bool>("EXISTS", "h") && !client.call<bool>("EXISTS", "none"));
}

static void types_of_resp3() {
    broker::client client = connect();
    CHECK(lua(client, "true").as<bool>() && !lua(client, "false").as<bool>());
    CHECK(lua(client, "{double=2.5}").as<double>() == 2.5);
    CHECK(std::isinf(lua(client, "{double=math.huge}").as<double>()));
    SAME(lua(client, "{double=2.5}").as<string>(), "2.5");
    refuse<int>(lua(client, "{double=2.5}"));
    SAME((lua(client, "{map={k='v'}}").as<map<string, string>>()["k"]), "v");
    SAME(lua(client, "{set={k=true}}").as<vector<string>>()[0], "k");
    const auto big = lua(client, "{big_number='12345678901234567890123'}");
    SAME(big.as<string>(), "12345678901234567890123");
    refuse<std::uint64_t>(big);
    SAME(lua(client, "{big_number='18446744073709551615'}").as<std::uint64_t>(), UINT64_MAX);
    const auto verbatim = lua(client, "{verbatim_string={format='txt', string='words'}}");
    SAME(verbatim.type(), BROKER_REPLY_VERBATIM);
    SAME(verbatim.as<string_view>(), "words");
    SAME(verbatim.raw(), "=9\r\ntxt:words\r\n");
}

static void what_does_not_fit_is_refused(broker::client& client) {
    const auto beyond = [](const auto& got) {
        CODE(got, broker::wrong_type);
        CHECK(got.message().find("out of range") != std::string_view::npos);
    };
    client.call("DEL", "limits");
    client.call("ZADD", "limits", 1e300, "big", "-inf", "least");
    beyond(client.try_call<float>("ZSCORE", "limits", "big"));
    CHECK(client.call<double>("ZSCORE", "limits", "big") == 1e300);
    CHECK(std::isinf(client.call<float>("ZSCORE", "limits", "least")));
    beyond(client.try_call<int>("ECHO", "3000000000"));
    beyond(client.try_call<signed char>("EVAL", "return 300", 0));
    beyond(client.try_call<unsigned>("EVAL", "return -1", 0));
    const auto integer = client.call("EVAL", "return 300", 0);
    SAME(integer.as<short>(), 300);
    CHECK(integer.as<double>() == 300);
    refuse<signed char>(integer), refuse<unsigned char>(integer), refuse<bool>(integer), refuse<string>(integer);
    refuse<vector<int>>(integer), refuse<point>(integer), refuse<string_view>(integer);
    refuse<vector<std::uint8_t>>(integer), refuse<std::array<int, 1>>(integer);
    const auto negative = client.call("EVAL", "return -1", 0);
    refuse<unsigned>(negative), refuse<std::uint64_t>(negative);
    const auto text = client.call("ECHO", "12x");
    refuse<int>(text), refuse<double>(text), refuse<bool>(text), refuse<vector<string>>(text);
    refuse<set<int>>(text), refuse<map<int, int>>(text), refuse<std::chrono::seconds>(text);
    const auto huge = client.call("ECHO", "9223372036854775808");
    refuse<std::int64_t>(huge);
    SAME(huge.as<std::uint64_t>(), 9223372036854775808U);
    const auto three = client.call("EVAL", "return {1,2,3}", 0);
    refuse<map<int, int>>(three), refuse<point>(three), refuse<string>(three), refuse<int>(three);
    refuse<tuple<int, int>>(three), refuse<tuple<int, int, int, int>>(three), refuse<tuple<int, int, vector<int>>>(three);
    refuse<optional<int>>(three), refuse<std::array<int, 2>>(three), refuse<std::array<vector<int>, 3>>(three);
    refuse<vector<std::byte>>(three);
    const auto nil = client.call("GET", "none");
    CHECK(nil.is_nil() && !nil.as<optional<int>>());
    refuse<int>(nil), refuse<string>(nil), refuse<vector<int>>(nil), refuse<bool>(nil), refuse<double>(nil);
    const auto inner = client.call("EVAL", "return {1, redis.error_reply('ODD one')}", 0);
    SAME(inner.size(), 2);
    CHECK(inner[1].is_error());
    SAME(inner[1].str(), "ODD one");
    refuse<vector<int>>(inner, broker::error_reply), refuse<point>(inner, broker::error_reply);
    SAME((std::get<1>(inner.as<tuple<int, broker::reply>>()).str()), "ODD one");
    const broker::reply nothing;
    CHECK(nothing.is_nil() && nothing[7][9].is_nil() && nothing.str().empty() && nothing.begin() == nothing.end());
    refuse<int>(nothing);
}

static void replies_are_kept_and_moved(broker::client& client) {
    broker::reply first = client.call("EVAL", "return {{'deep', 'x'}, 2}", 0);
    broker::reply part(first[0][0]);
    broker::reply moved = std::move(first);
    first = client.call("ECHO", "other");
    moved = std::move(first);
    SAME(part.str(), "deep");
    SAME(moved.str(), "other");
    SAME(part.raw(), "$4\r\ndeep\r\n");
    broker::reply kept;
    client.submit({"EVAL", "return {1,2,3}", 0}, [&](broker::result<broker::reply_view> got) {
        kept = broker::reply(got.value());
    });
    while (kept.is_nil()) client.wait();
    int sum = 0;
    for (const broker::reply_view one : kept) sum += one.as<int>();
    SAME(sum, 6);
    SAME(client.call<broker::reply>("PING").as<string>(), "PONG");
    static_assert(broker::detail::owns<map<string, std::array<string, 2>>>::value);
    static_assert(!broker::detail::owns<map<string, std::array<string_view, 2>>>::value);
}

static void both_protocols() {
    for (const char* protocol : {"2", "3"}) {
        broker::client client = connect(protocol);
        data_of_both_protocols(client);
        what_does_not_fit_is_refused(client);
        replies_are_kept_and_moved(client);
    }
}

int main() { return run({both_protocols, types_of_resp3}); }
