//! Writes RESP: each function appends one value, or one header, to a byte vector. Never allocates beyond
//! that vector and never fails. `proto` is the RESP version of the reader; anything but 3 means 2.

/// A count or length line: type byte, decimal, CRLF.
fn header(out: &mut Vec<u8>, kind: u8, n: usize) {
    out.push(kind);
    decimal(out, n as u64);
    out.extend_from_slice(b"\r\n");
}

/// Appends `n` in decimal.
pub(crate) fn decimal(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20]; // u64::MAX has 20 digits
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The header of an array of `n` elements.
pub fn array_header(out: &mut Vec<u8>, n: usize) {
    header(out, b'*', n);
}

/// The header of a map of `n_pairs`; in RESP2 an array of twice as many elements.
pub fn map_header(out: &mut Vec<u8>, n_pairs: usize, proto: u8) {
    if proto == 3 { header(out, b'%', n_pairs) } else { header(out, b'*', 2 * n_pairs) }
}

/// The header of a set of `n` elements; in RESP2 an array.
pub fn set_header(out: &mut Vec<u8>, n: usize, proto: u8) {
    header(out, if proto == 3 { b'~' } else { b'*' }, n);
}

/// What stands before a bulk string of `len` bytes; CRLF stands behind it.
pub fn bulk_head(out: &mut Vec<u8>, len: usize) {
    header(out, b'$', len);
}

/// A bulk string.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len() + 16);
    header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// A verbatim string of text; in RESP2 a bulk string.
pub fn verbatim_txt(out: &mut Vec<u8>, bytes: &[u8], proto: u8) {
    verbatim_head(out, bytes.len(), proto);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// What stands before a text of `len` bytes; CRLF stands behind it.
pub fn verbatim_head(out: &mut Vec<u8>, len: usize, proto: u8) {
    if proto != 3 {
        return header(out, b'$', len);
    }
    header(out, b'=', len + 4);
    out.extend_from_slice(b"txt:");
}

/// An integer.
pub fn int(out: &mut Vec<u8>, n: i64) {
    out.push(b':');
    if n < 0 {
        out.push(b'-');
    }
    decimal(out, n.unsigned_abs());
    out.extend_from_slice(b"\r\n");
}

/// An error; `text` starts with its code and has neither `-` nor CRLF. CR and LF inside become spaces.
pub fn error(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    let text = text.as_ref();
    out.reserve(text.len() + 3);
    out.push(b'-');
    out.extend(text.iter().copied().map(one_line));
    out.extend_from_slice(b"\r\n");
}

/// The byte that Redis writes instead of one that would end a reply's line.
pub(crate) fn one_line(byte: u8) -> u8 {
    if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }
}

/// The null for a missing string.
pub fn null(out: &mut Vec<u8>, proto: u8) {
    out.extend_from_slice(if proto == 3 { b"_\r\n" } else { b"$-1\r\n" });
}

/// The null for a missing array.
pub fn null_array(out: &mut Vec<u8>, proto: u8) {
    out.extend_from_slice(if proto == 3 { b"_\r\n" } else { b"*-1\r\n" });
}

/// A whole request in canonical form.
pub fn request(out: &mut Vec<u8>, argv: &[&[u8]]) {
    request_of(out, argv.iter().copied());
}

/// The same of arguments that lie wherever they do.
pub fn request_of<'a>(out: &mut Vec<u8>, args: impl ExactSizeIterator<Item = &'a [u8]>) {
    array_header(out, args.len());
    for arg in args {
        bulk(out, arg);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("the test writes text")
    }

    #[test]
    fn numbers_at_their_limits() {
        for number in [0, -10, i64::MAX, i64::MIN] {
            assert_eq!(written(|out| int(out, number)), format!(":{number}\r\n"));
        }
        assert_eq!(written(|out| decimal(out, u64::MAX)), u64::MAX.to_string());
    }

    #[test]
    fn strings_and_headers() {
        assert_eq!(written(|out| request(out, &[b"GET", b""])), "*2\r\n$3\r\nGET\r\n$0\r\n\r\n");
        assert_eq!(written(|out| array_header(out, 0)), "*0\r\n");
        assert_eq!(written(|out| error(out, "ERR a\r\nb")), "-ERR a  b\r\n");
    }

    #[test]
    fn the_reader_decides_the_form() {
        let forms = [
            (2, ["$-1\r\n", "*-1\r\n", "*6\r\n", "$2\r\nhi\r\n"]),
            (3, ["_\r\n", "_\r\n", "%3\r\n", "=6\r\ntxt:hi\r\n"]),
        ];
        for (proto, [nil, nil_array, map, text]) in forms {
            assert_eq!(written(|out| null(out, proto)), nil);
            assert_eq!(written(|out| null_array(out, proto)), nil_array);
            assert_eq!(written(|out| map_header(out, 3, proto)), map);
            assert_eq!(written(|out| verbatim_txt(out, b"hi", proto)), text);
        }
    }
}
