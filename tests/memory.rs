//! What the broker holds: after a burst it is as small as before it. Resident memory as the system counts it,
//! of the binary, so that the allocator's part is included.

use std::time::Duration;

use crate::support::raw::pipeline;
use crate::support::{self, Broker, Raw, Redis, raise_open_files, request, resident_kib, wait_within};

const CHILDREN: usize = 500;
/// On both sides of every threshold in the way: a spare buffer, a read, what the allocator maps apart.
const SIZES: [usize; 8] = [500, 3_000, 7_000, 12_000, 20_000, 33_000, 60_000, 150_000];
/// Five idle seconds, and room for a machine that is busy with other tests.
const IDLE: Duration = Duration::from_secs(5);

/// The same children are connected before and after, and each has been active: what is compared is what the
/// burst leaves behind. Replies of all sizes lie among small objects that live on, which is the case in which
/// an allocator keeps everything.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn memory_returns_after_a_burst() {
    raise_open_files();
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut rng = support::seeded();
    let mut first = broker.connect();
    for size in SIZES {
        first.call(&["SET", &format!("size:{size}"), &"x".repeat(size)]);
    }
    // One who waits for an element all along makes the broker no less idle.
    let mut waiter = broker.connect();
    waiter.send("BLPOP none 0");
    let mut children: Vec<Raw> = (0..CHILDREN).map(|_| broker.connect()).collect();
    children.iter_mut().for_each(|raw| raw.expect("SET k v", "+OK\r\n"));
    // Brings in code and tables.
    burst(&mut children[..5], &mut rng, 4);
    // The time it is given, here as after the burst.
    std::thread::sleep(IDLE);
    let before = resident_kib(broker.pid());
    let mut most = 0;
    for _ in 0..2 {
        most = most.max(burst(&mut children, &mut rng, 15));
        let mut short_lived: Vec<Raw> = (0..CHILDREN).map(|_| broker.connect()).collect();
        burst(&mut short_lived, &mut rng, 6);
    }
    let mut now = 0;
    wait_within("memory is given back", IDLE, || {
        now = resident_kib(broker.pid());
        now <= before + before / 10
    });
    eprintln!("{before} KiB before, {now} KiB after; bytes in flight at once: {most}");
    children.iter_mut().for_each(|raw| raw.expect("GET k", "$1\r\nv\r\n"));
}

/// Every child asks for `count` values and sends half a request before any of them reads; then they read, in
/// an order of their own. Returns how many bytes were asked for.
fn burst(children: &mut [Raw], rng: &mut fastrand::Rng, count: usize) -> usize {
    let mut order: Vec<usize> = (0..children.len()).collect();
    rng.shuffle(&mut order);
    let mut asked = 0;
    let mut rest = Vec::new();
    for raw in children.iter_mut() {
        let sizes: Vec<usize> = (0..count).map(|_| SIZES[rng.usize(..SIZES.len())]).collect();
        asked += sizes.iter().sum::<usize>();
        let gets: Vec<String> = sizes.iter().map(|size| format!("GET size:{size}")).collect();
        raw.write(&pipeline(&gets.iter().map(String::as_str).collect::<Vec<_>>()));
        let set = request(&["SET", "k", &"v".repeat(SIZES[rng.usize(..SIZES.len())])]);
        let (half, other) = set.split_at(set.len() / 2);
        raw.write(half);
        rest.push(other.to_vec());
    }
    for &index in &order {
        let raw = &mut children[index];
        (0..count).for_each(|_| drop(raw.read_reply()));
        raw.write(&rest[index]);
        assert_eq!(raw.read_text(), "+OK\r\n");
        let transaction = pipeline(&["MULTI", "SET k v", "GET k", "EXEC"]);
        raw.write(&transaction);
        let replies: Vec<String> = (0..4).map(|_| raw.read_text()).collect();
        assert_eq!(replies[3], "*2\r\n+OK\r\n$1\r\nv\r\n");
    }
    asked
}
