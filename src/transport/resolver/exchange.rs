//! A socket by which one name server is asked once, connected to it, so that the kernel takes from nobody else; its port is
//! random. Moves whole messages; does not know what they say.

use super::inquiry::Attempt;
use super::message::MESSAGE_MAX;
use crate::base::fds::Held;
use mio::net::{TcpStream, UdpSocket};
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longer than any answer by datagram that was not agreed upon.
const DATAGRAM_MAX: usize = 4096;

#[derive(Debug)]
pub(super) struct Exchange {
    /// Before `link`: see [`Held`].
    _held: Held,
    link: ServerLink,
}

#[derive(Debug)]
enum ServerLink {
    Udp(UdpSocket),
    /// With what is left to send, and what has come of a message.
    Tcp {
        stream: TcpStream,
        out: Vec<u8>,
        input: Vec<u8>,
    },
}

impl Exchange {
    /// Sends the messages, or begins to connect.
    pub(super) fn open(attempt: &Attempt, registry: &Registry, token: Token) -> io::Result<Exchange> {
        if attempt.over_tcp {
            let mut stream = TcpStream::connect(attempt.server)?;
            let held = Held::new(&stream);
            registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
            let with_length =
                |message: &Vec<u8>| [&(message.len() as u16).to_be_bytes()[..], message].concat();
            let out = attempt.messages.iter().flat_map(with_length).collect();
            return Ok(Exchange { _held: held, link: ServerLink::Tcp { stream, out, input: Vec::new() } });
        }
        let mut socket = UdpSocket::bind(any_like(attempt.server.ip()))?;
        let held = Held::new(&socket);
        socket.connect(attempt.server)?;
        registry.register(&mut socket, token, Interest::READABLE)?;
        for message in &attempt.messages {
            match socket.send(message) {
                // As good as lost on the way.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                sent => drop(sent?),
            }
        }
        Ok(Exchange { _held: held, link: ServerLink::Udp(socket) })
    }

    /// The next message from the server; none before the next event.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let outcome = match &mut self.link {
            ServerLink::Udp(socket) => receive(socket),
            ServerLink::Tcp { stream, out, input } => send(stream, out).and_then(|()| read(stream, input)),
        };
        match outcome {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => Ok(None),
            outcome => outcome.map(Some),
        }
    }

    pub(super) fn close(mut self, registry: &Registry) {
        // Fails only for a socket that is not registered.
        let _ = match &mut self.link {
            ServerLink::Udp(socket) => registry.deregister(socket),
            ServerLink::Tcp { stream, .. } => registry.deregister(stream),
        };
    }
}

/// What a socket is bound to that reaches this address from any port.
pub(super) fn any_like(ip: IpAddr) -> SocketAddr {
    match ip {
        IpAddr::V4(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        IpAddr::V6(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
    }
}

fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; DATAGRAM_MAX];
    let count = socket.recv(&mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Fails with `NotConnected` while the connection is being made.
fn send(stream: &mut TcpStream, out: &mut Vec<u8>) -> io::Result<()> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    while !out.is_empty() {
        stream.peer_addr()?;
        let count = stream.write(out)?;
        out.drain(..count);
    }
    Ok(())
}

fn read(stream: &mut TcpStream, input: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    loop {
        if let [high, low, rest @ ..] = &input[..] {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if length > MESSAGE_MAX {
                return Err(io::Error::other("an answer is too long"));
            }
            if rest.len() >= length {
                let message = rest[..length].to_vec();
                input.drain(..2 + length);
                return Ok(message);
            }
        }
        let mut bytes = [0; DATAGRAM_MAX];
        match stream.read(&mut bytes)? {
            0 => return Err(io::Error::other("closed the connection")),
            count => input.extend_from_slice(&bytes[..count]),
        }
    }
}
