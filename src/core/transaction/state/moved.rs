//! A MULTI that moves to another process with its child: what is queued, as plain values that mean the same there. Command
//! numbers are a table's own, so names move. Only what is queued here can move; what Redis queues stays where it is.

use super::{AfterExec, Queued, QueuedAt, QueuedBlock, TransactionState};
use crate::command::{CommandId, Count, Family, Local};
use crate::core::pubsub::counted::Counted;

/// An open MULTI in plain values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MultiImage {
    /// Each request with the name of its command, MULTI first; none of a transaction that is spoilt or full.
    pub requests: Vec<(String, Vec<u8>)>,
    /// How many commands the child has queued.
    pub commands: u32,
    /// Bytes that count under `transaction_max`.
    pub kept_bytes: usize,
    /// Its EXEC aborts.
    pub spoilt: bool,
    /// It takes nothing more.
    pub full: bool,
    /// Why its EXEC aborts, where that is known.
    pub abort_reason: Option<String>,
    /// What the broker answers itself: the index in EXEC's array, the command's name, the request.
    pub local: Vec<(u32, String, Vec<u8>)>,
    /// SELECTs: the index in EXEC's array, the db.
    pub selects: Vec<(u32, u32)>,
    /// What counts listeners.
    pub counts: Vec<CountImage>,
}

/// A command in a MULTI whose reply counts listeners.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CountImage {
    /// Its index in EXEC's array.
    pub element: u32,
    /// It counts them by shard channels.
    pub shard: bool,
    /// It publishes to this channel.
    pub publishes: bool,
    /// What it publishes to.
    pub channel: Vec<u8>,
}

/// Every command that may be answered here, by a name that does not change.
const LOCALS: [(&str, Local); 28] = [
    ("ping", Local::Ping),
    ("subscriber-ping", Local::SubscriberPing),
    ("echo", Local::Echo),
    ("quit", Local::Quit),
    ("select", Local::Select),
    ("hello", Local::Hello),
    ("reset", Local::Reset),
    ("auth", Local::Auth),
    ("client-id", Local::ClientId),
    ("client-setname", Local::ClientSetname),
    ("client-getname", Local::ClientGetname),
    ("client-setinfo", Local::ClientSetinfo),
    ("client-info", Local::ClientInfo),
    ("client-no-evict", Local::ClientNoEvict),
    ("client-reply", Local::ClientReply),
    ("client-list", Local::ClientList),
    ("client-kill", Local::ClientKill),
    ("client-unblock", Local::ClientUnblock),
    ("client-getredir", Local::ClientGetredir),
    ("client-trackinginfo", Local::ClientTrackinginfo),
    ("client-caching", Local::ClientCaching),
    ("client-no-touch", Local::ClientNoTouch),
    ("client-capa", Local::ClientCapa),
    ("asking", Local::Asking),
    ("readonly", Local::Readonly),
    ("readwrite", Local::Readwrite),
    ("whoami", Local::Whoami),
    ("no-subcommand", Local::NoSubcommand),
];

fn name_of(local: Local) -> &'static str {
    LOCALS.iter().find(|(_, other)| *other == local).map_or("", |(name, _)| name)
}

fn local_of(name: &str) -> Option<Local> {
    LOCALS.iter().find(|(other, _)| *other == name).map(|(_, local)| *local)
}

impl MultiImage {
    /// Why nobody could go on with it, if so: it is of a newer broker.
    pub(crate) fn check(&self) -> Result<(), String> {
        let unknown = self.local.iter().find(|(_, name, _)| local_of(name).is_none());
        unknown.map_or(Ok(()), |(_, name, _)| Err(format!("its MULTI has a command '{name}'")))
    }
}

impl TransactionState {
    /// Whether nothing of it is on a lane.
    pub(crate) fn may_move(&self) -> bool {
        let here = self.multi.as_ref().is_none_or(|queued| queued.place == QueuedAt::Here);
        here && self.execs.is_empty()
    }

