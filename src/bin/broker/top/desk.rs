//! What the person at `broker top` has chosen: the table, its order, the search, the row under the cursor, a question that is
//! open. Turns keys into wishes; carries none of them out.

use super::model::{Ranking, Sheet, SheetLine, Wanted};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Characters of a search.
const SEARCH_MAX: usize = 64;
/// Rows of PageUp and PageDown.
const PAGE: isize = 10;

/// What keys mean now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyMode {
    Table,
    /// They are letters of the search.
    Search,
    /// Whether this child is to be closed.
    Kill(u64),
    /// Which level the log is to have.
    Level,
    /// What the broker itself is to do.
    Broker,
    /// Whether it is to do that.
    Verb(BrokerVerb),
    Help,
}

/// What is asked of the broker as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BrokerVerb {
    Reload,
    Pause,
    Resume,
    Reconnect,
    Drain,
}

impl BrokerVerb {
    pub(crate) const ALL: [BrokerVerb; 5] =
        [BrokerVerb::Reload, BrokerVerb::Pause, BrokerVerb::Resume, BrokerVerb::Reconnect, BrokerVerb::Drain];

    /// Its key, behind that of the broker.
    pub(crate) fn letter(self) -> char {
        match self {
            BrokerVerb::Reload => 'r',
            BrokerVerb::Pause => 'p',
            BrokerVerb::Resume => 'u',
            BrokerVerb::Reconnect => 'c',
            BrokerVerb::Drain => 'd',
        }
    }

    /// Its word for the console.
    pub(crate) fn word(self) -> &'static str {
        match self {
            BrokerVerb::Reload => "RELOAD",
            BrokerVerb::Pause => "PAUSE",
            BrokerVerb::Resume => "RESUME",
            BrokerVerb::Reconnect => "RECONNECT",
            BrokerVerb::Drain => "DRAIN",
        }
    }

    /// What the person is asked before it is done.
    pub(crate) fn question(self) -> &'static str {
        match self {
            BrokerVerb::Reload => "read the configuration again?",
            BrokerVerb::Pause => "pause: hold all requests until it is resumed?",
            BrokerVerb::Resume => "resume: let requests go on?",
            BrokerVerb::Reconnect => "replace every connection to Redis?",
            BrokerVerb::Drain => "drain: let everybody go and END the broker?",
        }
    }
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The screen may look different.
    Draw,
    /// Something else is to be seen: it has to be asked for.
    Look,
    Quit,
    Pause(bool),
    /// Close this child.
    Kill(u64),
    /// Set the log's level.
    Level(&'static str),
    /// Have the broker do this.
    Verb(BrokerVerb),
}

/// The levels by their keys.
const LEVELS: [(char, &str); 5] =
    [('e', "error"), ('w', "warn"), ('i', "info"), ('d', "debug"), ('t', "trace")];

#[derive(Debug)]
pub(crate) struct Desk {
    sheet: Sheet,
    ranking: Ranking,
    is_reversed: bool,
    pub(crate) search: String,
    pub(crate) mode: KeyMode,
    detail: Option<u64>,
    /// The row under the cursor, and where it was: it moves with the row.
    selected: Option<String>,
    at: usize,
    pub(crate) is_paused: bool,
    /// What came of the last wish.
    pub(crate) said: String,
    /// Whose child may be closed.
    pub(crate) victim: String,
}

impl Default for Desk {
    fn default() -> Desk {
        Desk {
            sheet: Sheet::Processes,
            ranking: Ranking::Requests,
            is_reversed: false,
            search: String::new(),
            mode: KeyMode::Table,
            detail: None,
            selected: None,
            at: 0,
            is_paused: false,
            said: String::new(),
            victim: String::new(),
        }
    }
}

impl Desk {
    pub(crate) fn wanted(&self) -> Wanted {
        Wanted {
            sheet: self.sheet,
            ranking: self.ranking,
            is_reversed: self.is_reversed,
            is_searched: !self.search.is_empty(),
            detail: self.detail,
        }
    }

    /// The place of the cursor among these lines.
    pub(crate) fn cursor(&self, lines: &[SheetLine]) -> usize {
        let by_key = self.selected.as_ref().and_then(|key| lines.iter().position(|line| line.key == *key));
        by_key.unwrap_or(self.at.min(lines.len().saturating_sub(1)))
    }

