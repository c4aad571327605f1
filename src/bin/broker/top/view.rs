//! The screen of `broker top`: what is where, on screens of any size, with and without colours. Draws into a buffer; reads
//! no key, asks nobody, knows no terminal.

use super::columns::{columns_of, fit, short_bytes, short_count, short_time};
use super::desk::{Desk, KeyMode};
use super::model::{Model, Sheet, SheetLine};
use super::sample::Sample;
use super::wrong::{Finding, Severity, micros};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Span;

/// Lines of one finding at most.
const FINDING_LINES: usize = 6;
/// Lines of leaks below a process.
const DETAIL_LEAKS: usize = 3;

/// Since when there was no answer, or none but a refusal, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Silence {
    pub(crate) for_ms: u64,
    pub(crate) why: String,
    pub(crate) is_refusal: bool,
}

/// Where the next line goes.
struct Pen<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
    row: u16,
    has_colours: bool,
}

/// How a line looks. Whatever has a colour differs without it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looks {
    Plain,
    Dim,
    Bold,
    Bar,
    Chosen,
    Warning,
    Critical,
}

impl Pen<'_> {
    fn style(&self, looks: Looks) -> Style {
        let (modifier, colour) = match looks {
            Looks::Plain => (Modifier::empty(), None),
            Looks::Dim => (Modifier::DIM, None),
            Looks::Bold => (Modifier::BOLD, None),
            Looks::Bar | Looks::Chosen => (Modifier::REVERSED, None),
            Looks::Warning => (Modifier::BOLD, Some(Color::Yellow)),
            Looks::Critical => (Modifier::BOLD, Some(Color::Red)),
        };
        let style = Style::new().add_modifier(modifier);
        colour.filter(|_| self.has_colours).map_or(style, |colour| style.fg(colour))
    }

    fn left(&self) -> u16 {
        self.area.height.saturating_sub(self.row)
    }

    /// A whole line. What is too long ends in a mark.
    fn line(&mut self, text: &str, looks: Looks) {
        if self.left() == 0 {
            return;
        }
        let (style, width) = (self.style(looks), self.area.width as usize);
        let (x, y) = (self.area.x, self.area.y + self.row);
        self.row += 1;
        if matches!(looks, Looks::Bar | Looks::Chosen) {
            self.buffer.set_style(Rect::new(x, y, self.area.width, 1), style);
        }
        self.buffer.set_stringn(x, y, text, width, style);
        if Span::raw(text).width() > width && width > 0 {
            self.buffer.set_stringn(x + self.area.width - 1, y, "~", 1, style);
        }
    }

    /// As many of these as fit, two spaces apart.
    fn parts(&mut self, parts: &[String], looks: Looks) {
        let line = fitting(parts, self.area.width as usize);
        self.line(&line, looks);
    }
}

fn fitting(parts: &[String], width: usize) -> String {
    let mut line = String::new();
    for part in parts.iter().filter(|part| !part.is_empty()) {
        let gap = if line.is_empty() { "" } else { "  " };
        // The first one is cut rather than left out.
        if line.is_empty() || Span::raw(&line).width() + gap.len() + Span::raw(part).width() <= width {
            line += gap;
            line += part;
        }
    }
    line
}

pub(crate) fn draw(
    buffer: &mut Buffer,
    area: Rect,
    model: &Model,
    desk: &Desk,
    silence: Option<&Silence>,
    has_colours: bool,
) {
    let mut pen = Pen { buffer, area, row: 0, has_colours };
    if area.width == 0 || area.height == 0 {
        return;
    }
    head(&mut pen, model, desk);
    what_is_wrong(&mut pen, model, silence);
    // The last line of the screen is the foot.
    let bottom = Rect { height: area.height - 1, ..area };
    pen.area = bottom;
    if desk.mode == KeyMode::Help {
        help(&mut pen);
    } else {
        table(&mut pen, model, desk);
    }
    pen.area = area;
    pen.row = area.height - 1;
    foot(&mut pen, desk);
}

