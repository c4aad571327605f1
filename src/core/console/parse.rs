//! What a console command asks for. Pure: words in, a statement or an error text out.

use crate::core::console::cell::{Cell, Column};
use crate::core::console::orders::Order;
use crate::core::console::tables::{self, ShowTable};
use crate::resp::Request;

/// The first word of each command.
pub(crate) const NAME: &str = "broker";

/// Whether a request is the console's.
pub(crate) fn is_console(request: &Request<'_>) -> bool {
    request.arg(0).eq_ignore_ascii_case(NAME.as_bytes())
}

/// Whether it says that its child knows the broker's own errors: a child's own affair, and nobody has to be asked.
pub(crate) fn is_errors(request: &Request<'_>) -> bool {
    request.argc() == 2 && request.arg(1).eq_ignore_ascii_case(b"errors")
}

#[derive(Debug)]
pub(crate) enum Statement {
    Help,
    Show(Query),
    KillChild(u64),
    /// For at most so many milliseconds.
    Pause(Option<u64>),
    Resume,
    Reconnect,
    KillPid(i32),
    /// For the driver.
    Order(Order),
}

impl Statement {
    /// Whether it changes nothing: it is not heard on `admin_listen` alone.
    pub(crate) fn is_look(&self) -> bool {
        matches!(self, Statement::Help | Statement::Show(_))
    }
}

/// How a condition compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Is,
    More,
    Less,
}

#[derive(Debug)]
struct Condition {
    column: usize,
    test: Test,
    value: String,
}

impl Condition {
    /// `value`, or a number behind `>` or `<`.
    fn parse(column: usize, word: &str) -> Condition {
        let (test, value) = match word.split_at_checked(1) {
            Some((">", bound)) if bound.parse::<u64>().is_ok() => (Test::More, bound),
            Some(("<", bound)) if bound.parse::<u64>().is_ok() => (Test::Less, bound),
            _ => (Test::Is, word),
        };
        Condition { column, test, value: value.to_owned() }
    }

    fn holds(&self, cells: &[Cell]) -> bool {
        let bound = || self.value.parse::<u64>().unwrap_or_default();
        match (self.test, cells.get(self.column)) {
            (Test::Is, Some(cell)) => cell.as_text() == self.value,
            (Test::More, Some(Cell::Int(number))) => *number > bound(),
            (Test::Less, Some(Cell::Int(number))) => *number < bound(),
            _ => false,
        }
    }
}

/// By which column rows are ordered; numbers from the largest on, words from the first, unless it is `turned`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SortOrder {
    pub(crate) column: usize,
    pub(crate) turned: bool,
}

/// One SHOW.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) table: &'static ShowTable,
    conditions: Vec<Condition>,
    pub(crate) order: Option<SortOrder>,
    pub(crate) limit: usize,
}

impl Query {
    /// Whether a row of these cells is meant.
    pub(crate) fn means(&self, cells: &[Cell]) -> bool {
        self.conditions.iter().all(|condition| condition.holds(cells))
    }

    /// Whether rows are left out, so that nothing can be said of one that has gone.
    pub(crate) fn has_conditions(&self) -> bool {
        !self.conditions.is_empty()
    }
}

/// Words of a console command; nothing else is as long.
const WORDS_MAX: usize = 64;
/// A password, or a list of listeners.
const WORD_LEN_MAX: usize = 64 * 1024;
/// Longest pause that may be asked for, milliseconds.
const DAY: u64 = 24 * 60 * 60 * 1000;

