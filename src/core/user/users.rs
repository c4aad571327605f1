//! All users that children can be: users of the upstream with the passwords that were accepted, the broker's own users
//! with what they may run, and the wrong passwords lately. Never sends anything, and never looks at a child.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::base::peer_certificate::PeerCertificate;
use crate::command::{CommandId, Table};
use crate::config::Upstream;
use crate::config::accounts::{Account, Hash};
use crate::config::value::Auth;
use crate::core::keys::{AccountId, UserId};
use crate::core::user::credentials::{Credentials, Password};
use crate::core::user::guesses::Guesses;
use std::collections::HashMap;

/// A user of the upstream with the very password that the upstream has accepted.
#[derive(Debug, Default)]
struct User {
    name: Box<[u8]>,
    password: Password,
    children: usize,
    left_at: Millis,
    /// Named in `auth_file`, so it stays.
    stays: bool,
    /// A lane of it was lost: it may have been deleted.
    suspect: bool,
    /// Takes any password, so every child with its name is this user. Its own password is a random word: when that is
    /// refused, the user has a password again, and its children have to know it.
    any: bool,
}

impl User {
    fn is_unused(&self) -> bool {
        self.children == 0 && !self.stays
    }
}

#[derive(Debug)]
struct LocalUser {
    /// Given once: whoever still names one that is gone means nobody.
    id: AccountId,
    account: Account,
    user: UserId,
    /// For each command of the table whether it is refused; as long as the table was when it was made.
    refused: Vec<bool>,
    /// Of these, what `commands_deny` names and a script can call all the same.
    denied_to_scripts: Vec<CommandId>,
}

/// What another `auth_file` means, by the names of its users.
#[derive(Debug, Default)]
pub(crate) struct AccountChanges {
    pub(crate) added: Vec<String>,
    /// They may run other commands.
    pub(crate) changed: Vec<String>,
    /// They have lost a password or a certificate, or are another user upstream: they have to say anew who they are.
    pub(crate) replaced: Vec<String>,
    pub(crate) gone: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Users {
    /// As it was when the broker started.
    mode: Auth,
    known: HashMap<UserId, User>,
    next: u64,
    /// When a user was last asked whether it may MULTI, and the refusal if it may not.
    multi: HashMap<UserId, (Millis, Option<Vec<u8>>)>,
    /// Of users with several passwords: when they were last tried with a random word, and the word if it was accepted.
    tested: HashMap<Box<[u8]>, (Millis, Option<Password>)>,
    /// By their ids.
    locals: Vec<LocalUser>,
    next_account: AccountId,
    guesses: Guesses,
    whoami: Option<CommandId>,
}

/// What AUTH is answered by the broker's own users.
pub(crate) enum PasswordCheck {
    Welcome(AccountId),
    WrongPassword,
    /// A password alone, and the default user has none.
    NoneNeeded,
}

impl Users {
    pub(crate) fn new(mode: Auth) -> Self {
        Users {
            mode,
            known: HashMap::new(),
            next: UserId::FIRST,
            multi: HashMap::new(),
            tested: HashMap::new(),
            locals: Vec::new(),
            next_account: 0,
            guesses: Guesses::new(match mode {
                // Redis judges, and has no such delay itself: the delay only keeps the turn of others at the probe.
                Auth::Passthrough => limits::GUESS_DELAY,
                Auth::Broker | Auth::Users => limits::GUESS_DELAY_MAX,
            }),
            whoami: None,
        }
    }

    pub(super) fn authenticate_children(&self) -> bool {
        self.mode != Auth::Broker
    }

    pub(crate) fn are_upstreams(&self) -> bool {
        self.mode == Auth::Passthrough
    }

    /// Who a child is before it has said anything. `default` is what the upstream makes of such a connection.
    pub(crate) fn first(&self, default: UserId) -> (UserId, Option<AccountId>) {
        match self.mode {
            Auth::Broker => (UserId::UPSTREAM, None),
            Auth::Users => {
                let account = self.default_account();
                (account.map_or(UserId::NOBODY, |account| self.user_of(account)), account)
            }
            Auth::Passthrough => (default, None),
        }
    }

    /// The user that a certificate names: by its key rather than by a name that stands in it.
    pub(crate) fn certified(&self, certificate: &PeerCertificate) -> Option<AccountId> {
        let named = |by: fn(&Account, &PeerCertificate) -> bool| {
            self.locals.iter().find(|local| by(&local.account, certificate))
        };
        named(Account::has_key_of).or_else(|| named(Account::is_in)).map(|local| local.id)
    }

