//! What a sequence is: steps on a few connections, each some commands in some framing. Owns how a step becomes
//! bytes and how it is printed; decides nothing.

/// What an argument begins with that stands for the CLIENT ID of a connection, which each side has its own of.
pub(crate) const ID: &[u8] = b"id of connection ";

/// How a command is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// An array of bulk strings.
    Resp,
    /// The same with bytes that Redis does not look at.
    Sloppy(u8),
    /// A line of words.
    Inline(u8),
    /// Bytes as they are; whether a reply is due.
    Raw(Vec<u8>, bool),
}

/// One command.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) argv: Vec<Vec<u8>>,
    pub(crate) form: Form,
    /// It undoes what chance the command before it has left, and may not go without it.
    pub(crate) tied: bool,
}

impl Command {
    pub(crate) fn new(argv: Vec<Vec<u8>>) -> Command {
        Command { argv, form: Form::Resp, tied: false }
    }

    pub(crate) fn words(line: &str) -> Command {
        Command::new(line.split(' ').map(|word| word.as_bytes().to_vec()).collect())
    }

    pub(crate) fn raw(bytes: &[u8], replies: bool) -> Command {
        Command { argv: Vec::new(), form: Form::Raw(bytes.to_vec(), replies), tied: false }
    }

    /// Whether a reply belongs to it.
    pub(crate) fn is_request(&self) -> bool {
        match &self.form {
            Form::Raw(_, replies) => *replies,
            _ => !self.argv.is_empty(),
        }
    }

    /// Its name in capitals.
    pub(crate) fn name(&self) -> Vec<u8> {
        self.argv.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default()
    }

    /// Whether it waits where there is nothing to take.
    pub(crate) fn may_block(&self) -> bool {
        let name = self.name();
        [&b"BL"[..], b"BR", b"BZ", b"XREAD", b"WAIT"].iter().any(|word| name.starts_with(word))
    }

    /// Whether its reply may come later than those of other connections.
    pub(crate) fn may_wait(&self) -> bool {
        self.may_block() || self.is_done_aside()
    }

    /// Whether Redis 8 has it done by another thread, and answers when that has.
    pub(crate) fn is_done_aside(&self) -> bool {
        [&b"FLUSHALL"[..], b"FLUSHDB", b"VADD", b"VSIM"].contains(&self.name().as_slice())
    }

    /// The connection an argument stands for, if it does.
    pub(crate) fn named_conn(arg: &[u8]) -> Option<usize> {
        std::str::from_utf8(arg.strip_prefix(ID)?).ok()?.parse().ok()
    }

    pub(crate) fn write(&self, ids: &[Vec<u8>], out: &mut Vec<u8>) {
        let id = |arg: &Vec<u8>| Command::named_conn(arg).and_then(|conn| ids.get(conn).cloned());
        let argv: Vec<Vec<u8>> = self.argv.iter().map(|arg| id(arg).unwrap_or_else(|| arg.clone())).collect();
        match &self.form {
            Form::Raw(bytes, _) => out.extend_from_slice(bytes),
            Form::Resp => array(&argv, [b'\n', b'\n', b'\r', b'\n'], out),
            // Redis skips the byte after a header's CR and the two after a bulk string unseen.
            Form::Sloppy(0) => array(&argv, [b'\n', b'\n', b'x', b'y'], out),
            Form::Sloppy(1) => array(&argv, [b'\n', b'*', b'\r', b'\n'], out),
            Form::Sloppy(_) => array(&argv, [b'$', b'\n', b'\n', b'\r'], out),
            Form::Inline(how) => inline(&argv, *how, out),
        }
    }
}

fn array(argv: &[Vec<u8>], ends: [u8; 4], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r", argv.len()).as_bytes());
    out.push(ends[0]);
    for arg in argv {
        out.extend_from_slice(format!("${}\r", arg.len()).as_bytes());
        out.push(ends[1]);
        out.extend_from_slice(arg);
        out.extend_from_slice(&ends[2..]);
    }
}