pub(crate) fn parse(request: &Request<'_>) -> Result<Statement, String> {
    if request.argc() > WORDS_MAX || request.args().any(|word| word.len() > WORD_LEN_MAX) {
        return Err("ERR too many or too long words".to_owned());
    }
    // What is changed is changed to what was said.
    if request.argc() == 4 && request.arg(1).eq_ignore_ascii_case(b"SET") && request.args().any(is_no_text) {
        return Err("ERR BROKER SET takes a key and a value in UTF-8".to_owned());
    }
    let words: Vec<String> =
        request.args().skip(1).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    parse_words(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn is_no_text(word: &[u8]) -> bool {
    std::str::from_utf8(word).is_err()
}

/// Those behind `BROKER`.
fn parse_words(words: &[&str]) -> Result<Statement, String> {
    let upper = |index: usize| words.get(index).map(|word| word.to_ascii_uppercase()).unwrap_or_default();
    match (upper(0).as_str(), words.len()) {
        ("HELP", 1) => Ok(Statement::Help),
        ("SHOW", 2..) => show(&words[1..]).map(Statement::Show),
        ("KILL", 3) if upper(1) == "CHILD" => match words[2].parse() {
            Ok(id) => Ok(Statement::KillChild(id)),
            Err(_) => Err("ERR BROKER KILL CHILD takes an id of BROKER SHOW CHILDREN".to_owned()),
        },
        ("KILL", 3) if upper(1) == "PID" => match words[2].parse() {
            Ok(pid) if pid > 0 => Ok(Statement::KillPid(pid)),
            _ => Err("ERR BROKER KILL PID takes a pid of BROKER SHOW PROCESSES".to_owned()),
        },
        ("PAUSE", 1) => Ok(Statement::Pause(None)),
        ("PAUSE", 2) => match words[1].parse() {
            Ok(timeout) if (1..=DAY).contains(&timeout) => Ok(Statement::Pause(Some(timeout))),
            _ => Err(format!("ERR BROKER PAUSE takes a time of 1 to {DAY} milliseconds")),
        },
        ("RESUME", 1) => Ok(Statement::Resume),
        ("RECONNECT", 1) => Ok(Statement::Reconnect),
        _ => order(words, upper).map(Statement::Order),
    }
}

/// What only the driver can carry out.
fn order(words: &[&str], upper: impl Fn(usize) -> String) -> Result<Order, String> {
    let word = |index: usize| words[index].to_owned();
    match (upper(0).as_str(), words.len()) {
        ("RELOAD", 1) => Ok(Order::Reload),
        ("SET", 3) => Ok(Order::Set { key: word(1), value: word(2) }),
        ("UPSTREAM", 2) => Ok(Order::Upstream { url: word(1) }),
        ("UNSET", 2) => Ok(Order::Unset { key: word(1) }),
        ("DRAIN", 1) => Ok(Order::Drain),
        ("SHUTDOWN", 1) => Ok(Order::Shutdown { waits: false }),
        ("SHUTDOWN", 2) if upper(1) == "WAIT" => Ok(Order::Shutdown { waits: true }),
        ("UPGRADE", 1) => Ok(Order::Upgrade),
        ("TAKEOVER", 3) => match words[1].parse() {
            Ok(format) => Ok(Order::TakeOver { format, version: word(2) }),
            Err(_) => Err("ERR BROKER TAKEOVER takes the number of a format and a version".to_owned()),
        },
        _ => Err("ERR unknown or incomplete console command; BROKER HELP lists them".to_owned()),
    }
}

fn show(words: &[&str]) -> Result<Query, String> {
    let name = words[0].to_ascii_uppercase();
    let Some(table) = tables::find(&name) else {
        return Err(format!("ERR no table '{}'; BROKER HELP lists them", words[0].escape_default()));
    };
    let mut query = Query { table, conditions: Vec::new(), order: None, limit: usize::MAX };
    let mut rest = &words[1..];
    while let Some((word, others)) = rest.split_first() {
        rest = match (word.to_ascii_uppercase().as_str(), others) {
            ("WHERE" | "AND", [column, value, others @ ..]) => {
                query.conditions.push(Condition::parse(column_of(table.columns, column)?, value));
                others
            }
            ("SORT", [column, others @ ..]) => {
                query.order = Some(SortOrder { column: column_of(table.columns, column)?, turned: false });
                others
            }
            ("REVERSE", others) if query.order.is_some() => {
                query.order = query.order.map(|order| SortOrder { turned: true, ..order });
                others
            }
            ("LIMIT", [count, others @ ..]) => {
                query.limit = count.parse().map_err(|_| "ERR LIMIT takes a number".to_owned())?;
                others
            }
            _ => {
                return Err(
                    "ERR after the table: WHERE column value, SORT column [REVERSE], LIMIT number".to_owned()
                );
            }
        };
    }
    Ok(query)
}

fn column_of(columns: &[Column], name: &str) -> Result<usize, String> {
    let found = columns.iter().position(|column| column.name.eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        let names: Vec<_> = columns.iter().map(|column| column.name).collect();
        format!("ERR no column '{}'; there are {}", name.escape_default(), names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Statement, String> {
        parse_words(&words.split(' ').skip(1).collect::<Vec<_>>())
    }

    fn query(words: &str) -> Query {
        match parsed(words) {
            Ok(Statement::Show(query)) => query,
            other => panic!("{words}: {other:?}"),
        }
    }

    #[test]
    fn conditions_order_and_limit_come_in_any_order_and_case() {
        let query = query("broker show children limit 5 where pid 7 sort Requests reverse and uid >10");
        let column = |name| column_of(query.table.columns, name).unwrap();
        assert_eq!(query.limit, 5);
        assert_eq!(query.order, Some(SortOrder { column: column("requests"), turned: true }));
        let mut cells = vec![Cell::Nothing; query.table.columns.len()];
        cells[column("pid")] = Cell::Int(7);
        cells[column("uid")] = Cell::Int(10);
        assert!(!query.means(&cells));
        cells[column("uid")] = Cell::Int(11);
        assert!(query.means(&cells) && query.has_conditions());
        cells[column("pid")] = Cell::from("7");
        assert!(query.means(&cells), "what is shown is what is compared");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (words, error) in [
            ("broker", "BROKER HELP"),
            ("broker help me", "BROKER HELP"),
            ("broker show nothing", "no table 'nothing'"),
            ("broker show children where", "after the table"),
            ("broker show children where nobody 1", "no column 'nobody'; there are id, pid"),
            ("broker show children limit x", "LIMIT takes a number"),
            ("broker show children reverse", "after the table"),
            ("broker kill child x", "takes an id"),
        ] {
            assert!(parsed(words).unwrap_err().contains(error), "{words}");
        }
        assert!(matches!(parsed("BROKER kill CHILD 5"), Ok(Statement::KillChild(5))));
        assert!(matches!(parsed("BROKER set a b"), Ok(Statement::Order(Order::Set { .. }))));
        assert!(matches!(
            parsed("BROKER shutdown wait"),
            Ok(Statement::Order(Order::Shutdown { waits: true }))
        ));
        assert!(parsed("BROKER help").unwrap().is_look());
    }
}
