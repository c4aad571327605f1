//! The errors Redis itself would answer, byte for byte as Redis 7.0 words them. Each is the line without
//! the leading `-` and the final CRLF. Never holds an error that is the broker's own.

use crate::resp::{Request, encode};

/// Where Redis cuts a name, and the list of arguments, in an error.
const CUT: usize = 128;

/// MULTI inside MULTI. Does not spoil the transaction.
pub const MULTI_NESTED: &str = "ERR MULTI calls can not be nested";
/// WATCH inside MULTI. Does not spoil the transaction.
pub const WATCH_INSIDE_MULTI: &str = "ERR WATCH inside MULTI is not allowed";
/// EXEC outside of MULTI.
pub const EXEC_WITHOUT_MULTI: &str = "ERR EXEC without MULTI";
/// DISCARD outside of MULTI.
pub const DISCARD_WITHOUT_MULTI: &str = "ERR DISCARD without MULTI";
/// EXEC after a command was rejected while queueing.
pub const EXECABORT_PREVIOUS: &str = "EXECABORT Transaction discarded because of previous errors.";
/// A command flagged `no_multi` inside MULTI.
pub const NOT_INSIDE_MULTI: &str = "ERR Command not allowed inside a transaction";
/// SELECT of an int that is no database.
pub const DB_OUT_OF_RANGE: &str = "ERR DB index is out of range";
/// SELECT of a 64-bit integer that is no int.
pub const INT_OUT_OF_RANGE: &str = "ERR value is out of range, value must between -2147483648 and 2147483647";
/// Any argument that should be an integer and is none.
pub const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
/// HELLO with a version that is no integer.
pub const HELLO_VERSION: &str = "ERR Protocol version is not an integer or out of range";
/// HELLO with a version other than 2 and 3.
pub const HELLO_UNSUPPORTED: &str = "NOPROTO unsupported protocol version";
/// HELLO without AUTH before the child is authenticated.
pub const HELLO_NOAUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, \
     otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and select \
     the RESP protocol version at the same time";
/// Any other command before the child is authenticated.
pub const NOAUTH: &str = "NOAUTH Authentication required.";
/// AUTH or HELLO AUTH with a wrong user or password.
pub const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
/// AUTH with a password alone while the default user has none.
pub const AUTH_WITHOUT_PASSWORD: &str = "ERR AUTH <password> called without any password configured \
     for the default user. Are you sure your configuration is correct?";
/// CLIENT SETNAME or HELLO SETNAME with a byte outside of `!`..`~`.
pub const CLIENT_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";
/// An option that does not exist or lacks its value.
pub const SYNTAX: &str = "ERR syntax error";
/// CLIENT KILL of an address nobody has.
pub const NO_SUCH_CLIENT: &str = "ERR No such client";
/// CLIENT KILL ID with anything else.
pub const CLIENT_ID_NOT_POSITIVE: &str = "ERR client-id should be greater than 0";
/// CLIENT LIST ID with anything but an integer.
pub const CLIENT_ID_INVALID: &str = "ERR Invalid client ID";
/// CLIENT UNBLOCK with a reason that is none.
pub const UNBLOCK_REASON: &str = "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR";
/// How a blocked command ends where its server becomes a replica.
pub const DEMOTED: &[u8] = b"-UNBLOCKED force unblock from blocking operation";
/// How a replica refuses a write; a script may say READONLY in words of its own.
pub const READ_ONLY_REPLICA: &[u8] = b"-READONLY You can't write against a read only replica.";
/// What CLIENT UNBLOCK ERROR tells the blocked child.
pub const UNBLOCKED: &str = "UNBLOCKED client unblocked via CLIENT UNBLOCK";
/// CLIENT CACHING of a client that does not track.
pub const CACHING_WITHOUT_TRACKING: &str = "ERR CLIENT CACHING can be called only when the client is in \
     tracking mode with OPTIN or OPTOUT mode enabled";
/// ASKING, READONLY and READWRITE on a server that is not in a cluster.
pub const CLUSTER_DISABLED: &str = "ERR This instance has cluster support disabled";

