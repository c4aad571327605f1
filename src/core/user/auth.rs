//! Who a child is: AUTH, what an unauthenticated child may do, what one of the broker's own users may, and the
//! end of a user. Passwords are judged by `core::users` or, on the probe, by the upstream; never here.

use crate::base::limits;
use crate::command::CommandId;
use crate::command::Local;
use crate::command::Route;
use crate::command::Table;
use crate::command::Transaction as TransactionCommand;
use crate::command::texts;
use crate::config::accounts::Account;
use crate::config::value::Auth;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::ChildKind;
use crate::core::child::hold::Hold;
use crate::core::child::last_write::LastWrite;
use crate::core::connection::failure::LOST;
use crate::core::connection::lane::Lane;
use crate::core::connection::lane::LaneRole;
use crate::core::connection::lane::LaneState;
use crate::core::keys::AccountId;
use crate::core::keys::ChildKey;
use crate::core::keys::LaneKey;
use crate::core::keys::PoolId;
use crate::core::keys::PoolKey;
use crate::core::keys::UserId;
use crate::core::notice::Notice;
use crate::core::request::flow::Decided;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::core::user::PasswordCheck;
use crate::resp::FrameLimits;
use crate::resp::Request;

pub(in crate::core) const ON_ITS_OWN: &str =
    "ERR AUTH while subscribed or tracking is not supported by the broker";

impl Shared {
    // ---- who a child is -------------------------------------------------------------------------------

    /// Who a child is that has said nothing. The program's own requests are trusted.
    pub(in crate::core) fn first_user(&self, kind: ChildKind) -> (UserId, Option<AccountId>) {
        if kind == ChildKind::Local {
            return (UserId::UPSTREAM, None);
        }
        match self.users.mode {
            Auth::Broker => (UserId::UPSTREAM, None),
            Auth::Users => match self.users.default_account() {
                Some(account) => (self.users.user_of(account), Some(account)),
                None => (UserId::NOBODY, None),
            },
            Auth::Passthrough => match self.probe.default_open {
                Some(true) if self.probe.default_is_fresh(self.env.now) => (UserId::DEFAULT, None),
                Some(false) => (UserId::NOBODY, None),
                Some(true) | None => (UserId::UNDECIDED, None),
            },
        }
    }

    /// Whether anybody asks who this child is.
    pub(in crate::core) fn is_judged(&self, child: &Child) -> bool {
        let judged = |child: &Child| child.kind != ChildKind::Local && self.users.mode != Auth::Broker;
        judged(child)
    }

    /// The child is this user from now on. Nothing of it is in flight. What it watched was watched with the
    /// rights of the former user: that lane cannot go on, so its next EXEC is null.
    pub(in crate::core) fn become_user(
        &mut self,
        child: &mut Child,
        user: UserId,
        account: Option<AccountId>,
    ) {
        let now = self.env.now;
        child.account = account;
        let former = std::mem::replace(&mut child.user, user);
        self.users.enter(user);
        self.users.leave(former, now);
        if former == user {
            return;
        }
        if child.last_write != LastWrite::None {
            // The lane that carried it is the former user's.
            child.last_write = LastWrite::Lost;
        }
        let Some(held) = child.lease else { return };
        if let Some(lane) = self.connections.lanes.get_mut(held.lane) {
            lane.burnt = true;
            child.session.watch_lost |= lane.lease.as_ref().is_some_and(|lease| lease.watching);
        }
        self.end_lease(child);
    }

    /// As a child that has just connected; so does RESET leave it.
    pub(in crate::core) fn become_first_user(&mut self, child: &mut Child) {
        let Some(kind) = Some(child.kind) else { return };
        let (user, account) = self.first_user(kind);
        self.become_user(child, user, account);
    }

    /// The name CLIENT INFO has for the child's user.
    pub(in crate::core) fn user_name(&self, child: &Child) -> String {
        match child.account {
            Some(account) => self.users.account_name(account).to_owned(),
            None => String::from_utf8_lossy(self.users.name(child.user, &self.env.upstream)).into_owned(),
        }
    }

    /// Whether there may be a user of this name: who is not connected, only the upstream knows.
    pub(in crate::core) fn is_user(&self, name: &[u8]) -> bool {
        match self.users.mode {
            Auth::Broker => self.users.name(UserId::UPSTREAM, &self.env.upstream) == name,
            Auth::Users => self.users.has_account(name),
            Auth::Passthrough => true,
        }
    }

