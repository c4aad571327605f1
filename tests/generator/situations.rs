//! Requests that belong together, and the order they come in. Whether they are said at once or one by one, and what
//! happens between them, is for whoever says them.

use super::World;
use super::requests::{Answer, CONNECTION, POPS, PUSHES, Request, plain, request, some};

/// Topics of each family that are listened to and published to.
pub(crate) const CHANNELS: [&[u8]; 2] = [b"ch1", b"ch2"];
const PATTERNS: [&[u8]; 2] = [b"ch*", b"ch1"];
const SHARDS: [&[u8]; 2] = [b"sh1", b"sh2"];

/// What is listened to by one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Channel,
    Pattern,
    Shard,
}

impl Family {
    pub(crate) const ALL: [Family; 3] = [Family::Channel, Family::Pattern, Family::Shard];

    fn letter(self) -> &'static str {
        match self {
            Family::Channel => "",
            Family::Pattern => "p",
            Family::Shard => "s",
        }
    }

    /// The name of a command or message of its.
    pub(crate) fn command(self, name: &str) -> String {
        format!("{}{name}", self.letter())
    }

    fn topics(self) -> [&'static [u8]; 2] {
        match self {
            Family::Channel => CHANNELS,
            Family::Pattern => PATTERNS,
            Family::Shard => SHARDS,
        }
    }
}

/// Why requests belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Situation {
    /// One request on data.
    Plain,
    /// MULTI, requests on data, EXEC.
    Block,
    Multi,
    Exec,
    /// EXEC or DISCARD, whether or not there was a MULTI.
    End,
    /// WATCH, perhaps with its transaction; or UNWATCH.
    Watch,
    /// A write of a key that may be watched.
    Touch,
    /// Waits for an element, or for replicas.
    Wait,
    Push,
    /// SUBSCRIBE and its like, and their ends.
    Subscribe,
    Publish,
    /// About the connection.
    Connection,
}

impl Situation {
    /// Each as often as it stands here.
    pub(crate) const ALL: [Situation; 16] = [
        Situation::Plain,
        Situation::Plain,
        Situation::Plain,
        Situation::Block,
        Situation::Block,
        Situation::Multi,
        Situation::Exec,
        Situation::End,
        Situation::Watch,
        Situation::Touch,
        Situation::Wait,
        Situation::Push,
        Situation::Subscribe,
        Situation::Publish,
        Situation::Connection,
        Situation::Connection,
    ];
    /// Those that need nothing before them and leave nothing behind, for whoever does not follow what a connection is in.
    pub(crate) const SELF_CONTAINED: [Situation; 7] = [
        Situation::Plain,
        Situation::Block,
        Situation::Touch,
        Situation::Wait,
        Situation::Push,
        Situation::Publish,
        Situation::Connection,
    ];
}

/// The requests of a situation.
pub(crate) fn situation(world: &mut dyn World, situation: Situation) -> Vec<Request> {
    match situation {
        Situation::Plain => vec![plain(world)],
        Situation::Block => {
            let count = world.rng().usize(1..4);
            block(world, count)
        }
        Situation::Multi => vec![request(world, "MULTI", Answer::Multi)],
        Situation::Exec => vec![request(world, "EXEC", Answer::Exec)],
        Situation::End if world.rng().u8(..3) == 0 => vec![request(world, "DISCARD", Answer::Discard)],
        Situation::End => vec![request(world, "EXEC", Answer::Exec)],
        Situation::Watch => watch(world),
        Situation::Touch => vec![request(world, "SET $watched $nonce", Answer::Stored)],
        Situation::Wait if world.rng().u8(..3) == 0 => {
            vec![request(world, "WAIT 0 $waits", Answer::Replicas)]
        }
        Situation::Wait => vec![pop(world)],
        Situation::Push => vec![push(world)],
        Situation::Subscribe => vec![subscribe(world)],
        Situation::Publish => {
            let shard = world.rng().u8(..4) == 0;
            let says = if shard { "SPUBLISH sh1 $nonce" } else { "PUBLISH $channel $nonce" };
            vec![request(world, says, Answer::Receivers)]
        }
        Situation::Connection => vec![about_the_connection(world)],
    }
}

/// So many requests on data as one transaction.
pub(crate) fn block(world: &mut dyn World, count: usize) -> Vec<Request> {
    let mut requests = vec![request(world, "MULTI", Answer::Multi)];
    requests.extend((0..count).map(|_| plain(world)));
    requests.push(request(world, "EXEC", Answer::Exec));
    requests
}

fn watch(world: &mut dyn World) -> Vec<Request> {
    if world.rng().u8(..5) == 0 {
        return vec![request(world, "UNWATCH", Answer::Unwatch)];
    }
    let mut requests = vec![request(world, "WATCH $watched $nonce", Answer::Watch)];
    if world.rng().bool() {
        requests.extend(block(world, 1));
    }
    requests
}

/// A list grows.
pub(crate) fn push(world: &mut dyn World) -> Request {
    some(world, PUSHES)
}

/// Waits for an element of a list.
pub(crate) fn pop(world: &mut dyn World) -> Request {
    let said = some(world, POPS);
    // A nonce among the keys is a list that nobody pushes to: it tells this wait from all others.
    if said.answer == Answer::Element && world.marks() { said.marked(world, false) } else { said }
}

fn subscribe(world: &mut dyn World) -> Request {
    let family = Family::ALL[world.rng().usize(..3)];
    let joins = world.rng().u8(..3) > 0;
    let verb = if joins { "SUBSCRIBE" } else { "UNSUBSCRIBE" };
    let command = family.command(verb).to_ascii_uppercase();
    let all = family.topics();
    let names: Vec<&[u8]> = match world.rng().u8(..3) {
        0 if !joins => Vec::new(),
        0 | 1 => vec![all[world.rng().usize(..2)]],
        _ => all.to_vec(),
    };
    let argv = [command.as_bytes()].into_iter().chain(names).map(<[u8]>::to_vec).collect();
    Request::of(Answer::Confirmations { family, joins }, argv)
}

/// Something about the connection that it comes on.
pub(crate) fn about_the_connection(world: &mut dyn World) -> Request {
    let said = some(world, CONNECTION);
    if said.answer != Answer::Pong {
        return said;
    }
    if world.may_quit() && world.rng().u8(..8) == 0 {
        return request(world, "QUIT", Answer::Quit);
    }
    if world.marks() { said.marked(world, true) } else { said }
}
