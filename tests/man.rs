//! The man pages of the C library in dist/man, made from the comments of include/broker.h and the tables of the code:
//! broker(3) with what holds for every function, a page for each object, and for each function a page that leads to its
//! object's. What is committed is what they say today. `BROKER_UPDATE_DOCS=1` rewrites them instead of comparing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use broker::config::client_rows;
use broker::reactor::Loop;

const HEADER: &str = include_str!("../include/broker.h");

/// The pages of objects, and what each is in a line.
const OBJECTS: [(&str, &str); 5] = [
    ("config", "settings of the broker and its clients, by name"),
    ("reply", "one value of a reply"),
    ("transaction", "commands to be executed as one"),
    ("loop", "the broker, embedded in a program"),
    ("client", "requests to a broker, to Redis or to a loop in the same process"),
];

/// One declaration of the header and the comment before it.
#[derive(Debug)]
struct Item {
    name: String,
    /// As it stands there, in one line, without the semicolon.
    declaration: String,
    /// Paragraphs, each in one line. What begins with "- " is an item of a list.
    paragraphs: Vec<String>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Constant,
    Callback,
    Type,
    Function,
}

impl Item {
    /// Paragraphs that say which codes there are; they stand at the end of a comment.
    fn is_about_codes(paragraph: &str) -> bool {
        ["BROKER_E", "NULL is BROKER_OK", "A negative code", "A code for"]
            .iter()
            .any(|start| paragraph.starts_with(start))
    }

    fn text(&self) -> impl Iterator<Item = &String> {
        self.paragraphs.iter().filter(|text| !Item::is_about_codes(text))
    }

    fn codes(&self) -> impl Iterator<Item = &String> {
        self.paragraphs.iter().filter(|text| Item::is_about_codes(text))
    }

    /// The page it stands on.
    fn page(&self) -> String {
        let object = |name: &str| match self.kind {
            Kind::Function => self.name.strip_prefix(&format!("broker_{name}_")).is_some(),
            // What callbacks are for is what they get first; a request belongs to a client.
            Kind::Callback => self.declaration.contains(&format!("(broker_{name}_t *")),
            Kind::Type => {
                self.name == format!("broker_{name}_t") || (name, &*self.name) == ("client", "broker_req_t")
            }
            Kind::Constant => match name {
                "reply" => self.name.starts_with("BROKER_REPLY_"),
                "loop" => self.name.starts_with("BROKER_RUN_"),
                "client" => ["BROKER_CHANNEL", "BROKER_PATTERN", "BROKER_SHARD"].contains(&&*self.name),
                _ => false,
            },
        };
        let found = OBJECTS.iter().find(|(name, _)| object(name));
        found.map_or_else(|| "broker".to_owned(), |(name, _)| format!("broker_{name}"))
    }
}

/// The text of a comment: its lines without the stars.
fn lines(comment: &str) -> Vec<&str> {
    let inner = comment.trim_start_matches("/*").trim_start_matches('*').trim_end_matches("*/");
    inner.lines().map(|line| line.trim_end().strip_prefix(" *").unwrap_or(line.trim()).trim_end()).collect()
}

/// Lines put together to paragraphs.
fn paragraphs(lines: &[&str]) -> Vec<String> {
    let mut made: Vec<String> = Vec::new();
    let mut open = false;
    for line in lines {
        let line = line.trim();
        if line.is_empty() {
            open = false;
        } else if open && !line.starts_with("- ") {
            let last = made.last_mut().expect("an open paragraph");
            last.push(' ');
            last.push_str(line);
        } else {
            made.push(line.to_owned());
            open = true;
        }
    }
    made
}

/// Everything that is declared with a comment of its own.
fn items() -> Vec<Item> {
    let mut found = Vec::new();
    for part in HEADER.split("/**\n").skip(1) {
        let (comment, rest) = part.split_once("*/\n").expect("the end of a comment");
        let end = if rest.starts_with("#define") { rest.find('\n') } else { rest.find(';') };
        let declaration =
            rest[..end.expect("the end of a declaration")].split_whitespace().collect::<Vec<_>>().join(" ");
        let paragraphs = paragraphs(&lines(comment));
        let (kind, name) = if let Some(define) = declaration.strip_prefix("#define ") {
            (Kind::Constant, define.split(' ').next())
        } else if declaration.starts_with("typedef") && declaration.contains("(*") {
            let callback = declaration.split("(*").nth(1).and_then(|rest| rest.split(')').next());
            (Kind::Callback, callback)
        } else if declaration.starts_with("typedef") {
            (Kind::Type, declaration.rsplit(' ').next())
        } else {
            let words = declaration.split('(').next().expect("a name");
            (Kind::Function, words.rsplit([' ', '*']).next())
        };
        let name = name.expect("a declaration names something").to_owned();
        found.push(Item { name, declaration, paragraphs, kind });
    }
    found
}

