//! Splits an inline command line into arguments as Redis does (`sdssplitargs`), including its oddities.
//! Never sees the line's end or a NUL: the frame scanner has already found both.

use super::frame::ArgRange;
use super::frame::ProtocolError::{self, UnbalancedQuotes};

/// Appends the unquoted arguments of `line` to `text` and the range of each to `args`. A line of blanks
/// has no arguments. After an error the caller drops what was appended.
pub fn split(line: &[u8], text: &mut Vec<u8>, args: &mut Vec<ArgRange>) -> Result<(), ProtocolError> {
    let mut at = 0;
    loop {
        while line.get(at).is_some_and(|&byte| is_space(byte)) {
            at += 1;
        }
        if at == line.len() {
            return Ok(());
        }
        let start = text.len() as u32;
        at = word(line, at, text)?;
        args.push((start, text.len() as u32));
    }
}

/// C's `isspace` in the "C" locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

/// Copies one word and returns where it ended. VT and FF separate words but do not end one: Redis skips
/// them between words and treats them as letters inside.
fn word(line: &[u8], mut at: usize, text: &mut Vec<u8>) -> Result<usize, ProtocolError> {
    while let Some(&byte) = line.get(at) {
        at += 1;
        match byte {
            b' ' | b'\n' | b'\r' | b'\t' => break,
            b'"' | b'\'' => return quoted(line, at, byte, text),
            _ => text.push(byte),
        }
    }
    Ok(at)
}

/// Copies the rest of a word behind its opening `quote`. The closing one ends the word: a blank or nothing follows.
fn quoted(line: &[u8], mut at: usize, quote: u8, text: &mut Vec<u8>) -> Result<usize, ProtocolError> {
    let escapes = quote == b'"';
    let mut hex = [0];
    loop {
        let (byte, taken) = match *line.get(at..).unwrap_or_default() {
            [] => return Err(UnbalancedQuotes),
            [end, ..] if end == quote => {
                at += 1;
                let ends_word = line.get(at).is_none_or(|&byte| is_space(byte));
                return if ends_word { Ok(at) } else { Err(UnbalancedQuotes) };
            }
            [b'\\', b'x', high, low, ..]
                if escapes && hex::decode_to_slice([high, low], &mut hex).is_ok() =>
            {
                (hex[0], 4)
            }
            [b'\\', escaped, ..] if escapes => (unescaped(escaped), 2),
            [b'\\', b'\'', ..] => (b'\'', 2),
            [byte, ..] => (byte, 1),
        };
        text.push(byte);
        at += taken;
    }
}

/// What a letter behind a backslash stands for.
fn unescaped(letter: u8) -> u8 {
    match letter {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::tests::words_of;

    #[track_caller]
    fn check(line: &[u8], expected: &[&[u8]]) {
        let expected: Vec<Vec<u8>> = expected.iter().map(|word| word.to_vec()).collect();
        assert_eq!(words_of(line), Ok(expected));
    }

    #[test]
    fn blanks_separate_words() {
        check(b"", &[]);
        check(b" \t\r \x0b\x0c", &[]);
        check(b"  set\tk\r v ", &[b"set", b"k", b"v"]);
        check(b"a \x0bb", &[b"a", b"b"]);
        check(b"a\x0bb\x0cc", &[b"a\x0bb\x0cc"]);
        check(b"a\xa0b", &[b"a\xa0b"]);
    }

    #[test]
    fn quotes_and_escapes() {
        check(br#""" a"#, &[b"", b"a"]);
        check(br#"x "a b" 'c d'"#, &[b"x", b"a b", b"c d"]);
        check(br#"pre"a b""#, &[b"prea b"]);
        check(br#""\n\r\t\b\a\\\"\q""#, &[b"\n\r\t\x08\x07\\\"q"]);
        check(br#""\x00\xFf\xaB""#, &[b"\x00\xff\xab"]);
        check(br#""\xg0\x1""#, &[b"xg0x1"]);
        check(br"'\n\'\x41'", &[br"\n'\x41"]);
    }

    #[test]
    fn unbalanced_quotes_are_refused() {
        for line in [&br#"""#[..], b"'", br#""a"b"#, b"'a'b", br#"a "b\""#, br#""\"#, br"'\'", br#"""""#] {
            assert_eq!(words_of(line), Err(UnbalancedQuotes), "{}", line.escape_ascii());
        }
    }
}