/// The upstream, what is done, what is used.
fn head(pen: &mut Pen<'_>, model: &Model, desk: &Desk) {
    let Some(sample) = model.latest() else {
        return pen.line("broker top", Looks::Bold);
    };
    let up = &sample.upstream;
    let server = [up.text("server"), up.text("version"), up.text("role")];
    let server: Vec<String> = server.into_iter().filter(|part| !part.is_empty()).collect();
    let address = up.text("address");
    let address = address.split('?').next().unwrap_or_default();
    let first = [
        if desk.is_paused { "PAUSED".to_owned() } else { String::new() },
        format!("redis {}", up.text("state")),
        format!(
            "broker {} up {}",
            sample.version.text("version"),
            short_time(sample.version.count("uptime_ms"))
        ),
        server.join(" "),
        address.to_owned(),
    ];
    pen.parts(&first, Looks::Bold);
    pen.parts(&traffic(sample, model.earliest()), Looks::Plain);
    pen.parts(&uses(sample), Looks::Plain);
}

fn traffic(sample: &Sample, earliest: Option<&Sample>) -> Vec<String> {
    let totals = sample.totals();
    let speeds = earliest.and_then(|earliest| sample.speeds(earliest));
    let speed = |number: Option<f64>, write: fn(f64) -> String| number.map_or("-".to_owned(), write);
    let more = if sample.is_cut() { "+" } else { "" };
    let latency = match sample.latency_now() {
        Some((p99, max)) => format!("p99 {} max {}", micros(p99), micros(max)),
        None => "p99 - max -".to_owned(),
    };
    vec![
        format!("requests/s {}", speed(speeds.map(|speeds| speeds.requests), short_count)),
        format!("children {}{more}", totals.children),
        latency,
        format!("processes {}{more}", totals.processes),
        format!("in {}/s", speed(speeds.map(|speeds| speeds.bytes_in), short_bytes)),
        format!("out {}/s", speed(speeds.map(|speeds| speeds.bytes_out), short_bytes)),
    ]
}

fn uses(sample: &Sample) -> Vec<String> {
    let (waiting, longest) = sample.waits();
    let waits =
        if waiting > 0 { format!("waiting {waiting} for {}", short_time(longest)) } else { String::new() };
    let used = |name: &str, used: u64, max: Option<u64>| {
        let max = max.map_or("?".to_owned(), |max| max.to_string());
        format!("{name} {used}/{max}")
    };
    let up = &sample.upstream;
    let leases = sample.lease_use().into_iter().map(|lease| used(lease.kind, lease.used, lease.max));
    let connections = used("connections", up.count("connections"), up.number("connections_max"));
    let leaks = if sample.leaks.is_empty() { String::new() } else { format!("leaks {}", sample.leaks.len()) };
    [waits, leaks].into_iter().chain(leases).chain([connections]).collect()
}

/// Each finding in a few lines, the worst first, and not more than a third of the screen.
fn what_is_wrong(pen: &mut Pen<'_>, model: &Model, silence: Option<&Silence>) {
    let room = usize::from(pen.area.height / 3).clamp(1, 12);
    if let Some(Silence { for_ms, why, is_refusal }) = silence {
        let what = if *is_refusal { "refused" } else { "no answer" };
        let text = format!("{what} for {}: {why}; trying again", short_time(*for_ms));
        wrapped("!! ", &text, pen.area.width as usize, 2.min(room))
            .iter()
            .for_each(|line| pen.line(line, Looks::Critical));
        return;
    }
    let Some(sample) = model.latest() else { return pen.line("asking the broker", Looks::Dim) };
    let findings = sample.findings();
    if findings.is_empty() {
        return pen.line("all is well", Looks::Dim);
    }
    let width = pen.area.width as usize;
    let (mut told, mut of_first) = (0, 0);
    let mut lines: Vec<(String, Looks)> = Vec::new();
    for finding in &findings {
        let (mark, looks) = mark_of(finding);
        let own = wrapped(mark, &finding.told(), width, FINDING_LINES.min(room));
        // The last line says how many there are besides.
        let kept = usize::from(told + 1 < findings.len());
        if told > 0 && lines.len() + own.len() + kept > room {
            break;
        }
        lines.extend(own.into_iter().map(|line| (line, looks)));
        told += 1;
        of_first = if told == 1 { lines.len() } else { of_first };
    }
    // What to do about the worst, where that leaves out nothing else.
    let hint = wrapped("   ", &findings[0].hint, width, FINDING_LINES);
    if told == findings.len() && !findings[0].hint.is_empty() && lines.len() + hint.len() <= room {
        lines.splice(of_first..of_first, hint.into_iter().map(|line| (line, Looks::Dim)));
    }
    lines.iter().for_each(|(line, looks)| pen.line(line, *looks));
    if told < findings.len() {
        pen.line(&format!("   and {} more: broker status", findings.len() - told), Looks::Dim);
    }
}

