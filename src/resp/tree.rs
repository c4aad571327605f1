//! One whole reply parsed for callers: every value by its index, strings followed by a NUL as C expects, and the bytes as
//! received. Owns the reply; never on the path of a request through the broker.

use super::reply::{self, ValueHeader};
use std::ops::Range;
use std::sync::OnceLock;

/// The type of a value: null of any kind, an error simple or bulk, and the others as RESP names them.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Nil,
    Status,
    Error,
    Integer,
    Double,
    Bool,
    String,
    Verbatim,
    BigNumber,
    Array,
    Map,
    Set,
    Push,
}

/// One value. The meaning of `a` and `b` depends on whether it has elements.
#[derive(Debug, Clone, Copy)]
struct Node {
    kind: Kind,
    /// Its range in the bytes, without attributes.
    start: usize,
    end: usize,
    /// The start of its text, or the index of its first element.
    a: usize,
    /// The length of its text, or how many elements it has.
    b: usize,
}

/// A whole reply. Value 0 is the reply itself.
#[derive(Debug)]
pub struct Tree {
    /// As received, but the byte behind each text is NUL.
    bytes: Box<[u8]>,
    /// The elements of one aggregate are consecutive.
    nodes: Box<[Node]>,
    /// As received. Made on first use.
    raw: OnceLock<Box<[u8]>>,
}

/// Elements of an aggregate not read yet.
struct Open {
    node: usize,
    next: usize,
    end: usize,
}

impl Tree {
    /// Parses one complete frame; `None` if it is not exactly that.
    pub fn parse(frame: &[u8]) -> Option<Tree> {
        let mut bytes: Box<[u8]> = frame.into();
        let blank = Node { kind: Kind::Nil, start: 0, end: 0, a: 0, b: 0 };
        let mut nodes = vec![blank];
        let mut open: Vec<Open> = Vec::new();
        let (mut at, mut index) = (0, 0);
        loop {
            at = bytes.len() - reply::described(&bytes[at..])?.len();
            let (node, elements) = read(&mut bytes, at, nodes.len())?;
            at = node.end;
            nodes[index] = node;
            if elements {
                // Each element has at least three bytes, so a header never reserves more than was received.
                if node.b > (bytes.len() - at) / 3 {
                    return None;
                }
                nodes.resize(nodes.len() + node.b, blank);
                open.push(Open { node: index, next: node.a, end: node.a + node.b });
            }
            index = loop {
                match open.last_mut() {
                    None if at == bytes.len() => {
                        return Some(Tree { bytes, nodes: nodes.into(), raw: OnceLock::new() });
                    }
                    None => return None,
                    Some(last) if last.next < last.end => {
                        last.next += 1;
                        break last.next - 1;
                    }
                    Some(last) => {
                        nodes[last.node].end = at;
                        open.pop();
                    }
                }
            };
        }
    }

    /// The number of values, including the reply itself.
    pub fn values(&self) -> usize {
        self.nodes.len()
    }

    /// The type of value `index`; `Nil` beyond the last.
    pub fn kind(&self, index: usize) -> Kind {
        self.nodes.get(index).map_or(Kind::Nil, |node| node.kind)
    }

    /// Its text, without line ends: of a status, error, string (a verbatim one without its format), number.
    pub fn text(&self, index: usize) -> Option<&[u8]> {
        self.bytes.get(self.text_range(index)?)
    }

    /// The same with the NUL behind it.
    pub fn text_with_nul(&self, index: usize) -> Option<&[u8]> {
        let Range { start, end } = self.text_range(index)?;
        self.bytes.get(start..=end)
    }

    fn text_range(&self, index: usize) -> Option<Range<usize>> {
        let node = self.nodes.get(index)?;
        match node.kind {
            Kind::Nil | Kind::Array | Kind::Map | Kind::Set | Kind::Push => None,
            _ => Some(node.a..node.a + node.b),
        }
    }

    /// The indices of its elements; keys and values of a map each count. Empty for a value without elements.
    pub fn elements(&self, index: usize) -> Range<usize> {
        match self.nodes.get(index) {
            Some(Node { kind: Kind::Array | Kind::Map | Kind::Set | Kind::Push, a, b, .. }) => *a..*a + *b,
            _ => 0..0,
        }
    }

    /// Its frame as received, without attributes.
    pub fn raw(&self, index: usize) -> &[u8] {
        let Some(node) = self.nodes.get(index) else { return &[] };
        let restored = || {
            let mut raw = self.bytes.clone();
            let texts = (0..self.nodes.len()).filter_map(|index| self.text_range(index));
            texts.for_each(|text| raw[text.end] = b'\r');
            raw
        };
        self.raw.get_or_init(restored).get(node.start..node.end).unwrap_or_default()
    }
}