    pub(crate) fn may_exist(&self, name: &[u8], upstream: &Upstream) -> bool {
        match self.mode {
            Auth::Broker => self.name(UserId::UPSTREAM, upstream) == name,
            Auth::Users => self.account_named(name).is_some(),
            Auth::Passthrough => true,
        }
    }

    /// Takes the broker's own users in the place of those that it has. One whose passwords and certificates are all still
    /// there, and who is the same user upstream, stays who it is; another one of the same name is another user.
    pub(crate) fn take_accounts(&mut self, accounts: Vec<Account>, now: Millis) -> AccountChanges {
        let mut changes = AccountChanges::default();
        self.known.values_mut().filter(|user| user.stays).for_each(|user| {
            (user.stays, user.left_at) = (false, now);
        });
        let mut by_name: HashMap<String, LocalUser> =
            self.locals.drain(..).map(|local| (local.account.name.clone(), local)).collect();
        for account in accounts {
            let mut user = UserId::UPSTREAM;
            if let Some((name, secret)) = &account.upstream {
                user = self.register(name.as_bytes(), &Password::new(secret.expose().as_bytes()));
                self.known.entry(user).and_modify(|user| user.stays = true);
            }
            let id = match by_name.remove(&account.name) {
                Some(local) if local.account == account => local.id,
                Some(local) if account.takes_all_of(&local.account) => {
                    changes.changed.push(account.name.clone());
                    local.id
                }
                other => {
                    let names = if other.is_some() { &mut changes.replaced } else { &mut changes.added };
                    names.push(account.name.clone());
                    self.next_account += 1;
                    self.next_account
                }
            };
            self.locals.push(LocalUser {
                id,
                account,
                user,
                refused: Vec::new(),
                denied_to_scripts: Vec::new(),
            });
        }
        self.locals.sort_unstable_by_key(|local| local.id);
        changes.gone = by_name.into_keys().collect();
        changes.gone.sort_unstable();
        changes
    }

    /// Whether any of the broker's own users is another user upstream.
    pub(crate) fn any_is_upstreams(&self) -> bool {
        self.locals.iter().any(|local| local.user != UserId::UPSTREAM)
    }

    fn local(&self, id: AccountId) -> Option<&LocalUser> {
        let at = self.locals.binary_search_by_key(&id, |local| local.id).ok()?;
        self.locals.get(at)
    }

    /// Whether the account is one of `auth_file`, still.
    pub(crate) fn has_account(&self, id: AccountId) -> bool {
        self.local(id).is_some()
    }

    /// What to say for `id`; the upstream's own user may change when settings are reloaded.
    pub(crate) fn get<'a>(&'a self, id: UserId, upstream: &'a Upstream) -> Credentials<'a> {
        if let Some(user) = self.known.get(&id) {
            return Credentials { name: Some(&user.name), password: Some(user.password.expose()) };
        }
        debug_assert!(id == UserId::UPSTREAM || id == UserId::DEFAULT, "a connection for {id:?}");
        if id != UserId::UPSTREAM {
            return Credentials { name: None, password: None };
        }
        let password = upstream.password.as_ref().map(|secret| secret.expose().as_bytes());
        Credentials { name: upstream.username.as_deref().map(str::as_bytes), password }
    }

    pub(crate) fn name<'a>(&'a self, id: UserId, upstream: &'a Upstream) -> &'a [u8] {
        match self.known.get(&id) {
            Some(user) => &user.name,
            None if id == UserId::UPSTREAM => upstream.username.as_deref().unwrap_or("default").as_bytes(),
            None => b"default",
        }
    }

    /// Another password of this name is another user, even if it was accepted too: each may be taken away.
    pub(crate) fn register(&mut self, name: &[u8], password: &Password) -> UserId {
        if let Some(id) = self.find(name, password.expose()) {
            return id;
        }
        let id = UserId(self.next);
        self.next += 1;
        let (name, password) = (name.into(), password.clone());
        self.known.insert(id, User { name, password, ..User::default() });
        id
    }

