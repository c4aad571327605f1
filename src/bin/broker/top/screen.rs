//! The loop of `broker top`: one thread draws, others wait for the broker, for keys and for signals, and tell it. So a broker
//! that hangs never holds up the screen. Owns the terminal, and gives it back as it was, whatever ends the program.

use super::client::{ConsoleClient, Trouble, admin_of, lines_of, shown, socket_of};
use super::desk::{BrokerVerb, Desk, Wish};
use super::model::{Model, Wanted};
use super::sample::{Onlooker, Sample, Watcher};
use super::view::{self, Silence};
use crate::cli::TopArgs;
use broker::base::error::{Error, Result};
use broker::config::ListenUrl;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event as TerminalEvent, KeyEvent, KeyEventKind};
use ratatui::crossterm::terminal::{BeginSynchronizedUpdate, EndSynchronizedUpdate};
use ratatui::crossterm::{execute, queue};
use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals as SignalQueue;
use signal_hook::low_level::emulate_default_handler;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// How often a screen without news is drawn: it counts the time without an answer.
const TICK: Duration = Duration::from_millis(500);
/// For verbs that take their time: a pause waits for what is in flight, a drain for everybody.
const LONG_PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// How long the rest of a key's bytes is waited for.
const KEY_REST: Duration = Duration::from_millis(20);

/// What the loop is told.
enum Tidings {
    Looked(Box<Sample>, Wanted),
    Failed(Trouble),
    Pressed(KeyEvent),
    Signalled(i32),
    /// What came of a verb.
    Told(String),
    /// A thread has ended that must not; or the terminal has gone.
    Ended,
}

/// What the thread that asks is told.
enum Errand {
    Look(Wanted),
    Pause(bool),
}

/// Tells of the end of a thread, however it ends.
struct LastWord(Sender<Tidings>);

impl Drop for LastWord {
    fn drop(&mut self) {
        let _ = self.0.send(Tidings::Ended);
    }
}

/// Runs until the person quits or a signal ends it.
pub(crate) fn run(args: &TopArgs) -> Result<ExitCode> {
    let place = socket_of(args.socket.as_deref())?;
    let admin = admin_of(&place, args.admin.as_deref())?;
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(Error::config("broker top needs a terminal; broker status prints the same once"));
    }
    let (sender, tidings) = channel();
    // Before the terminal is changed: a signal must not leave it so.
    watch_signals(sender.clone())?;
    let watcher = Watcher::new(place, admin.clone(), args.timeout).without(Onlooker::own());
    let errands = ask_about(watcher, args.interval, sender.clone())?;
    // From here on a panic gives the terminal back before it is told.
    let terminal = ratatui::try_init().map_err(Error::attempting("cannot use the terminal"))?;
    let mut screen = Screen {
        terminal,
        desk: Desk::default(),
        model: Model::default(),
        silence: None,
        heard: Instant::now(),
        timeout: args.timeout,
        interval: args.interval,
        has_colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        admin,
        errands,
        sender: sender.clone(),
    };
    let outcome = watch_keys(sender).and_then(|()| screen.work(&tidings));
    drop(screen);
    ratatui::restore();
    if let Some(signal) = outcome? {
        // Ends as by that signal without a handler, for whoever waits for the program.
        let _ = emulate_default_handler(signal);
    }
    Ok(ExitCode::SUCCESS)
}

struct Screen {
    terminal: DefaultTerminal,
    desk: Desk,
    model: Model,
    /// Why there was no answer at last.
    silence: Option<Trouble>,
    /// When the last answer came, or the program began.
    heard: Instant,
    /// For each answer, and between two looks.
    timeout: Duration,
    interval: Duration,
    has_colours: bool,
    /// Where verbs are heard.
    admin: Option<ListenUrl>,
    errands: Sender<Errand>,
    sender: Sender<Tidings>,
}

