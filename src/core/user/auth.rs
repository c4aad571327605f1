//! Who a child is and what it may do: AUTH, what an unauthenticated child may run, what its user may. Checks no
//! password: `users` or, on the probe, the upstream does.

use crate::base::limits;
use crate::command::{CommandId, Local, Route, Transaction as TransactionCommand, texts};
use crate::config::accounts::Account;
use crate::core::broker::Broker;
use crate::core::child::hold::Hold;
use crate::core::child::{Child, log_child};
use crate::core::keys::{AccountId, UserId};
use crate::core::lease::state::LeaseState;
use crate::core::questions::probe::{Claim, ProofAbout};
use crate::core::request::flow::{Decided, Flow};
use crate::core::shared::Shared;
use crate::core::sweeps::Sweep;
use crate::core::timers::Timer;
use crate::core::user::credentials::Password;
use crate::core::user::guesses::Source;
use crate::core::user::users::PasswordCheck;
use crate::resp::Request;

const ON_ITS_OWN: &str = "ERR AUTH while subscribed or tracking is not supported by the broker";

impl Shared {
    pub(crate) fn is_judged(&self, child: &Child) -> bool {
        !child.origin().is_local() && self.users.authenticate_children()
    }

    /// The child is this user from now on. Nothing of it is in flight. Keys that it watched were watched
    /// with the rights of the previous user: that lane is given up, so the child's next EXEC is null.
    pub(crate) fn become_user(&mut self, child: &mut Child, user: UserId, account: Option<AccountId>) {
        let former = child.set_user(user, account);
        self.users.enter(user);
        self.users.leave(former, self.env.now);
        if former == user {
            return;
        }
        // The lane that carried them is the previous user's.
        child.sent_mut().lose_writes();
        let Some(held) = child.lease() else { return };
        // It may have been lost in this event, of which the child is told at its end.
        if let Some(lane) = self.connections.find_mut(held.lane) {
            lane.need_close();
            if lane.lease().is_some_and(LeaseState::is_watching) {
                child.session_mut().transaction.lose_watch();
            }
        }
        self.end_lease(child);
    }

    /// As a child that has just connected; so does RESET leave it.
    pub(crate) fn become_first_user(&mut self, child: &mut Child) {
        let (user, account) = match child.origin().is_local() {
            // The program's own requests are trusted.
            true => (UserId::UPSTREAM, None),
            false
                if let Some(account) =
                    child.origin().certified().filter(|account| self.users.has_account(*account)) =>
            {
                (self.users.user_of(account), Some(account))
            }
            false => self.users.first(self.probe.default_user(self.env.now)),
        };
        self.become_user(child, user, account);
    }

    /// The name CLIENT INFO has for the child's user.
    pub(crate) fn user_name(&self, child: &Child) -> String {
        match child.account() {
            Some(account) => self.users.account_name(account).to_owned(),
            None => String::from_utf8_lossy(self.users.name(child.user(), &self.env.upstream)).into_owned(),
        }
    }

    pub(crate) fn authenticate(&mut self, child: &mut Child, request: &Request<'_>) -> Flow {
        let args: Vec<&[u8]> = request.args().collect();
        let (name, password) = match args[..] {
            [_, password] => (None, password),
            [_, name, password] => (Some(name), password),
            _ => return self.reject(child, texts::SYNTAX),
        };
        let claimed = self.claim(child, name, password, &args, None);
        claimed.map_or_else(|flow| flow, |()| self.answer_ok(child))
    }

    /// HELLO ... AUTH name password, which ends before the argument `resume`. `Ok`: go on with the options.
    pub(crate) fn hello_auth(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        resume: usize,
    ) -> Result<(), Flow> {
        let (name, password) = (request.arg(resume - 2), request.arg(resume - 1));
        let args = [request.arg(0), b"2", b"AUTH", name, password];
        let resume = u16::try_from(resume).unwrap_or(u16::MAX);
        self.claim(child, Some(name), password, &args, Some(resume))
    }

