//! The language in which requests are written down: words, and in their places `$x` for something at random, `(a|b)` for
//! one of them, `[a]` for perhaps, `{a}` for one to three times. Owns reading and filling in; does not know what any `$x`
//! stands for.

use super::World;
use super::requests::script;

/// A request as it is written down.
pub(crate) type Template = Vec<Node>;

pub(crate) enum Node {
    Text(&'static str),
    /// Something at random behind a prefix.
    Pick(&'static str, &'static str),
    Maybe(Template),
    One(Vec<Template>),
    Many(Template),
}

/// The arguments, and what was said for each `$x`.
pub(crate) fn fill(
    nodes: &[Node],
    world: &mut dyn World,
    argv: &mut Vec<Vec<u8>>,
    said: &mut Vec<(&'static str, Vec<u8>)>,
) {
    for node in nodes {
        match node {
            Node::Text(text) => argv.push(text.as_bytes().to_vec()),
            Node::Pick(before, what) => {
                let word = script(what).map_or_else(|| world.word(what), |script| script.as_bytes().to_vec());
                argv.push([before.as_bytes(), &word].concat());
                said.push((what, word));
            }
            Node::Maybe(inner) => {
                if world.rng().bool() {
                    fill(inner, world, argv, said);
                }
            }
            Node::One(branches) => {
                let branch = world.rng().usize(..branches.len());
                fill(&branches[branch], world, argv, said);
            }
            Node::Many(inner) => {
                for _ in 0..world.rng().usize(1..=3) {
                    fill(inner, world, argv, said);
                }
            }
        }
    }
}

/// Reads a line.
pub(crate) fn read(text: &'static str) -> Template {
    let mut reader = Reader { text, at: 0 };
    let nodes = reader.nodes();
    assert_eq!(reader.at, text.len(), "a bracket too many in {text}");
    nodes
}

struct Reader {
    text: &'static str,
    at: usize,
}

impl Reader {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn nodes(&mut self) -> Template {
        let mut nodes = Vec::new();
        while let Some(byte) = self.peek() {
            match byte {
                b' ' => self.at += 1,
                b'[' => nodes.push(Node::Maybe(self.inner(b']'))),
                b'{' => nodes.push(Node::Many(self.inner(b'}'))),
                b'(' => nodes.push(Node::One(self.branches())),
                b']' | b'}' | b')' | b'|' => break,
                _ => nodes.push(self.word()),
            }
        }
        nodes
    }

    fn inner(&mut self, close: u8) -> Template {
        self.at += 1;
        let nodes = self.nodes();
        assert_eq!(self.peek(), Some(close), "a bracket is open in {}", self.text);
        self.at += 1;
        nodes
    }

    fn branches(&mut self) -> Vec<Template> {
        let mut branches = Vec::new();
        loop {
            self.at += 1;
            branches.push(self.nodes());
            match self.peek() {
                Some(b'|') => {}
                Some(b')') => break,
                _ => panic!("a bracket is open in {}", self.text),
            }
        }
        self.at += 1;
        branches
    }

    fn word(&mut self) -> Node {
        let rest = &self.text[self.at..];
        // A `[` inside of a word belongs to the word: only at its beginning it opens.
        let length = rest.find([' ', ']', '}', ')', '|']).unwrap_or(rest.len());
        let word = &rest[..length];
        self.at += length;
        match word.split_once('$') {
            Some((before, name)) if !name.is_empty() => Node::Pick(before, name),
            _ => Node::Text(word),
        }
    }
}