fn mark_of(finding: &Finding) -> (&'static str, Looks) {
    match finding.severity {
        Severity::Critical => ("!! ", Looks::Critical),
        Severity::Warning => ("!  ", Looks::Warning),
        Severity::Notice => ("-  ", Looks::Plain),
    }
}

/// Lines of at most `width`, the first behind a mark and the others as far in, broken between words where that is
/// possible; what does not fit into `most` lines is cut.
fn wrapped(mark: &str, text: &str, width: usize, most: usize) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), mark.to_owned());
    let indent = " ".repeat(mark.len());
    let mut is_empty = true;
    for word in text.split(' ') {
        let is_long = !is_empty && Span::raw(&line).width() + 1 + Span::raw(word).width() > width;
        if is_long && lines.len() + 1 < most {
            lines.push(std::mem::replace(&mut line, indent.clone()));
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line += word;
        is_empty = false;
    }
    lines.push(line);
    lines
}

/// The table that is chosen, its bar, and the process above it where one is shown in detail.
fn table(pen: &mut Pen<'_>, model: &Model, desk: &Desk) {
    let wanted = desk.wanted();
    let lines = model.lines(&wanted, &desk.search);
    match wanted.detail {
        Some(pid) => detail(pen, model, pid, &wanted),
        None => {
            let rows = match model.bound(&wanted) {
                _ if !model.has(&wanted) => String::new(),
                None if lines.len() == 1 => "1 row".to_owned(),
                None => format!("{} rows", lines.len()),
                Some(_) if desk.search.is_empty() => format!("{} rows and more", lines.len()),
                Some(bound) => format!("{} rows of the first {bound}", lines.len()),
            };
            tabs(pen, desk, rows);
        }
    }
    let columns = fit(columns_of(wanted.table(), wanted.detail.is_some()), pen.area.width);
    let titles = columns.iter().map(|(column, width)| padded(column.title, *width, column.is_words()));
    pen.line(titles.collect::<Vec<_>>().join(" ").trim_end(), Looks::Bar);
    if lines.is_empty() {
        let why = match model.latest() {
            Some(_) if !model.has(&wanted) => "asking",
            Some(_) if !desk.search.is_empty() => "nothing is found; Esc shows all",
            Some(_) => "nothing to show",
            None => "",
        };
        return pen.line(why, Looks::Dim);
    }
    let (cursor, room) = (desk.cursor(&lines), usize::from(pen.left()));
    // The cursor is always on the screen.
    let first = cursor.saturating_sub(room.saturating_sub(1));
    for (at, line) in lines.iter().enumerate().skip(first).take(room) {
        let cells =
            columns.iter().map(|(column, width)| padded(&column.cell(line), *width, column.is_words()));
        let looks = if at == cursor { Looks::Chosen } else { looks_of(line) };
        pen.line(cells.collect::<Vec<_>>().join(" ").trim_end(), looks);
    }
}

/// What is suspected now stands out.
fn looks_of(line: &SheetLine) -> Looks {
    let is_now = line.row.text("state") == "now";
    if is_now || !line.row.text("leak").is_empty() { Looks::Warning } else { Looks::Plain }
}

/// A cell as wide as its column; what is cut ends in a mark.
fn padded(text: &str, width: u16, is_words: bool) -> String {
    let (width, len) = (usize::from(width), Span::raw(text).width());
    if len > width {
        let mut cut: String = String::new();
        for letter in text.chars() {
            if Span::raw(&cut).width() + Span::raw(letter.to_string()).width() + 1 > width {
                break;
            }
            cut.push(letter);
        }
        return format!("{cut}~{}", " ".repeat(width.saturating_sub(Span::raw(&cut).width() + 1)));
    }
    let space = " ".repeat(width - len);
    if is_words { format!("{text}{space}") } else { format!("{space}{text}") }
}