    /// A child says who it is. `request` is how the upstream is asked, if it judges.
    fn claim(
        &mut self,
        child: &mut Child,
        name: Option<&[u8]>,
        password: &[u8],
        request: &[&[u8]],
        resume: Option<u16>,
    ) -> Result<(), Flow> {
        if child.is_under_way() {
            return Err(Flow::Hold(Hold::OwnReplies));
        }
        let said = (name.unwrap_or(b"default"), password);
        self.may_guess(child, said)?;
        // Redis reads such a name or password only from connections that are authenticated, and no lane could be greeted
        // with it. It must not reach the probe either, which is not authenticated when it is asked.
        if said.0.len().max(password.len()) > limits::CREDENTIAL_MAX {
            return Err(self.refuse_claim(child, said.0));
        }
        if self.users.are_upstreams() {
            let (name, tested) = (said.0.into(), self.users.is_named(said.0));
            let claim = Claim { name, password: Password::new(password), resume, tested };
            return Err(self.ask_for(child, request, ProofAbout::Claim(claim)));
        }
        match self.users.verify(name, password) {
            PasswordCheck::Welcome(account) => {
                self.guessed_right(child, said);
                self.become_user(child, self.users.user_of(account), Some(account));
                Ok(())
            }
            PasswordCheck::WrongPassword => Err(self.refuse_claim(child, said.0)),
            PasswordCheck::NoneNeeded => Err(self.reject(child, texts::AUTH_WITHOUT_PASSWORD)),
        }
    }

    /// Whether the child's password may be looked at now. The delay comes before the answer: a child that hangs up
    /// and connects again would not wait for one that comes after it.
    fn may_guess(&mut self, child: &mut Child, claim: (&[u8], &[u8])) -> Result<(), Flow> {
        let now = self.env.now;
        let due = match child.front().auth_due() {
            Some(due) => due,
            None => now + self.users.guesses().delay(&Source::of(child), claim, now),
        };
        if due <= now {
            return Ok(());
        }
        child.front_mut().delay_auth(due);
        self.env.timers.arm(due, Timer::Child(child.key()));
        Err(Flow::Hold(Hold::AuthDelay))
    }

    pub(super) fn guessed_right(&mut self, child: &Child, claim: (&[u8], &[u8])) {
        self.users.guesses().was_right(Source::of(child), claim, self.env.now);
    }

    pub(super) fn guessed_wrong(&mut self, child: &Child, name: &[u8]) {
        let delay_ms = self.users.guesses().was_wrong(Source::of(child), self.env.now);
        let name = String::from_utf8_lossy(&name[..name.len().min(64)]);
        let label = child.label();
        log_child!(
            warn,
            child,
            "wrong password for user {name:?} by child {label}; the next one from there waits {delay_ms} ms"
        );
    }

    fn refuse_claim(&mut self, child: &mut Child, name: &[u8]) -> Flow {
        self.guessed_wrong(child, name);
        self.reject(child, texts::WRONGPASS)
    }

    /// Bytes of one request: `child_input_max` for the value, and room for names, keys and framing.
    pub(crate) fn request_max(&self) -> usize {
        self.env.settings.child_input_max.saturating_add(limits::REQUEST_WORDS)
    }

    /// Whether a known command goes on, and which way where that depends on the user.
    pub(crate) fn admit(&mut self, child: &mut Child, decided: &mut Decided<'_>) -> Option<Flow> {
        let request = decided.request;
        if !self.is_judged(child) {
            return self.admit_script(child, decided);
        }
        if child.user() == UserId::UNDECIDED {
            self.become_first_user(child);
            if child.user() == UserId::UNDECIDED {
                self.ask_default();
                return Some(self.wait_for_upstream(child));
            }
        }
        match decided.route {
            Route::Local(Local::Quit | Local::Reset) => return None,
            Route::Local(local @ (Local::Auth | Local::Hello))
                if child.is_subscribed() || child.session().is_pinned() =>
            {
                let name = if local == Local::Auth { "auth" } else { "hello" };
                if child.session().proto == 2 && child.is_subscribed() {
                    return Some(
                        self.reject(child, texts::subscriber_context(name, self.commands.wording())),
                    );
                }
                // It has a connection of its own, which would stay the previous user's.
                let claims = name == "auth" || request.args().any(|arg| arg.eq_ignore_ascii_case(b"AUTH"));
                return claims.then(|| self.reject(child, ON_ITS_OWN));
            }
            Route::Local(Local::Auth) if child.session().transaction.is_open() => {
                return Some(self.reject_in_multi(child, decided.id));
            }
            Route::Local(Local::Auth | Local::Hello) => return None,
            _ => {}
        }
        if !child.is_authenticated() {
            return Some(self.turn_away(child, decided, texts::NOAUTH));
        }
        if let (Some(account), Some(table)) = (child.account(), self.commands.table()) {
            self.users.resolve(account, table);
        }
        if self.is_denied(child, decided.id) {
            let text = texts::refused(self.commands.name(decided.id));
            return Some(self.turn_away(child, decided, &text));
        }
        if let Some(flow) = self.admit_script(child, decided) {
            return Some(flow);
        }
        decided.route = self.route_as(child, decided.id, decided.route);
        self.permit(child, request, decided.route)
    }

