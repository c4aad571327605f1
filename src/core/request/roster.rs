//! What a child sees of the others and may do to them: CLIENT LIST, INFO, KILL and UNBLOCK over the broker's own children.
//! Knows them by the ids that the broker gave them. Never names or closes a connection upstream by its own id.

use crate::base::failure::{Failure, Limit};
use crate::base::limits;
use crate::command::texts::{self, Wording};
use crate::core::broker::Broker;
use crate::core::child::closing::CloseReason;
use crate::core::child::front::{Killing, Progress};
use crate::core::child::hold::{Answer, Hold};
use crate::core::child::listing::Listing;
use crate::core::child::session::redirect;
use crate::core::child::{Child, ChildState};
use crate::core::connection::lane::Lane;
use crate::core::keys::{ChildKey, LeaseKind};
use crate::core::questions::control::{Question, Unblock};
use crate::core::request::flow::{Flow, canonical_int};
use crate::core::shared::Shared;
use crate::resp::Request;
use std::fmt::Write;

/// Every child has the same one: there is one broker.
const LOCAL_ADDRESS: &str = "broker";

#[derive(Debug, Default)]
struct Filter<'r> {
    id: Option<i64>,
    addr: Option<&'r [u8]>,
    laddr: Option<&'r [u8]>,
    of_type: Option<Option<bool>>,
    user: Option<&'r [u8]>,
    skip_me: bool,
}

impl<'r> Filter<'r> {
    /// The old form has an address, the new one any number of options.
    fn parse(request: &Request<'r>, shared: &Shared) -> Result<Filter<'r>, Failure> {
        if request.argc() == 3 {
            return Ok(Filter { addr: Some(request.arg(2)), ..Filter::default() });
        }
        let is_before_7 = shared.commands.wording() == Wording::Before7;
        let mut filter = Filter { skip_me: true, ..Filter::default() };
        for index in (2..request.argc()).step_by(2) {
            if index + 1 == request.argc() {
                return Err(texts::SYNTAX.into());
            }
            let value = request.arg(index + 1);
            let option = request.arg(index);
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            match value {
                _ if is("id") => match canonical_int(value) {
                    // There 0 is everybody's: nobody means that.
                    Some(id) if id > 0 || is_before_7 && id < 0 => filter.id = Some(id),
                    None if is_before_7 => return Err(texts::NOT_AN_INTEGER.into()),
                    _ => return Err(texts::CLIENT_ID_NOT_POSITIVE.into()),
                },
                _ if is("type") => filter.of_type = Some(client_type(value)?),
                _ if is("addr") => filter.addr = Some(value),
                _ if is("laddr") => filter.laddr = Some(value),
                _ if is("user") && shared.users.may_exist(value, &shared.env.upstream) => {
                    filter.user = Some(value)
                }
                _ if is("user") => return Err(texts::no_such_user(value).into()),
                _ if is("skipme") && value.eq_ignore_ascii_case(b"yes") => filter.skip_me = true,
                _ if is("skipme") && value.eq_ignore_ascii_case(b"no") => filter.skip_me = false,
                _ => return Err(texts::SYNTAX.into()),
            }
        }
        Ok(filter)
    }

    fn means(&self, child: &Child) -> bool {
        let peer = child.origin().peer().bytes().map(|byte| if byte == b' ' { b':' } else { byte });
        self.id.is_none_or(|id| child.session().id as i64 == id)
            && self.addr.is_none_or(|addr| peer.eq(addr.iter().copied()))
            && self.laddr.is_none_or(|laddr| laddr == LOCAL_ADDRESS.as_bytes())
            && self.of_type.is_none_or(|wanted| wanted == Some(child.is_subscribed()))
    }
}

/// Whether clients are subscribed that are of the type of this name; none if it is one that no child is of.
fn client_type(name: &[u8]) -> Result<Option<bool>, Failure> {
    match name.to_ascii_lowercase().as_slice() {
        b"normal" => Ok(Some(false)),
        b"pubsub" => Ok(Some(true)),
        b"slave" | b"replica" | b"master" => Ok(None),
        _ => Err(texts::unknown_client_type(name).into()),
    }
}

impl Shared {
    /// Adds one child's line, unless it has gone. The reply has its bound before it is made.
    fn show(&self, listing: &mut Listing, child: Option<&Child>, credit: &mut i64) -> Result<(), Failure> {
        let max_bytes = self.env.settings.child_output_max;
        // One that was killed in the same turn is still there.
        match child.filter(|child| child.state() != ChildState::Closed) {
            Some(child) => {
                self.line(child, &mut listing.lines);
                *credit -= limits::ROW_COST as i64;
            }
            None => *credit -= limits::LOOK_COST as i64,
        }
        if listing.lines.len() > max_bytes {
            return Err(Failure::Limited(Limit::ChildOutput { max_bytes }));
        }
        listing.done += 1;
        Ok(())
    }

