//! Carries out console commands: who may, what is shown, in pieces as long as a child's turn, and the verbs. Other children
//! wait for none of it.

use crate::base::failure::{Failure, Limit};
use crate::base::limits;
use crate::command::texts;
use crate::core::action::Action;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::ChildKind;
use crate::core::child::hold::{Answer, Hold};
use crate::core::child::origin::Writer;
use crate::core::child::outbox::Frame;
use crate::core::console::cell::{Cell, header, line};
use crate::core::console::orders::{Order, OrderOutcome, frame_of};
use crate::core::console::parse::{NAME, Query, Statement, is_errors, parse};
use crate::core::console::showing::{RowKey, Showing};
use crate::core::console::tables::TABLES;
use crate::core::keys::ChildKey;
use crate::core::request::flow::{Flow, Roster};
use crate::core::shared::Shared;
use crate::resp::{Request, encode};

const HELP: &[&str] = &[
    "BROKER SHOW table [WHERE column value] [SORT column [REVERSE]] [LIMIT number]",
    "    value may be >number or <number; more conditions follow behind AND; numbers are sorted from the largest on.",
    "BROKER KILL CHILD id             (on admin_listen) closes a child.",
    "BROKER KILL PID pid              (on admin_listen) closes every child of a process; says how many.",
    "BROKER SET key value             (on admin_listen) changes a setting, until UNSET or a restart.",
    "BROKER UNSET key                 (on admin_listen) takes that back.",
    "BROKER RELOAD                    (on admin_listen) reads the configuration again; says what has changed.",
    "BROKER PAUSE [timeout]           (on admin_listen) waits for what is in flight, then holds requests, for at most",
    "    timeout or pause_timeout milliseconds; the answer comes when all is at rest.",
    "BROKER RESUME                    (on admin_listen) ends a pause.",
    "BROKER RECONNECT                 (on admin_listen) replaces every upstream connection after its replies.",
    "BROKER UPSTREAM url              (on admin_listen) moves to another server: pauses, sees that it serves, switches.",
    "BROKER DRAIN                     (on admin_listen) takes no further child, and ends once all have been let go.",
    "BROKER SHUTDOWN [WAIT]           (on admin_listen) ends at once, or as DRAIN within drain_timeout.",
    "BROKER UPGRADE                   (on admin_listen) starts a successor and hands everything over to it.",
    "BROKER ERRORS                    from now on this connection is told of lost requests by BROKERLOST and BROKERDOWN,",
    "    and not closed for them as on_upstream_loss = close would have it; for anybody.",
    "BROKER HELP",
    "Tables:",
];

impl Shared {
    /// A request that is the console's. What is about other children the broker carries out. Whether the child has said who it is
    /// to Redis means nothing here: the system has said who it is on this host.
    pub(crate) fn console(&mut self, child: &mut Child, request: &Request<'_>) -> Flow {
        if child.session().transaction.is_open() {
            return self.reject(child, "ERR BROKER is not allowed in transactions");
        }
        if child.session().proto == 2 && child.is_subscribed() {
            return self.reject(child, texts::subscriber_context(NAME, self.commands.wording()));
        }
        if is_errors(request) {
            child.session_mut().takes_errors = true;
            return self.answer_ok(child);
        }
        if child.ask_writer() {
            self.env.actions.push(Action::AskWriter { link: child.link() });
        }
        let statement = match self.permit_console(child).and_then(|()| parse(request)) {
            Ok(statement) => statement,
            Err(text) => return self.reject(child, text),
        };
        if !statement.is_look()
            && let Err(text) = self.permit_verbs(child)
        {
            return self.reject(child, text);
        }
        Flow::Roster(Roster::Console)
    }

    /// Who may look: the broker's own user, root, `admin_uids`; by who has written the request, not who has connected.
    fn permit_console(&self, child: &Child) -> Result<(), String> {
        if child.origin().kind() == ChildKind::Local {
            return Ok(());
        }
        let refused = texts::refused(NAME);
        let uid = match child.origin().writer() {
            Writer::Sure(who) => who.uid,
            Writer::Last(_) => {
                return Err(format!(
                    "{refused}: who has sent it among other requests is not known; send it again"
                ));
            }
            Writer::Unknown => {
                return Err(format!("{refused}: it is for users of this host, over a unix:// socket"));
            }
        };
        let settings = &self.env.settings;
        match uid == 0 || Some(uid) == self.env.own_uid || settings.admin_uids.contains(&uid) {
            true => Ok(()),
            false => Err(format!(
                "{refused}: it is for root, the broker's own user and admin_uids, not for uid {uid}"
            )),
        }
    }

