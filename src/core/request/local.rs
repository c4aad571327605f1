//! Commands that the broker answers itself, from the child's session; no shared lane carries them. Texts and the order of
//! checks are those of Redis 7.0.15.

use crate::command::{Local, texts};
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::child::session::{ReplyMode, Session, redirect};
use crate::core::connection::slot::{SlotFlags, SlotKind};
use crate::core::questions::control::{Needed, Question};
use crate::core::request::flow::{Flow, canonical_int};
use crate::core::shared::Shared;
use crate::resp::{Request, encode};

impl Shared {
    pub(crate) fn local(&mut self, child: &mut Child, local: Local, request: &Request<'_>) -> Flow {
        match local {
            Local::SubscriberPing => self.ping_as_subscriber(child, request),
            // A health check must notice that the upstream has gone.
            Local::Ping if !self.upstream_is_up() => self.wait_for_upstream(child),
            Local::Quit if self.shares_topics(child) && self.is_owed_replies(child) => {
                Flow::Hold(Hold::OwnReplies)
            }
            Local::Quit => {
                self.answer(child, b"+OK\r\n");
                self.finish_at_request(child);
                Flow::Done
            }
            Local::Select => self.select(child, request),
            Local::Hello => self.hello(child, request),
            Local::Auth if self.is_judged(child) => self.authenticate(child, request),
            Local::Reset => self.reset(child),
            Local::ClientReply => self.set_reply_mode(child, request.arg(2)),
            // What it has asked for before comes first, as it would on one connection.
            Local::ClientKill | Local::ClientUnblock if self.is_owed_replies(child) => {
                Flow::Hold(Hold::OwnReplies)
            }
            Local::ClientKill | Local::ClientList | Local::ClientUnblock => Flow::Roster(local),
            Local::ClientNoTouch => self.no_touch(child, request),
            _ => {
                let argv: Vec<&[u8]> = request.args().collect();
                let reply = self.local_reply(child, local, &argv);
                self.answer(child, &reply);
                Flow::Done
            }
        }
    }

    /// Commands whose reply needs nothing but the child's own state.
    pub(crate) fn local_reply(&mut self, child: &mut Child, local: Local, argv: &[&[u8]]) -> Vec<u8> {
        let user = if local == Local::Whoami { self.user_name(child) } else { String::new() };
        let listens_resp2 = child.session().proto == 2 && child.is_subscribed();
        let arg = |index: usize| argv.get(index).copied().unwrap_or_default();
        let mut out = Vec::new();
        match local {
            Local::Ping if argv.len() > 2 => return error(texts::wrong_arity("ping")),
            Local::Ping if listens_resp2 => {
                encode::array_header(&mut out, 2);
                encode::bulk(&mut out, b"pong");
                encode::bulk(&mut out, arg(1));
            }
            Local::Ping if argv.len() == 2 => encode::bulk(&mut out, arg(1)),
            Local::Ping => out.extend_from_slice(b"+PONG\r\n"),
            Local::Echo => encode::bulk(&mut out, arg(1)),
            Local::Auth => return auth(argv),
            Local::ClientId => encode::int(&mut out, child.session().id as i64),
            Local::ClientSetname => return set_name(child.session_mut(), arg(2)),
            Local::ClientGetname if child.session().name.is_empty() => {
                encode::null(&mut out, child.session().proto)
            }
            Local::ClientGetname => encode::bulk(&mut out, &child.session().name),
            Local::ClientSetinfo => return set_info(child.session_mut(), arg(2), arg(3)),
            Local::ClientNoEvict => return set_no_evict(child.session_mut(), arg(2)),
            Local::ClientCapa => return ok(),
            Local::ClientGetredir => encode::int(&mut out, redirect(child.session())),
            Local::ClientTrackinginfo => not_tracking(&mut out, child.session().proto),
            Local::ClientCaching => return error(texts::CACHING_WITHOUT_TRACKING),
            Local::ClientInfo => {
                let mut line = String::new();
                self.line(child, &mut line);
                encode::verbatim_txt(&mut out, line.as_bytes(), child.session().proto);
            }
            Local::Whoami => encode::bulk(&mut out, user.as_bytes()),
            Local::Asking | Local::Readonly | Local::Readwrite => return error(texts::CLUSTER_DISABLED),
            Local::SubscriberPing
            | Local::Quit
            | Local::Select
            | Local::Hello
            | Local::Reset
            | Local::ClientReply
            | Local::ClientList
            | Local::ClientKill
            | Local::ClientUnblock
            | Local::ClientNoTouch => {}
        }
        out
    }