    /// The upstream's answer to an UNBLOCK, or none; it is the asker's.
    pub(crate) fn unblock_for_answered(&mut self, unblock: Unblock, frame: Option<&[u8]>) {
        self.unblock_answered(unblock.lane, frame);
        let lane = self.connections.find(unblock.lane);
        let tenant = |lane: &Lane| lane.lease().is_some_and(|lease| lease.is_lent_to(unblock.target));
        let still = lane.is_some_and(|lane| tenant(lane) && lane.may_wait());
        if frame == Some(b":0\r\n") && still && !unblock.again && self.control_is_ready() {
            // The two connections are read in any order: it may have come before the command it was to end.
            return self.ask_to_unblock(Unblock { again: true, ..unblock });
        }
        self.give_answer(unblock.asker, frame.map(|frame| Answer::Frame(frame.to_vec())));
    }

    /// CLIENT UNBLOCK has ended a child's wait in its group, or the wait was over before.
    pub(crate) fn answer_to_unblock(&mut self, asker: ChildKey, ended: bool) {
        let frame = if ended { b":1\r\n" } else { b":0\r\n" };
        self.give_answer(asker, Some(Answer::Frame(frame.to_vec())));
    }

    fn ask_to_unblock(&mut self, unblock: Unblock) {
        // It may have been lost in this event.
        let Some(lane) = self.connections.find_mut(unblock.lane) else { return };
        let id = lane.record().upstream_id;
        // Until it is answered nobody else may have the lane: it could hit the next tenant.
        if let Some(lease) = lane.lease_mut() {
            lease.unblock_asked();
        }
        self.ask(Question::UnblockFor { unblock, id });
    }

    /// The last command of a child, as CLIENT LIST shows it.
    pub(crate) fn last_command_name(&self, child: &Child) -> &str {
        let table = self.commands.table();
        table.zip(child.last_command()).map_or("NULL", |(table, id)| table.name(id))
    }

    /// One line of CLIENT LIST, with the fields of Redis 7.0 in their order.
    pub(crate) fn line(&self, child: &Child, lines: &mut String) {
        let session = child.session();
        let seconds = |since: u64| self.env.now.saturating_sub(since) / 1000;
        let (age, idle) = (seconds(child.opened()), seconds(child.last_request()));
        let (id, db, resp, redir) = (session.id, session.db, session.proto, redirect(session));
        let (addr, fd) = (child.origin().peer().replace(' ', ":"), child.link() as u32);
        let (name, user) = (String::from_utf8_lossy(&session.name), self.user_name(child));
        let (flags, (sub, psub, ssub)) = (flags(child), child.subscription_counts());
        let (multi, multi_mem) = (session.transaction.depth(), session.transaction.footprint());
        let (qbuf, obl, total) = (child.inbox().len(), child.outbox().output().len(), child.measure());
        let cmd = self.last_command_name(child);
        let _ = writeln!(
            lines,
            "id={id} addr={addr} laddr={LOCAL_ADDRESS} fd={fd} name={name} age={age} idle={idle} \
             flags={flags} db={db} sub={sub} psub={psub} ssub={ssub} multi={multi} qbuf={qbuf} qbuf-free=0 \
             argv-mem=0 multi-mem={multi_mem} rbs=0 rbp=0 obl={obl} oll=0 omem=0 tot-mem={total} events=r \
             cmd={cmd} user={user} redir={redir} resp={resp}"
        );
    }
}

impl Broker {
    /// CLIENT LIST, as much of it as the child's turn has room for.
    pub(crate) fn list(&mut self, key: ChildKey, request: &Request<'_>) -> Flow {
        let Some(child) = self.children.known_mut(key) else { return Flow::Gone };
        if child.session().is_muted() {
            return Flow::Done;
        }
        let listing = child.front_mut().take_listing();
        let mut credit = child.credit() + self.shared.turn.credit_for_rows();
        let mut listing = listing.unwrap_or_default();
        let arg = |index| request.arg(index);
        let made = self.list_on(&mut listing, request.argc(), arg, &mut credit);
        let Some(child) = self.children.known_mut(key) else { return Flow::Gone };
        child.spend((child.credit() - credit).max(0) as usize);
        match made {
            Ok(true) => {
                self.shared.answer_text(child, listing.lines);
                Flow::Done
            }
            Ok(false) => {
                child.front_mut().keep_listing(listing);
                Flow::More
            }
            Err(text) => self.shared.reject(child, text),
        }
    }