    fn permit_verbs(&self, child: &Child) -> Result<(), String> {
        match child.origin().kind() {
            ChildKind::Admin | ChildKind::Local => Ok(()),
            ChildKind::Socket | ChildKind::Adopted => Err(format!(
                "{}: what changes something is heard on admin_listen alone",
                texts::refused(NAME)
            )),
        }
    }

    /// Lines of text, as an array.
    fn answer_lines<'a>(&mut self, child: &mut Child, lines: impl ExactSizeIterator<Item = &'a str>) -> Flow {
        let mut reply = Vec::new();
        encode::array_header(&mut reply, lines.len());
        lines.for_each(|line| encode::bulk(&mut reply, line.as_bytes()));
        self.answer(child, &reply);
        Flow::Done
    }

    fn help(&mut self, child: &mut Child) -> Flow {
        let tables: Vec<_> =
            TABLES.iter().map(|table| format!("    {:<10} {}", table.name, table.doc)).collect();
        let lines: Vec<&str> = HELP.iter().copied().chain(tables.iter().map(String::as_str)).collect();
        self.answer_lines(child, lines.into_iter())
    }

    /// The whole reply to a SHOW, whose lines are made.
    fn answer_table(&mut self, child: &mut Child, query: &Query, showing: Showing) -> Flow {
        if child.session().is_muted() {
            return Flow::Done;
        }
        let mut head = Vec::new();
        if child.session().proto == 3 {
            encode::array_header(&mut head, showing.rows);
        } else {
            encode::array_header(&mut head, showing.rows + 1);
            encode::bulk(&mut head, &header(query.table.columns));
        }
        let len = showing.body.len();
        let body = self.env.fragments.fragment(showing.body, 0..len);
        for frame in [Frame::of(&head), Frame::shared(&body)] {
            child.outbox_mut().answer(frame, &mut self.env.spares);
        }
        self.mark_child(child);
        Flow::Done
    }
}

impl Broker {
    /// Says as which user the broker runs: it may use the console.
    pub fn set_own_uid(&mut self, uid: u32) {
        self.shared.env.own_uid = Some(uid);
    }

    pub(crate) fn run_console(&mut self, key: ChildKey, request: &Request<'_>) -> Flow {
        let statement = parse(request);
        let Some(child) = self.children.known_mut(key) else { return Flow::Gone };
        match statement {
            Ok(Statement::Help) => self.shared.help(child),
            Ok(Statement::Order(order)) => {
                log::info!("child {} asks for {order:?}", child.label());
                self.shared.orders.push(key, order);
                Flow::Hold(Hold::Order)
            }
            Ok(Statement::Pause(timeout)) => {
                log::info!("child {} asks for PAUSE", child.label());
                self.shared.ask_for_pause(key, timeout);
                Flow::Hold(Hold::Order)
            }
            Ok(Statement::Resume) => {
                let label = child.label();
                let resumed = self.shared.resume_by(&label);
                let Some(child) = self.children.known_mut(key) else { return Flow::Gone };
                match resumed {
                    Ok(()) => self.shared.answer_ok(child),
                    Err(why) => self.shared.reject(child, format!("ERR {why}")),
                }
            }
            Ok(Statement::Reconnect) => {
                log::info!("child {} asks for RECONNECT", child.label());
                self.shared.reconnect();
                let Some(child) = self.children.known_mut(key) else { return Flow::Gone };
                self.shared.answer_ok(child)
            }
            Ok(Statement::KillChild(id)) => self.kill_child(key, id),
            Ok(Statement::KillPid(pid)) => self.kill_process(key, pid),
            Ok(Statement::Show(query)) => self.show(key, &query),
            Err(text) => self.shared.reject(child, text),
        }
    }

    /// The next order that was given to the driver, and who waits for its answer.
    pub fn take_order(&mut self) -> Option<(ChildKey, Order)> {
        self.shared.orders.pop()
    }

    /// What became of an order. Its asker may have gone since.
    pub fn answer_order(&mut self, asker: ChildKey, outcome: OrderOutcome) {
        self.shared.answer_asker(asker, outcome);
        self.deliver_notices();
    }

    /// Who has asked for a drain waits until all others have been let go.
    pub fn wait_for_drain(&mut self, asker: ChildKey) {
        if let Some(child) = self.children.get_mut(asker).filter(|child| child.hold() == Hold::Order) {
            child.set_hold(Hold::Drain);
        }
    }