    /// PING of a RESP2 subscriber: the upstream is asked as by anybody, on a connection that does not listen.
    fn ping_as_subscriber(&mut self, child: &mut Child, request: &Request<'_>) -> Flow {
        let id = child.last_command().unwrap_or_default();
        let lane = match child.lease() {
            Some(lease) => Ok(lease.lane),
            None => self.shared_lane_for(child, id, request.bytes.len()),
        };
        match lane {
            Ok(lane) => {
                self.send_for(child, lane, request.bytes, id, SlotKind::SubscriberPing, SlotFlags::NONE);
                Flow::Done
            }
            Err(flow) => flow,
        }
    }

    fn shares_topics(&self, child: &Child) -> bool {
        child.topics().is_some()
    }

    pub(crate) fn is_owed_replies(&self, child: &Child) -> bool {
        child.is_under_way()
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
        let on = match request.arg(2).to_ascii_lowercase().as_slice() {
            b"on" => true,
            b"off" => false,
            _ => return self.reject(child, texts::SYNTAX),
        };
        child.session_mut().no_touch = on;
        if let Some(lease) = child.lease() {
            let id = child.last_command().unwrap_or_default();
            if let Some(lane) = self.connections.find_mut(lease.lane) {
                lane.need_close();
            }
            self.send_for(child, lease.lane, request.bytes, id, SlotKind::Relay, SlotFlags::NONE);
        } else {
            self.answer(child, b"+OK\r\n");
        }
        Flow::Done
    }

    fn select(&mut self, child: &mut Child, request: &Request<'_>) -> Flow {
        if child.has_rights() {
            let db = canonical_int(request.arg(1)).and_then(|db| u32::try_from(db).ok());
            return self.ask_select(child, request, db);
        }
        let Some(number) = canonical_int(request.arg(1)) else {
            return self.reject(child, texts::NOT_AN_INTEGER);
        };
        let Ok(number) = i32::try_from(number) else { return self.reject(child, texts::INT_OUT_OF_RANGE) };
        let Ok(db) = u32::try_from(number) else { return self.reject(child, texts::DB_OUT_OF_RANGE) };
        if self.commands.table().is_none() {
            return self.wait_for_upstream(child);
        }
        if self.control.db_is_valid(db) {
            child.session_mut().db = db;
            self.answer(child, b"+OK\r\n");
            return Flow::Done;
        }
        if !self.control_is_ready() {
            return self.wait_for_upstream(child);
        }
        self.ask(Question::TryDb { child: child.key(), db });
        Flow::Hold(Hold::Question)
    }

    /// HELLO applies its options from left to right, each at once; the protocol changes last. What was
    /// set before a failing option stays.
    fn hello(&mut self, child: &mut Child, request: &Request<'_>) -> Flow {
        if self.control.greeting().is_none() {
            return self.wait_for_upstream(child);
        }
        let judged = self.is_judged(child);
        // A push must not have the new form before the greeting tells of it.
        if (child.lease().is_some() || child.is_subscribed()) && child.is_under_way() {
            return Flow::Hold(Hold::OwnReplies);
        }
        let mut proto = child.session().proto;
        if request.argc() > 1 {
            proto = match canonical_int(request.arg(1)) {
                None => return self.reject(child, texts::HELLO_VERSION),
                Some(version @ (2 | 3)) => version as u8,
                Some(_) => return self.reject(child, texts::HELLO_UNSUPPORTED),
            };
        }
        let mut index = usize::from(child.front().hello_done()).max(2);
        while index < request.argc() {
            let left = request.argc() - 1 - index;
            let option = request.arg(index);
            if option.eq_ignore_ascii_case(b"AUTH") && left >= 2 && judged {
                if let Err(flow) = self.hello_auth(child, request, index + 3) {
                    return flow;
                }
                index += 3;
            } else if option.eq_ignore_ascii_case(b"AUTH") && left >= 2 {
                if request.arg(index + 1) != b"default" {
                    return self.reject(child, texts::WRONGPASS);
                }
                index += 3;
            } else if option.eq_ignore_ascii_case(b"SETNAME") && left >= 1 {
                let reply = set_name(child.session_mut(), request.arg(index + 1));
                if reply.first() == Some(&b'-') {
                    self.answer(child, &reply);
                    return Flow::Done;
                }
                index += 2;
            } else {
                return self.reject(child, texts::hello_option(option));
            }
        }
        if !child.is_authenticated() {
            return self.reject(child, texts::HELLO_NOAUTH);
        }
        let switches = proto != child.session().proto && child.lease().is_some();
        if let Err(flow) = self.await_fresh(child, Needed::Greeting) {
            return flow;
        }
        if switches {
            return self.switch_lease_proto(child, proto);
        }
        self.greet(child, proto);
        Flow::Done
    }