    // ---- AUTH -----------------------------------------------------------------------------------------

    pub(in crate::core) fn authenticate(&mut self, child: &mut Child, request: &Request<'_>) -> Flow {
        let claim = match request.argc() {
            2 => (None, request.arg(1)),
            3 => (Some(request.arg(1)), request.arg(2)),
            _ => return self.reject(child, texts::SYNTAX),
        };
        if child.is_under_way() {
            return Flow::Hold(Hold::Drained);
        }
        let said = (claim.0.unwrap_or(b"default"), claim.1);
        if let Err(flow) = self.may_guess(child, said) {
            return flow;
        }
        if is_too_long(said) {
            return self.refuse_claim(child, said.0);
        }
        if self.users.mode == Auth::Passthrough {
            let args: Vec<&[u8]> = request.args().collect();
            return self.ask_claim(child, &args, said, None);
        }
        match self.let_in(child, claim.0, claim.1) {
            Ok(()) => {
                self.answer(child, b"+OK\r\n");
                Flow::Done
            }
            Err(text) => self.reject(child, text),
        }
    }

    /// HELLO ... AUTH name password, which ends before the argument `resume`. `Ok`: go on with the options.
    pub(in crate::core) fn hello_auth(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        resume: usize,
    ) -> Result<(), Flow> {
        let (name, password) = (request.arg(resume - 2), request.arg(resume - 1));
        if child.is_under_way() {
            return Err(Flow::Hold(Hold::Drained));
        }
        self.may_guess(child, (name, password))?;
        if is_too_long((name, password)) {
            return Err(self.refuse_claim(child, name));
        }
        if self.users.mode == Auth::Passthrough {
            let args = [request.arg(0), b"2", b"AUTH", name, password];
            let resume = u16::try_from(resume).unwrap_or(u16::MAX);
            return Err(self.ask_claim(child, &args, (name, password), Some(resume)));
        }
        self.let_in(child, Some(name), password).map_err(|text| self.reject(child, text))
    }

    fn refuse_claim(&mut self, child: &mut Child, name: &[u8]) -> Flow {
        self.guessed_wrong(child, name);
        self.reject(child, texts::WRONGPASS)
    }