fn inline(argv: &[Vec<u8>], how: u8, out: &mut Vec<u8>) {
    if how & 1 != 0 {
        out.extend_from_slice(b" ");
    }
    for (index, arg) in argv.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(if how & 2 != 0 { b" \t " } else { b" " });
        }
        let plain =
            !arg.is_empty() && arg.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_:+".contains(byte));
        if plain && how & 4 == 0 {
            out.extend_from_slice(arg);
        } else if how & 8 != 0 && arg.iter().all(|byte| byte.is_ascii_graphic() && !b"'\\".contains(byte)) {
            out.push(b'\'');
            out.extend_from_slice(arg);
            out.push(b'\'');
        } else {
            out.push(b'"');
            for byte in arg {
                match byte {
                    b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
                    b'\n' => out.extend_from_slice(b"\\n"),
                    b'\r' => out.extend_from_slice(b"\\r"),
                    b' '..=b'~' => out.push(*byte),
                    _ => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
                }
            }
            out.push(b'"');
        }
    }
    out.extend_from_slice(if how & 16 != 0 { b"\n" } else { b"\r\n" });
}

/// What one connection does at once.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) conn: usize,
    pub(crate) commands: Vec<Command>,
    /// Where the bytes are cut, in thousandths of their length, ascending.
    pub(crate) cuts: Vec<u16>,
    /// The next step is not kept waiting for the replies.
    pub(crate) joined: bool,
    /// The connection is closed when all has been answered.
    pub(crate) close: bool,
    /// It is closed at once.
    pub(crate) hangup: bool,
    /// Some of its commands have no reply: nothing in it is by chance, and no reply is told whose it is.
    pub(crate) muted: bool,
}

impl Step {
    pub(crate) fn new(conn: usize, commands: Vec<Command>) -> Step {
        Step { conn, commands, cuts: Vec::new(), joined: false, close: false, hangup: false, muted: false }
    }

    /// Its bytes, in the pieces they are written in.
    pub(crate) fn pieces(&self, ids: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut bytes = Vec::new();
        for command in &self.commands {
            command.write(ids, &mut bytes);
        }
        let mut pieces = Vec::new();
        let mut start = 0;
        for cut in &self.cuts {
            let at = bytes.len() * usize::from(*cut) / 1000;
            if at > start {
                pieces.push(bytes[start..at].to_vec());
                start = at;
            }
        }
        pieces.push(bytes[start..].to_vec());
        pieces
    }
}

/// A whole sequence.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) seed: u64,
    pub(crate) proto: u8,
    pub(crate) conns: usize,
    pub(crate) steps: Vec<Step>,
}

impl Sequence {
    /// Whether any write of it carries more than one request.
    pub(crate) fn pipelines(&self) -> bool {
        self.steps.iter().any(|step| step.commands.iter().filter(|command| command.is_request()).count() > 1)
    }

    /// A short script of it.
    pub(crate) fn script(&self) -> String {
        let mut out = format!("RESP{}, {} connections\n", self.proto, self.conns);
        for (index, step) in self.steps.iter().enumerate() {
            let mut notes = String::new();
            if step.pieces(&[]).len() > 1 {
                notes.push_str(&format!(" in {} pieces", step.pieces(&[]).len()));
            }
            if step.joined {
                notes.push_str(" together with the next");
            }
            if step.close {
                notes.push_str(" and closes");
            }
            if step.muted {
                notes.push_str(", muted");
            }
            if step.hangup {
                notes.push_str(" and hangs up");
            }
            out.push_str(&format!("  step {index}, connection {}{notes}\n", step.conn));
            let lines: Vec<String> = step.commands.iter().map(shown).collect();
            for run in lines.chunk_by(|a, b| a == b) {
                let times = if run.len() > 1 { format!("   ({} times)", run.len()) } else { String::new() };
                out.push_str(&format!("    {}{times}\n", run[0]));
            }
        }
        out
    }
}

fn shown(command: &Command) -> String {
    if let Form::Raw(bytes, _) = &command.form {
        return format!("bytes \"{}\"", cut(&bytes.escape_ascii().to_string()));
    }
    let mut words = Vec::new();
    for arg in &command.argv {
        let text = arg.escape_ascii().to_string();
        let plain = !text.is_empty() && !text.contains([' ', '\\', '"']);
        words.push(cut(&if plain { text } else { format!("\"{text}\"") }));
    }
    let form = match command.form {
        Form::Inline(how) => format!("   (inline {how})"),
        Form::Sloppy(how) => format!("   (sloppy {how})"),
        _ => String::new(),
    };
    format!("{}{form}", words.join(" "))
}

fn cut(text: &str) -> String {
    if text.len() > 300 {
        format!("{}... ({} characters)", &text[..300], text.len())
    } else {
        text.to_owned()
    }
}