fn tabs(pen: &mut Pen<'_>, desk: &Desk, rows: String) {
    let wanted = desk.wanted();
    let order = if wanted.is_reversed { " reversed" } else { "" };
    let search = if desk.search.is_empty() { String::new() } else { format!("/{}", desk.search) };
    let own = format!(
        "[{} {}] by {}{order}",
        wanted.sheet as usize + 1,
        wanted.sheet.name(),
        wanted.ranking().name()
    );
    let others = Sheet::ALL.into_iter().filter(|sheet| *sheet != wanted.sheet);
    let others = others.map(|sheet| format!("{} {}", sheet as usize + 1, sheet.name()));
    let parts: Vec<String> = [own, search, rows].into_iter().chain(others).collect();
    pen.parts(&parts, Looks::Bold);
}

/// One process: who it is, what it does, what it is suspected of.
fn detail(pen: &mut Pen<'_>, model: &Model, pid: u64, wanted: &super::model::Wanted) {
    let Some(SheetLine { row, requests, bytes, .. }) = model.process(pid) else {
        return pen
            .line(&format!("process {pid} has gone, or is none of the busiest; Esc goes back"), Looks::Bold);
    };
    let named =
        |name: &str, text: String| if text.is_empty() { String::new() } else { format!("{name} {text}") };
    let first =
        [format!("process {pid}"), row.text("process"), named("unit", row.text("unit")), row.text("state")];
    pen.parts(&first, Looks::Bold);
    let second = [
        format!("requests/s {}", requests.map_or("-".to_owned(), short_count)),
        format!("bytes/s {}", bytes.map_or("-".to_owned(), short_bytes)),
        format!("children {}", row.count("children")),
        format!("leases {}", row.count("leases")),
        named("leak", row.text("leak")),
        named("uid", row.text("uid")),
        named("known for", row.number("known_ms").map_or(String::new(), short_time)),
        row.text("exe"),
    ];
    pen.parts(&second, Looks::Plain);
    let leaks = model.leaks_of_detail(wanted);
    let told = DETAIL_LEAKS.min(usize::from(pen.left()) / 4);
    for leak in leaks.iter().take(told) {
        let state = leak.text("state");
        let looks = if state == "now" { Looks::Warning } else { Looks::Dim };
        let kind = leak.text("kind");
        let (child, what) = (leak.text("child"), leak.text("what"));
        pen.line(&format!("leak {state} {kind}, child {child}: when it was found: {what}"), looks);
    }
}

fn foot(pen: &mut Pen<'_>, desk: &Desk) {
    let text = match desk.mode {
        KeyMode::Search => format!("search: {}_  (Enter keeps it, Esc ends it)", desk.search),
        KeyMode::Kill(id) if desk.victim.is_empty() => format!("close child {id}? y or n"),
        KeyMode::Kill(id) => format!("close child {id} of {}? y or n", desk.victim),
        KeyMode::Level => "log level: e error  w warn  i info  d debug  t trace".to_owned(),
        KeyMode::Broker => "broker: r reload  p pause  u resume  c reconnect  d drain".to_owned(),
        KeyMode::Verb(verb) => format!("{} y or n", verb.question()),
        KeyMode::Help => "any key goes back".to_owned(),
        KeyMode::Table if !desk.said.is_empty() => desk.said.clone(),
        KeyMode::Table => {
            let esc = if desk.wanted().detail.is_some() { "Esc back" } else { "" };
            let keys =
                ["q quit", esc, "? help", "/ search", "Enter process", "s sort", "r reverse", "k kill"];
            let keys = keys.into_iter().chain(["l log level", "b broker", "p pause", "1-7 tables"]);
            let keys: Vec<String> = keys.map(str::to_owned).collect();
            let (width, all) = (usize::from(pen.area.width), fitting(&keys, usize::MAX));
            if Span::raw(&all).width() <= width {
                all
            } else {
                format!("{}  {CUT}", fitting(&keys, width.saturating_sub(CUT.len() + 2)))
            }
        }
    };
    pen.line(&cut(&text, pen.area.width.into()), Looks::Bar);
}

