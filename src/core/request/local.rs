//! Commands that the broker answers itself, from the child's session; no shared lane carries them. Texts and the order of
//! checks are those of Redis 7.0.15.

use crate::command::Local;
use crate::command::texts::{self, Wording};
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::child::outbox::Frame;
use crate::core::child::session::{ReplyMode, Session, redirect};
use crate::core::connection::slot::{SlotFlags, SlotKind};
use crate::core::questions::control::{Needed, Question};
use crate::core::request::flow::{Flow, FlowResult, Roster, canonical_int};
use crate::core::shared::Shared;
use crate::resp::{Request, encode};

impl Shared {
    pub(crate) fn local(&mut self, child: &mut Child, local: Local, request: &Request<'_>) -> FlowResult {
        Ok(match local {
            Local::SubscriberPing => self.ping_as_subscriber(child, request)?,
            // A health check must notice that the upstream has gone.
            Local::Ping if !self.upstream_is_up() => self.wait_for_upstream(child),
            Local::Quit if child.topics().is_some() && child.is_under_way() => Flow::Hold(Hold::OwnReplies),
            Local::Quit => {
                self.answer(child, b"+OK\r\n");
                self.finish_at_request(child);
                Flow::Done
            }
            Local::Select => self.select(child, request),
            Local::Hello => self.hello(child, request)?,
            Local::Auth if self.is_judged(child) => self.authenticate(child, request),
            Local::Reset => self.reset(child)?,
            Local::ClientReply => self.set_reply_mode(child, request.arg(2)),
            // What it has asked for before comes first, as it would on one connection.
            Local::ClientKill | Local::ClientUnblock if child.is_under_way() => Flow::Hold(Hold::OwnReplies),
            Local::ClientKill => Flow::Roster(Roster::Kill),
            Local::ClientList => Flow::Roster(Roster::List),
            Local::ClientUnblock => Flow::Roster(Roster::Unblock),
            Local::ClientNoTouch => self.no_touch(child, request),
            Local::Echo if self.env.request.is_some() => self.echo_long(child, request.arg(1)),
            _ => {
                let argv: Vec<&[u8]> = request.args().collect();
                let reply = self.local_reply(child, local, &argv);
                self.answer(child, &reply);
                Flow::Done
            }
        })
    }

    /// Commands whose reply needs nothing but the child's own state.
    pub(crate) fn local_reply(&mut self, child: &mut Child, local: Local, argv: &[&[u8]]) -> Vec<u8> {
        let arg = |index: usize| argv.get(index).copied().unwrap_or_default();
        let proto = child.session().proto;
        let mut out = Vec::new();
        match local {
            Local::Ping if argv.len() > 2 => encode::error(&mut out, texts::wrong_arity("ping")),
            Local::Ping if proto == 2 && child.is_subscribed() => {
                encode::array_header(&mut out, 2);
                encode::bulk(&mut out, b"pong");
                encode::bulk(&mut out, arg(1));
            }
            Local::Ping if argv.len() == 2 => encode::bulk(&mut out, arg(1)),
            Local::Ping => out.extend_from_slice(b"+PONG\r\n"),
            Local::Echo => encode::bulk(&mut out, arg(1)),
            Local::Auth => ok_or(&mut out, auth(argv)),
            Local::ClientId => encode::int(&mut out, child.session().id as i64),
            Local::ClientSetname => ok_or(&mut out, set_name(child.session_mut(), arg(2))),
            Local::ClientGetname if child.session().name.is_empty() => encode::null(&mut out, proto),
            Local::ClientGetname => encode::bulk(&mut out, &child.session().name),
            Local::ClientSetinfo => ok_or(&mut out, set_info(child.session_mut(), arg(2), arg(3))),
            Local::ClientNoEvict => {
                let switched = on_or_off(arg(2)).map(|on| child.session_mut().no_evict = on);
                ok_or(&mut out, switched.ok_or(texts::SYNTAX));
            }
            Local::ClientCapa => ok_or(&mut out, Ok::<(), &str>(())),
            Local::ClientGetredir => encode::int(&mut out, redirect(child.session())),
            Local::ClientTrackinginfo => not_tracking(&mut out, proto),
            Local::ClientCaching => encode::error(&mut out, texts::CACHING_WITHOUT_TRACKING),
            Local::ClientInfo => {
                let mut line = String::new();
                self.line(child, &mut line);
                encode::verbatim_txt(&mut out, line.as_bytes(), proto);
            }
            Local::Whoami => encode::bulk(&mut out, self.user_name(child).as_bytes()),
            // Only CLIENT has such a one that takes more.
            Local::NoSubcommand if argv.len() == 2 && arg(1).eq_ignore_ascii_case(b"kill") => {
                encode::error(&mut out, texts::SYNTAX);
            }
            Local::NoSubcommand => encode::error(&mut out, texts::no_subcommand(arg(0), arg(1))),
            // Valkey takes both for a client's own affair, and Redis before 7.0 one of them.
            Local::Readonly | Local::Readwrite if self.control.is_valkey() => {
                out.extend_from_slice(b"+OK\r\n")
            }
            Local::Readwrite if self.commands.wording() == Wording::Before7 => {
                out.extend_from_slice(b"+OK\r\n")
            }
            Local::Asking | Local::Readonly | Local::Readwrite => {
                encode::error(&mut out, texts::CLUSTER_DISABLED);
            }
            other => debug_assert!(false, "the reply to {other:?} is made elsewhere"),
        }
        out
    }

