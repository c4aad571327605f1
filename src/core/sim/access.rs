//! Who may connect to the model Redis, as whom, and what that user may run: passwords, users and rights, which change
//! at any moment. Texts are those of Redis 7.0.15.

use super::encoded::{bulk, error, int};
use super::redis::{Client, Redis};
use super::table;
use crate::resp::encode;
use std::collections::BTreeSet;

pub(super) const USERS: [(&str, &str); 3] = [("default", ""), ("ann", "pa"), ("bob", "pb")];

const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NOAUTH: &str = "NOAUTH Authentication required.";
const HELLO_NOAUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH \
     <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";
/// What is said of a queued command whose right was taken away before EXEC.
pub(super) const REVOKED: &str = "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. \
     This command is no longer allowed for the following reason: no permission to execute the command or subcommand";

/// What stands in the way of the broker's user.
#[derive(Debug, Default)]
pub(super) struct Access {
    /// Whom the broker connects as; `default` unless its URL says otherwise.
    pub(super) user: &'static str,
    /// The password of that user was changed, or the user was turned off.
    pub(super) locked: bool,
    /// Commands it may not run: full names, or a name for all that begins with it.
    pub(super) denied: BTreeSet<&'static str>,
}

impl Access {
    pub(super) fn denies(&self, name: &str) -> bool {
        let container = name.split('|').next().unwrap_or(name);
        !self.denied.is_empty() && (self.denied.contains(name) || self.denied.contains(container))
    }

    /// Whether a connection that has said nothing yet, or was reset, is somebody.
    pub(super) fn is_open(&self) -> bool {
        !(self.locked && self.user == "default")
    }

    fn accepts(&self, user: &[u8], password: &[u8]) -> Option<&'static str> {
        let (name, _) = USERS.iter().find(|(name, secret)| {
            name.as_bytes() == user && (secret.is_empty() || secret.as_bytes() == password)
        })?;
        (!self.locked || self.user != *name).then_some(*name)
    }
}

impl Redis {
    pub(super) fn lock(&mut self, locked: bool) {
        self.access.locked = locked;
        self.witness();
    }

    /// The user is deleted: its connections are closed, and nobody can be it until it is made again.
    pub(super) fn delete_user(&mut self) {
        let of = self.clients.iter().filter(|(_, client)| client.known && client.user == self.access.user);
        self.closing.extend(of.map(|(link, _)| *link));
        self.lock(true);
    }

    pub(super) fn set_right(&mut self, name: &'static str, granted: bool) {
        if granted {
            self.access.denied.remove(name);
        } else {
            self.access.denied.insert(name);
        }
        self.witness();
    }

    /// What is said to a connection that may not run this.
    pub(super) fn forbids(&self, client: &Client, name: &str) -> Option<String> {
        let free = client.known && self.access.denied.is_empty();
        if free || table::has_flag(name, "no_auth") {
            return None;
        }
        if !client.known {
            return Some(NOAUTH.into());
        }
        let denied = client.user == self.access.user && self.access.denies(name);
        denied.then(|| format!("NOPERM this user has no permissions to run the '{name}' command"))
    }

    pub(super) fn authenticate(&mut self, link: usize, pair: &[Vec<u8>]) -> Result<(), Vec<u8>> {
        let [user, password] = pair else { return Err(error(WRONGPASS)) };
        let Some(name) = self.access.accepts(user, password) else { return Err(error(WRONGPASS)) };
        if let Some(client) = self.clients.get_mut(&link) {
            (client.user, client.known) = (name.to_owned(), true);
        }
        Ok(())
    }

    pub(super) fn hello(&mut self, link: usize, argv: &[Vec<u8>]) -> Vec<u8> {
        let mut index = 2;
        while let Some(option) = argv.get(index) {
            index += 2;
            if option.eq_ignore_ascii_case(b"auth") {
                let pair = argv.get(index - 1..index + 1).unwrap_or_default();
                if let Err(refused) = self.authenticate(link, pair) {
                    return refused;
                }
                index += 1;
            }
        }
        let Some(client) = self.clients.get_mut(&link).filter(|client| client.known) else {
            return error(HELLO_NOAUTH);
        };
        let weather = &self.servers[client.server];
        client.greeted_by = weather.role;
        let role: &[u8] = if weather.is_replica() { b"replica" } else { b"master" };
        if let Some(proto) = argv.get(1) {
            client.proto = if proto == b"3" { 3 } else { 2 };
        }
        let mut out = Vec::new();
        encode::map_header(&mut out, 3, client.proto);
        out.extend([bulk(b"proto"), int(i64::from(client.proto)), bulk(b"id"), int(client.id)].concat());
        out.extend([bulk(b"role"), bulk(role)].concat());
        out
    }
}
