//! Taking a child in that another process has given, or that could not be given: it goes on from its image. Whether it can be
//! taken is decided before; from then on nothing fails.

use crate::base::key::Key;
use crate::base::limits;
use crate::base::process::UnixCredentials;
use crate::command::{CommandId, NO_COMMAND, Table};
use crate::config::{ChildProfile, ReadFrom};
use crate::core::broker::Broker;
use crate::core::child::hold::Wait;
use crate::core::child::origin::Origin;
use crate::core::child::outbox::Frame;
use crate::core::child::reads::Reads;
use crate::core::child::sent::LastWrite;
use crate::core::child::session::{ReplyMode, Session};
use crate::core::child::{Child, ChildKind};
use crate::core::handover::image::{ChildImage, UserImage, WaitImage};
use crate::core::host::usage::Usage;
use crate::core::keys::{AccountId, ChildKey, UserId};
use crate::core::lease::groups::NEVER;
use crate::core::shared::Shared;
use crate::core::transaction::state::TransactionState;

/// The number of a command here.
fn number_of(table: Option<&Table>, name: &str) -> CommandId {
    let named = |table: &Table| table.ids().find(|id| table.name(*id) == name);
    table.and_then(named).unwrap_or(NO_COMMAND)
}

impl Shared {
    fn session_of(&self, image: &mut ChildImage) -> Session {
        let table = self.commands.table();
        let multi = image.multi.take();
        let replies = match (image.mutes, image.skips) {
            (true, _) => ReplyMode::Off,
            (false, true) => ReplyMode::Skip,
            (false, false) => ReplyMode::On,
        };
        Session {
            id: image.id,
            name: std::mem::take(&mut image.name),
            db: image.db,
            home_db: image.home_db,
            proto: image.proto,
            lib_name: std::mem::take(&mut image.lib_name),
            lib_version: std::mem::take(&mut image.lib_version),
            no_evict: image.no_evict,
            no_touch: image.no_touch,
            debugs: image.debugs,
            takes_errors: image.takes_errors,
            replies,
            transaction: TransactionState::of_image(multi, image.watch_lost, |name| number_of(table, name)),
            ..Session::default()
        }
    }

    /// Who the child is here; none if it is nobody that is known here.
    pub(super) fn user_of_image(&mut self, user: &UserImage) -> Option<(UserId, Option<AccountId>)> {
        match user {
            UserImage::Upstream => Some((UserId::UPSTREAM, None)),
            UserImage::Default => Some((UserId::DEFAULT, None)),
            UserImage::Nobody => Some((UserId::NOBODY, None)),
            UserImage::Undecided => Some((UserId::UNDECIDED, None)),
            UserImage::Account(name) => {
                let account = self.users.account_of(name)?;
                Some((self.users.user_of(account), Some(account)))
            }
            UserImage::Known { name, password, any } => {
                Some((self.users.take_in(name, &password.0, *any), None))
            }
        }
    }

    fn wait_of_image(&self, wait: WaitImage) -> Wait {
        let now = self.env.now;
        Wait {
            kind: wait.kind,
            ticket: wait.ticket,
            arrived: now.saturating_sub(wait.waited_ms),
            since: now.saturating_sub(wait.present_ms),
            group: Key::NONE,
            moved: wait.for_element.then(|| wait.left_ms.map_or(NEVER, |left| now.saturating_add(left))),
        }
    }

    /// What the child had sent and not taken, and what it waits for.
    fn restore(&mut self, child: &mut Child, image: &ChildImage) {
        let now = self.env.now;
        child.sent_mut().set_window(image.window);
        child.reads_mut().set_master_for(image.own_writes_ms, now);
        if image.wrote {
            // No lane here has carried it, so none can tell how many replicas have it.
            child.sent_mut().set_last_write(LastWrite::Lost);
        }
        let last = image.last_command.as_deref().map(|name| number_of(self.commands.table(), name));
        child.set_last_command(last.filter(|id| *id != NO_COMMAND));
        if let Some(wait) = image.wait {
            *child.front_mut().wait_mut() = Some(self.wait_of_image(wait));
        }
        let sure = image.writer.filter(|(_, sure)| *sure).map(|(who, _)| who);
        if sure.is_some() {
            self.note_writer(child, sure);
        }
        child.inbox_mut().append_within(&image.input, usize::MAX);
        if let Some((who, false)) = image.writer {
            self.note_writer(child, Some(who));
            self.note_writer(child, None);
        }
        if !image.output.is_empty() {
            child.outbox_mut().answer(Frame::of(&image.output), &mut self.env.spares);
            self.mark_child(child);
        }
    }
}

impl Broker {
    /// Whether a child can go on here; or why not.
    pub fn may_take(&mut self, image: &ChildImage) -> Result<(), String> {
        if let UserImage::Account(name) = &image.user
            && self.shared.users.account_of(name).is_none()
        {
            return Err(format!("there is no user '{name}' in auth_file"));
        }
        if self.children.by_id(i64::try_from(image.id).unwrap_or(i64::MAX)).is_some() {
            return Err(format!("there is a child {} already", image.id));
        }
        if image.id >= limits::CHILD_ID_MAX {
            return Err(format!("{} is no id", image.id));
        }
        image.multi.as_ref().map_or(Ok(()), |multi| multi.check())
    }

    /// Takes in a child for which `may_take` was asked. `who` has connected it, where the system knows.
    pub fn take_child(
        &mut self,
        mut image: ChildImage,
        who: Option<UnixCredentials>,
        link: usize,
    ) -> ChildKey {
        let now = self.shared.env.now;
        let kind = if image.is_admin { ChildKind::Admin } else { ChildKind::Socket };
        let reads = if image.reads_replicas { ReadFrom::Replica } else { ReadFrom::Master };
        let profile = ChildProfile { label: image.label.take().map(Into::into), reads };
        let session = self.shared.session_of(&mut image);
        let origin = Origin::new(kind, image.peer.as_str().into()).with_profile(profile);
        let mut child = Child::new(session, origin, link, now);
        let done = Usage { requests: image.requests, bytes_in: image.bytes_in, bytes_out: image.bytes_out };
        let (opened, last) = (now.saturating_sub(image.age_ms), now.saturating_sub(image.idle_ms));
        child.go_on_from(done, opened, last);
        *child.reads_mut() = Reads::of_replicas(image.reads_replicas);
        self.continue_ids(image.id);
        let key = self.children.insert(child);
        if let Some(child) = self.children.known_mut(key) {
            let nobody = (UserId::NOBODY, None);
            let (user, account) = self.shared.user_of_image(&image.user).unwrap_or(nobody);
            self.shared.become_user(child, user, account);
            if let Some(who) = who {
                self.shared.identify(child, who);
            }
            self.shared.restore(child, &image);
            self.shared.account_child(child);
            if !child.inbox().is_empty() {
                self.shared.nudge(child);
            }
        }
        self.deliver_notices();
        key
    }

    /// The numbers by which what comes later is told from all that there is: of children, and of those who wait.
    pub fn numbers(&self) -> (u64, u64) {
        (self.last_id(), self.shared.leases.last_ticket())
    }

    /// Another process has given out these: those given out here are higher.
    pub fn continue_numbers(&mut self, (id, ticket): (u64, u64)) {
        self.continue_ids(id);
        self.shared.leases.number_from(ticket.saturating_add(limits::TICKETS_APART));
    }
}
