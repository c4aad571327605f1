//! The mux, driven by hand: what it holds, whom it answers, what a full line, a loss and a fork leave of that.

use super::channel::Channel;
use super::mux::{ConnectionAction, Mux, Profile};
use super::request::{Block, ClientRequest, Event, Fault, Outcome, Refusal};
use super::topics::Family;
use crate::base::key::Key;
use crate::config::ClientSettings;
use crate::resp::tree::Kind;

const HELLO: &[u8] = b"%1\r\n+proto\r\n:3\r\n";

fn mux(pairs: &[(&str, &str)], direct: bool) -> Mux {
    let mut settings = ClientSettings::default();
    for (key, value) in pairs {
        settings.set(key, value).unwrap();
    }
    Mux::new(Profile { settings, direct, eager: true, lasting: true }, 0, 0)
}

/// Makes every connection that is asked for and answers its greeting, as a broker does which knows BROKER ERRORS; which
/// channels that were.
fn connect(mux: &mut Mux, greeting: &[u8]) -> Vec<Key<Channel>> {
    let asked = mux.take_actions().into_iter().filter_map(|action| match action {
        ConnectionAction::Connect(key) => Some(key),
        ConnectionAction::Close(_) => None,
    });
    let asked: Vec<_> = asked.collect();
    for key in &asked {
        mux.connected(*key);
        if write(mux, *key).starts_with(b"*2\r\n$6\r\nBROKER\r\n") {
            mux.input(*key, b"+OK\r\n");
        }
        mux.input(*key, greeting);
    }
    asked
}

/// What the channel sends.
fn write(mux: &mut Mux, key: Key<Channel>) -> Vec<u8> {
    let bytes = mux.outgoing(key).to_vec();
    mux.wrote(key, bytes.len());
    bytes
}

fn submit(mux: &mut Mux, line: &str, tag: usize) -> Result<u64, Refusal> {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    mux.submit(None, &ClientRequest::Command(&words), 0, tag).map(Key::to_bits)
}

fn block(words: &[&[u8]]) -> Block {
    let mut block = Block::default();
    assert_eq!(block.add(words), Ok(true));
    block
}

/// The outcomes so far, by tag.
fn outcomes(mux: &mut Mux) -> Vec<(usize, Outcome)> {
    let events = std::iter::from_fn(|| mux.next_event());
    let done = events.filter_map(|event| match event {
        Event::Done { tag, outcome } => Some((tag, outcome)),
        _ => None,
    });
    done.collect()
}

#[test]
fn a_kept_connection_makes_room_for_one_that_is_needed() {
    let mut mux = mux(&[("client_connections_max", "1")], false);
    connect(&mut mux, HELLO);
    submit(&mut mux, "BLPOP list 0", 1).unwrap();
    let [blocking] = connect(&mut mux, HELLO)[..] else { panic!("one connection for the pop") };
    assert!(mux.open_session().is_err(), "it is in use");
    write(&mut mux, blocking);
    mux.input(blocking, b"*-1\r\n");
    assert!(matches!(outcomes(&mut mux)[..], [(1, Ok(_))]));
    assert!(mux.open_session().is_ok());
    assert!(mux.subscribe(Family::Channel, b"c", 2).is_err(), "and no more than that");
}

#[test]
fn a_transaction_counts_among_the_bytes_that_wait() {
    let mut mux = mux(&[("client_bytes_max", "64KiB")], false);
    let large = block(&[b"SET", b"k", &[b'x'; 40_000]]);
    assert!(mux.submit(None, &ClientRequest::Transaction(&large), 0, 1).is_ok());
    let refused = mux.submit(None, &ClientRequest::Transaction(&large), 0, 2);
    assert!(matches!(refused, Err(Refusal::Full(_))));
}