    fn let_in(
        &mut self,
        child: &mut Child,
        name: Option<&[u8]>,
        password: &[u8],
    ) -> Result<(), &'static str> {
        match self.users.verify(name, password) {
            PasswordCheck::Welcome(account) => {
                self.guessed_right(child, (name.unwrap_or(b"default"), password));
                self.become_user(child, self.users.user_of(account), Some(account));
                Ok(())
            }
            PasswordCheck::WrongPassword => {
                self.guessed_wrong(child, name.unwrap_or(b"default"));
                Err(texts::WRONGPASS)
            }
            PasswordCheck::NoneNeeded => Err(texts::AUTH_WITHOUT_PASSWORD),
        }
    }

    /// What the child's next request may be; AUTH changes it.
    pub(in crate::core) fn frame_limits(&self, child: &Child) -> FrameLimits {
        let authenticated = child.user != UserId::NOBODY;
        FrameLimits { request_max: self.request_max(), authenticated }
    }

    /// Bytes of one request. `child_input_max` is what it is about; names, keys and framing have room beside that, so that
    /// a value of the greatest size passes.
    pub(in crate::core) fn request_max(&self) -> usize {
        self.env.settings.child_input_max.saturating_add(limits::REQUEST_WORDS)
    }

    // ---- what it may do -------------------------------------------------------------------------------

    /// Whether a request goes on, and which way where that depends on the user. It is a known command with
    /// the right number of arguments.
    pub(in crate::core) fn admit(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        decided: &mut Decided,
    ) -> Option<Flow> {
        if !self.is_judged(child) {
            return self.admit_script(child, request, decided);
        }
        if child.user == UserId::UNDECIDED {
            self.become_first_user(child);
            if child.user == UserId::UNDECIDED {
                self.ask_default();
                return Some(self.wait_for_upstream(child));
            }
        }
        match decided.route {
            Route::Local(Local::Quit | Local::Reset) => return None,
            Route::Local(local @ (Local::Auth | Local::Hello))
                if child.is_subscribed() || child.session.is_pinned() =>
            {
                let name = if local == Local::Auth { "auth" } else { "hello" };
                if child.session.proto == 2 && child.is_subscribed() {
                    return Some(self.reject(child, texts::subscriber_context(name)));
                }
                // Its connection is the former user's, and would stay so.
                let claims = name == "auth" || request.args().any(|arg| arg.eq_ignore_ascii_case(b"AUTH"));
                return claims.then(|| self.reject(child, ON_ITS_OWN));
            }
            Route::Local(Local::Auth) if child.session.transaction.is_open() => {
                return Some(self.reject_in_multi(child, decided.id));
            }
            Route::Local(Local::Auth | Local::Hello) => return None,
            _ => {}
        }
        if child.user == UserId::NOBODY {
            return Some(self.turn_away(child, request, decided.route, texts::NOAUTH));
        }
        if let (Some(account), Some(table)) = (child.account, &self.control.table) {
            self.users.resolve(account, table);
        }
        if self.is_denied(child, decided.id) {
            let text = texts::refused(self.control.table.as_ref().map_or("", |table| table.name(decided.id)));
            return Some(self.turn_away(child, request, decided.route, &text));
        }
        if let Some(flow) = self.admit_script(child, request, decided) {
            return Some(flow);
        }
        decided.route = self.route_as(child, decided.id, decided.route);
        self.permit(child, request, decided.route)
    }

    /// What a child may see of others and do to them is a right of its user, which the broker has to ask for.
    fn permit(&mut self, child: &mut Child, request: &Request<'_>, route: Route) -> Option<Flow> {
        if !child.has_rights() || child.permitted {
            return None;
        }
        let client = request.arg(0);
        match route {
            Route::Local(Local::ClientKill) => Some(self.ask_permit(child, &[client, b"KILL", b"ID", b"0"])),
            Route::Local(Local::ClientList) => Some(self.ask_permit(child, &[client, b"LIST", b"ID", b"0"])),
            Route::Local(Local::ClientUnblock) => Some(self.ask_permit(child, &[client, b"UNBLOCK", b"0"])),
            _ => None,
        }
    }

    pub(in crate::core) fn turn_away(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        route: Route,
        text: &str,
    ) -> Flow {
        match route {
            Route::Transaction(TransactionCommand::Exec) => self.reject_exec(child, request, text),
            _ => self.reject(child, text),
        }
    }

    /// Whether one of the broker's own users may not run the command.
    pub(in crate::core) fn is_denied(&self, child: &Child, id: CommandId) -> bool {
        let account = child.account;
        account.is_some_and(|account| self.users.is_refused(account, id))
    }

    /// The way of a command where it depends on who asks: only the broker knows the names of its own users,
    /// only the upstream knows what its users may.
    pub(in crate::core) fn route_as(&self, child: &Child, id: CommandId, route: Route) -> Route {
        match route {
            _ if child.account.is_some() && self.users.is_whoami(id) => Route::Local(Local::Whoami),
            Route::Local(Local::Ping | Local::Echo) if child.has_rights() && !child.is_subscribed() => {
                Route::Shared
            }
            _ => route,
        }
    }

    pub(in crate::core) fn table_for_users(&mut self) {
        if let Some(table) = &self.control.table {
            let table: &Table = table;
            self.users.table_changed(table);
        }
    }

    /// Whether the child's user may MULTI.
    pub(in crate::core) fn may_multi(&mut self, child: &mut Child) -> Result<(), Flow> {
        let known = if child.has_rights() {
            self.users.multi(child.user, self.env.now)
        } else {
            Some(self.control.multi_refusal.clone().map_or(Ok(()), Err))
        };
        match known {
            Some(Ok(())) => Ok(()),
            Some(Err(refusal)) => {
                self.answer(child, &refusal);
                Err(Flow::Done)
            }
            None => Err(self.ask_multi(child)),
        }
    }

    /// Places no lease may take beyond those of the three kinds.
    pub(in crate::core) fn probe_places(&self) -> usize {
        usize::from(self.probe.lane.is_some())
    }

    // ---- the end of a user ----------------------------------------------------------------------------

    /// The upstream lets nobody in as this user any more.
    pub(in crate::core) fn user_refused(&mut self, user: UserId) {
        if user == UserId::DEFAULT {
            self.probe.default_open = Some(false);
        }
        self.env.notices.push_back(Notice::UserRefused(user));
    }

    /// Nobody has been this user for a while.
    pub(in crate::core) fn end_abandoned_users(&mut self) {
        for user in self.users.abandoned(self.env.now) {
            self.end_user(user);
        }
    }

    /// Closes every connection of a user that no child is, and forgets what was said on them.
    pub(in crate::core) fn end_user(&mut self, user: UserId) {
        for key in self.connections.lanes.keys() {
            let Some(lane) = self.connections.lanes.get(key).filter(|lane| !lane.role.is_own()) else {
                continue;
            };
            if self.connections.pools[lane.pool.0 as usize].key.user == user {
                self.end_lane(key);
            }
        }
        for index in 0..self.connections.pools.len() {
            if self.connections.pools[index].key.user == user {
                self.free_pool(PoolId(index as u32));
            }
        }
        self.forget_hub(user);
        self.users.forget(user);
    }

    /// Removes a lane for good, whatever is on it: it belongs to children that are gone.
    fn end_lane(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        let pool = lane.pool;
        if let Some(kind) = lane.opening_for.take() {
            self.leases.line(kind).end_opening(pool);
        }
        if lane.lease.is_some() {
            return self.abandon_lease(key);
        }
        self.drop_connection(key);
        let slots = self.connections.lanes.get_mut(key).map(Lane::take_all).unwrap_or_default();
        self.fail_slots(key, slots, LOST);
        self.forget_lane(key, pool);
    }

    /// The upstream has refused the greeting of a child's lane. True if that was seen to here: the user's own
    /// password, or the db that it may not select.
    pub(in crate::core) fn greeting_refused(&mut self, key: LaneKey, is_choice: bool, frame: &[u8]) -> bool {
        let Some(lane) = self.connections.lanes.get(key) else { return true };
        let pool = self.connections.pools[lane.pool.0 as usize].key;
        if pool.user == UserId::UPSTREAM || lane.role.is_own() {
            return false;
        }
        let of_user = [&b"-WRONGPASS"[..], b"-NOAUTH", b"-NOPERM"];
        if is_choice && frame.first() == Some(&b'-') {
            self.refuse_pool(key, &pool, frame);
            return true;
        }
        let refused = of_user.iter().any(|text| frame.starts_with(text));
        if refused {
            self.user_refused(pool.user);
        }
        refused
    }

    /// Whoever waits for this lane is told what the upstream has said; the next request tries again.
    fn refuse_pool(&mut self, key: LaneKey, pool: &PoolKey, frame: &[u8]) {
        let text = String::from_utf8_lossy(frame.strip_prefix(b"-").unwrap_or(frame)).trim_end().to_owned();
        self.drop_connection(key);
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        debug_assert!(lane.state == LaneState::Dormant);
        if lane.role == LaneRole::Shared {
            let slots = lane.take_all();
            self.fail_slots(key, slots, &text);
            return self.account_lane(key);
        }
        self.end_lane(key);
        self.env.notices.push_back(Notice::PoolRefused(*pool, text));
    }
}