/// Reads the value at `at`, or its header if it has elements: these begin at index `first`. Ends where that ends.
fn read(bytes: &mut [u8], at: usize, first: usize) -> Option<(Node, bool)> {
    let rest = bytes.get(at..)?;
    let kind = kind_of(*rest.first()?);
    match reply::head(rest, &mut 0).ok()? {
        ValueHeader::Attribute { .. } => None,
        ValueHeader::Elements { count, len } => {
            let b = usize::try_from(count).ok()?;
            Some((Node { kind, start: at, end: at + len, a: first, b }, true))
        }
        ValueHeader::Leaf(len) => {
            let (start, end) = (at, at + len);
            let Some(text) = reply::leaf_text(&rest[..len]) else {
                return Some((Node { kind: Kind::Nil, start, end, a: 0, b: 0 }, false));
            };
            // The CR of its end, which `raw` restores.
            *bytes.get_mut(at + text.end)? = 0;
            Some((Node { kind, start, end, a: at + text.start, b: text.len() }, false))
        }
    }
}

/// What a value with this type byte is, unless it is null.
fn kind_of(byte: u8) -> Kind {
    match byte {
        b'+' => Kind::Status,
        b'-' | b'!' => Kind::Error,
        b':' => Kind::Integer,
        b',' => Kind::Double,
        b'#' => Kind::Bool,
        b'(' => Kind::BigNumber,
        b'=' => Kind::Verbatim,
        b'*' => Kind::Array,
        b'%' => Kind::Map,
        b'~' => Kind::Set,
        b'>' => Kind::Push,
        _ => Kind::String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_and_its_text() {
        for (frame, kind, text) in [
            ("+OK\r\n", Kind::Status, Some("OK")),
            ("-ERR no\r\n", Kind::Error, Some("ERR no")),
            ("!6\r\nERR no\r\n", Kind::Error, Some("ERR no")),
            (":-12\r\n", Kind::Integer, Some("-12")),
            (",1.5\r\n", Kind::Double, Some("1.5")),
            ("#t\r\n", Kind::Bool, Some("t")),
            ("(123\r\n", Kind::BigNumber, Some("123")),
            ("$0\r\n\r\n", Kind::String, Some("")),
            ("=7\r\ntxt:abc\r\n", Kind::Verbatim, Some("abc")),
            ("$-1\r\n", Kind::Nil, None),
            ("*-1\r\n", Kind::Nil, None),
            ("_\r\n", Kind::Nil, None),
            ("*0\r\n", Kind::Array, None),
        ] {
            let tree = Tree::parse(frame.as_bytes()).unwrap();
            assert_eq!((tree.kind(0), tree.text(0)), (kind, text.map(str::as_bytes)), "{frame:?}");
            let with_nul = text.map(|text| format!("{text}\0"));
            assert_eq!(tree.text_with_nul(0), with_nul.as_ref().map(String::as_bytes), "{frame:?}");
            assert_eq!(tree.raw(0), frame.as_bytes(), "{frame:?}");
        }
    }

    #[test]
    fn elements_stand_side_by_side_and_give_their_bytes_back() {
        let frame = b"*3\r\n%1\r\n+k\r\n*2\r\n:1\r\n$2\r\nab\r\n|1\r\n+a\r\n+b\r\n~1\r\n#f\r\n$1\r\nz\r\n";
        let tree = Tree::parse(frame).unwrap();
        let top = tree.elements(0);
        assert_eq!(top.len(), 3);
        let map = tree.elements(top.start);
        assert_eq!((tree.kind(top.start), map.len()), (Kind::Map, 2));
        let pair = tree.elements(map.start + 1);
        assert_eq!(tree.text(pair.start + 1), Some(&b"ab"[..]));
        assert_eq!(tree.raw(map.start + 1), b"*2\r\n:1\r\n$2\r\nab\r\n");
        assert_eq!(tree.kind(top.start + 1), Kind::Set);
        assert_eq!(tree.raw(top.start + 1), b"~1\r\n#f\r\n", "its attribute left out");
        assert_eq!(tree.text(top.start + 2), Some(&b"z"[..]));
        assert_eq!(tree.raw(0), frame);
    }

    #[test]
    fn what_is_not_one_reply_is_none() {
        for frame in
            ["", "+OK", "+OK\r\n+OK\r\n", "*2\r\n:1\r\n", "*99999999\r\n", "?\r\n", "|1\r\n+a\r\n+b\r\n"]
        {
            assert!(Tree::parse(frame.as_bytes()).is_none(), "{frame:?}");
        }
    }

    #[test]
    fn deep_nesting_needs_no_stack() {
        let mut frame = b"*1\r\n".repeat(8000);
        frame.extend_from_slice(b":1\r\n");
        let tree = Tree::parse(&frame).unwrap();
        assert_eq!(tree.values(), 8001);
        assert_eq!(tree.raw(8000), b":1\r\n");
    }
}
