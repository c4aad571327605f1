//! `broker serve --takeover`: begins as the successor of the broker that runs. And `BROKER UPGRADE`: starts such a process,
//! and tells who has asked what has come of it. What goes over the channel between the two is the library's.

use crate::shared::guard;
use crate::systemd::prepare_successor;
use broker::base::error::{Error, Result};
use broker::config::sources::Sourced;
use broker::config::value::AdminListen;
use broker::reactor::{HandoverState, Loop, Ordered, Takeover};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// How often a process that has been started is looked at, milliseconds.
const LOOK: u64 = 20;
const FLAG: &str = "--takeover";

/// A loop with the listeners of the broker that runs, which it takes over from.
pub(crate) fn begin_takeover(gathered: Sourced) -> Result<Loop> {
    let AdminListen::At(admin) = &gathered.below().admin_listen else {
        return Err(Error::config("--takeover: admin_listen says where the running broker is, and is none"));
    };
    let mut takeover = Takeover::begin(admin, gathered.below().upgrade_timeout)?;
    log::info!("taking over from process {}", takeover.pid());
    let listeners = takeover.take_listeners();
    // What has been set there until a restart goes on: this is none.
    let gathered = gathered.under(takeover.overrides().clone());
    let mut lp = Loop::with_listeners(gathered, listeners)?;
    lp.expect_agreement(&takeover)?;
    lp.take_over(takeover);
    Ok(lp)
}

/// The successors that this process starts, one at a time.
#[derive(Debug)]
pub(crate) struct Successions {
    /// This program, by the name that it had: what is there later may be another version.
    program: PathBuf,
    args: Vec<OsString>,
    running: Option<(Ordered, Child)>,
}

impl Successions {
    pub(crate) fn new() -> Result<Successions> {
        let args = std::env::args_os().skip(1).filter(|arg| arg != FLAG).collect();
        Ok(Successions { program: guard::own_binary()?, args, running: None })
    }

    /// How long the loop may wait for events, milliseconds: a process that ends makes none.
    pub(crate) fn patience(&self) -> Option<u64> {
        self.running.as_ref().map(|_| LOOK)
    }

    /// Starts the next broker. The answer follows.
    pub(crate) fn begin(&mut self, lp: &mut Loop, ordered: Ordered) {
        if self.running.is_some() {
            return lp.answer_order(&ordered, Err("a successor has been started already".to_owned()));
        }
        lp.forget_failed_handover();
        let mut command = Command::new(&self.program);
        prepare_successor(&mut command);
        match command.args(&self.args).arg(FLAG).stdin(Stdio::null()).spawn() {
            Ok(child) => {
                log::info!("process {} is to follow", child.id());
                self.running = Some((ordered, child));
            }
            Err(error) => {
                lp.answer_order(&ordered, Err(format!("cannot start {}: {error}", self.program.display())));
            }
        }
    }

    /// Looks what has become of it. Returns its pid once it is the one that serves.
    pub(crate) fn follow(&mut self, lp: &mut Loop) -> Option<u32> {
        let (_, child) = self.running.as_mut()?;
        let pid = child.id();
        let ended = child.try_wait().ok().flatten();
        let outcome = match (lp.handover_state(), ended) {
            (HandoverState::Giving, _) => Ok(vec![format!("process {pid} serves now; children follow")]),
            (HandoverState::Failed(why), _) => Err(format!("process {pid} could not take over: {why}")),
            (_, Some(status)) => Err(format!("process {pid} has ended, {status}: its log says why")),
            (_, None) => return None,
        };
        let serves = outcome.is_ok();
        if let Some((ordered, mut child)) = self.running.take() {
            if !serves {
                // It has been told, or has ended.
                let _ = child.kill();
                let _ = child.wait();
            }
            lp.answer_order(&ordered, outcome);
        }
        serves.then_some(pid)
    }
}
