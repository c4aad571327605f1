use super::*;

fn at(port: u16) -> Address {
    Address::Tcp { host: "h".into(), port }
}

/// So many sentinels of `m`, each greeted; those behind the first are named by it.
fn greeted(count: u16) -> (Sentinels, Vec<SentinelId>) {
    let mut sentinels = Sentinels::default();
    let seeds = (0..count).map(|number| at(26379 + number)).collect();
    sentinels.watch(Some(&WatchedMaster { seeds, name: "m".into(), username: None, password: None }), 0);
    sentinels.advance(0, 1000);
    let mut actions = Vec::new();
    sentinels.take_actions(&mut actions);
    let connects = actions.into_iter().map(|action| match action {
        SentinelAction::Connect(id) => id,
        other => panic!("{other:?}"),
    });
    let ids: Vec<SentinelId> = connects.collect();
    for id in &ids {
        connect(&mut sentinels, *id, 0);
    }
    (sentinels, ids)
}

fn connect(sentinels: &mut Sentinels, id: SentinelId, now: Millis) {
    connect_as(sentinels, id, &id.to_string(), now);
}

/// The sentinel says that this is who it is.
fn connect_as(sentinels: &mut Sentinels, id: SentinelId, run_id: &str, now: Millis) {
    sentinels.connected(id, id as usize, now);
    let greeting = b"%2\r\n$4\r\nmode\r\n$8\r\nsentinel\r\n$5\r\nproto\r\n:3\r\n+OK\r\n";
    sentinels.input(id, greeting, now);
    sentinels.input(id, format!("+{run_id}\r\n").as_bytes(), now);
    sentinels.input(id, b">3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n", now);
    let asked = written(sentinels, id);
    assert!(asked.contains("SUBSCRIBE") && asked.contains("MASTER"), "{asked}");
}

fn written(sentinels: &mut Sentinels, id: SentinelId) -> String {
    let text =
        String::from_utf8_lossy(sentinels.outgoing(id).map_or(&[][..], |(_, bytes)| bytes)).into_owned();
    sentinels.wrote(id, text.len());
    text
}

fn claim(epoch: u64, port: u16) -> String {
    flagged(epoch, port, "master")
}

/// The same of a failover that the sentinel is carrying out itself.
fn claim_under_way(epoch: u64, port: u16) -> String {
    flagged(epoch, port, "master,failover_in_progress")
}

fn flagged(epoch: u64, port: u16, flags: &str) -> String {
    let (epoch, port) = (epoch.to_string(), port.to_string());
    let pairs = [("flags", flags), ("ip", "h"), ("port", &port), ("config-epoch", &epoch)];
    let pair =
        |(name, value): (&str, &str)| format!("${}\r\n{name}\r\n${}\r\n{value}\r\n", name.len(), value.len());
    format!("%4\r\n{}", pairs.map(pair).concat())
}

/// The sentinel is asked, if it has not been, and says this.
fn says(sentinels: &mut Sentinels, id: SentinelId, epoch: u64, port: u16, now: Millis) {
    says_of(sentinels, id, &claim(epoch, port), now);
}

fn says_of(sentinels: &mut Sentinels, id: SentinelId, claim: &str, now: Millis) {
    if !sentinels.find(id).expect("a sentinel").is_asked_for_master() {
        sentinels.doubt(now);
        sentinels.advance(now, 1000);
        assert!(written(sentinels, id).contains("MASTER"), "it is asked");
    }
    sentinels.input(id, claim.as_bytes(), now);
    if sentinels.find(id).expect("a sentinel").is_asked_for_others() {
        sentinels.input(id, b"*0\r\n", now);
    }
}

fn changed_to(sentinels: &mut Sentinels) -> Option<(Option<Address>, Address, u64)> {
    sentinels.take_change().map(|change| (change.former, change.address, change.epoch))
}

#[test]
fn the_highest_epoch_names_the_master_whoever_says_it() {
    let (mut sentinels, ids) = greeted(3);
    says(&mut sentinels, ids[0], 5, 1, 0);
    assert_eq!(changed_to(&mut sentinels), Some((None, at(1), 5)));
    says(&mut sentinels, ids[1], 5, 1, 0);
    assert_eq!(changed_to(&mut sentinels), None);
    says(&mut sentinels, ids[2], 6, 2, 100);
    assert_eq!(changed_to(&mut sentinels), Some((Some(at(1)), at(2), 6)), "one voice is enough");
    says(&mut sentinels, ids[0], 5, 1, 200);
    assert_eq!(changed_to(&mut sentinels), None, "one that was cut off");
    assert_eq!((sentinels.master(), sentinels.epoch()), (Some(&at(2)), Some(6)));
    says(&mut sentinels, ids[0], 7, 2, 300);
    assert_eq!((changed_to(&mut sentinels), sentinels.epoch()), (None, Some(7)), "the same address");
}