/// How a server words what it says of commands that it does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wording {
    /// Redis older than 7.0.
    Before7,
    /// Redis 7.0 and what came after it.
    Since7,
}

/// Whether this is a refusal for want of the command itself: the user has no right to it, or the server no such command, or
/// none of that name.
pub fn is_lack(frame: &[u8]) -> bool {
    frame.starts_with(b"-NOPERM ") || frame.starts_with(b"-ERR unknown command")
}

/// The name is in no table.
pub fn unknown_command(request: &Request<'_>, wording: Wording) -> Vec<u8> {
    let (open, close, between): (&[u8], &[u8], &[u8]) = match wording {
        Wording::Before7 => (b"`", b"`", b", "),
        Wording::Since7 => (b"'", b"'", b" "),
    };
    let mut args = Vec::new();
    for arg in request.args().skip(1) {
        if args.len() >= CUT {
            break;
        }
        let room = CUT - args.len();
        args.extend([open, c_string(arg, room), close, between].concat());
    }
    let cut = if wording == Wording::Before7 { usize::MAX } else { CUT };
    let name = c_string(request.arg(0), cut);
    one_line([b"ERR unknown command ", open, name, close, b", with args beginning with: ", &args].concat())
}

/// The container has no such subcommand. Names the container as typed.
pub fn unknown_subcommand(request: &Request<'_>) -> Vec<u8> {
    about_subcommand(request.arg(0), request.arg(1), b"ERR unknown subcommand '", CUT)
}

/// The same before Redis 7.0, and of one with other arguments than it takes.
pub fn no_subcommand(container: &[u8], subcommand: &[u8]) -> Vec<u8> {
    let head = b"ERR Unknown subcommand or wrong number of arguments for '";
    about_subcommand(container, subcommand, head, usize::MAX)
}

/// The container has the subcommand, and the server noticed only later that something is wrong with it.
pub fn subcommand_syntax(request: &Request<'_>, wording: Wording) -> Vec<u8> {
    if wording == Wording::Before7 {
        return no_subcommand(request.arg(0), request.arg(1));
    }
    let head = b"ERR unknown subcommand or wrong number of arguments for '";
    about_subcommand(request.arg(0), request.arg(1), head, CUT)
}

fn about_subcommand(container: &[u8], subcommand: &[u8], head: &[u8], cut: usize) -> Vec<u8> {
    let container = c_string(container, usize::MAX).to_ascii_uppercase();
    let subcommand = c_string(subcommand, cut);
    one_line([head, subcommand, b"'. Try ", &container, b" HELP."].concat())
}

/// Too few or too many arguments. `name` is the full canonical name, also for a renamed command.
pub fn wrong_arity(name: &str) -> String {
    format!("ERR wrong number of arguments for '{name}' command")
}

/// A command the broker does not allow, worded as an ACL's refusal so that every client understands it.
pub fn refused(name: &str) -> String {
    format!("NOPERM this user has no permissions to run the '{name}' command")
}

/// A script that could call what the settings refuse to its child.
pub fn script_refused(name: &str, denied: &str) -> String {
    format!(
        "{}: commands_deny has '{denied}', which a script can call (scripts_trusted = true would let it)",
        refused(name)
    )
}

/// A command that a RESP2 connection with subscriptions may not send. `name` is the full canonical name.
pub fn subscriber_context(name: &str, wording: Wording) -> String {
    let (letters, name) = match wording {
        Wording::Before7 => ("P", name.split('|').next().unwrap_or(name)),
        Wording::Since7 => ("P|S", name),
    };
    format!(
        "ERR Can't execute '{name}': only ({letters})SUBSCRIBE / ({letters})UNSUBSCRIBE / PING / QUIT / RESET \
         are allowed in this context"
    )
}

/// EXEC that was itself rejected; `error` is the other error's line, with its `ERR ` if it has one.
pub fn exec_aborted(error: &str) -> String {
    let reason = error.strip_prefix("ERR ").unwrap_or(error);
    format!("EXECABORT Transaction discarded because of: {reason}")
}