    /// The open MULTI; `name` knows what commands are called.
    pub(crate) fn image(&self, name: impl Fn(CommandId) -> String) -> Option<MultiImage> {
        let Queued { block, kept_bytes, spoilt, full, abort_reason, after, .. } = &**self.multi.as_ref()?;
        let mut begin = 0;
        let requests = block.commands.iter().map(|(id, end)| {
            let bytes = block.bytes[begin..*end].to_vec();
            begin = *end;
            (name(*id), bytes)
        });
        let requests = requests.collect();
        let locals = (0..).map_while(|index| after.local(index));
        let count = |(element, counted): &(u32, Counted)| CountImage {
            element: *element,
            shard: counted.count.family == Family::Shard,
            publishes: counted.count.publishes,
            channel: counted.channel.to_vec(),
        };
        Some(MultiImage {
            requests,
            commands: after.commands,
            kept_bytes: *kept_bytes,
            spoilt: *spoilt,
            full: *full,
            abort_reason: abort_reason.clone(),
            local: locals
                .map(|(local, request)| (local.element, name_of(local.command).to_owned(), request.to_vec()))
                .collect(),
            selects: after.selects.clone(),
            counts: after.counts.iter().map(count).collect(),
        })
    }

    /// A child that moves has this MULTI open; `id` knows the numbers of commands here.
    pub(crate) fn of_image(
        image: Option<MultiImage>,
        watch_lost: bool,
        id: impl Fn(&str) -> CommandId,
    ) -> TransactionState {
        let multi = image.map(|image| {
            let mut block = QueuedBlock::default();
            for (name, request) in &image.requests {
                block.push(id(name), request);
            }
            let mut after =
                AfterExec { commands: image.commands, selects: image.selects, ..AfterExec::default() };
            for (element, name, request) in &image.local {
                if let Some(local) = local_of(name) {
                    after.local.push(*element, local, request);
                }
            }
            for CountImage { element, shard, publishes, channel } in image.counts {
                let family = if shard { Family::Shard } else { Family::Channel };
                let count = Count { family, publishes };
                after.counts.push(element, Counted { count, channel: channel.into() });
            }
            Box::new(Queued {
                place: QueuedAt::Here,
                block,
                kept_bytes: image.kept_bytes,
                spoilt: image.spoilt,
                full: image.full,
                abort_reason: image.abort_reason,
                after,
            })
        });
        TransactionState { multi, watch_lost, ..TransactionState::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::NO_COMMAND;

    #[test]
    fn a_multi_is_the_same_when_it_has_moved() {
        let mut state = TransactionState::default();
        state.begin_here(3, b"MULTI");
        assert!(state.queue(4, b"GET", None, 10_000));
        assert!(state.queue(5, b"PING", Some((Local::ClientId, b"CLIENT ID")), 10_000));
        assert!(state.queue(5, b"PING", Some((Local::Whoami, b"ACL WHOAMI")), 10_000));
        state.note_select(7);
        let count = Count { family: Family::Shard, publishes: true };
        assert!(state.note_count(Counted { count, channel: b"c"[..].into() }, 10_000));
        assert!(state.queue(6, b"SPUBLISH", None, 10_000));
        state.lose_watch();
        let image = state.image(|id| id.to_string()).expect("a MULTI is open");
        assert_eq!(image.check(), Ok(()));
        let moved = TransactionState::of_image(Some(image.clone()), true, |name| name.parse().unwrap());
        assert_eq!(moved, state);
        let unknown = MultiImage { local: vec![(0, "from-the-future".into(), Vec::new())], ..image };
        assert!(unknown.check().is_err());
        assert_eq!(TransactionState::of_image(None, false, |_| NO_COMMAND), TransactionState::default());
    }

    #[test]
    fn every_command_has_a_name_of_its_own() {
        for (name, local) in LOCALS {
            assert_eq!((local_of(name_of(local)), name_of(local)), (Some(local), name));
        }
    }
}