    /// What a key means, with these lines on the screen.
    pub(crate) fn press(&mut self, key: KeyEvent, lines: &[SheetLine]) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) && matches!(key.code, KeyCode::Char('c' | 'd')) {
            return Wish::Quit;
        }
        self.said.clear();
        match self.mode {
            KeyMode::Table => self.press_in_table(key.code, lines),
            KeyMode::Search => self.press_in_search(key.code),
            KeyMode::Kill(id) => {
                self.mode = KeyMode::Table;
                if matches!(key.code, KeyCode::Char('y' | 'Y')) { Wish::Kill(id) } else { Wish::Draw }
            }
            KeyMode::Level => {
                self.mode = KeyMode::Table;
                let level = LEVELS.iter().find(|(letter, _)| key.code == KeyCode::Char(*letter));
                level.map_or(Wish::Draw, |(_, level)| Wish::Level(level))
            }
            KeyMode::Broker => {
                let verb = BrokerVerb::ALL.into_iter().find(|verb| key.code == KeyCode::Char(verb.letter()));
                self.mode = verb.map_or(KeyMode::Table, KeyMode::Verb);
                Wish::Draw
            }
            KeyMode::Verb(verb) => {
                self.mode = KeyMode::Table;
                if matches!(key.code, KeyCode::Char('y' | 'Y')) { Wish::Verb(verb) } else { Wish::Draw }
            }
            KeyMode::Help => {
                self.mode = KeyMode::Table;
                Wish::Draw
            }
        }
    }

    fn press_in_table(&mut self, code: KeyCode, lines: &[SheetLine]) -> Wish {
        match code {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Char('?' | 'h') => self.mode = KeyMode::Help,
            KeyCode::Char('/') => self.mode = KeyMode::Search,
            KeyCode::Char('l') => self.mode = KeyMode::Level,
            KeyCode::Char('b') => self.mode = KeyMode::Broker,
            KeyCode::Char('k') => self.ask_to_kill(lines),
            KeyCode::Char('p') => {
                self.is_paused = !self.is_paused;
                return Wish::Pause(self.is_paused);
            }
            KeyCode::Char('r') => {
                self.is_reversed = !self.is_reversed;
                return Wish::Look;
            }
            KeyCode::Char('s') => return self.rank_by(self.next_ranking()),
            KeyCode::Char(digit @ '1'..='7') => return self.turn_to(digit as usize - '1' as usize),
            KeyCode::Char(letter) => {
                if let Some(ranking) = Ranking::ALL.into_iter().find(|ranking| ranking.letter() == letter) {
                    return self.rank_by(ranking);
                }
            }
            KeyCode::Tab => return self.turn_to((self.sheet as usize + 1) % Sheet::ALL.len()),
            KeyCode::BackTab => {
                return self.turn_to((self.sheet as usize + Sheet::ALL.len() - 1) % Sheet::ALL.len());
            }
            KeyCode::Enter => return self.open(lines),
            KeyCode::Esc | KeyCode::Backspace => return self.leave(),
            KeyCode::Up => self.move_by(-1, lines),
            KeyCode::Down => self.move_by(1, lines),
            KeyCode::PageUp => self.move_by(-PAGE, lines),
            KeyCode::PageDown => self.move_by(PAGE, lines),
            KeyCode::Home => self.move_by(-(lines.len() as isize), lines),
            KeyCode::End => self.move_by(lines.len() as isize, lines),
            _ => {}
        }
        Wish::Draw
    }

    fn press_in_search(&mut self, code: KeyCode) -> Wish {
        let was_searched = !self.search.is_empty();
        match code {
            KeyCode::Enter => self.mode = KeyMode::Table,
            KeyCode::Esc => {
                self.search.clear();
                self.mode = KeyMode::Table;
            }
            KeyCode::Backspace => _ = self.search.pop(),
            KeyCode::Char(letter) if !letter.is_control() && self.search.len() < SEARCH_MAX => {
                self.search.push(letter);
            }
            _ => {}
        }
        // More rows are asked for while they are searched.
        if was_searched == self.search.is_empty() { Wish::Look } else { Wish::Draw }
    }

    fn ask_to_kill(&mut self, lines: &[SheetLine]) {
        let row = lines.get(self.cursor(lines)).map(|line| &line.row);
        let column = if self.wanted().table() == Sheet::Children { "id" } else { "child" };
        match row.and_then(|row| row.number(column)) {
            Some(id) => {
                self.mode = KeyMode::Kill(id);
                let parts = row.map(|row| [row.text("pid"), row.text("process")]).unwrap_or_default();
                let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
                self.victim = parts.join(" ");
            }
            None if lines.is_empty() => self.said = "there is no row here".to_owned(),
            None => {
                self.said =
                    "k closes the child of a row: choose one in a table that shows children".to_owned()
            }
        }
    }

    /// One process in detail: that of the row.
    fn open(&mut self, lines: &[SheetLine]) -> Wish {
        let at = self.cursor(lines);
        let pid = lines.get(at).and_then(|line| line.row.number("pid"));
        match pid {
            Some(pid) if self.detail.is_none() => {
                self.detail = Some(pid);
                self.begin_at_top();
                Wish::Look
            }
            Some(_) => Wish::Draw,
            None => {
                self.said = "this row is about no process".to_owned();
                Wish::Draw
            }
        }
    }

    /// Back: out of a process, or out of a search.
    fn leave(&mut self) -> Wish {
        if self.detail.take().is_none() {
            self.search.clear();
        }
        self.begin_at_top();
        Wish::Look
    }

    fn turn_to(&mut self, index: usize) -> Wish {
        self.sheet = Sheet::ALL[index];
        self.detail = None;
        self.search.clear();
        self.begin_at_top();
        Wish::Look
    }

    fn rank_by(&mut self, ranking: Ranking) -> Wish {
        let rankings = self.wanted().table().rankings();
        if !rankings.contains(&ranking) {
            let names: Vec<&str> = rankings.iter().map(|ranking| ranking.name()).collect();
            self.said = format!("this table is sorted by {}", names.join(", "));
            return Wish::Draw;
        }
        self.ranking = ranking;
        Wish::Look
    }

    fn next_ranking(&self) -> Ranking {
        let wanted = self.wanted();
        let rankings = wanted.table().rankings();
        let at = rankings.iter().position(|ranking| *ranking == wanted.ranking());
        rankings[at.map_or(0, |at| (at + 1) % rankings.len())]
    }

    fn begin_at_top(&mut self) {
        (self.selected, self.at) = (None, 0);
    }

    fn move_by(&mut self, rows: isize, lines: &[SheetLine]) {
        let last = lines.len().saturating_sub(1);
        self.at = self.cursor(lines).saturating_add_signed(rows).min(last);
        self.selected = lines.get(self.at).map(|line| line.key.clone());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::client::TableRow;
    use super::*;

    pub(crate) fn press(desk: &mut Desk, keys: &str, lines: &[SheetLine]) -> Wish {
        let codes = keys.chars().map(|letter| match letter {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '\t' => KeyCode::Tab,
            'v' => KeyCode::Down,
            '^' => KeyCode::Up,
            other => KeyCode::Char(other),
        });
        codes.map(|code| desk.press(KeyEvent::from(code), lines)).last().expect("a key")
    }

    fn line(key: &str, cells: &[(&str, &str)]) -> SheetLine {
        SheetLine { key: key.to_owned(), row: TableRow::of(cells), requests: None, bytes: None }
    }

    fn processes() -> Vec<SheetLine> {
        vec![line("7", &[("pid", "7")]), line("8", &[("pid", "8")])]
    }

    #[test]
    fn digits_and_tab_turn_to_tables() {
        let mut desk = Desk::default();
        assert_eq!(press(&mut desk, "2", &[]), Wish::Look);
        assert_eq!(desk.wanted().sheet, Sheet::Children);
        press(&mut desk, "7\t", &[]);
        assert_eq!(desk.wanted().sheet, Sheet::Processes);
    }

    #[test]
    fn an_order_is_chosen_by_its_letter_or_the_next_one_and_is_one_that_the_table_has() {
        let mut desk = Desk::default();
        press(&mut desk, "s", &[]);
        assert_eq!(desk.wanted().ranking(), Ranking::Bytes);
        press(&mut desk, "ss", &[]);
        assert_eq!(desk.wanted().ranking(), Ranking::Requests);
        assert_eq!(press(&mut desk, "W", &[]), Wish::Draw);
        assert!(desk.said.contains("sorted by requests/s, bytes/s, leases"), "{}", desk.said);
        assert_eq!(press(&mut desk, "2W", &[]), Wish::Look);
        assert_eq!(desk.wanted().ranking(), Ranking::Waits);
        assert!(!desk.wanted().is_reversed);
        press(&mut desk, "r", &[]);
        assert!(desk.wanted().is_reversed);
    }

    #[test]
    fn the_cursor_stays_with_its_row() {
        let (mut desk, lines) = (Desk::default(), processes());
        press(&mut desk, "vv", &lines);
        assert_eq!(desk.cursor(&lines), 1);
        let turned: Vec<SheetLine> = lines.iter().rev().cloned().collect();
        assert_eq!(desk.cursor(&turned), 0);
        assert_eq!(desk.cursor(&lines[..1]), 0, "its row has gone");
        assert_eq!(desk.cursor(&[]), 0);
    }

    #[test]
    fn enter_opens_a_process_and_esc_leaves_it() {
        let (mut desk, lines) = (Desk::default(), processes());
        assert_eq!(press(&mut desk, "v\n", &lines), Wish::Look);
        assert_eq!((desk.wanted().detail, desk.wanted().table()), (Some(8), Sheet::Children));
        assert_eq!(press(&mut desk, "\u{1b}", &lines), Wish::Look);
        assert_eq!(desk.wanted().detail, None);
        assert_eq!(press(&mut desk, "\n", &[]), Wish::Draw);
        assert!(desk.said.contains("no process"));
    }

    #[test]
    fn a_search_takes_every_letter_until_it_is_left() {
        let (mut desk, lines) = (Desk::default(), processes());
        assert_eq!(press(&mut desk, "/q", &lines), Wish::Look);
        assert_eq!(press(&mut desk, "2", &lines), Wish::Draw);
        assert_eq!((desk.search.as_str(), desk.mode), ("q2", KeyMode::Search));
        press(&mut desk, "\n", &lines);
        assert_eq!((desk.search.as_str(), desk.mode), ("q2", KeyMode::Table));
        assert_eq!(press(&mut desk, "\u{1b}", &lines), Wish::Look);
        assert_eq!(desk.search, "");
        press(&mut desk, "/x\u{1b}", &lines);
        assert_eq!((desk.search.as_str(), desk.mode), ("", KeyMode::Table));
    }

    #[test]
    fn a_child_is_closed_only_after_a_yes() {
        let mut desk = Desk::default();
        let children = [line("5", &[("id", "5"), ("pid", "44"), ("process", "worker")])];
        press(&mut desk, "k", &processes());
        assert!(desk.mode == KeyMode::Table && desk.said.contains("choose one"));
        press(&mut desk, "2k", &children);
        assert_eq!((desk.mode, desk.victim.as_str()), (KeyMode::Kill(5), "44 worker"));
        assert_eq!(press(&mut desk, "n", &children), Wish::Draw);
        assert_eq!(press(&mut desk, "ky", &children), Wish::Kill(5));
        assert_eq!(desk.mode, KeyMode::Table);
        assert_eq!(press(&mut desk, "3ky", &[line("0", &[("lane", "0"), ("child", "9")])]), Wish::Kill(9));
    }

    #[test]
    fn the_broker_is_told_something_only_after_a_yes() {
        let mut desk = Desk::default();
        for verb in BrokerVerb::ALL {
            let keys = format!("b{}", verb.letter());
            assert_eq!(press(&mut desk, &keys, &[]), Wish::Draw);
            assert_eq!(desk.mode, KeyMode::Verb(verb));
            assert_eq!(press(&mut desk, "n", &[]), Wish::Draw);
            assert_eq!(press(&mut desk, &format!("{keys}y"), &[]), Wish::Verb(verb));
            assert_eq!(desk.mode, KeyMode::Table);
        }
        assert_eq!(press(&mut desk, "bx", &[]), Wish::Draw);
        assert_eq!(desk.mode, KeyMode::Table, "no such verb");
    }

    #[test]
    fn levels_pause_help_and_the_end() {
        let mut desk = Desk::default();
        assert_eq!(press(&mut desk, "ld", &[]), Wish::Level("debug"));
        assert_eq!(press(&mut desk, "lx", &[]), Wish::Draw);
        assert_eq!(press(&mut desk, "p", &[]), Wish::Pause(true));
        assert_eq!(press(&mut desk, "p", &[]), Wish::Pause(false));
        press(&mut desk, "?", &[]);
        assert_eq!(desk.mode, KeyMode::Help);
        assert_eq!(press(&mut desk, "q", &[]), Wish::Draw, "any key leaves the help");
        assert_eq!(press(&mut desk, "q", &[]), Wish::Quit);
        let mut desk = Desk { mode: KeyMode::Search, ..Desk::default() };
        let end = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(desk.press(end, &[]), Wish::Quit);
    }
}