/// HELLO with an option that does not exist or lacks its values.
pub fn hello_option(option: &[u8]) -> Vec<u8> {
    one_line([b"ERR Syntax error in HELLO option '", c_string(option, usize::MAX), b"'"].concat())
}

/// CLIENT LIST or KILL of a type that does not exist.
pub fn unknown_client_type(name: &[u8]) -> Vec<u8> {
    one_line([b"ERR Unknown client type '", c_string(name, usize::MAX), b"'"].concat())
}

/// CLIENT KILL of a user who does not exist.
pub fn no_such_user(name: &[u8]) -> Vec<u8> {
    one_line([b"ERR No such user '", c_string(name, usize::MAX), b"'"].concat())
}

/// CLIENT SETINFO of an attribute that does not exist. Redis 7.2 and later.
pub fn setinfo_option(attribute: &[u8]) -> Vec<u8> {
    one_line([b"ERR Unrecognized option '", c_string(attribute, usize::MAX), b"'"].concat())
}

/// CLIENT SETINFO of a value with a byte outside of `!`..`~`. Redis 7.2 and later.
pub fn setinfo_value(attribute: &[u8]) -> Vec<u8> {
    let tail: &[u8] = b" cannot contain spaces, newlines or special characters.";
    one_line([b"ERR ", c_string(attribute, usize::MAX), tail].concat())
}

/// Whether Redis closes the connection on a command of this name, without a reply: it takes it for a
/// browser made to talk to Redis. Compared as a C string, before any table.
pub(super) fn hangs_up(name: &[u8]) -> bool {
    let name = c_string(name, CUT);
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

/// What `%.*s` prints.
fn c_string(bytes: &[u8], max: usize) -> &[u8] {
    let bytes = &bytes[..bytes.len().min(max)];
    &bytes[..memchr::memchr(0, bytes).unwrap_or(bytes.len())]
}

/// Arguments come from the child and may hold line ends, which would break the reply.
fn one_line(mut line: Vec<u8>) -> Vec<u8> {
    for byte in &mut line {
        *byte = encode::one_line(*byte);
    }
    line
}

/// Above `children_max`, as Redis above `maxclients`.
pub(crate) const MAX_CLIENTS: &str = "ERR max number of clients reached";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::with_request;

    #[test]
    fn unknown_commands_are_cut_as_redis_cuts_them() {
        let text = |args: &[&[u8]]| {
            let text = with_request(args, |request| unknown_command(request, Wording::Since7));
            String::from_utf8(text).unwrap()
        };
        assert_eq!(text(&[b"foo"]), "ERR unknown command 'foo', with args beginning with: ");
        assert_eq!(
            text(&[b"f\0oo", b"a\r\nb", b"c\0d"]),
            "ERR unknown command 'f', with args beginning with: 'a  b' 'c' "
        );
        let long = text(&[&[b'n'; 200], &[b'a'; 120], &[b'b'; 120], b"c"]);
        let head = "ERR unknown command '', with args beginning with: ".len() + 128;
        assert_eq!(long.len(), head + 123 + 3 + 5);
    }

    #[test]
    fn unknown_subcommands_name_the_container_as_typed() {
        let text = |args: &[&[u8]]| {
            let text = with_request(args, unknown_subcommand);
            String::from_utf8(text).unwrap()
        };
        assert_eq!(text(&[b"cLi2", b"fo\no\0x"]), "ERR unknown subcommand 'fo o'. Try CLI2 HELP.");
        assert_eq!(text(&[b"client"]), "ERR unknown subcommand ''. Try CLIENT HELP.");
    }

    #[test]
    fn an_abort_carries_the_reason_without_err() {
        let text = exec_aborted(&wrong_arity("exec"));
        let expected =
            "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command";
        assert_eq!(text, expected);
        assert!(exec_aborted(NOAUTH).ends_with("of: NOAUTH Authentication required."));
    }
}