    /// Makes a listing go on until it is done, which it returns, or `credit` is used up.
    pub(crate) fn list_on<'a>(
        &self,
        listing: &mut Listing,
        argc: usize,
        arg: impl Fn(usize) -> &'a [u8],
        credit: &mut i64,
    ) -> Result<bool, Failure> {
        let mut wanted = None;
        match argc {
            0..=2 => {}
            4 if arg(2).eq_ignore_ascii_case(b"type") => wanted = Some(client_type(arg(3))?),
            4.. if arg(2).eq_ignore_ascii_case(b"id") => {
                while listing.done + 3 < argc {
                    if *credit <= 0 {
                        return Ok(false);
                    }
                    let id = canonical_int(arg(listing.done + 3)).ok_or(texts::CLIENT_ID_INVALID)?;
                    let child = self.children.by_id(id).and_then(|key| self.children.get(key));
                    self.shared.show(listing, child, credit)?;
                }
                return Ok(true);
            }
            _ => return Err(texts::SYNTAX.into()),
        }
        if listing.keys.is_none() {
            let of_type = |child: &Child| wanted.is_none_or(|wanted| wanted == Some(child.is_subscribed()));
            let is_shown = |key| self.children.get(key).is_some_and(of_type);
            // Who is of a type only each child itself tells; else the index does, in a tenth of the time.
            let mut keys: Vec<_> =
                self.children.ids().filter(|(_, key)| wanted.is_none() || is_shown(*key)).collect();
            keys.sort_unstable_by_key(|(id, _)| *id);
            listing.keys = Some(keys.into_iter().map(|(_, key)| key).collect());
        }
        while let Some(key) = listing.keys.as_ref().and_then(|keys| keys.get(listing.done)) {
            if *credit <= 0 {
                return Ok(false);
            }
            self.shared.show(listing, self.children.get(*key), credit)?;
        }
        Ok(true)
    }

    /// Closes children of the same user of this host, as far as the child's turn allows. Others are as if they were not
    /// there.
    pub(crate) fn kill(&mut self, key: ChildKey, request: &Request<'_>) -> Flow {
        let Some(killer) = self.children.known_mut(key) else { return Flow::Gone };
        let filter = match Filter::parse(request, &self.shared) {
            Ok(filter) => filter,
            Err(text) => return self.shared.reject(killer, text),
        };
        let (mut killing, label) =
            (killer.front_mut().killing_mut().take().unwrap_or_default(), killer.label());
        let mut credit = killer.credit();
        let done = self.kill_some(key, &filter, &label, &mut killing, &mut credit);
        let Some(killer) = self.children.known_mut(key) else { return Flow::Gone };
        killer.spend((killer.credit() - credit) as usize);
        if !done {
            *killer.front_mut().killing_mut() = Some(killing);
            return Flow::More;
        }
        match (request.argc(), killing.killed) {
            (3, 0) => return self.shared.reject(killer, texts::NO_SUCH_CLIENT),
            (3, _) => self.shared.answer(killer, b"+OK\r\n"),
            (_, count) => self.shared.answer(killer, format!(":{count}\r\n").as_bytes()),
        }
        if killing.own {
            self.shared.finish_at_request(killer);
        }
        Flow::Done
    }

    /// Looks at children until all have been looked at, which it returns, or `credit` is used up.
    fn kill_some(
        &mut self,
        key: ChildKey,
        filter: &Filter,
        label: &str,
        killing: &mut Killing,
        credit: &mut i64,
    ) -> bool {
        if let Some(id) = filter.id {
            if let Some(named) = self.children.by_id(id) {
                self.kill_one(key, named, filter, label, killing);
            }
            *credit -= limits::LOOK_COST as i64;
            return true;
        }
        while let Some((next, other)) = self.children.from(killing.next) {
            if *credit <= 0 {
                return false;
            }
            killing.next = next;
            let met = self.kill_one(key, other, filter, label, killing);
            *credit -= if met { limits::REQUEST_COST_MIN } else { limits::LOOK_COST as i64 };
        }
        true
    }

