//! Replies of the model Redis as bytes.

use crate::resp::encode;

pub(super) fn push_header(out: &mut Vec<u8>, proto: u8, parts: usize) {
    let kind = if proto == 3 { '>' } else { '*' };
    out.extend_from_slice(format!("{kind}{parts}\r\n").as_bytes());
}

pub(super) fn pair(key: &[u8], element: &[u8]) -> Vec<u8> {
    [b"*2\r\n", &bulk(key)[..], &bulk(element)].concat()
}

pub(super) fn ok() -> Vec<u8> {
    b"+OK\r\n".to_vec()
}

pub(super) fn error(text: &str) -> Vec<u8> {
    format!("-{text}\r\n").into_bytes()
}

pub(super) fn int(number: i64) -> Vec<u8> {
    format!(":{number}\r\n").into_bytes()
}

pub(super) fn bulk(text: &[u8]) -> Vec<u8> {
    written(|out| encode::bulk(out, text))
}

pub(super) fn null(proto: u8) -> Vec<u8> {
    written(|out| encode::null_array(out, proto))
}

pub(super) fn null_bulk(proto: u8) -> Vec<u8> {
    written(|out| encode::null(out, proto))
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}
