//! What a worker does, one step after the other: pipelines, transactions, watches, pops; and how it
//! misbehaves: it stalls, loses patience, hangs up, dies.

use std::thread;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use super::wire::{NoReply, bulk};
use super::worker::{Batch, DBS, Expect, Part, Watched, Worker, null};
use crate::support::ledger::fate_of;
use crate::support::{End, request};

impl Worker {
    pub(crate) fn step(&mut self) {
        match self.rng.u8(..200) {
            0..104 => self.pipeline(),
            104..107 => self.situations(),
            107..110 => self.block_elsewhere(),
            110..134 => self.transaction(),
            134..145 => self.watch(),
            145..157 => self.pop(),
            157..171 => self.messages(),
            171..176 => self.switch(),
            176..179 => self.reset(),
            179..184 => self.stall(),
            184..191 => self.lose_patience(),
            191..195 => self.hang_up(),
            195..198 => self.reopen(),
            _ => self.die(),
        }
    }

    // ---- requests ---------------------------------------------------------------------------------------

    pub(crate) fn some(&mut self, most: usize) -> Batch {
        (0..self.rng.usize(1..=most)).map(|_| self.plain()).collect()
    }

    fn pipeline(&mut self) {
        let most = if self.rng.u8(..8) == 0 { 400 } else { 80 };
        let batch = self.some(most);
        self.run(batch);
    }

    fn situations(&mut self) {
        let batch = (0..self.rng.usize(1..5)).flat_map(|_| self.situation()).collect();
        self.run(batch);
    }

    // ---- transactions -----------------------------------------------------------------------------------

    /// A block with two pushes that belong together and some replies with nonces between them.
    fn block(&mut self, watched: Watched) -> Batch {
        let list = self.list();
        let (sequence, first) = self.value("a");
        let second = format!("{}.{sequence}b.", self.orders.id);
        let mut queued = vec![(request(&["RPUSH", &list, &first]), Part::Length)];
        queued.extend((0..self.rng.usize(3..6)).map(|_| self.inside()));
        queued.push((request(&["RPUSH", &list, &second]), Part::Length));
        let mut batch = vec![(request(&["MULTI"]), Expect::Multi)];
        let parts = queued.iter().map(|(_, part)| part.clone()).collect();
        batch.extend(queued.into_iter().map(|(bytes, part)| (bytes, Expect::Queued(part))));
        if watched == Watched::Nothing && self.rng.u8(..8) == 0 {
            batch.push((request(&["DISCARD"]), Expect::Discard(sequence)));
        } else {
            let db = self.db;
            batch.push((request(&["EXEC"]), Expect::Exec { sequence: Some(sequence), db, parts, watched }));
        }
        batch
    }

    fn transaction(&mut self) {
        let mut batch = self.some(20);
        for _ in 0..self.rng.usize(1..6) {
            batch.extend(self.block(Watched::Nothing));
            batch.push(self.plain());
        }
        self.run(batch);
    }

    /// A block that goes to another db and comes back. Alone, since all that follows would be somewhere else if only its
    /// MULTI were refused.
    fn block_elsewhere(&mut self) {
        let (list, nonce, back) = (self.list(), self.nonce(), self.db);
        let db = DBS[self.rng.usize(..DBS.len())];
        let (sequence, first) = self.value("a");
        let second = format!("{}.{sequence}b.", self.orders.id);
        let ok = || Part::Plain(b"+OK\r\n".to_vec().into());
        let queued = [
            (request(&["SELECT", &db.to_string()]), ok()),
            (request(&["RPUSH", &list, &first]), Part::Count),
            (request(&["ECHO", &nonce]), Part::Nonce(bulk(&nonce).into())),
            (request(&["RPUSH", &list, &second]), Part::Count),
            (request(&["SELECT", &back.to_string()]), ok()),
        ];
        let parts = queued.iter().map(|(_, part)| part.clone()).collect();
        let mut batch = vec![(request(&["MULTI"]), Expect::Multi)];
        batch.extend(queued.into_iter().map(|(bytes, part)| (bytes, Expect::Queued(part))));
        batch.push((
            request(&["EXEC"]),
            Expect::Exec { sequence: Some(sequence), db, parts, watched: Watched::Nothing },
        ));
        self.run(batch);
    }