    /// As `register`, but all passwords of a user that takes any are one user. `None`: too many are in use.
    pub(crate) fn admit(&mut self, name: &[u8], password: &Password, now: Millis) -> Option<UserId> {
        if let Some(id) = self.find(name, password.expose()) {
            return Some(id);
        }
        let mut of_name = self.known.iter().filter(|(_, user)| *user.name == *name);
        if let Some((at, Some(word))) = self.tested.get(name)
            && at + limits::RIGHTS_FRESH > now
        {
            let word = word.clone();
            if let Some((id, _)) = of_name.find(|(_, user)| user.any) {
                return Some(*id);
            }
            let id = self.register(name, &word);
            self.known.entry(id).and_modify(|user| user.any = true);
            return Some(id);
        }
        (of_name.count() < limits::USER_PASSWORDS_MAX).then(|| self.register(name, password))
    }

    /// Whether to find out first if the user takes any password: another one of it is in use.
    pub(super) fn is_worth_a_test(&self, name: &[u8], password: &[u8], now: Millis) -> bool {
        let fresh = self.tested.get(name).is_some_and(|(at, _)| at + limits::RIGHTS_FRESH > now);
        !fresh && self.is_named(name) && self.find(name, password).is_none()
    }

    fn find(&self, name: &[u8], password: &[u8]) -> Option<UserId> {
        let is_it = |user: &User| *user.name == *name && user.password.expose() == password;
        self.known.iter().find(|(_, user)| is_it(user)).map(|(id, _)| *id)
    }

    pub(super) fn is_named(&self, name: &[u8]) -> bool {
        self.known.values().any(|user| *user.name == *name)
    }

    /// The user was tried with a random word, which is given if it was accepted.
    pub(super) fn set_any_password(&mut self, name: &[u8], word: Option<Password>, now: Millis) {
        if self.is_named(name) {
            self.tested.insert(name.into(), (now, word));
        }
    }

    pub(super) fn longest_abandoned(&self, name: &[u8]) -> Option<UserId> {
        let unused = self.known.iter().filter(|(_, user)| *user.name == *name && user.is_unused());
        unused.min_by_key(|(_, user)| user.left_at).map(|(id, _)| *id)
    }

    pub(super) fn is_known(&self, id: UserId) -> bool {
        self.known.contains_key(&id)
    }

    pub(crate) fn enter(&mut self, id: UserId) {
        self.known.entry(id).and_modify(|user| user.children += 1);
    }

    pub(crate) fn leave(&mut self, id: UserId, now: Millis) {
        self.known.entry(id).and_modify(|user| (user.children, user.left_at) = (user.children - 1, now));
    }

    /// How many children are this user.
    pub(super) fn children_of(&self, id: UserId) -> usize {
        self.known.get(&id).map_or(0, |user| user.children)
    }

    /// Without children for a while: processes that live for one request each would cost a connection each.
    pub(super) fn abandoned(&self, now: Millis) -> Vec<UserId> {
        let lingered = |user: &User| user.is_unused() && user.left_at + limits::USER_LINGER <= now;
        self.known.iter().filter(|(_, user)| lingered(user)).map(|(id, _)| *id).collect()
    }

    /// Drops the user and overwrites its password. One of `auth_file` stays, and may be let in again.
    pub(crate) fn forget(&mut self, id: UserId) {
        self.multi.remove(&id);
        if self.known.get(&id).is_none_or(|user| user.stays) {
            return;
        }
        if let Some(gone) = self.known.remove(&id)
            && !self.known.values().any(|user| user.name == gone.name)
        {
            self.tested.remove(&gone.name);
        }
    }

    pub(super) fn set_suspect(&mut self, id: UserId, suspect: bool) {
        self.known.entry(id).and_modify(|user| user.suspect = suspect);
    }

    pub(super) fn suspects(&self) -> Vec<UserId> {
        self.known.iter().filter(|(_, user)| user.suspect).map(|(id, _)| *id).collect()
    }

    /// Why the user may not MULTI, or that it may, if that was asked a moment ago: its rights may change at any time.
    pub(crate) fn multi(&self, id: UserId, now: Millis) -> Option<Option<&[u8]>> {
        let (asked, refusal) = self.multi.get(&id)?;
        (asked + limits::RIGHTS_FRESH > now).then_some(refusal.as_deref())
    }

    pub(crate) fn set_multi(&mut self, id: UserId, refusal: Option<Vec<u8>>, now: Millis) {
        // It may have gone since it was asked.
        if id == UserId::DEFAULT || self.is_known(id) {
            self.multi.insert(id, (now, refusal));
        }
    }

    pub(super) fn guesses(&mut self) -> &mut Guesses {
        &mut self.guesses
    }

    fn default_account(&self) -> Option<AccountId> {
        self.account_named(b"default").filter(|local| local.account.nopass).map(|local| local.id)
    }