    /// Closes one child if the filter means it, which it returns; the killer itself goes on until it has its answer.
    fn kill_one(
        &mut self,
        key: ChildKey,
        other: ChildKey,
        filter: &Filter,
        label: &str,
        killing: &mut Killing,
    ) -> bool {
        let (Some(killer), Some(child)) = (self.children.known(key), self.children.get(other)) else {
            return false;
        };
        let meant = filter.means(child)
            && !child.is_closed()
            && filter.user.is_none_or(|user| user == self.shared.user_name(child).as_bytes())
            && may_kill(killer, child)
            && !(other == key && filter.skip_me);
        if !meant {
            return false;
        }
        killing.killed += 1;
        killing.own |= other == key;
        if let Some(child) = self.children.get_mut(other).filter(|_| other != key) {
            CloseReason::Killed { by: label }.log(child);
            self.shared.close(child);
        }
        true
    }

    /// Ends another child's blocking command: its wait in a group, or upstream, where the broker knows its connection.
    pub(crate) fn unblock(&mut self, key: ChildKey, request: &Request<'_>) -> Flow {
        let (children, shared) = (&mut self.children, &mut self.shared);
        let Some(asker) = children.known_mut(key) else { return Flow::Gone };
        let wording = shared.commands.wording();
        let error = match request.arg(3).to_ascii_lowercase().as_slice() {
            _ if request.argc() > 4 => {
                return shared.reject(asker, texts::subcommand_syntax(request, wording));
            }
            b"error" => true,
            b"timeout" => false,
            _ if request.argc() == 3 => false,
            _ => return shared.reject(asker, texts::UNBLOCK_REASON),
        };
        let Some(id) = canonical_int(request.arg(2)) else {
            return shared.reject(asker, texts::NOT_AN_INTEGER);
        };
        let mut blocked = None;
        let target = children.by_id(id).and_then(|target| children.get_mut(target));
        match target.map(|target| (target.hold(), target)) {
            Some((Hold::Element, target)) if shared.unblock_waiter(target, key, error) => {
                return Flow::Hold(Hold::Question);
            }
            Some((Hold::BlockingReply, target)) => {
                // The id of a lane that leads to a former upstream may be anybody's at the present one.
                let here = |lane: &Lane| !lane.record().is_on_previous_upstream;
                let lane = target.lease().map(|lease| lease.lane);
                let lane = lane.filter(|lane| shared.connections.find(*lane).is_some_and(here));
                blocked = lane.map(|lane| (target.key(), lane));
            }
            _ => {}
        }
        let Some(asker) = children.known_mut(key) else { return Flow::Gone };
        let Some((target, lane)) = blocked else {
            shared.answer(asker, b":0\r\n");
            return Flow::Done;
        };
        if !shared.control_is_ready() {
            return shared.wait_for_upstream(asker);
        }
        shared.ask_to_unblock(Unblock { asker: key, target, lane, error, again: false });
        Flow::Hold(Hold::Question)
    }
}

/// Whether a child waits for a lane for a command that keeps it, or has just been given one.
fn stands_in_line(child: &Child) -> bool {
    let granted = child.lease().is_some()
        && child.sent().in_flight() == 0
        && child.front().progress() == Progress::None;
    child.front().wait().is_some_and(|wait| wait.kind == LeaseKind::Blocking)
        && (child.hold() == Hold::LeaseQueue || child.hold() == Hold::None && granted)
}

/// In the order in which Redis shows them.
fn flags(child: &Child) -> String {
    let shown = [
        ('O', child.session().monitoring),
        ('P', child.is_subscribed()),
        ('x', child.session().transaction.is_open()),
        (
            'b',
            matches!(child.hold(), Hold::BlockingReply | Hold::Element | Hold::WriteLane)
                || stands_in_line(child),
        ),
        ('t', child.session().tracking.is_some()),
        ('U', child.origin().uid().is_some()),
        ('e', child.session().no_evict),
    ];
    let flags: String = shown.into_iter().filter(|(_, set)| *set).map(|(flag, _)| flag).collect();
    if flags.is_empty() { "N".into() } else { flags }
}

/// The broker serves many users of a host: one of them does not close the connections of another. Whoever
/// came over TCP is known by the user it has authenticated as alone.
fn may_kill(killer: &Child, child: &Child) -> bool {
    let (uid, own) = (killer.origin().uid(), killer.origin().is_local());
    let same_user = killer.user() == child.user() && killer.account() == child.account();
    (uid.is_some() || same_user) && uid == child.origin().uid() && own == child.origin().is_local()
}