#[test]
fn an_event_only_has_them_asked() {
    let (mut sentinels, ids) = greeted(2);
    ids.iter().for_each(|id| says(&mut sentinels, *id, 1, 1, 0));
    changed_to(&mut sentinels);
    let event =
        |text: &str| format!(">3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n${}\r\n{text}\r\n", text.len());
    sentinels.input(ids[0], event("other h 1 h 2").as_bytes(), 5_000);
    sentinels.advance(5_000, 1000);
    assert_eq!(written(&mut sentinels, ids[0]), "", "it is about another master");
    sentinels.input(ids[0], event("m h 1 h 2").as_bytes(), 5_001);
    assert_eq!(changed_to(&mut sentinels), None);
    assert_eq!(sentinels.timeout(5_001), Some(0));
    sentinels.advance(5_001, 1000);
    assert!(ids.iter().all(|id| written(&mut sentinels, *id).contains("MASTER")));
}

#[test]
fn of_two_addresses_with_one_epoch_most_decide() {
    let (mut sentinels, ids) = greeted(3);
    says(&mut sentinels, ids[0], 0, 1, 0);
    changed_to(&mut sentinels);
    says(&mut sentinels, ids[1], 0, 2, 0);
    assert_eq!(changed_to(&mut sentinels), None, "one against one: what is in use stays");
    says(&mut sentinels, ids[2], 0, 2, 0);
    assert_eq!(changed_to(&mut sentinels), Some((Some(at(1)), at(2), 0)));
}

/// The sentinel that carries out a failover names the former master with the new epoch, from the promotion until it is done.
#[test]
fn who_is_in_the_middle_of_a_failover_contradicts_nobody() {
    let (mut sentinels, ids) = greeted(3);
    ids.iter().for_each(|id| says(&mut sentinels, *id, 5, 1, 0));
    changed_to(&mut sentinels);
    says_of(&mut sentinels, ids[0], &claim_under_way(6, 1), 100);
    assert_eq!((changed_to(&mut sentinels), sentinels.epoch()), (None, Some(5)));
    says(&mut sentinels, ids[1], 6, 2, 200);
    assert_eq!(changed_to(&mut sentinels), Some((Some(at(1)), at(2), 6)), "one voice is enough");
    says_of(&mut sentinels, ids[0], &claim_under_way(6, 1), 300);
    says(&mut sentinels, ids[0], 6, 2, 400);
    assert_eq!(changed_to(&mut sentinels), None);
}

#[test]
fn in_the_middle_of_a_failover_the_former_master_is_better_than_none() {
    let (mut sentinels, ids) = greeted(3);
    says_of(&mut sentinels, ids[0], &claim_under_way(6, 1), 0);
    assert_eq!(changed_to(&mut sentinels), Some((None, at(1), 0)));
    says(&mut sentinels, ids[1], 6, 2, 100);
    assert_eq!(changed_to(&mut sentinels), Some((Some(at(1)), at(2), 6)));
}

#[test]
fn sentinels_that_begin_anew_are_believed_once_all_of_them_do() {
    let (mut sentinels, ids) = greeted(3);
    ids.iter().for_each(|id| says(&mut sentinels, *id, 9, 1, 0));
    changed_to(&mut sentinels);
    for (number, id) in ids.iter().enumerate() {
        says(&mut sentinels, *id, 0, 2, 100 + number as u64);
        let last = number == 2;
        let change = sentinels.take_change();
        assert_eq!(change.map(|change| (change.address, change.rebuilt)), last.then(|| (at(2), true)));
    }
}

#[test]
fn they_are_asked_seldom_unless_something_is_wrong() {
    let (mut sentinels, ids) = greeted(1);
    says(&mut sentinels, ids[0], 1, 1, 0);
    let mut asked = 0;
    for now in 0..60_000 {
        sentinels.advance(now, 1000);
        if written(&mut sentinels, ids[0]).contains("MASTER") {
            asked += 1;
            says(&mut sentinels, ids[0], 1, 1, now);
        }
    }
    assert!(
        (8..=12).contains(&asked),
        "asked {asked} times in a minute: each second at first, then each ten"
    );
    sentinels.doubt(60_000);
    assert_eq!(sentinels.timeout(60_000), Some(0));
}