    fn watch(&mut self) {
        let key = format!("w:{}", self.orders.id);
        if !self.ask(&["WATCH", &key], &["+OK\r\n"]) {
            return self.reopen();
        }
        let mut watched = Watched::Quietly;
        match self.rng.u8(..9) {
            0..3 => {
                let value = self.nonce();
                if self.beside(&["SET", &key, &value], "+OK\r\n") {
                    watched = Watched::Touched;
                }
            }
            3 if self.ask(&["UNWATCH"], &["+OK\r\n"]) => return,
            // A second one does not undo the first one's loss.
            4 if self.ask(&["WATCH", "other"], &["+OK\r\n"]) => {}
            3 | 4 => return self.reopen(),
            5 => self.switch(),
            _ => {}
        }
        let mut batch = self.some(6);
        batch.extend(self.block(watched));
        self.run(batch);
    }

    /// Asks on the second connection. False: an error of the broker's.
    fn beside(&mut self, args: &[&str], wanted: &str) -> bool {
        let proto = 2 + self.rng.u8(..2);
        let mut side = self.side.take().unwrap_or_else(|| self.open(self.db, proto));
        let bytes = request(args);
        side.write(&bytes);
        let reply = self.take(&mut side, &bytes);
        if reply.starts_with(wanted.as_bytes()) {
            self.side = Some(side);
            return true;
        }
        if fate_of(&String::from_utf8_lossy(&reply)).is_none() {
            self.foreign(side.number, &bytes, &reply, wanted);
        }
        false
    }

    // ---- waiting for elements ---------------------------------------------------------------------------

    /// A blocking pop of a list that it fills itself, that its partner fills while it waits, or nobody.
    fn pop(&mut self) {
        if self.rng.u8(..3) == 0 {
            return self.pop_with_all();
        }
        let list = self.queue();
        let nonce = self.nonce();
        let (feeder, mut batch) = (self.rng.u8(..4), Batch::new());
        if feeder > 0 {
            self.fed.push(nonce.clone());
        }
        if feeder == 1 {
            batch.push((request(&["RPUSH", &list, &nonce]), Expect::Part(Part::Count)));
        }
        batch.push(self.waiting());
        batch.push(self.plain());
        self.send(batch);
        if feeder > 1 {
            // Drawn: before the pop waits, or after.
            thread::sleep(Duration::from_micros(self.rng.u64(..3000)));
            self.beside(&["RPUSH", &list, &nonce], ":");
        }
        self.collect();
    }

    /// A pop of a list that all workers fill and wait for.
    fn pop_with_all(&mut self) {
        let list = format!("all:{}", self.rng.u8(..3));
        let timeout = ["0.01", "0.05", "0.3", "1"][self.rng.usize(..4)];
        let mut batch = Batch::new();
        if self.rng.u8(..3) > 0 {
            let nonce = self.nonce();
            batch.push((request(&["RPUSH", &list, &nonce]), Expect::Part(Part::Count)));
        }
        batch.push((request(&["BLPOP", &list, timeout]), Expect::Share(list)));
        batch.push(self.plain());
        self.run(batch);
    }

    // ---- the session ------------------------------------------------------------------------------------

    /// Another db or protocol; what follows in the same write is already there.
    fn switch(&mut self) {
        if self.rng.bool() {
            let db = DBS[self.rng.usize(..DBS.len())];
            let select = request(&["SELECT", &db.to_string()]);
            let whoami = request(&["GET", "whoami"]);
            self.write(&[select.clone(), whoami.clone()].concat());
            let selected = self.await_start(&select, &["+OK\r\n"]);
            let now = if selected { db } else { self.db };
            let wanted = bulk(&format!("db{now}"));
            self.pending.push_back((whoami, Expect::Part(Part::Plain(wanted.into()))));
            self.collect();
            return if selected { self.settle_in(db) } else { self.reopen() };
        }
        let proto = 2 + self.rng.u8(..2);
        let wanted = if proto == 3 { "%7\r\n" } else { "*14\r\n" };
        let (hello, get) = (request(&["HELLO", &proto.to_string()]), request(&["GET", "none"]));
        self.write(&[hello.clone(), get.clone()].concat());
        let changed = self.await_start(&hello, &[wanted]);
        if changed {
            self.proto = proto;
        }
        self.pending.push_back((get, Expect::Part(Part::Plain(null(self.proto).to_vec().into()))));
        self.collect();
        if !changed {
            self.reopen();
        }
    }