    /// Tells those who wait for the end of a drain that it has come. Whether anybody was told.
    pub fn tell_of_drain(&mut self) -> bool {
        let waits = |child: &Child| child.hold() == Hold::Drain;
        let may_end = |child: &Child| waits(child) || child.is_idle_admin();
        if !self.shared.env.dismissing || !self.children.iter().all(|(_, child)| may_end(child)) {
            return false;
        }
        let told = self.children.iter().filter(|(_, child)| waits(child)).map(|(key, _)| key);
        let told: Vec<ChildKey> = told.collect();
        if told.is_empty() {
            return false;
        }
        for key in told {
            let Some(child) = self.children.get_mut(key) else { continue };
            *child.front_mut().answer_mut() = Some(Answer::Frame(frame_of(Ok(Vec::new()))));
            self.shared.lift(child);
        }
        true
    }

    /// SHOW, as much of it as the child's turn has room for.
    fn show(&mut self, key: ChildKey, query: &Query) -> Flow {
        let Some(child) = self.children.known_mut(key) else { return Flow::Gone };
        let kept = child.front_mut().take_showing();
        let mut credit = child.credit() + self.shared.turn.credit_for_rows();
        let proto = child.session().proto;
        let mut showing = kept.unwrap_or_else(|| {
            let showing = query.table.begin(self);
            credit -= (showing.len() * limits::KEY_COST) as i64;
            showing
        });
        let made = if credit > 0 { self.show_on(&mut showing, query, proto, &mut credit) } else { Ok(false) };
        let Some(child) = self.children.known_mut(key) else { return Flow::Gone };
        child.spend((child.credit() - credit).max(0) as usize);
        match made {
            Ok(true) => self.shared.answer_table(child, query, showing),
            Ok(false) => {
                child.front_mut().keep_showing(showing);
                Flow::More
            }
            Err(failure) => self.shared.reject(child, failure),
        }
    }

    fn cells_of(&self, showing: &Showing, query: &Query, key: RowKey) -> Option<Vec<Cell>> {
        showing.made_row(key).cloned().or_else(|| query.table.row(self, key))
    }

    /// Makes it go on until it is done, which it returns, or `credit` is used up.
    fn show_on(
        &self,
        showing: &mut Showing,
        query: &Query,
        proto: u8,
        credit: &mut i64,
    ) -> Result<bool, Failure> {
        let max_bytes = self.shared.env.settings.child_output_max;
        while showing.rows < query.limit {
            if *credit <= 0 {
                return Ok(false);
            }
            *credit -= limits::ROW_COST as i64;
            if let Some(key) = showing.next() {
                let cells = self.cells_of(showing, query, key);
                match (query.order, cells) {
                    (_, Some(cells)) if !query.means(&cells) => {}
                    (None, cells) => add_row(showing, query, key, cells.as_deref(), proto),
                    (Some(order), Some(mut cells)) => {
                        showing.sort_in(cells.swap_remove(order.column), key);
                    }
                    (Some(_), None) => {}
                }
            } else if let Some(key) = showing.next_sorted(query.order.is_some_and(|order| order.turned)) {
                let cells = self.cells_of(showing, query, key);
                add_row(showing, query, key, cells.as_deref(), proto);
            } else {
                return Ok(true);
            }
            if showing.body.len() > max_bytes {
                return Err(Failure::Limited(Limit::ChildOutput { max_bytes }));
            }
        }
        Ok(true)
    }
}

/// One line, or one map; of what has gone, that it has.
fn add_row(showing: &mut Showing, query: &Query, key: RowKey, cells: Option<&[Cell]>, proto: u8) {
    const GONE: &str = "gone";
    let columns = query.table.columns;
    let body = &mut showing.body;
    match cells {
        None if query.has_conditions() => return,
        None if proto == 3 => {
            encode::map_header(body, 2, proto);
            encode::bulk(body, columns[0].name.as_bytes());
            key.name().encode(body);
            encode::bulk(body, b"state");
            encode::bulk(body, GONE.as_bytes());
        }
        None => encode::bulk(body, &line(columns, &[key.name(), GONE.into()])),
        Some(cells) if proto == 3 => {
            encode::map_header(body, columns.len(), proto);
            for (column, cell) in columns.iter().zip(cells) {
                encode::bulk(body, column.name.as_bytes());
                cell.encode(body);
            }
        }
        Some(cells) => encode::bulk(body, &line(columns, cells)),
    }
    showing.rows += 1;
}