/// One that hangs while it is in doubt who the master is.
#[test]
fn nobody_is_woken_for_one_that_owes_an_answer() {
    let (mut sentinels, ids) = greeted(1);
    says(&mut sentinels, ids[0], 1, 1, 0);
    sentinels.take_change();
    sentinels.doubt(1_000);
    sentinels.advance(1_000, 1000);
    assert!(written(&mut sentinels, ids[0]).contains("MASTER"));
    for now in [1_000, 2_500, 3_900] {
        sentinels.advance(now, 1000);
        assert_eq!(sentinels.timeout(now), Some(1_000 + limits::SENTINEL_PATIENCE - now), "at {now}");
    }
}

#[test]
fn what_does_not_answer_or_is_no_sentinel_is_left_and_tried_again() {
    let (mut sentinels, ids) = greeted(1);
    let mut actions = Vec::new();
    sentinels.advance(limits::SENTINEL_PATIENCE, 1000);
    sentinels.take_actions(&mut actions);
    assert_eq!(actions, [SentinelAction::Close { link: ids[0] as usize }]);
    actions.clear();
    sentinels.advance(limits::SENTINEL_PATIENCE + 20, 1000);
    sentinels.take_actions(&mut actions);
    assert_eq!(actions, [SentinelAction::Connect(ids[0])]);
    sentinels.connected(ids[0], 7, 4_000);
    sentinels.input(ids[0], b"%1\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n", 4_000);
    actions.clear();
    sentinels.take_actions(&mut actions);
    assert_eq!(actions, [SentinelAction::Close { link: 7 }]);
    assert!(
        sentinels.trouble().contains("it is no sentinel: its mode is standalone"),
        "{}",
        sentinels.trouble()
    );
}

#[test]
fn others_are_learnt_and_forgotten_and_seeds_are_not() {
    let (mut sentinels, ids) = greeted(1);
    sentinels.input(ids[0], claim(1, 1).as_bytes(), 0);
    let other = |port: u16| format!("%2\r\n$2\r\nip\r\n$1\r\nh\r\n$4\r\nport\r\n$5\r\n{port}\r\n");
    let many: String = (30_000..30_040).map(other).collect();
    sentinels.input(ids[0], format!("*40\r\n{many}").as_bytes(), 0);
    assert_eq!(sentinels.list().count(), limits::SENTINELS_MAX, "as many as may be");
    let (mut now, mut actions) = (0, Vec::new());
    while now < limits::SENTINEL_FORGET + 2_000 {
        now += 500;
        sentinels.advance(now, 100);
        sentinels.take_actions(&mut actions);
        let answered = written(&mut sentinels, ids[0]).contains("MASTER");
        if answered {
            sentinels.input(ids[0], claim(1, 1).as_bytes(), now);
        }
    }
    assert_eq!(sentinels.list().count(), 1, "none of them could be reached");
}

/// The one that has named it was connected to long ago, and nobody else will.
#[test]
fn one_that_was_there_until_now_is_not_forgotten() {
    let (mut sentinels, ids) = greeted(1);
    let other = "*1\r\n%2\r\n$2\r\nip\r\n$1\r\nh\r\n$4\r\nport\r\n$5\r\n30000\r\n";
    sentinels.input(ids[0], (claim(1, 1) + other).as_bytes(), 0);
    sentinels.advance(0, 1000);
    let learnt = ids[0] + 1;
    connect(&mut sentinels, learnt, 10);
    sentinels.input(learnt, (claim(1, 1) + "*0\r\n").as_bytes(), 10);
    let late = 2 * limits::SENTINEL_FORGET;
    sentinels.lost(learnt, "it was restarted", late);
    sentinels.advance(late, 1000);
    assert!(sentinels.address_of(learnt).is_some());
}

/// Its user has no right to the channels: it is asked the more often.
#[test]
fn a_sentinel_that_tells_no_events_is_only_asked() {
    let (mut sentinels, ids) = greeted(1);
    sentinels.lost(ids[0], "it was restarted", 0);
    sentinels.advance(20, 1000);
    sentinels.connected(ids[0], 7, 20);
    let greeting = "%2\r\n$4\r\nmode\r\n$8\r\nsentinel\r\n$5\r\nproto\r\n:3\r\n+OK\r\n";
    let refusal = "-NOPERM No permissions to access a channel\r\n";
    sentinels.input(
        ids[0],
        (greeting.to_owned() + "+1\r\n" + refusal + &claim(3, 1) + "*0\r\n").as_bytes(),
        30,
    );
    assert_eq!(changed_to(&mut sentinels), Some((None, at(1), 3)));
    written(&mut sentinels, ids[0]);
    let later = limits::SENTINEL_DOUBT + limits::SENTINEL_POLL / 2;
    sentinels.advance(later, 1000);
    assert!(written(&mut sentinels, ids[0]).contains("MASTER"));
    sentinels.input(ids[0], (claim(4, 2) + "*0\r\n").as_bytes(), later);
    assert_eq!(changed_to(&mut sentinels), Some((Some(at(1)), at(2), 4)));
}

