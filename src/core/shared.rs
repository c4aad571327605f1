//! What all children share: connections, leases, users, subscriptions, and what is known of the upstream. A function
//! that serves one child has that child and this, so it can touch no other child: what others are to hear is a notice
//! (`core::notice`), which the broker delivers once the child at hand is done.

use crate::base::clock::Millis;
use crate::config::{Settings, Upstream};
use crate::core::connection::Connections;
use crate::core::console::orders::Orders;
use crate::core::env::{Env, Turn};
use crate::core::handover::moves::Moves;
use crate::core::host::leaks::Leaks;
use crate::core::host::processes::Processes;
use crate::core::intake::Intake;
use crate::core::latency::Latency;
use crate::core::lease::groups::Groups;
use crate::core::lease::leases::Leases;
use crate::core::nodes::master::Master;
use crate::core::nodes::sentinels::Sentinels;
use crate::core::pubsub::hubs::Hubs;
use crate::core::questions::commands::Commands;
use crate::core::questions::control::Control;
use crate::core::questions::probe::Probe;
use crate::core::questions::rights::ScriptRights;
use crate::core::questions::work::Work;
use crate::core::steering::moves::Moving;
use crate::core::steering::pause::Pause;
use crate::core::user::users::Users;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) turn: Turn,
    pub(crate) env: Env,
    pub(crate) connections: Connections,
    pub(crate) control: Control,
    pub(crate) commands: Commands,
    pub(crate) script_rights: ScriptRights,
    pub(crate) probe: Probe,
    pub(crate) users: Users,
    pub(crate) leases: Leases,
    pub(crate) groups: Groups,
    pub(crate) hubs: Hubs,
    pub(crate) intake: Intake,
    pub(crate) work: Work,
    pub(crate) master: Master,
    pub(crate) sentinels: Sentinels,
    pub(crate) processes: Processes,
    pub(crate) leaks: Leaks,
    pub(crate) latency: Latency,
    pub(crate) orders: Orders,
    pub(crate) moves: Moves,
    pub(crate) pause: Pause,
    pub(crate) moving: Moving,
}

impl Shared {
    pub(crate) fn new(settings: Settings, upstream: Upstream, rng: fastrand::Rng, now: Millis) -> Self {
        let mut sentinels = Sentinels::default();
        sentinels.want_replicas(settings.reads_from_replicas());
        sentinels.watch(upstream.watched(), now);
        Shared {
            users: Users::new(settings.auth),
            env: Env::new(settings, upstream, rng, now),
            turn: Turn::default(),
            connections: Connections::default(),
            control: Control::default(),
            commands: Commands::default(),
            script_rights: ScriptRights::default(),
            probe: Probe::default(),
            leases: Leases::default(),
            groups: Groups::default(),
            hubs: Hubs::default(),
            intake: Intake::default(),
            work: Work::default(),
            master: Master::default(),
            sentinels,
            processes: Processes::default(),
            leaks: Leaks::default(),
            latency: Latency::default(),
            orders: Orders::default(),
            moves: Moves::default(),
            pause: Pause::default(),
            moving: Moving::default(),
        }
    }
}