/// The header's first comment: what stands before its sections, and the sections by their titles.
fn conventions() -> (Vec<String>, Vec<(String, Vec<String>)>) {
    let end = HEADER.find("*/").expect("the end of the first comment");
    let lines = lines(&HEADER[..end]);
    let (mut head, mut sections): (Vec<&str>, Vec<(String, Vec<&str>)>) = (Vec::new(), Vec::new());
    for line in lines {
        let is_title =
            line.starts_with(' ') && !line.starts_with("  ") && line.split_whitespace().count() == 1;
        match (is_title, sections.last_mut()) {
            (true, _) => sections.push((line.trim().to_owned(), Vec::new())),
            (false, Some((_, text))) if line.is_empty() || line.starts_with("   ") => text.push(line),
            (false, _) if line.contains("Generated from") => {}
            (false, Some(_)) if !line.is_empty() => sections.push(("Memory".to_owned(), vec![line])),
            (false, _) => head.push(line),
        }
    }
    // A paragraph that follows the last section has no title of its own.
    let mut merged: Vec<(String, Vec<&str>)> = Vec::new();
    for (title, text) in sections {
        match merged.last_mut() {
            Some((last, lines)) if *last == title => lines.extend(text),
            _ => merged.push((title, text)),
        }
    }
    (paragraphs(&head), merged.into_iter().map(|(title, text)| (title, paragraphs(&text))).collect())
}

// ---- roff ----------------------------------------------------------------------------------------------------------

/// Text as roff takes it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq")
}

/// A paragraph's text: functions are bold, what stands in backticks is slanted.
fn inline(text: &str) -> String {
    let mut made = String::new();
    for (at, piece) in text.split('`').enumerate() {
        if at % 2 == 1 {
            made += &format!("\\fI{}\\fR", escaped(piece));
            continue;
        }
        let words: Vec<String> = piece.split(' ').map(word).collect();
        made += &words.join(" ");
    }
    // Nothing at the start of a line may be taken for a request.
    if made.starts_with('.') { format!("\\&{made}") } else { made }
}

fn word(word: &str) -> String {
    let start =
        word.find(['b', '_']).filter(|at| word[*at..].starts_with("broker_") || word[*at..].starts_with('_'));
    let parts = start.and_then(|start| Some((start, start + word[start..].find("()")?)));
    match parts {
        Some((start, end))
            if word[start..end].bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') =>
        {
            format!(
                "{}\\fB{}\\fR{}",
                escaped(&word[..start]),
                escaped(&word[start..end]),
                escaped(&word[end..])
            )
        }
        _ => escaped(word),
    }
}

fn body<'t>(paragraphs: impl Iterator<Item = &'t String>) -> String {
    let mut made = String::new();
    for (at, text) in paragraphs.enumerate() {
        match text.strip_prefix("- ") {
            Some(item) => made += &format!(".IP \\(bu 2\n{}\n", inline(item)),
            None if at == 0 => made += &format!("{}\n", inline(text)),
            None => made += &format!(".PP\n{}\n", inline(text)),
        }
    }
    made
}

/// A declaration over as many lines as it needs, broken behind commas, without the filling of text.
fn synopsis(declaration: &str) -> String {
    const WIDTH: usize = 76;
    let (mut made, mut line) = (String::new(), String::new());
    for part in declaration.split_inclusive(", ") {
        if line.len() + part.trim_end().len() > WIDTH {
            made += &format!("\\fB{}\\fR\n", escaped(line.trim_end()));
            line = "        ".to_owned();
        }
        line.push_str(part);
    }
    format!("{made}\\fB{};\\fR\n", escaped(&line))
}

fn opening(name: &str, what: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        ".TH {name} 3 \"\" \"broker {version}\" \"The broker's C library\"\n.ad l\n.nh\n.SH NAME\n{} \\- {}\n",
        escaped(name),
        escaped(what)
    )
}

/// Comments of the kinds that are explained one by one.
fn explained(items: &[&Item], kind: Kind) -> String {
    let of_kind = items.iter().filter(|item| item.kind == kind);
    let heading = |item: &Item| match kind {
        Kind::Function => format!(".SS {}()\n", escaped(&item.name)),
        _ => format!(".SS {}\n", escaped(&item.name)),
    };
    let made = |item: &&Item| match kind {
        Kind::Constant => format!(".TP\n\\fB{}\\fR\n{}", escaped(&item.name), body(item.paragraphs.iter())),
        _ => format!("{}{}", heading(item), body(item.text())),
    };
    of_kind.map(made).collect()
}

fn errors(items: &[&Item]) -> String {
    let mut made = String::new();
    for item in items.iter().filter(|item| item.codes().next().is_some()) {
        made += &format!(".TP\n\\fB{}\\fR()\n{}", escaped(&item.name), body(item.codes()));
    }
    made
}