    /// ECHO of so much that it is given back rather than copied.
    fn echo_long(&mut self, child: &mut Child, text: &[u8]) -> Flow {
        let Some(fragment) = self.env.long_part(text) else {
            let mut reply = Vec::new();
            encode::bulk(&mut reply, text);
            self.answer(child, &reply);
            return Flow::Done;
        };
        if !child.session().is_muted() {
            let mut head = Vec::new();
            encode::bulk_head(&mut head, text.len());
            for frame in [Frame::of(&head), Frame::shared(&fragment), Frame::of(b"\r\n")] {
                child.outbox_mut().answer(frame, &mut self.env.spares);
            }
            self.mark_child(child);
        }
        Flow::Done
    }

    /// PING of a RESP2 subscriber: the upstream is asked as by anybody, on a connection that does not listen.
    fn ping_as_subscriber(&mut self, child: &mut Child, request: &Request<'_>) -> FlowResult {
        let id = child.last_command().unwrap_or_default();
        let lane = match child.lease() {
            Some(lease) => lease.lane,
            None => self.shared_lane_for(child, id, request.bytes.len())?,
        };
        self.send_for(child, lane, request.bytes, id, SlotKind::SubscriberPing, SlotFlags::NONE);
        Ok(Flow::Done)
    }

    /// CLIENT REPLY. What comes after it goes where it always goes; only its replies reach nobody.
    fn set_reply_mode(&mut self, child: &mut Child, mode: &[u8]) -> Flow {
        match mode.to_ascii_lowercase().as_slice() {
            b"on" => {
                child.session_mut().replies = ReplyMode::On;
                self.answer(child, b"+OK\r\n");
            }
            b"off" => child.session_mut().replies = ReplyMode::Off,
            b"skip" if child.session().replies == ReplyMode::Off => {}
            b"skip" => child.session_mut().replies = ReplyMode::SkipNext,
            _ => self.answer_error(child, texts::SYNTAX),
        }
        Flow::Done
    }

    /// CLIENT NO-TOUCH: from now on the child's requests go on connections of that kind. One that it has to
    /// itself is told, and lent to nobody afterwards.
    fn no_touch(&mut self, child: &mut Child, request: &Request<'_>) -> Flow {
        let Some(on) = on_or_off(request.arg(2)) else { return self.reject(child, texts::SYNTAX) };
        child.session_mut().no_touch = on;
        let Some(lease) = child.lease() else { return self.answer_ok(child) };
        let id = child.last_command().unwrap_or_default();
        if let Some(lane) = self.connections.find_mut(lease.lane) {
            lane.need_close();
        }
        self.send_for(child, lease.lane, request.bytes, id, SlotKind::Relay, SlotFlags::NONE);
        Flow::Done
    }