impl Screen {
    /// Draws until it is over; the signal that has ended it, if one has.
    fn work(&mut self, tidings: &Receiver<Tidings>) -> Result<Option<i32>> {
        self.send(Errand::Look(self.desk.wanted()));
        loop {
            self.draw()?;
            let first = match tidings.recv_timeout(TICK) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            };
            // All that has come is seen before the next drawing.
            for told in first.into_iter().chain(tidings.try_iter()) {
                match told {
                    Tidings::Looked(sample, asked) => self.take(*sample, asked),
                    Tidings::Failed(trouble) => self.silence = Some(trouble),
                    Tidings::Told(text) => self.desk.said = text,
                    Tidings::Signalled(SIGWINCH) => {}
                    Tidings::Signalled(signal) => return Ok(Some(signal)),
                    Tidings::Ended => {
                        return Err(Error::system("broker top has lost its terminal or a thread"));
                    }
                    Tidings::Pressed(key) => {
                        if self.press(key) {
                            return Ok(None);
                        }
                    }
                }
            }
        }
    }

    fn take(&mut self, sample: Sample, asked: Wanted) {
        (self.silence, self.heard) = (None, Instant::now());
        self.model.take_for(&self.desk.wanted(), sample, asked);
    }

    /// Whether the key ends the program.
    fn press(&mut self, key: KeyEvent) -> bool {
        let lines = self.model.lines(&self.desk.wanted(), &self.desk.search);
        match self.desk.press(key, &lines) {
            Wish::Draw => {}
            Wish::Look => self.send(Errand::Look(self.desk.wanted())),
            Wish::Quit => return true,
            Wish::Pause(is_paused) => {
                // Time that nobody asked in is no silence.
                self.heard = Instant::now();
                self.send(Errand::Pause(is_paused));
            }
            Wish::Kill(id) => {
                let words = ["KILL".to_owned(), "CHILD".to_owned(), id.to_string()];
                self.command(words.into(), self.timeout, format!("child {id} is closed"));
            }
            Wish::Level(level) => {
                let words = ["SET", "log_level", level].map(str::to_owned);
                let done = format!("the log's level is {level}, until UNSET log_level or a restart");
                self.command(words.into(), self.timeout, done);
            }
            Wish::Verb(verb) => {
                let done = match verb {
                    BrokerVerb::Drain => "everybody has been let go: the broker ends".to_owned(),
                    other => format!("{} is done", other.word()),
                };
                self.command(vec![verb.word().to_owned()], LONG_PATIENCE, done);
            }
        }
        false
    }

    /// Has a verb carried out in a thread of its own: its socket may not answer either.
    fn command(&mut self, words: Vec<String>, patience: Duration, done: String) {
        let Some(admin) = self.admin.clone() else {
            self.desk.said = "no admin socket: say which with --admin".to_owned();
            return;
        };
        self.desk.said = format!("asking {}", shown(&admin));
        let (sender, timeout) = (self.sender.clone(), self.timeout);
        let ask = move || {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let outcome = ConsoleClient::connect(&admin, timeout).and_then(|mut client| {
                client.set_patience(patience);
                client.command(&words)
            });
            let told = match outcome.map(|frame| lines_of(&frame)) {
                Ok(lines) if lines.is_empty() => done,
                Ok(lines) => lines.join("; "),
                Err(trouble) => trouble.to_string(),
            };
            let _ = sender.send(Tidings::Told(told));
        };
        if let Err(error) = std::thread::Builder::new().spawn(ask) {
            self.desk.said = format!("cannot start a thread: {error}");
        }
    }

    fn send(&self, errand: Errand) {
        // Where the thread has ended, its last word says so.
        let _ = self.errands.send(errand);
    }

    /// Since when nothing is heard, if that is so: it was told, or a look takes too long.
    fn silence(&self) -> Option<Silence> {
        let silent = self.heard.elapsed();
        let is_late = silent > self.timeout + self.interval && !self.desk.is_paused;
        let (why, is_refusal) = match &self.silence {
            Some(trouble) => (trouble.to_string(), matches!(trouble, Trouble::Refused(_))),
            None if is_late => ("it takes longer than it may".to_owned(), false),
            None => return None,
        };
        Some(Silence { for_ms: silent.as_millis() as u64, why, is_refusal })
    }

    fn draw(&mut self) -> Result<()> {
        let silence = self.silence();
        let Screen { terminal, model, desk, has_colours, .. } = self;
        // A terminal that knows it shows nothing half drawn.
        let drawn = queue!(terminal.backend_mut(), BeginSynchronizedUpdate)
            .and_then(|()| {
                let drawn = terminal.draw(|frame| {
                    let area = frame.area();
                    view::draw(frame.buffer_mut(), area, model, desk, silence.as_ref(), *has_colours);
                });
                drawn.map(drop)
            })
            .and_then(|()| execute!(terminal.backend_mut(), EndSynchronizedUpdate));
        drawn.map_err(Error::attempting("cannot draw on the terminal"))
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map(drop).map_err(Error::attempting("cannot start a thread"))
}

/// Looks at the broker, again and again and when it is told to.
fn ask_about(mut watcher: Watcher, interval: Duration, sender: Sender<Tidings>) -> Result<Sender<Errand>> {
    let (errands, received) = channel();
    let ask = move || {
        let last_word = LastWord(sender);
        let (mut wanted, mut is_paused) = (None, false);
        loop {
            // While it is paused, only what the person wants to see is asked for.
            let errand = if is_paused || wanted.is_none() {
                received.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                received.recv_timeout(interval)
            };
            match errand {
                Ok(Errand::Look(what)) => wanted = Some(what),
                Ok(Errand::Pause(true)) => {
                    is_paused = true;
                    continue;
                }
                Ok(Errand::Pause(false)) => is_paused = false,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // Of several keys that were pressed meanwhile, the last one counts.
            for errand in received.try_iter() {
                match errand {
                    Errand::Look(what) => wanted = Some(what),
                    Errand::Pause(is) => is_paused = is,
                }
            }
            let Some(wanted) = wanted else { continue };
            let told = match watcher.look(&wanted.questions()) {
                Ok(sample) => Tidings::Looked(Box::new(sample), wanted),
                Err(trouble) => Tidings::Failed(trouble),
            };
            if last_word.0.send(told).is_err() {
                return;
            }
        }
    };
    start("ask", ask)?;
    Ok(errands)
}

/// Keys, as long as there is a terminal. What reads them would turn in circles on one that has gone.
fn watch_keys(sender: Sender<Tidings>) -> Result<()> {
    let read = move || {
        let last_word = LastWord(sender);
        let input = std::io::stdin();
        loop {
            let mut asked = [PollFd::new(&input, PollFlags::IN)];
            if rustix::io::retry_on_intr(|| poll(&mut asked, None)).is_err()
                || asked[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
            {
                return;
            }
            while event::poll(KEY_REST).unwrap_or(false) {
                match event::read() {
                    Ok(TerminalEvent::Key(key)) if key.kind != KeyEventKind::Release => {
                        if last_word.0.send(Tidings::Pressed(key)).is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        }
    };
    start("keys", read)
}

/// Signals that end the program, and that of a screen which has another size now.
fn watch_signals(sender: Sender<Tidings>) -> Result<()> {
    let mut queue = SignalQueue::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGWINCH])
        .map_err(Error::attempting("cannot watch for signals"))?;
    start("signals", move || {
        let last_word = LastWord(sender);
        for signal in queue.forever() {
            if last_word.0.send(Tidings::Signalled(signal)).is_err() {
                return;
            }
        }
    })
}