fn declarations(items: &[&Item]) -> String {
    let mut made = ".SH SYNOPSIS\n.nf\n\\fB#include <broker.h>\\fR\n".to_owned();
    for kind in [Kind::Type, Kind::Callback, Kind::Function] {
        let of_kind: String =
            items.iter().filter(|item| item.kind == kind).map(|item| synopsis(&item.declaration)).collect();
        if !of_kind.is_empty() {
            made += &format!(".PP\n{of_kind}");
        }
    }
    made + ".fi\n"
}

fn see_also(name: &str) -> String {
    let others = OBJECTS.iter().map(|(object, _)| format!("broker_{object}")).filter(|other| other != name);
    let mut all: Vec<String> = others.collect();
    if name != "broker" {
        all.insert(0, "broker".to_owned());
    }
    let all: Vec<String> = all.iter().map(|page| format!("\\fB{}\\fR(3)", escaped(page))).collect();
    format!(".SH SEE ALSO\n{}, \\fBbroker\\fR(1), \\fBbroker.toml\\fR(5)\n", all.join(", "))
}

// ---- pages ---------------------------------------------------------------------------------------------------------

fn overview(items: &[&Item]) -> String {
    let (head, sections) = conventions();
    let what = head
        .first()
        .and_then(|line| line.strip_prefix("broker: "))
        .expect("what it is")
        .trim_end_matches('.');
    let mut made = opening("broker", &format!("{what}: the C library"));
    made += &declarations(items);
    made += ".PP\nLink with \\fB\\-lbroker\\fR, or with the output of \\fBpkg\\-config \\-\\-cflags \\-\\-libs broker\\fR.\n";
    made += &format!(".SH DESCRIPTION\n{}", body(head.iter().skip(1)));
    for (title, text) in &sections {
        made += &format!(".SS {}\n{}", escaped(title), body(text.iter()));
    }
    made += &format!(".SH FUNCTIONS WITHOUT AN OBJECT\n{}", explained(items, Kind::Function));
    made += &explained(items, Kind::Callback);
    let (codes, others): (Vec<&Item>, Vec<&Item>) = items
        .iter()
        .filter(|item| item.kind == Kind::Constant)
        .partition(|item| item.name == "BROKER_OK" || item.name.starts_with("BROKER_E"));
    made += &format!(".SH CONSTANTS\n{}", explained(&others, Kind::Constant));
    made += ".SH RETURN VALUE\nFunctions that return \\fBint\\fR return 0 or more, or one of these codes:\n";
    made += &explained(&codes, Kind::Constant);
    made += &format!(".SH ERRORS\n{}", errors(items));
    made + &see_also("broker")
}

/// The names that functions of an object take, from the tables of the code.
fn names_of(page: &str) -> String {
    let entry = |name: &str, text: &str| format!(".TP\n\\fB{}\\fR\n{}\n", escaped(name), inline(text));
    match page {
        "broker_loop" => {
            let all: String = Loop::stats().map(|(name, doc)| entry(name, doc)).collect();
            format!(".SH STATISTICS\nThe names that \\fBbroker_loop_stat\\fR() accepts.\n{all}")
        }
        "broker_config" => {
            let default = |text: &'static str| if text.is_empty() { "not set" } else { text };
            let row = |row: &broker::config::Row| {
                entry(
                    row.key,
                    format!("{} Default: {} {}", row.doc, default(row.default), row.unit).trim_end(),
                )
            };
            let all: String = client_rows().iter().map(row).collect();
            format!(".SH KEYS OF CLIENTS\nThe keys of the broker are in \\fBbroker.toml\\fR(5).\n{all}")
        }
        _ => String::new(),
    }
}

fn object_page(name: &str, what: &str, items: &[&Item]) -> String {
    let mut made = opening(name, what);
    made += &declarations(items);
    let of = |kind: Kind| items.iter().filter(move |item| item.kind == kind);
    let object = of(Kind::Type).find(|item| item.name == format!("{name}_t")).expect("the object's own type");
    let methods = |text: &&String| !text.starts_with("Methods:");
    made += &format!(".SH DESCRIPTION\n{}", body(object.paragraphs.iter().filter(methods)));
    made += ".PP\nThe rules for all functions are in \\fBbroker\\fR(3).\n";
    made += &explained(items, Kind::Function);
    for item in of(Kind::Type).filter(|item| item.name != object.name) {
        made += &format!(".SS {}\n{}", escaped(&item.name), body(item.paragraphs.iter()));
    }
    made += &explained(items, Kind::Callback);
    let constants = explained(items, Kind::Constant);
    if !constants.is_empty() {
        made += &format!(".SH CONSTANTS\n{constants}");
    }
    made += &names_of(name);
    made += ".SH RETURN VALUE\nUnless stated otherwise, an \\fBint\\fR is 0 or a negative code: see \\fBbroker\\fR(3).\n";
    made += &format!(".SH ERRORS\n{}", errors(items));
    made + &see_also(name)
}