    fn select(&mut self, child: &mut Child, request: &Request<'_>) -> Flow {
        let number = canonical_int(request.arg(1));
        if child.has_rights() {
            return self.ask_select(child, request, number.and_then(|db| u32::try_from(db).ok()));
        }
        let Some(number) = number else { return self.reject(child, texts::NOT_AN_INTEGER) };
        let Ok(number) = i32::try_from(number) else { return self.reject(child, texts::INT_OUT_OF_RANGE) };
        let Ok(db) = u32::try_from(number) else { return self.reject(child, texts::DB_OUT_OF_RANGE) };
        let is_valid = self.control.db_is_valid(db);
        if self.commands.table().is_none() || !(is_valid || self.control_is_ready()) {
            return self.wait_for_upstream(child);
        }
        if is_valid {
            child.session_mut().db = db;
            return self.answer_ok(child);
        }
        self.ask(Question::TryDb { child: child.key(), db });
        Flow::Hold(Hold::Question)
    }

    /// The protocol changes last.
    fn hello(&mut self, child: &mut Child, request: &Request<'_>) -> FlowResult {
        if self.control.greeting().is_none() {
            return Err(self.wait_for_upstream(child));
        }
        // A push must not have the new form before the greeting tells of it.
        if (child.lease().is_some() || child.is_subscribed()) && child.is_under_way() {
            return Err(Flow::Hold(Hold::OwnReplies));
        }
        let proto = match canonical_int(request.arg(1)) {
            _ if request.argc() == 1 => child.session().proto,
            None => return Err(self.reject(child, texts::HELLO_VERSION)),
            Some(version @ (2 | 3)) => version as u8,
            Some(_) => return Err(self.reject(child, texts::HELLO_UNSUPPORTED)),
        };
        let name = if self.commands.reads_hello_whole() {
            self.take_hello_whole(child, request)?
        } else {
            self.take_hello_in_order(child, request)?;
            None
        };
        if !child.is_authenticated() {
            return Err(self.reject(child, texts::HELLO_NOAUTH));
        }
        if let Some(name) = name {
            set_name(child.session_mut(), name).map_err(|text| self.reject(child, text))?;
        }
        self.await_fresh(child, Needed::Greeting)?;
        if proto != child.session().proto && child.lease().is_some() {
            return Ok(self.switch_lease_proto(child, proto));
        }
        self.greet(child, proto);
        Ok(Flow::Done)
    }

    /// Before Redis 7.2: the options apply from left to right, each at once. What was set before a failing one stays.
    fn take_hello_in_order(&mut self, child: &mut Child, request: &Request<'_>) -> Result<(), Flow> {
        let mut index = child.front().arguments_done().max(2);
        while index < request.argc() {
            match hello_option(request, index) {
                Some(HelloOption::Auth) => self.hello_claim(child, request, index)?,
                Some(HelloOption::Setname) => set_name(child.session_mut(), request.arg(index + 1))
                    .map_err(|text| self.reject(child, text))?,
                None => return Err(self.reject(child, texts::hello_option(request.arg(index)))),
            }
            index += hello_option(request, index).map_or(1, HelloOption::len);
        }
        Ok(())
    }

