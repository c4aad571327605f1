//! The broker's user loses the right to MULTI while it is at work. A transaction whose commands have been answered with
//! QUEUED is executed as one or not at all, nothing that blocks gets on a lane that others share, and a transaction that
//! came in one piece is told what Redis itself says.

use crate::support::raw::pipeline;
use crate::support::{self, Broker, Raw, Redis, direct};

const NOPERM: &str = "-NOPERM this user has no permissions to run the 'multi' command\r\n";

fn aborted() -> String {
    format!("-EXECABORT Transaction discarded because of: {}", &NOPERM[1..])
}

fn lose_multi(redis: &Redis) {
    redis.connect().expect("ACL SETUSER default -multi", "+OK\r\n");
}

fn get_multi_back(redis: &Redis) {
    redis.connect().expect("ACL SETUSER default +multi", "+OK\r\n");
}

fn replies(raw: &mut Raw, count: usize) -> Vec<String> {
    (0..count).map(|_| raw.read_text()).collect()
}

/// A child with an open MULTI and one queued command.
fn open(broker: &Broker, key: &str) -> Raw {
    let mut raw = broker.connect();
    raw.expect("MULTI", "+OK\r\n");
    raw.expect(&format!("SET {key} 1"), "+QUEUED\r\n");
    raw
}

/// No lane stands behind a MULTI yet, so the one that would have carried the transaction cannot be made.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_queued_transaction_is_not_run_one_by_one() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = open(&broker, "x");
    lose_multi(&redis);
    assert_eq!(raw.ask("EXEC"), aborted());
    raw.expect("EXISTS x", ":0\r\n");
    raw.expect("MULTI", NOPERM);
    raw.expect("SET x 2", "+OK\r\n");
    get_multi_back(&redis);
    support::wait_until("the right is found again", || raw.ask("MULTI") == "+OK\r\n");
    raw.expect("INCR x", "+QUEUED\r\n");
    raw.expect("EXEC", "*1\r\n:3\r\n");
}

/// Redis executes a transaction whose MULTI it has accepted before, and so does the broker where a lane stands behind one.
/// The next transaction finds that there is no further MULTI.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_multi_accepted_before_carries_one_more_transaction() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut first = open(&broker, "w");
    first.expect("EXEC", "*1\r\n+OK\r\n");
    let (mut second, mut third) = (open(&broker, "x"), open(&broker, "y"));
    lose_multi(&redis);
    second.expect("EXEC", "*1\r\n+OK\r\n");
    assert_eq!(third.ask("EXEC"), aborted());
    assert_eq!(redis.ask("EXISTS x"), ":1\r\n");
    assert_eq!(redis.ask("EXISTS y"), ":0\r\n");
    second.expect("MULTI", NOPERM);
}

/// What is queued moves to a leased lane for SELECT, and only once that has accepted MULTI.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_transaction_that_moves_to_a_lease_is_not_run_one_by_one() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = open(&broker, "x");
    lose_multi(&redis);
    raw.expect("SELECT 1", "+QUEUED\r\n");
    assert_eq!(raw.ask("EXEC"), aborted());
    raw.expect("EXISTS x", ":0\r\n");
}

/// The blocking command would run by itself, on the lane of everybody.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn nothing_that_blocks_in_a_transaction_holds_a_shared_lane() {
    for blocks in ["BLPOP nothing 0", "XREAD BLOCK 0 STREAMS nothing $", "WAIT 1 0"] {
        let redis = Redis::start();
        let broker = Broker::start(&redis, &[]);
        let (mut raw, mut other) = (broker.connect(), broker.connect());
        raw.expect("SET a 1", "+OK\r\n");
        lose_multi(&redis);
        raw.write(&pipeline(&["MULTI", blocks, "EXEC"]));
        other.expect("GET a", "$1\r\n1\r\n");
        let told = replies(&mut raw, 3);
        assert_eq!(told, ["+OK\r\n", "+QUEUED\r\n", &aborted()], "{blocks}");
        raw.expect("GET a", "$1\r\n1\r\n");
        let blocked = |client: &support::UpstreamClient| client.field("flags").contains('b');
        assert!(!support::upstream_clients(&redis).iter().any(blocked), "{blocks} blocks");
    }
}

/// A transaction in one piece that would do no harm command by command is Redis' own affair.
#[test]
fn a_harmless_transaction_in_one_piece_is_told_what_redis_says() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    raw.expect("SET a 1", "+OK\r\n");
    lose_multi(&redis);
    raw.write(&pipeline(&["MULTI", "INCR a", "EXEC"]));
    assert_eq!(replies(&mut raw, 3), [NOPERM, ":2\r\n", "-ERR EXEC without MULTI\r\n"]);
}

/// What follows a refused MULTI runs, and may change the connection it runs on: the next child must not have it so.
#[test]
fn a_lease_whose_multi_is_refused_is_lent_as_it_was() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let (mut raw, mut other) = (broker.connect(), broker.connect());
    raw.expect("SET a zero", "+OK\r\n");
    raw.expect("WATCH a", "+OK\r\n");
    lose_multi(&redis);
    raw.write(&pipeline(&["MULTI", "WATCH w", "SELECT 5", "SET a five", "EXEC", "GET a", "UNWATCH"]));
    let told = replies(&mut raw, 7);
    let ok = "+OK\r\n";
    assert_eq!(told, [NOPERM, ok, ok, ok, "-ERR EXEC without MULTI\r\n", "$4\r\nfive\r\n", ok]);
    get_multi_back(&redis);
    other.expect("WATCH a", "+OK\r\n");
    other.expect("GET a", "$4\r\nzero\r\n");
    // A key that the first child has watched does not stop the second one's transaction.
    redis.connect().expect("SET w 1", "+OK\r\n");
    if !direct() {
        support::wait_until("the right is found again", || other.ask("MULTI") == "+OK\r\n");
    } else {
        other.expect("MULTI", "+OK\r\n");
    }
    other.expect("GET a", "+QUEUED\r\n");
    other.expect("EXEC", "*1\r\n$4\r\nzero\r\n");
}

/// WAIT counts the replicas that have what its own connection wrote, so it follows a transaction on its lane, which leaves
/// MULTI for it and stands behind another one afterwards.
#[test]
fn wait_follows_a_transaction_on_its_lane() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = open(&broker, "x");
    raw.expect("EXEC", "*1\r\n+OK\r\n");
    raw.expect("WAIT 0 0", ":0\r\n");
    raw.expect("WAIT 1 10", ":0\r\n");
    let mut next = open(&broker, "y");
    next.expect("WAIT 1 0", "+QUEUED\r\n");
    next.expect("EXEC", "*2\r\n+OK\r\n:0\r\n");
    raw.expect("GET y", "$1\r\n1\r\n");
}
