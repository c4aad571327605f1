//! The image of a child: all that Redis, or the broker, would remember of its connection, in values that mean the same in
//! another process. Data only. Ages and rests stand for times, since each process has its own clock.

use crate::base::clock::Millis;
use crate::base::process::UnixCredentials;
use crate::core::keys::LeaseKind;
use crate::core::pubsub::hubs::moved::TopicImage;
use crate::core::transaction::state::moved::MultiImage;
use crate::core::user::credentials::Password;
use std::fmt;

/// Who a child is, by names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum UserImage {
    /// The one in the upstream's settings.
    #[default]
    Upstream,
    /// The upstream's default user.
    Default,
    /// Nobody yet.
    Nobody,
    /// Whether the default user needs a password was not known yet.
    Undecided,
    /// One of the broker's own users.
    Account(String),
    /// One that the upstream has let in.
    Known {
        /// Its name.
        name: Vec<u8>,
        /// The very password that was accepted.
        password: PasswordImage,
        /// It takes any password.
        any: bool,
    },
}

/// A password on its way. It prints as `***`, and is overwritten when it is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PasswordImage(pub(crate) Password);

impl PasswordImage {
    /// That of these bytes.
    pub fn new(bytes: &[u8]) -> PasswordImage {
        PasswordImage(Password::new(bytes))
    }
}

/// A wait that goes on in the other process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitImage {
    /// What it waits for.
    pub kind: LeaseKind,
    /// Its number, which orders those who wait for the same.
    pub ticket: u64,
    /// For how long it has waited.
    pub waited_ms: Millis,
    /// The same since the present wait began.
    pub present_ms: Millis,
    /// For how much longer it waits for an element; none: it waits for a lease, or for ever.
    pub left_ms: Option<Millis>,
    /// It waits for an element.
    pub for_element: bool,
}

/// A child at rest.
#[derive(Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)] // Named after the fields of a child and its session.
pub struct ChildImage {
    pub id: u64,
    /// It has come to `admin_listen`.
    pub is_admin: bool,
    /// What it is called in the log.
    pub peer: String,
    pub label: Option<String>,
    pub reads_replicas: bool,
    /// Since when it is connected, and since when it has sent nothing.
    pub age_ms: Millis,
    pub idle_ms: Millis,
    pub name: Vec<u8>,
    pub lib_name: Vec<u8>,
    pub lib_version: Vec<u8>,
    pub db: u32,
    pub home_db: u32,
    pub proto: u8,
    pub no_evict: bool,
    pub no_touch: bool,
    pub debugs: bool,
    pub takes_errors: bool,
    /// CLIENT REPLY OFF; the same for the next request alone.
    pub mutes: bool,
    pub skips: bool,
    pub watch_lost: bool,
    pub user: UserImage,
    /// Who has written what was read last, and whether that is certain.
    pub writer: Option<(UnixCredentials, bool)>,
    pub requests: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// What it has sent and what has not been run: perhaps a part of a request, perhaps several.
    pub input: Vec<u8>,
    /// What it was told and has not taken.
    pub output: Vec<u8>,
    /// A write of it was answered.
    pub wrote: bool,
    /// For how much longer it reads what it has written, where it reads from replicas.
    pub own_writes_ms: Millis,
    /// How many of its requests may be in flight.
    pub window: u32,
    pub wait: Option<WaitImage>,
    pub multi: Option<MultiImage>,
    /// Name of the command it sent last.
    pub last_command: Option<String>,
    /// What it listens to on a connection that it shares: families and names.
    pub topics: Vec<TopicImage>,
}

impl ChildImage {
    /// So much time has passed since it was made.
    pub fn grow_older(&mut self, by: Millis) {
        self.age_ms = self.age_ms.saturating_add(by);
        self.idle_ms = self.idle_ms.saturating_add(by);
        self.own_writes_ms = self.own_writes_ms.saturating_sub(by);
        if let Some(wait) = &mut self.wait {
            wait.waited_ms = wait.waited_ms.saturating_add(by);
            wait.present_ms = wait.present_ms.saturating_add(by);
            wait.left_ms = wait.left_ms.map(|left| left.saturating_sub(by));
        }
    }

    /// Bytes that its image takes, about.
    pub fn about_bytes(&self) -> usize {
        let multi = self.multi.as_ref().map_or(0, |multi| {
            multi.requests.iter().map(|(name, request)| name.len() + request.len() + 32).sum::<usize>()
                + multi.local.iter().map(|(_, name, request)| name.len() + request.len() + 32).sum::<usize>()
                + multi.counts.iter().map(|count| count.channel.len() + 32).sum::<usize>()
        });
        let topics: usize = self.topics.iter().map(|(_, name)| name.len() + 64).sum();
        1024 + topics + self.name.len() + self.input.len() + self.output.len() + multi
    }
}

/// The connection that carries a user's subscriptions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HubImage {
    /// Whose.
    pub user: UserImage,
    /// CLIENT ID of the connection.
    pub upstream_id: i64,
    /// The beginning of a frame that has not come to its end.
    pub input: Vec<u8>,
    /// Commands with the names that the upstream has given them.
    pub renamed: Vec<(String, Vec<u8>)>,
}

/// Without what its program has sent or was told.
impl fmt::Debug for ChildImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildImage")
            .field("id", &self.id)
            .field("peer", &self.peer)
            .field("input", &self.input.len())
            .field("output", &self.output.len())
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}