/// What stands for the rest of a foot that is too long.
const CUT: &str = "...";

/// As much of the text as there is room for.
fn cut(text: &str, width: usize) -> String {
    let text = text.trim_end();
    if Span::raw(text).width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for letter in text.chars() {
        kept.push(letter);
        if Span::raw(&kept).width() + CUT.len() > width {
            kept.pop();
            break;
        }
    }
    kept + &CUT[..CUT.len().min(width)]
}

const HELP: &[&str] = &[
    "1-7, Tab      processes, children, leases, leaks, lanes, pools, commands",
    "s             sort by the next column; R requests/s, B bytes/s, I idle, L leases, W waits",
    "r             reverse the order",
    "/             search in all texts, or for a pid or a child's id; Esc shows all again",
    "Enter         the process of the row: its children, what they wait for, its leaks; Esc back",
    "k             close the child of the row, after a question, over the admin socket",
    "l             set the level of the broker's log, over the admin socket",
    "b             the broker itself: r reload, p pause, u resume, c reconnect, d drain, after a question",
    "p             pause this screen and go on",
    "up, down      choose a row; PageUp, PageDown, Home, End",
    "q             quit",
    "!! critical   !  warning   -  what may come",
];

fn help(pen: &mut Pen<'_>) {
    HELP.iter().for_each(|line| pen.line(line, Looks::Plain));
}

