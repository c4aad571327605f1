//! The core alone, without a socket: children that each send GETs, an upstream that answers them, over and over. For
//! counting instructions: `make instructions` runs it under callgrind, a short time and a longer one, and divides the
//! difference by the requests. Arguments: rounds, children, GETs that a child sends at once.

use broker::config::{Settings, endpoint};
use broker::core::{Action, Broker, ChildKind};
use broker::resp::{FrameLimits, Scan, Scanner};

/// What Redis answers COMMAND with.
const COMMANDS: &[u8] = include_bytes!("../tests/corpus/command-7.0.15.resp");
const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$8\r\nkey:1234\r\n";
const LIMITS: FrameLimits = FrameLimits { request_max: usize::MAX, authenticated: true };

fn main() {
    let mut args = std::env::args().skip(1).filter_map(|arg| arg.parse().ok());
    let (rounds, children, depth) =
        (args.next().unwrap_or(1000usize), args.next().unwrap_or(50usize), args.next().unwrap_or(1usize));
    let upstream = endpoint::parse_upstream("redis://127.0.0.1:6379").expect("a URL");
    let mut broker = Broker::new(Settings::default(), upstream, 1, 0);
    let children: Vec<_> =
        (0..children).map(|at| broker.child_open(ChildKind::Socket, "bench", at).expect("room")).collect();
    let mut driver = Driver::default();
    for now in 0..20 {
        broker.advance(now);
        driver.settle(&mut broker);
    }
    let requests = GET.repeat(depth);
    let mut now = 100;
    for round in 0..rounds {
        if round % 100 == 0 {
            now += 1;
            broker.advance(now);
        }
        broker.begin_turn();
        for child in &children {
            if broker.wants_read(*child) {
                broker.child_input(*child, &requests);
            }
        }
        driver.settle(&mut broker);
    }
    assert!(driver.answered >= rounds * children.len() * depth, "{} answers", driver.answered);
}

/// What the reactor does, and an upstream.
#[derive(Default)]
struct Driver {
    actions: Vec<Action>,
    answered: usize,
    replies: Vec<u8>,
}

impl Driver {
    fn settle(&mut self, broker: &mut Broker) {
        loop {
            while broker.run() {}
            let mut moved = false;
            broker.take_actions(&mut self.actions);
            for action in std::mem::take(&mut self.actions) {
                moved = true;
                match action {
                    Action::Connect(lane) => broker.lane_connected(lane, 1, None),
                    _ => broker.connection_closed(),
                }
            }
            let mut lanes = Vec::new();
            broker.take_dirty_lanes(&mut lanes);
            for lane in lanes {
                let Some((_, bytes)) = broker.lane_outgoing(lane) else { continue };
                moved |= !bytes.is_empty();
                let len = bytes.len();
                self.answer(bytes);
                broker.lane_wrote(lane, len);
                broker.lane_flushed(lane);
                let replies = std::mem::take(&mut self.replies);
                broker.lane_input(lane, &replies);
            }
            let mut children = Vec::new();
            broker.take_dirty_children(&mut children);
            for child in children {
                moved = true;
                if let Some((_, output)) = broker.child_output(child) {
                    let len = output.len();
                    output.consume(len);
                }
                broker.child_flushed(child);
            }
            if !moved {
                return;
            }
        }
    }

    /// Answers every request in `bytes`. A GET is told by its bytes, so that the upstream costs next to nothing.
    fn answer(&mut self, mut bytes: &[u8]) {
        let mut scanner = Scanner::default();
        while !bytes.is_empty() {
            if bytes.starts_with(GET) {
                self.replies.extend_from_slice(b"$4\r\nabcd\r\n");
                self.answered += 1;
                bytes = &bytes[GET.len()..];
                continue;
            }
            let Scan::Frame { len } = scanner.scan(bytes, &LIMITS) else { panic!("half a request") };
            let request = scanner.request(&bytes[..len]);
            let name = request.arg(0).to_ascii_uppercase();
            match &name[..] {
                b"HELLO" => self.replies.extend_from_slice(
                    b"%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$2\r\nid\r\n:7\r\n",
                ),
                b"COMMAND" => self.replies.extend_from_slice(COMMANDS),
                b"CONFIG" => self.replies.extend_from_slice(b"%0\r\n"),
                b"PING" => self.replies.extend_from_slice(b"+PONG\r\n"),
                _ => self.replies.extend_from_slice(b"+OK\r\n"),
            }
            scanner.reset();
            bytes = &bytes[len..];
        }
    }
}
