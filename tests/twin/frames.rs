//! RESP taken apart for comparing and for printing. Owns a parser of its own, so that the crate's is never its
//! own judge; knows no command.

/// One value with all its parts: equal frames are equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Frame {
    /// The type byte.
    pub(crate) kind: u8,
    /// `$-1` or `*-1`.
    pub(crate) null: bool,
    /// What a scalar says.
    pub(crate) text: Vec<u8>,
    /// What an aggregate holds; keys and values of a map alternate.
    pub(crate) items: Vec<Frame>,
}

/// What stands at the beginning of the bytes.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// A frame and its length.
    Whole(Frame, usize),
    Partial,
    /// No RESP.
    Garbage,
}

/// Reads one frame.
pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    let mut at = 0;
    match frame(bytes, &mut at) {
        Ok(frame) => Parsed::Whole(frame, at),
        Err(stop) => stop,
    }
}

fn frame(bytes: &[u8], at: &mut usize) -> Result<Frame, Parsed> {
    let rest = &bytes[*at..];
    let Some(&kind) = rest.first() else { return Err(Parsed::Partial) };
    let Some(line) = rest.windows(2).position(|pair| pair == b"\r\n") else { return Err(Parsed::Partial) };
    let text = &rest[1..line];
    *at += line + 2;
    let mut out = Frame { kind, null: false, text: Vec::new(), items: Vec::new() };
    match kind {
        b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => out.text = text.to_vec(),
        b'$' | b'=' | b'!' => match length(text)? {
            None => out.null = true,
            Some(length) => {
                let body = bytes.get(*at..*at + length + 2).ok_or(Parsed::Partial)?;
                if !body.ends_with(b"\r\n") {
                    return Err(Parsed::Garbage);
                }
                out.text = body[..length].to_vec();
                *at += length + 2;
            }
        },
        b'*' | b'~' | b'>' | b'%' => match length(text)? {
            None => out.null = true,
            Some(length) => {
                let count = if kind == b'%' { 2 * length } else { length };
                for _ in 0..count {
                    out.items.push(frame(bytes, at)?);
                }
            }
        },
        _ => return Err(Parsed::Garbage),
    }
    Ok(out)
}

fn length(text: &[u8]) -> Result<Option<usize>, Parsed> {
    if text == b"-1" {
        return Ok(None);
    }
    let digits = std::str::from_utf8(text).map_err(|_| Parsed::Garbage)?;
    digits.parse().map(Some).map_err(|_| Parsed::Garbage)
}

impl Frame {
    pub(crate) fn is_error(&self) -> bool {
        matches!(self.kind, b'-' | b'!')
    }

    /// Whether it is an integer.
    pub(crate) fn int(&self) -> Option<i64> {
        if self.kind != b':' {
            return None;
        }
        std::str::from_utf8(&self.text).ok()?.parse().ok()
    }

    /// The first word of what a pub/sub frame is, if it may be one.
    pub(crate) fn push_word(&self) -> Option<&[u8]> {
        if !matches!(self.kind, b'*' | b'>') || self.items.len() < 3 {
            return None;
        }
        Some(&self.items[0].text)
    }

    /// As a failing run prints it; long ones are cut.
    pub(crate) fn show(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        if out.len() > 400 {
            let cut = (0..=400).rev().find(|at| out.is_char_boundary(*at)).unwrap_or(0);
            let total = out.len();
            out.truncate(cut);
            out.push_str(&format!("... ({total} characters)"));
        }
        out
    }

    fn write(&self, out: &mut String) {
        out.push(char::from(self.kind));
        if self.null {
            out.push_str("-1");
        } else if matches!(self.kind, b'*' | b'~' | b'>' | b'%') {
            out.push('[');
            for (index, item) in self.items.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                item.write(out);
            }
            out.push(']');
        } else if matches!(self.kind, b'$' | b'=') {
            out.push_str(&format!("\"{}\"", self.text.escape_ascii()));
        } else {
            out.push_str(&self.text.escape_ascii().to_string());
        }
    }
}