    fn reset(&mut self) {
        let before = self.some(5);
        self.run(before);
        if !self.ask(&["RESET"], &["+RESET\r\n"]) {
            return self.reopen();
        }
        self.proto = 2;
        self.settle_in(0);
    }

    // ---- misbehaviour -----------------------------------------------------------------------------------

    /// Asks for a great deal and does not read for a while.
    fn stall(&mut self) {
        let batch = (0..self.rng.usize(10..120)).map(|_| {
            let sequence = self.sequence();
            let nonce = format!("{}.{sequence}", self.orders.id);
            let bytes = request(&["EVAL", "return string.rep(ARGV[1], 2000)", "0", &nonce]);
            (bytes, Expect::Part(Part::Nonce(bulk(&nonce.repeat(2000)).into())))
        });
        let batch = batch.collect();
        self.send(batch);
        self.report.stalls += 1;
        // How long it does not read, drawn.
        thread::sleep(Duration::from_millis(self.rng.u64(5..100)));
        self.collect();
    }

    /// Waits only a moment for its replies, then hangs up.
    fn lose_patience(&mut self) {
        let mut batch = self.some(30);
        if self.rng.bool() {
            let list = format!("nobody:{}", self.orders.id);
            batch.push((request(&["BLPOP", &list, "1"]), Expect::Pop(list)));
            batch.push(self.plain());
        }
        self.send(batch);
        self.main.set_patience(Duration::from_micros(self.rng.u64(300..12_000)));
        loop {
            match self.main.reply() {
                Ok(reply) => self.answered(&reply),
                Err(NoReply::Ended(End::Silent)) => {
                    self.report.timeouts += 1;
                    return self.reopen();
                }
                Err(end) => return self.gave_up(b"a request of an impatient child", &end),
            }
            if self.pending.is_empty() {
                break;
            }
        }
        self.main.set_patience(self.patience);
        self.collect();
    }

    /// Goes before its replies, with some of them read, or after it has said that it asks no more.
    fn hang_up(&mut self) {
        let batch = self.some(60);
        self.send(batch);
        if self.rng.bool() {
            self.main.half_close();
            let number = self.main.number;
            self.collect();
            if number == self.main.number {
                let end = self.main.reply();
                if end != Err(NoReply::Ended(End::Closed)) {
                    let reply = end.unwrap_or_default();
                    self.foreign(number, b"half-closed and everything answered", &reply, "the end");
                }
            }
            return self.reopen();
        }
        for _ in 0..self.rng.usize(..=self.pending.len()) {
            self.answer();
        }
        self.reopen();
    }

    /// Kills itself in the state where that hurts most.
    fn die(&mut self) {
        let id = self.orders.id;
        let mut batch = self.some(40);
        let dead = format!("dead:{id}");
        let (state, key) = match self.rng.u8(..8) {
            0 => {
                let (mut whole, _) = self.plain();
                whole.truncate(self.rng.usize(1..whole.len()));
                batch.push((whole, Expect::Part(Part::Count)));
                ("in-frame", "none")
            }
            1 => {
                batch.extend(self.block(Watched::Nothing));
                batch.truncate(batch.len() - 1);
                ("in-multi", "none")
            }
            2 | 3 => {
                let watch = request(&["WATCH", &dead]);
                batch.push((watch, Expect::Part(Part::Count)));
                if self.rng.bool() {
                    batch.push((request(&["MULTI"]), Expect::Multi));
                }
                ("in-watch", dead.as_str())
            }
            4 | 5 => {
                batch.push((request(&["BLPOP", &dead, "0"]), Expect::Pop(dead.clone())));
                ("in-blpop", dead.as_str())
            }
            6 => {
                batch.push((request(&["SUBSCRIBE", &dead]), Expect::Part(Part::Count)));
                ("in-subscribe", "none")
            }
            _ => {
                batch.extend(self.block(Watched::Nothing));
                ("unread", "none")
            }
        };
        self.report.dying(state, self.db, key);
        self.send(batch);
        // How far its requests get, drawn.
        thread::sleep(Duration::from_micros(self.rng.u64(..8000)));
        kill_process(getpid(), Signal::KILL).expect("kill itself");
        unreachable!("killed");
    }
}