    pub(super) fn verify(&self, name: Option<&[u8]>, password: &[u8]) -> PasswordCheck {
        if name.is_none() && self.default_account().is_some() {
            return PasswordCheck::NoneNeeded;
        }
        let hash = Hash::of(password);
        let named = self.account_named(name.unwrap_or(b"default"));
        let found = named.filter(|local| local.account.accepts(&hash));
        found.map_or(PasswordCheck::WrongPassword, |local| PasswordCheck::Welcome(local.id))
    }

    /// The upstream user that the requests of one of the broker's own users are sent as.
    pub(crate) fn user_of(&self, account: AccountId) -> UserId {
        self.local(account).map_or(UserId::NOBODY, |local| local.user)
    }

    /// One of the broker's own users, by its name.
    pub(crate) fn account_of(&self, name: &str) -> Option<AccountId> {
        self.account_named(name.as_bytes()).map(|local| local.id)
    }

    /// Whether the user takes any password.
    pub(crate) fn takes_any(&self, id: UserId) -> bool {
        self.known.get(&id).is_some_and(|user| user.any)
    }

    /// A user that another process knows: the upstream has accepted this password there.
    pub(crate) fn take_in(&mut self, name: &[u8], password: &Password, any: bool) -> UserId {
        let id = self.register(name, password);
        self.known.entry(id).and_modify(|user| user.any |= any);
        id
    }

    fn account_named(&self, name: &[u8]) -> Option<&LocalUser> {
        self.locals.iter().find(|local| local.account.name.as_bytes() == name)
    }

    pub(crate) fn account_name(&self, account: AccountId) -> &str {
        self.local(account).map_or("", |local| &local.account.name)
    }

    /// Another table has come, and with it other ids.
    pub(crate) fn table_changed(&mut self, table: &Table) {
        self.locals.iter_mut().for_each(|local| local.refused.clear());
        self.whoami = table.ids().find(|id| table.name(*id) == "acl|whoami");
    }

    /// Whether the command is one whose answer is the broker's to give: the upstream does not know its users.
    pub(super) fn is_whoami(&self, id: CommandId) -> bool {
        self.whoami == Some(id)
    }

    /// Brings what the account may not run up to date with the table, which learns commands.
    pub(super) fn resolve(&mut self, account: AccountId, table: &Table) {
        let Ok(at) = self.locals.binary_search_by_key(&account, |local| local.id) else { return };
        let local = &mut self.locals[at];
        let ids = table.ids();
        if local.refused.len() < ids.len() {
            local.refused = ids.clone().map(|id| !local.account.may_run(table.name(id))).collect();
            let denied = ids.filter(|id| local.account.denies(table.name(*id)) && table.is_callable(*id));
            local.denied_to_scripts = denied.collect();
        }
    }

    /// What `commands_deny` of the account names and a script can call all the same. None: its scripts are trusted.
    pub(crate) fn denied_to_scripts(&self, account: AccountId) -> Option<&[CommandId]> {
        // One that is gone runs nothing.
        let Some(local) = self.local(account) else { return Some(&[]) };
        (!local.account.scripts_trusted).then_some(&local.denied_to_scripts)
    }

    /// Whether the account may not run the command. One that is not resolved yet is refused.
    pub(super) fn is_refused(&self, account: AccountId, id: CommandId) -> bool {
        let local = self.local(account);
        local.is_none_or(|local| local.refused.get(usize::from(id)).copied().unwrap_or(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_password_of_the_same_user_is_another_user() {
        let mut users = Users::new(Auth::Passthrough);
        let (a, b) = (Password::new(b"a"), Password::new(b"b"));
        let first = users.register(b"u", &a);
        assert_eq!(users.register(b"u", &a), first);
        assert_ne!(users.register(b"u", &b), first);
        assert_ne!(users.register(b"v", &a), first);
        users.enter(first);
        assert!(!users.abandoned(limits::USER_LINGER * 2).contains(&first));
        users.leave(first, 10);
        assert!(!users.abandoned(10).contains(&first));
        assert!(users.abandoned(10 + limits::USER_LINGER).contains(&first));
        users.forget(first);
        assert!(!users.is_known(first));
        assert_ne!(users.register(b"u", &a), first, "no id is given twice");
        let debug = format!("{users:?}{:?}", Password::new(b"hunter2"));
        assert!(debug.contains("***") && !debug.contains("hunter2"), "{debug}");
    }
}