#[cfg(test)]
mod tests {
    use super::super::client::TableRow;
    use super::super::desk::BrokerVerb;
    use super::super::desk::tests::press;
    use super::super::sample::tests::{after_requests, sample, sample_with_waits};
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    /// What stands on a screen of this size, line by line.
    fn screen(size: (u16, u16), model: &Model, desk: &Desk, silence: Option<&Silence>) -> Vec<String> {
        let buffer = drawn(size, model, desk, silence, false);
        let rows = buffer.content.chunks(usize::from(size.0));
        rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned())
            .collect()
    }

    fn drawn(
        size: (u16, u16),
        model: &Model,
        desk: &Desk,
        silence: Option<&Silence>,
        colours: bool,
    ) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        let area = Rect::new(0, 0, size.0, size.1);
        terminal.draw(|frame| draw(frame.buffer_mut(), area, model, desk, silence, colours)).unwrap();
        terminal.backend().buffer().clone()
    }

    fn process(pid: u64, name: &str, requests: u64) -> TableRow {
        TableRow::of(&[
            ("pid", &pid.to_string()),
            ("process", name),
            ("children", "3"),
            ("leases", "1"),
            ("requests", &requests.to_string()),
            ("unit", "web.service"),
            ("exe", "/usr/bin/worker"),
        ])
    }

    fn model(desk: &Desk, last: impl Fn(u64) -> Sample) -> Model {
        let mut model = Model::default();
        for at in [1_000, 2_000] {
            let mut sample = last(at);
            sample.processes = vec![process(44, "worker", 0), process(45, "cron", at)];
            sample.commands = vec![TableRow::of(&[("command", "get"), ("calls", &(at * 20).to_string())])];
            model.take(after_requests(at * 20, sample), desk.wanted());
        }
        model
    }

    #[test]
    fn an_ordinary_screen_has_all_of_it() {
        let desk = Desk::default();
        let lines = screen((80, 24), &model(&desk, sample), &desk, None);
        assert!(lines[0].starts_with("redis up  broker 0.1.0 up 2.0s  redis 7.0.15 master"), "{lines:#?}");
        assert!(lines[1].starts_with("requests/s 20k  children 6  p99 - max -  processes 2"), "{lines:#?}");
        assert!(lines[2].starts_with("transaction 1/1  session 0/32  blocking 0/?  connections 2/384"));
        assert_eq!(lines[3], "all is well");
        assert!(lines[4].starts_with("[1 processes] by requests/s  2 rows  2 children  3 leases"));
        assert!(
            lines[5].starts_with("    pid program           req/s bytes/s children leases"),
            "{lines:#?}"
        );
        assert!(lines[6].starts_with("     45 cron              1.0k       -") || lines[6].contains("1.0k"));
        assert!(lines[7].contains("44 worker") && lines[7].contains(" 0 "), "{lines:#?}");
        assert!(lines[23].starts_with("q quit  ? help  / search  Enter process"), "{lines:#?}");
    }

    #[test]
    fn what_is_wrong_names_the_holder_on_every_screen() {
        let desk = Desk::default();
        let model = model(&desk, sample_with_waits);
        for size in [(80, 24), (120, 40), (40, 12)] {
            let lines = screen(size, &model, &desk, None);
            let text = lines.join("\n");
            let said = lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
            assert!(said.contains("!! 2 children wait for a connection for a transaction"), "{text}");
            assert!(said.contains("held by pid 44 (worker, web.service)"), "{text}");
            assert!(lines[2].starts_with("waiting 2 for 4.2s"), "{text}");
            // What to do is said where that leaves out nothing else.
            assert_eq!(said.contains("The only one is in use"), size.1 > 12, "{text}");
            assert!(text.contains("[1 processes]") && text.contains("pid program"), "{text}");
            assert!(lines.iter().all(|line| Span::raw(line).width() <= usize::from(size.0)));
            assert!(lines.last().unwrap().starts_with("q quit"), "{text}");
        }
    }

    #[test]
    fn a_wide_screen_has_columns_that_a_narrow_one_has_not() {
        let desk = Desk::default();
        let model = model(&desk, sample);
        let text = |size| screen(size, &model, &desk, None).join("\n");
        assert!(text((120, 40)).contains("leak") && text((120, 40)).contains("web.service"));
        assert!(!text((40, 12)).contains("web.service"), "{}", text((40, 12)));
        assert!(text((40, 12)).contains("44 worker"));
        // Nothing is so small that it fails.
        for width in 1..30 {
            for height in 1..14 {
                screen((width, height), &model, &desk, None);
            }
        }
    }

    #[test]
    fn silence_says_since_when() {
        let desk = Desk::default();
        let silence =
            Silence { for_ms: 12_000, why: "no answer within 2000 ms".to_owned(), is_refusal: false };
        for model in [Model::default(), model(&desk, sample_with_waits)] {
            let text = screen((80, 24), &model, &desk, Some(&silence)).join("\n");
            assert!(text.contains("!! no answer for 12s: no answer within 2000 ms; trying again"), "{text}");
            assert!(!text.contains("children wait"), "what was wrong then is not said to be so now");
        }
        let text = screen((80, 24), &Model::default(), &desk, None).join("\n");
        assert!(text.contains("asking the broker"), "{text}");
    }

    #[test]
    fn a_process_in_detail_shows_its_children_and_leaks() {
        let mut desk = Desk::default();
        let lines = model(&desk, sample).lines(&desk.wanted(), "44");
        press(&mut desk, "\n", &lines);
        let model = model(&desk, |at| {
            let mut sample = sample(at);
            let child = [("id", "5"), ("pid", "44"), ("state", "watching"), ("lease", "transaction")];
            let child = TableRow::of(&[&child[..], &[("waits_for", "lease"), ("command", "watch")]].concat());
            let leak =
                [("state", "now"), ("kind", "open-transaction"), ("child", "5"), ("what", "WATCH open")];
            sample.more = vec![vec![child], vec![TableRow::of(&leak)]];
            sample
        });
        let text = screen((120, 40), &model, &desk, None).join("\n");
        for part in [
            "process 44  worker  unit web.service",
            "requests/s 0  bytes/s 0  children 3  leases 1",
            "/usr/bin/worker",
            "leak now open-transaction, child 5: when it was found: WATCH open",
            "watching",
            "Esc back",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        let small = screen((40, 12), &model, &desk, None).join("\n");
        assert!(small.contains("process 44  worker") && small.contains("watching"), "{small}");
    }

    #[test]
    fn questions_stand_in_the_last_line() {
        let model = Model::default();
        let last = |desk: &Desk| screen((80, 24), &model, desk, None).pop().unwrap();
        let desk = |mode| {
            let mut desk = Desk::default();
            (desk.mode, desk.search) = (mode, "web".to_owned());
            desk
        };
        assert!(last(&desk(KeyMode::Search)).starts_with("search: web_"));
        assert_eq!(last(&desk(KeyMode::Kill(5))), "close child 5? y or n");
        assert!(last(&desk(KeyMode::Level)).starts_with("log level: e error"));
        assert!(last(&desk(KeyMode::Broker)).starts_with("broker: r reload  p pause  u resume"));
        let drain = last(&desk(KeyMode::Verb(BrokerVerb::Drain)));
        assert_eq!(drain, "drain: let everybody go and END the broker? y or n");
        let mut said = Desk::default();
        said.said = "child 5 is closed".to_owned();
        assert_eq!(last(&said), "child 5 is closed");
        let help = screen((80, 24), &model, &desk(KeyMode::Help), None).join("\n");
        assert!(help.contains("close the child of the row") && help.contains("any key goes back"), "{help}");
    }

    /// Colours add to marks and never stand for them.
    #[test]
    fn without_colours_there_are_none() {
        let desk = Desk::default();
        let model = model(&desk, sample_with_waits);
        let colours = |has| {
            let buffer = drawn((80, 24), &model, &desk, None, has);
            buffer.content.iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
        };
        assert_eq!(colours(false), 0);
        assert!(colours(true) > 0);
        let chosen = drawn((80, 24), &model, &desk, None, false);
        let reversed = |row: u16| chosen[(1, row)].modifier.contains(Modifier::REVERSED);
        assert!((0..24).filter(|row| reversed(*row)).count() >= 3, "bar, row and foot");
    }

    #[test]
    fn the_cursor_stays_on_the_screen() {
        let mut desk = Desk::default();
        let mut model = Model::default();
        let mut many = sample(1_000);
        many.processes = (0..100).map(|pid| process(pid + 1_000, "worker", 100 - pid)).collect();
        model.take(many, desk.wanted());
        let lines = model.lines(&desk.wanted(), "");
        press(&mut desk, &"v".repeat(60), &lines);
        let text = screen((80, 24), &model, &desk, None).join("\n");
        assert!(text.contains("1060 worker") && !text.contains("1061 worker"), "{text}");
    }

    #[test]
    fn lines_break_between_words_and_what_is_too_long_is_cut() {
        assert_eq!(wrapped("! ", "aa bb cc", 7, 3), ["! aa bb", "  cc"]);
        assert_eq!(wrapped("! ", "aa bb cc", 7, 1), ["! aa bb cc"]);
        assert_eq!(padded("abcdef", 4, true), "abc~");
        assert_eq!((padded("ab", 4, true), padded("ab", 4, false)), ("ab  ".to_owned(), "  ab".to_owned()));
        assert_eq!(padded("\u{4e2d}\u{6587}\u{5b57}", 4, true), "\u{4e2d}~ ");
    }

    #[test]
    fn a_latency_that_is_not_known_is_not_zero() {
        let mut sample = sample(1_000);
        assert_eq!(traffic(&sample, None)[2], "p99 - max -");
        let row = |count: &str, p99: &str, max: &str| {
            let cells = [("family", "read"), ("window", "10s"), ("count", count), ("p99", p99), ("max", max)];
            TableRow::of(&cells)
        };
        sample.latency = vec![row("0", "0", "0")];
        assert_eq!(traffic(&sample, None)[2], "p99 - max -");
        sample.latency = vec![row("5", "850", "12000000")];
        assert_eq!(traffic(&sample, None)[2], "p99 850us max 12s");
    }

    #[test]
    fn what_is_cut_from_the_foot_is_marked() {
        let last = |desk: &Desk, width| screen((width, 12), &Model::default(), desk, None).pop().unwrap();
        let desk = Desk::default();
        assert!(last(&desk, 80).ends_with("  ..."), "{}", last(&desk, 80));
        assert!(last(&desk, 200).ends_with("1-7 tables"), "{}", last(&desk, 200));
        let mut said = Desk::default();
        said.said = "word ".repeat(30);
        assert!(last(&said, 80).ends_with("wo..."), "{}", last(&said, 80));
        for width in 1..100 {
            assert!(Span::raw(cut(&said.said, width)).width() <= width);
        }
    }
}