impl Broker {
    /// Takes the users of `auth_file`. Before the first child.
    pub fn take_accounts(&mut self, accounts: Vec<Account>) {
        if self.shared.users.take_accounts(accounts) {
            self.shared.open_probe();
        }
    }

    /// Whoever is a refused user is closed, as connections of its own would have been. Nobody goes on as somebody else.
    pub(in crate::core) fn close_user(&mut self, user: UserId) {
        let of_user = |(_, child): &(ChildKey, &Child)| child.user == user;
        let children: Vec<ChildKey> = self.children.iter().filter(of_user).map(|(key, _)| key).collect();
        let name = String::from_utf8_lossy(self.shared.users.name(user, &self.shared.env.upstream));
        let name: String = name.chars().take(64).collect();
        log::warn!("the upstream refuses user {name:?}: closing its {} children", children.len());
        for key in children {
            self.remove_child(key);
        }
        self.shared.end_user(user);
    }

    /// Whoever waits for a lease of this pool is told what the upstream has said.
    pub(in crate::core) fn fail_waiters(&mut self, pool: &PoolKey, text: &str) {
        for key in self.children.keys() {
            let Some(child) = self.children.get_mut(key) else { continue };
            if child.hold == Hold::Lease && child.pool_key() == *pool {
                self.shared.leave_line(child);
                self.shared.fail_front(child, text);
            }
        }
    }
}

/// Redis reads such a name or password from those alone who have said before who they are, and has no user of it that
/// a lane could be greeted as. It must not reach the probe either, which is nobody when it is asked.
pub(in crate::core) fn is_too_long(claim: (&[u8], &[u8])) -> bool {
    claim.0.len().max(claim.1.len()) > limits::CREDENTIAL_MAX
}