/// Every page by its file name.
fn pages() -> BTreeMap<String, String> {
    let items = items();
    let on = |page: &str| -> Vec<&Item> { items.iter().filter(|item| item.page() == page).collect() };
    let mut made = BTreeMap::from([("broker.3".to_owned(), overview(&on("broker")))]);
    for (object, what) in OBJECTS {
        let page = format!("broker_{object}");
        made.insert(format!("{page}.3"), object_page(&page, what, &on(&page)));
    }
    for item in items.iter().filter(|item| item.kind == Kind::Function) {
        let file = format!("{}.3", item.name);
        // The page of an object may have the name of a function.
        made.entry(file).or_insert_with(|| format!(".so man3/{}.3\n", item.page()));
    }
    made
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/man")
}

/// The pages of section 3 that are there.
fn committed() -> BTreeMap<String, String> {
    let entries = directory().read_dir().expect("dist/man").map(|entry| entry.expect("an entry").path());
    let pages = entries.filter(|path| path.extension().is_some_and(|section| section == "3"));
    pages.map(|path| (name(&path), fs::read_to_string(&path).expect("a page"))).collect()
}

fn name(path: &Path) -> String {
    path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned()
}

#[test]
fn the_pages_are_what_the_header_says() {
    let made = pages();
    if std::env::var_os("BROKER_UPDATE_DOCS").is_some_and(|value| value == "1") {
        for stale in committed().keys().filter(|name| !made.contains_key(*name)) {
            fs::remove_file(directory().join(stale)).expect("remove a page");
        }
        for (name, text) in &made {
            fs::write(directory().join(name), text).expect("write a page");
        }
    }
    let found = committed();
    let names = |pages: &BTreeMap<String, String>| pages.keys().cloned().collect::<Vec<_>>();
    let how = "BROKER_UPDATE_DOCS=1 cargo test --test tree";
    assert_eq!(names(&found), names(&made), "{how}");
    for (name, text) in made {
        assert!(found[&name] == text, "{name} is not what include/broker.h says: {how}");
    }
}

#[test]
fn every_declaration_is_on_a_page() {
    let all = items();
    let count = |kind: Kind| all.iter().filter(|item| item.kind == kind).count();
    // One word of C's own for each, so that none can be missed by the way it is written.
    assert_eq!(count(Kind::Callback), HEADER.matches("typedef void (*").count());
    let functions = HEADER.lines().filter(|line| {
        line.starts_with(|first: char| first.is_ascii_lowercase())
            && line.contains("broker_")
            && line.contains('(')
    });
    let functions = functions.filter(|line| !line.starts_with("typedef")).count();
    assert_eq!(count(Kind::Function), functions);
    let pages = pages();
    for item in &all {
        let page = &pages[&format!("{}.3", item.page())];
        assert!(page.contains(&escaped(&item.name)), "{} is not on {}", item.name, item.page());
        for text in item.paragraphs.iter().filter(|text| !text.starts_with("Methods:")) {
            let text = text.strip_prefix("- ").unwrap_or(text);
            assert!(page.contains(&inline(text)), "{}: {text}", item.page());
        }
    }
    let (_, sections) = conventions();
    let titles: Vec<&str> = sections.iter().map(|(title, _)| title.as_str()).collect();
    assert_eq!(titles, ["Names", "Arguments", "Results", "Callbacks", "Threads", "Forks", "Memory"]);
}

/// Pages as `man` shows them, from a directory like that of an installed system.
#[test]
fn man_renders_the_pages_without_a_warning() {
    let root = tempfile::tempdir().expect("a directory");
    let section = root.path().join("man3");
    fs::create_dir(&section).expect("a directory");
    for (name, text) in pages() {
        fs::write(section.join(name), text).expect("write a page");
    }
    let mut names: Vec<String> = OBJECTS.iter().map(|(object, _)| format!("broker_{object}")).collect();
    names.extend(["broker", "broker_client_submit", "broker_strerror"].map(ToOwned::to_owned));
    for name in names {
        let mut man = Command::new("man");
        man.args(["--warnings", "-E", "UTF-8", "-M"]).arg(root.path()).args(["3", &name]);
        let output = man.env("MANWIDTH", "80").env("MANROFFSEQ", "").output().expect("run man");
        let (text, words) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && words.is_empty(), "{name}: {words}");
        assert!(
            text.contains("SYNOPSIS") && text.contains("broker(3)") || name == "broker",
            "{name}: {text}"
        );
    }
}