    /// What a child may see of others and do to them is a right of its user, which the broker has to ask for.
    fn permit(&mut self, child: &mut Child, request: &Request<'_>, route: Route) -> Option<Flow> {
        if !child.has_rights() || child.front().is_permitted() {
            return None;
        }
        let client = request.arg(0);
        let harmless: &[&[u8]] = match route {
            Route::Local(Local::ClientKill) => &[client, b"KILL", b"ID", b"0"],
            Route::Local(Local::ClientList) => &[client, b"LIST", b"ID", b"0"],
            Route::Local(Local::ClientUnblock) => &[client, b"UNBLOCK", b"0"],
            _ => return None,
        };
        Some(self.ask_for(child, harmless, ProofAbout::Permit))
    }

    pub(crate) fn turn_away(&mut self, child: &mut Child, decided: &Decided<'_>, text: &str) -> Flow {
        match decided.route {
            Route::Transaction(TransactionCommand::Exec) => self.reject_exec(child, decided.request, text),
            _ => self.reject(child, text),
        }
    }

    /// Whether one of the broker's own users may not run the command.
    pub(crate) fn is_denied(&self, child: &Child, id: CommandId) -> bool {
        child.account().is_some_and(|account| self.users.is_refused(account, id))
    }

    /// Only the broker knows the names of its own users, only the upstream knows what its users may.
    pub(crate) fn route_as(&self, child: &Child, id: CommandId, route: Route) -> Route {
        match route {
            _ if child.account().is_some() && self.users.is_whoami(id) => Route::Local(Local::Whoami),
            Route::Local(Local::Ping | Local::Echo) if child.has_rights() && !child.is_subscribed() => {
                Route::Shared
            }
            _ => route,
        }
    }

    pub(crate) fn may_multi(&mut self, child: &mut Child) -> Result<(), Flow> {
        let refusal = if child.has_rights() {
            let Some(known) = self.users.multi(child.user(), self.env.now) else {
                // In a block, a MULTI that is refused would let what follows it run one by one.
                return Err(self.ask_for(child, &[b"MULTI"], ProofAbout::Multi(child.user())));
            };
            known
        } else {
            if self.control.multi_is_stale(self.env.now) {
                if !self.control.may_try_multi() {
                    self.control.forget_multi_refusal();
                } else if self.control_is_ready() {
                    if self.control.wait_for_multi(child.key()) {
                        self.try_multi();
                    }
                    return Err(Flow::Hold(Hold::Question));
                }
            }
            self.control.multi_refusal()
        };
        let Some(refusal) = refusal.map(<[u8]>::to_vec) else { return Ok(()) };
        self.answer(child, &refusal);
        Err(Flow::Done)
    }
}

/// The first few names, each on one line.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 16;
    let shown = names
        .iter()
        .take(SHOWN)
        .map(|name| name.chars().take(64).collect::<String>().escape_debug().to_string());
    let shown: Vec<String> = shown.collect();
    let more = names.len().saturating_sub(SHOWN);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

impl Broker {
    /// Takes the users of `auth_file`, in the place of those it has. Children that were one which is gone, or which has lost
    /// a password or certificate, are closed, as by ACL DELUSER. Says what has changed, by name.
    pub fn take_accounts(&mut self, accounts: Vec<Account>) -> Vec<String> {
        let shared = &mut self.shared;
        let changes = shared.users.take_accounts(accounts, shared.env.now);
        if shared.users.any_is_upstreams() && shared.probe.lane().is_none() {
            shared.open_probe();
        }
        if !changes.gone.is_empty() || !changes.replaced.is_empty() {
            shared.env.sweeps.begin(Sweep::AccountsGone);
        }
        let parts = [
            ("added", changes.added),
            ("with other rights", changes.changed),
            ("with other credentials", changes.replaced),
            ("gone", changes.gone),
        ];
        let parts = parts.into_iter().filter(|(_, names)| !names.is_empty());
        parts.map(|(what, names)| format!("auth_file: users {what}: {}", listed(&names))).collect()
    }
}