    /// The answer to HELLO, in the protocol the child speaks from now on.
    pub(crate) fn greet(&mut self, child: &mut Child, proto: u8) {
        child.session_mut().proto = proto;
        let reply = self.greeting(child);
        self.answer(child, &reply);
    }

    /// RESET: whatever the child has upstream goes with its leased lane, and with its subscriptions.
    fn reset(&mut self, child: &mut Child) -> Flow {
        if let Err(flow) = self.reset_topics(child) {
            return flow;
        }
        if child.lease().is_some() {
            if child.is_under_way() {
                return Flow::Hold(Hold::OwnReplies);
            }
            *child.subscriptions_mut() = None;
            if let Some(lease) = child.lease()
                && let Some(lane) = self.connections.find_mut(lease.lane)
            {
                lane.need_close();
            }
            self.end_lease(child);
        }
        child.session_mut().reset();
        self.become_first_user(child);
        self.answer(child, b"+RESET\r\n");
        Flow::Done
    }
}

pub(crate) fn error(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    encode::error(&mut out, text);
    out
}

pub(crate) fn ok() -> Vec<u8> {
    b"+OK\r\n".to_vec()
}

/// AUTH as of a server whose default user needs no password: the broker's listener has already decided
/// who may connect.
pub(crate) fn auth(argv: &[&[u8]]) -> Vec<u8> {
    match argv {
        [_, _] => error(texts::AUTH_WITHOUT_PASSWORD),
        [_, b"default", _] => ok(),
        [_, _, _] => error(texts::WRONGPASS),
        _ => error(texts::SYNTAX),
    }
}

pub(crate) fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

pub(crate) fn set_name(session: &mut Session, name: &[u8]) -> Vec<u8> {
    if !is_plain(name) {
        return error(texts::CLIENT_NAME);
    }
    session.name = name.to_vec();
    ok()
}

pub(crate) fn set_info(session: &mut Session, attribute: &[u8], value: &[u8]) -> Vec<u8> {
    let field = match attribute.to_ascii_lowercase().as_slice() {
        b"lib-name" => &mut session.lib_name,
        b"lib-ver" => &mut session.lib_version,
        _ => return error(texts::setinfo_option(attribute)),
    };
    if !is_plain(value) {
        return error(texts::setinfo_value(attribute));
    }
    *field = value.to_vec();
    ok()
}

/// CLIENT TRACKINGINFO of a child that does not track.
pub(crate) fn not_tracking(out: &mut Vec<u8>, proto: u8) {
    encode::map_header(out, 3, proto);
    encode::bulk(out, b"flags");
    encode::set_header(out, 1, proto);
    encode::bulk(out, b"off");
    encode::bulk(out, b"redirect");
    encode::int(out, -1);
    encode::bulk(out, b"prefixes");
    encode::array_header(out, 0);
}

pub(crate) fn set_no_evict(session: &mut Session, switch: &[u8]) -> Vec<u8> {
    session.no_evict = match switch.to_ascii_lowercase().as_slice() {
        b"on" => true,
        b"off" => false,
        _ => return error(texts::SYNTAX),
    };
    ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_as_redis_takes_them() {
        let cases: [(&[u8], Option<i64>); 8] = [
            (b"0", Some(0)),
            (b"-1", Some(-1)),
            (b"15", Some(15)),
            (b"01", None),
            (b"+1", None),
            (b"-0", None),
            (b"", None),
            (b"9223372036854775808", None),
        ];
        for (text, expected) in cases {
            assert_eq!(canonical_int(text), expected, "{:?}", String::from_utf8_lossy(text));
        }
    }
}