/// What was refused for want of room has used up nothing.
#[test]
fn a_refused_pop_leaves_the_kept_connection_where_it_was() {
    let mut mux = mux(&[("client_requests_max", "1"), ("client_connections_max", "1")], false);
    let main = connect(&mut mux, HELLO)[0];
    submit(&mut mux, "BLPOP list 0", 1).unwrap();
    let blocking = connect(&mut mux, HELLO)[0];
    write(&mut mux, blocking);
    mux.input(blocking, b"*-1\r\n");
    submit(&mut mux, "GET k", 2).unwrap();
    assert!(matches!(submit(&mut mux, "BLPOP list 0", 3), Err(Refusal::Full(_))));
    write(&mut mux, main);
    mux.input(main, b"_\r\n");
    submit(&mut mux, "BLPOP list 0", 4).unwrap();
    assert_eq!(connect(&mut mux, HELLO), [], "no new connection");
    assert!(write(&mut mux, blocking).starts_with(b"*3\r\n$5\r\nBLPOP"));
}

/// In a block, a MULTI that Redis refuses would let what follows run one by one.
#[test]
fn a_user_who_may_not_multi_sends_no_transaction() {
    let mut mux = mux(&[], true);
    let denied = b"-NOPERM this user has no permissions to run the 'multi' command\r\n";
    let greeting = [HELLO, denied, b"-ERR DISCARD without MULTI\r\n"].concat();
    let main = connect(&mut mux, &greeting)[0];
    submit(&mut mux, "GET k", 1).unwrap();
    let transaction = block(&[b"INCR", b"k"]);
    mux.submit(None, &ClientRequest::Transaction(&transaction), 0, 2).unwrap();
    assert_eq!(write(&mut mux, main), b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    let outcomes = outcomes(&mut mux);
    let [(2, Ok(tree))] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!((tree.kind(0), tree.text(0)), (Kind::Error, Some(&denied[1..denied.len() - 2])));
}

#[test]
fn an_accepted_setting_is_made_again_on_the_next_connection() {
    let mut mux = mux(&[], false);
    let main = connect(&mut mux, HELLO)[0];
    for (tag, line) in ["CLIENT NO-EVICT ON", "CLIENT TRACKING ON", "CLIENT NO-EVICT OFF"].iter().enumerate()
    {
        submit(&mut mux, line, tag).unwrap();
    }
    write(&mut mux, main);
    mux.input(main, b"+OK\r\n-NOPERM no\r\n+OK\r\n");
    mux.lost(main, "gone");
    mux.advance(1000);
    mux.take_actions();
    mux.connected(main);
    let greeting = String::from_utf8(write(&mut mux, main)).unwrap();
    assert!(greeting.ends_with("$6\r\nCLIENT\r\n$8\r\nNO-EVICT\r\n$3\r\nOFF\r\n"), "{greeting:?}");
    assert!(!greeting.contains("TRACKING") && !greeting.contains("\r\nON\r\n"), "{greeting:?}");
}

#[test]
fn what_has_left_is_lost_and_the_rest_goes_on() {
    let mut mux = mux(&[], false);
    let main = connect(&mut mux, HELLO)[0];
    for tag in 0..3 {
        submit(&mut mux, &format!("GET {tag}"), tag).unwrap();
    }
    let one = mux.outgoing(main).len() / 3;
    submit(&mut mux, "GET 3", 3).unwrap();
    assert_eq!(mux.waiting_bytes, one);
    mux.wrote(main, one + 1);
    mux.lost(main, "gone");
    assert_eq!(mux.waiting_bytes, 2 * one);
    let faults: Vec<_> = outcomes(&mut mux).into_iter().map(|(tag, outcome)| (tag, outcome.err())).collect();
    assert_eq!(faults, [(0, Some(Fault::Lost)), (1, Some(Fault::Lost))], "a byte of the second had left");
    mux.advance(500);
    connect(&mut mux, HELLO);
    let rest = b"*2\r\n$3\r\nGET\r\n$1\r\n2\r\n*2\r\n$3\r\nGET\r\n$1\r\n3\r\n";
    assert_eq!(write(&mut mux, main), rest, "in order");
    mux.input(main, b"+two\r\n+three\r\n");
    assert!(matches!(outcomes(&mut mux)[..], [(2, Ok(_)), (3, Ok(_))]));
}

#[test]
fn what_nobody_wants_any_more_is_left_out() {
    let mut mux = mux(&[], false);
    let main = connect(&mut mux, HELLO)[0];
    let keys: Vec<_> = (0..3).map(|tag| submit(&mut mux, &format!("GET {tag}"), tag).unwrap()).collect();
    assert!(mux.give_up(Key::from_bits(keys[1]), Fault::Canceled));
    assert_eq!(write(&mut mux, main), b"*2\r\n$3\r\nGET\r\n$1\r\n0\r\n*2\r\n$3\r\nGET\r\n$1\r\n2\r\n");
    assert_eq!(mux.waiting_bytes, 0);
    mux.input(main, b"+zero\r\n+two\r\n");
    assert!(matches!(outcomes(&mut mux)[..], [(1, Err(Fault::Canceled)), (0, Ok(_)), (2, Ok(_))]));
}

/// Nothing of a connection that got no further than its greeting is left over for the next one.
#[test]
fn a_greeting_that_was_refused_begins_anew() {
    let mut mux = mux(&[("client_db", "5")], false);
    let main = connect(&mut mux, b"-LOADING Redis is loading the dataset in memory\r\n*2\r\n+no")[0];
    submit(&mut mux, "GET k", 1).unwrap();
    mux.advance(500);
    assert_eq!(connect(&mut mux, &[HELLO, b"+OK\r\n"].concat()), [main]);
    assert!(mux.is_ready(main));
    assert_eq!(write(&mut mux, main), b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    mux.input(main, b"+v\r\n");
    assert!(matches!(outcomes(&mut mux)[..], [(1, Ok(_))]));
}

/// A process keeps the names of its parent's requests and subscriptions: they must not name its own.
#[test]
fn no_name_is_given_twice_across_a_fork() {
    let mut before = mux(&[], false);
    connect(&mut before, HELLO);
    let request = submit(&mut before, "GET k", 1).unwrap();
    let subscription = before.subscribe(Family::Channel, b"c", 2).unwrap();
    let mut after = Mux::new(before.profile.clone(), 0, 1);
    let own = submit(&mut after, "GET k", 3).unwrap();
    let own_subscription = after.subscribe(Family::Channel, b"c", 4).unwrap();
    assert_ne!(request, own);
    assert!(!after.give_up(Key::from_bits(request), Fault::Canceled));
    assert_ne!(subscription.to_bits(), own_subscription.to_bits());
    assert!(!after.unsubscribe(subscription));
    assert!(outcomes(&mut after).is_empty());
}

#[test]
fn a_message_reaches_every_subscription_of_its_name_and_no_ended_one() {
    let mut mux = mux(&[], false);
    connect(&mut mux, HELLO);
    let keys: Vec<_> = (1..=3).map(|tag| mux.subscribe(Family::Channel, b"c", tag).unwrap()).collect();
    let messages = connect(&mut mux, HELLO)[0];
    write(&mut mux, messages);
    mux.input(messages, b">3\r\n+subscribe\r\n+c\r\n:1\r\n>3\r\n+message\r\n+c\r\n+hello\r\n");
    assert!(mux.unsubscribe(keys[1]));
    let told = std::iter::from_fn(|| mux.next_event());
    let told: Vec<_> = told
        .filter_map(|event| match event {
            Event::Message { tag, push } => {
                Some((tag, push.text(push.elements(0).start).map(<[u8]>::to_vec).unwrap_or_default()))
            }
            _ => None,
        })
        .collect();
    let expected = [(1, "subscribe"), (3, "subscribe"), (1, "message"), (3, "message")];
    assert_eq!(told, expected.map(|(tag, kind)| (tag, kind.as_bytes().to_vec())));
}