    /// Since: all options are read before any applies, and the last of each kind counts. Returns the name to be set, once
    /// the child is authenticated.
    fn take_hello_whole<'r>(
        &mut self,
        child: &mut Child,
        request: &Request<'r>,
    ) -> Result<Option<&'r [u8]>, Flow> {
        let (mut auth, mut name, mut index) = (None, None, 2);
        while index < request.argc() {
            let Some(option) = hello_option(request, index) else {
                return Err(self.reject(child, texts::hello_option(request.arg(index))));
            };
            match option {
                HelloOption::Auth => auth = Some(index),
                HelloOption::Setname if is_plain(request.arg(index + 1)) => {
                    name = Some(request.arg(index + 1))
                }
                HelloOption::Setname => return Err(self.reject(child, texts::CLIENT_NAME)),
            }
            index += option.len();
        }
        // The upstream may have been asked about it already.
        if let Some(auth) = auth.filter(|auth| child.front().arguments_done() <= *auth) {
            self.hello_claim(child, request, auth)?;
        }
        Ok(name)
    }

    /// HELLO ... AUTH name password, with AUTH at this index.
    fn hello_claim(&mut self, child: &mut Child, request: &Request<'_>, auth: usize) -> Result<(), Flow> {
        if self.is_judged(child) {
            return self.hello_auth(child, request, auth + HelloOption::Auth.len());
        }
        if request.arg(auth + 1) != b"default" {
            return Err(self.reject(child, texts::WRONGPASS));
        }
        Ok(())
    }

    pub(crate) fn greet(&mut self, child: &mut Child, proto: u8) {
        child.session_mut().proto = proto;
        let reply = self.greeting(child);
        self.answer(child, &reply);
    }

    /// RESET: whatever the child has upstream goes with its leased lane, and with its subscriptions.
    fn reset(&mut self, child: &mut Child) -> FlowResult {
        self.reset_topics(child)?;
        if let Some(lease) = child.lease() {
            if child.is_under_way() {
                return Err(Flow::Hold(Hold::OwnReplies));
            }
            *child.subscriptions_mut() = None;
            // What has come before is said before, though requests behind this one had been read.
            self.release_held_pushes(child);
            if let Some(lane) = self.connections.find_mut(lease.lane) {
                lane.need_close();
            }
            self.end_lease(child);
        }
        // What was published before comes before.
        self.release_held_pushes(child);
        child.session_mut().reset();
        self.become_first_user(child);
        self.answer(child, b"+RESET\r\n");
        Ok(Flow::Done)
    }
}

/// An option of HELLO.
#[derive(Debug, Clone, Copy)]
enum HelloOption {
    Auth,
    Setname,
}

impl HelloOption {
    /// The arguments it consists of.
    fn len(self) -> usize {
        match self {
            HelloOption::Auth => 3,
            HelloOption::Setname => 2,
        }
    }
}

/// The option at this index, if it is one with all its values.
fn hello_option(request: &Request<'_>, index: usize) -> Option<HelloOption> {
    let names = [(&b"AUTH"[..], HelloOption::Auth), (b"SETNAME", HelloOption::Setname)];
    let (_, option) = names.into_iter().find(|(name, _)| request.arg(index).eq_ignore_ascii_case(name))?;
    (index + option.len() <= request.argc()).then_some(option)
}

fn on_or_off(switch: &[u8]) -> Option<bool> {
    let on = switch.eq_ignore_ascii_case(b"on");
    (on || switch.eq_ignore_ascii_case(b"off")).then_some(on)
}

fn ok_or(out: &mut Vec<u8>, done: Result<(), impl AsRef<[u8]>>) {
    match done {
        Ok(()) => out.extend_from_slice(b"+OK\r\n"),
        Err(text) => encode::error(out, text),
    }
}

/// AUTH as of a server whose default user needs no password: the broker's listener has already decided
/// who may connect.
fn auth(argv: &[&[u8]]) -> Result<(), &'static str> {
    match argv {
        [_, _] => Err(texts::AUTH_WITHOUT_PASSWORD),
        [_, b"default", _] => Ok(()),
        [_, _, _] => Err(texts::WRONGPASS),
        _ => Err(texts::SYNTAX),
    }
}

fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

fn set_name(session: &mut Session, name: &[u8]) -> Result<(), &'static str> {
    if !is_plain(name) {
        return Err(texts::CLIENT_NAME);
    }
    session.name = name.to_vec();
    Ok(())
}

fn set_info(session: &mut Session, attribute: &[u8], value: &[u8]) -> Result<(), Vec<u8>> {
    let field = match attribute.to_ascii_lowercase().as_slice() {
        b"lib-name" => &mut session.lib_name,
        b"lib-ver" => &mut session.lib_version,
        _ => return Err(texts::setinfo_option(attribute)),
    };
    if !is_plain(value) {
        return Err(texts::setinfo_value(attribute));
    }
    *field = value.to_vec();
    Ok(())
}

/// CLIENT TRACKINGINFO of a child that does not track.
fn not_tracking(out: &mut Vec<u8>, proto: u8) {
    encode::map_header(out, 3, proto);
    encode::bulk(out, b"flags");
    encode::set_header(out, 1, proto);
    encode::bulk(out, b"off");
    encode::bulk(out, b"redirect");
    encode::int(out, -1);
    encode::bulk(out, b"prefixes");
    encode::array_header(out, 0);
}