/// Of two, one has won a vote and has gone since.
#[test]
fn half_of_the_sentinels_take_no_epoch_back() {
    let (mut sentinels, ids) = greeted(2);
    says(&mut sentinels, ids[0], 6, 2, 0);
    changed_to(&mut sentinels);
    sentinels.lost(ids[0], "its host is gone", 10);
    says(&mut sentinels, ids[1], 5, 1, 20);
    assert_eq!((changed_to(&mut sentinels), sentinels.epoch()), (None, Some(6)));
}

/// Before 6.2 there is no MYID. Who it is cannot be told.
#[test]
fn a_sentinel_that_does_not_say_who_it_is_may_be_two() {
    let (mut sentinels, ids) = greeted(2);
    says(&mut sentinels, ids[0], 6, 2, 0);
    sentinels.lost(ids[1], "it was restarted", 0);
    let named = "*1\r\n%3\r\n+ip\r\n+other\r\n+port\r\n+1\r\n+runid\r\n+2\r\n";
    let later = limits::SENTINEL_DOUBT + limits::SENTINEL_POLL;
    sentinels.advance(later, 1000);
    sentinels.connected(ids[1], ids[1] as usize, later);
    let greeting = "%1\r\n$4\r\nmode\r\n$8\r\nsentinel\r\n+OK\r\n-ERR Unknown sentinel subcommand 'MYID'\r\n";
    sentinels.input(ids[1], greeting.as_bytes(), later);
    sentinels.input(ids[0], (claim(6, 2) + named).as_bytes(), later);
    assert_eq!((sentinels.list().count(), sentinels.count(|_| true)), (3, 3));
}

/// Two that the URL names by another address than the others do: one connection each, and one voice.
#[test]
fn a_sentinel_with_two_addresses_is_one() {
    let (mut sentinels, ids) = greeted(2);
    for id in &ids {
        says(&mut sentinels, *id, 6, 2, 0);
    }
    changed_to(&mut sentinels);
    let named = |host: &str, port: u16, run_id: &str| {
        format!("*1\r\n%3\r\n+ip\r\n+{host}\r\n+port\r\n+{port}\r\n+runid\r\n+{run_id}\r\n")
    };
    let ask = |sentinels: &mut Sentinels, now: Millis, others: &str| {
        let later = now + limits::SENTINEL_DOUBT + limits::SENTINEL_POLL;
        sentinels.advance(later, 1000);
        assert!(sentinels.find(ids[0]).is_some_and(|one| one.is_asked_for_others()));
        written(sentinels, ids[0]);
        sentinels.input(ids[0], (claim(6, 2) + others).as_bytes(), later);
        later
    };
    // It is up where the URL names it.
    let now = ask(&mut sentinels, 0, &named("other", 1, &ids[1].to_string()));
    assert_eq!(sentinels.list().count(), 2);
    // It is not, and whether it is elsewhere is looked at.
    sentinels.lost(ids[1], "gone", now);
    let now = ask(&mut sentinels, now, &named("other", 1, &ids[1].to_string()));
    let elsewhere = sentinels.list().map(|(id, _)| id).last().expect("a sentinel");
    assert_eq!((sentinels.list().count(), sentinels.count(|_| true)), (3, 2));
    sentinels.advance(now, 1000);
    connect_as(&mut sentinels, elsewhere, &ids[1].to_string(), now);
    assert_eq!(sentinels.list().count(), 3, "there it is");
    // With it, all that are known take an epoch back.
    let now = now + limits::SENTINEL_ASK_MIN;
    says(&mut sentinels, elsewhere, 5, 1, now);
    says(&mut sentinels, ids[0], 5, 1, now);
    assert_eq!((changed_to(&mut sentinels).map(|change| change.2), sentinels.count(|_| true)), (Some(5), 2));
    // Back where the URL names it, and has said the same as elsewhere.
    connect(&mut sentinels, ids[1], now);
    assert_eq!((sentinels.list().count(), sentinels.count(|_| true)), (3, 2));
    says(&mut sentinels, ids[1], 5, 1, now);
    assert_eq!(sentinels.list().map(|(id, _)| id).collect::<Vec<_>>(), ids);
}
