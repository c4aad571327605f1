//! One request: where its head ends, what it asks for, and whether it may. `httparse` reads the head; what it means here
//! is decided here. Nothing but GET and HEAD is understood, and nothing with a body.

use super::accept::format_of;
use super::answer::HttpStatus;
use super::exposition::Format;
use super::host::Hosts;
use crate::base::limits;

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    /// `/`: the status as a page.
    Index,
    /// `/status.json`
    Status,
    /// `/metrics`
    Metrics(Format),
    /// `/healthz`
    Health,
    /// `/readyz`
    Ready,
}

/// A request whose head is complete, or will not be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HttpRequest {
    /// Bytes of its head, the first of the input.
    pub(crate) len: usize,
    /// What it asks for, or what it is answered instead.
    pub(crate) page: Result<Page, HttpStatus>,
    /// It is a HEAD: the answer has no body.
    pub(crate) head_only: bool,
    /// The connection may have another request after it.
    pub(crate) keeps: bool,
}

impl HttpRequest {
    fn refused(status: HttpStatus) -> HttpRequest {
        HttpRequest { len: 0, page: Err(status), head_only: false, keeps: false }
    }
}

/// The first request of the input. `None`: more of it has to come.
pub(crate) fn read(input: &[u8], hosts: Hosts<'_>) -> Option<HttpRequest> {
    let mut fields = [httparse::EMPTY_HEADER; limits::HTTP_FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    // A head that ends beyond the limit is too long even if all of it has come.
    let limited = &input[..input.len().min(limits::HTTP_HEAD_MAX)];
    match request.parse(limited) {
        Ok(httparse::Status::Complete(len)) => Some(understand(&request, len, hosts)),
        Ok(httparse::Status::Partial) if input.len() < limits::HTTP_HEAD_MAX => None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            Some(HttpRequest::refused(HttpStatus::HeadTooLong))
        }
        Err(httparse::Error::Version) => Some(HttpRequest::refused(HttpStatus::OtherVersion)),
        Err(_) => Some(HttpRequest::refused(HttpStatus::BadRequest)),
    }
}

fn understand(request: &httparse::Request<'_, '_>, len: usize, hosts: Hosts<'_>) -> HttpRequest {
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let fields = Fields { all: request.headers };
    let is_newer = request.version == Some(1);
    let (authority, path) = split_target(target);
    let (head_only, body) = (method == "HEAD", check_body(&fields));
    let page = check_host(&fields, authority, is_newer, hosts).and_then(|()| match method {
        "GET" | "HEAD" => body.and_then(|()| page_of(path, &fields)),
        _ => Err(HttpStatus::NotAllowed),
    });
    let wanted =
        !fields.names_in("connection", "close") && (is_newer || fields.names_in("connection", "keep-alive"));
    // A request that was understood, with nothing behind it but the next one.
    let harmless =
        matches!(page, Ok(_) | Err(HttpStatus::Forbidden | HttpStatus::NotFound | HttpStatus::NotAllowed));
    HttpRequest { len, page, head_only, keeps: wanted && harmless && body.is_ok() }
}

fn page_of(path: &str, fields: &Fields<'_, '_>) -> Result<Page, HttpStatus> {
    match path.split_once('?').map_or(path, |(path, _)| path) {
        "/" => Ok(Page::Index),
        "/status.json" => check_site(fields).map(|()| Page::Status),
        "/metrics" => Ok(Page::Metrics(format_of(fields.values("accept")))),
        "/healthz" => Ok(Page::Health),
        "/readyz" => Ok(Page::Ready),
        _ => Err(HttpStatus::NotFound),
    }
}

/// A browser says for whom it asks; nobody else says anything. A page from elsewhere could not read the answer, but is to
/// cause no work either.
fn check_site(fields: &Fields<'_, '_>) -> Result<(), HttpStatus> {
    let is_own = |site: &str| matches!(site, "same-origin" | "none");
    if fields.values("sec-fetch-site").all(is_own) { Ok(()) } else { Err(HttpStatus::Forbidden) }
}

/// A target with a host in it, as proxies get, names that host instead of the header (RFC 9112, 3.2.2).
fn split_target(target: &str) -> (Option<&str>, &str) {
    let scheme = "http://";
    if !target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)) {
        return (None, target);
    }
    let rest = &target[scheme.len()..];
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let path = if rest[end..].starts_with('/') { &rest[end..] } else { "/" };
    (Some(&rest[..end]), path)
}

fn check_host(
    fields: &Fields<'_, '_>,
    authority: Option<&str>,
    is_newer: bool,
    hosts: Hosts<'_>,
) -> Result<(), HttpStatus> {
    let mut named = fields.values("host");
    let (first, second) = (named.next(), named.next());
    if second.is_some() || is_newer && first.is_none() {
        return Err(HttpStatus::BadRequest);
    }
    // What says no host at all was written by hand.
    let host = authority.or(first);
    if host.is_none_or(|host| hosts.allow(host)) { Ok(()) } else { Err(HttpStatus::Misdirected) }
}

/// A body would be read as the next request.
fn check_body(fields: &Fields<'_, '_>) -> Result<(), HttpStatus> {
    let mut lengths = fields.values("content-length");
    let (first, second) = (lengths.next(), lengths.next());
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match (first, fields.values("transfer-encoding").next()) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(HttpStatus::HasBody),
        (Some(text), None) if second.is_none() && is_number(text) => {
            if text.bytes().all(|byte| byte == b'0') { Ok(()) } else { Err(HttpStatus::HasBody) }
        }
        (Some(_), _) => Err(HttpStatus::BadRequest),
    }
}

/// The fields of a head by name.
struct Fields<'h, 'b> {
    all: &'h [httparse::Header<'b>],
}

impl Fields<'_, '_> {
    /// The values of a field. One that is no text is one that means nothing.
    fn values(&self, name: &'static str) -> impl Iterator<Item = &str> {
        let named = self.all.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| std::str::from_utf8(field.value).unwrap_or("\u{fffd}").trim())
    }

    /// Whether the list in this field has this word.
    fn names_in(&self, name: &'static str, word: &str) -> bool {
        self.values(name)
            .flat_map(|value| value.split(','))
            .any(|item| item.trim().eq_ignore_ascii_case(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> HttpRequest {
        let asked = read(text.as_bytes(), Hosts::Named(&[])).expect("a whole head");
        if asked.len > 0 {
            assert_eq!(asked.len, text.len(), "{text}");
        }
        asked
    }

    /// A request of version 1.1 with these lines in its head.
    fn with(first: &str, lines: &str) -> HttpRequest {
        asked(&format!("{first} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n"))
    }

    #[test]
    fn paths_lead_to_pages() {
        for (path, page) in [
            ("/", Ok(Page::Index)),
            ("/status.json", Ok(Page::Status)),
            ("/metrics", Ok(Page::Metrics(Format::Text))),
            ("/metrics?x=/healthz", Ok(Page::Metrics(Format::Text))),
            ("/healthz", Ok(Page::Health)),
            ("/readyz", Ok(Page::Ready)),
            ("http://127.0.0.1:9/readyz", Ok(Page::Ready)),
            ("HTTP://localhost", Ok(Page::Index)),
            ("/Metrics", Err(HttpStatus::NotFound)),
            ("/metrics/", Err(HttpStatus::NotFound)),
            ("/../metrics", Err(HttpStatus::NotFound)),
            ("*", Err(HttpStatus::NotFound)),
        ] {
            let expected = HttpRequest { page, keeps: true, head_only: false, len: 0 };
            assert_eq!(HttpRequest { len: 0, ..with(&format!("GET {path}"), "") }, expected, "{path}");
        }
        assert_eq!(
            with("GET /metrics", "Accept: application/openmetrics-text\r\n").page,
            Ok(Page::Metrics(Format::OpenMetrics))
        );
    }

    #[test]
    fn the_status_is_for_its_own_page_and_for_programs() {
        for (lines, is_allowed) in [
            ("", true),
            ("Sec-Fetch-Site: same-origin\r\n", true),
            ("Sec-Fetch-Site: none\r\n", true),
            ("Sec-Fetch-Site: same-site\r\n", false),
            ("sec-fetch-site: cross-site\r\n", false),
            ("Sec-Fetch-Site: \r\n", false),
            ("Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n", false),
        ] {
            let asked = with("GET /status.json", lines);
            let expected = if is_allowed { Ok(Page::Status) } else { Err(HttpStatus::Forbidden) };
            assert_eq!((asked.page, asked.keeps), (expected, true), "{lines}");
        }
        assert_eq!(
            with("GET /", "Sec-Fetch-Site: cross-site\r\n").page,
            Ok(Page::Index),
            "a link may lead here"
        );
    }

    #[test]
    fn nothing_but_get_and_head_is_allowed() {
        assert!(with("HEAD /metrics", "").head_only);
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "get", "BREW"] {
            let asked = with(&format!("{method} /metrics"), "");
            assert_eq!(
                (asked.page, asked.keeps, asked.head_only),
                (Err(HttpStatus::NotAllowed), true, false),
                "{method}"
            );
        }
    }

    #[test]
    fn a_connection_is_kept_as_its_version_says() {
        assert!(!with("GET /", "Connection: x, Close\r\n").keeps);
        assert!(!asked("GET / HTTP/1.0\r\n\r\n").keeps);
        assert!(asked("GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n").keeps);
        assert!(!asked("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n").keeps);
    }

    #[test]
    fn a_host_is_needed_once_and_must_be_known() {
        let host = |lines: &str| asked(&format!("GET / HTTP/1.1\r\n{lines}\r\n")).page;
        assert_eq!(host("Host: [::1]:9190\r\n"), Ok(Page::Index));
        assert_eq!(host(""), Err(HttpStatus::BadRequest));
        assert_eq!(host("Host: localhost\r\nhost: localhost\r\n"), Err(HttpStatus::BadRequest));
        assert_eq!(host("Host: \u{fffd}\r\n"), Err(HttpStatus::Misdirected));
        assert_eq!(host("Host: evil.example\r\n"), Err(HttpStatus::Misdirected));
        assert_eq!(host("Host:\r\n"), Err(HttpStatus::Misdirected));
        assert!(with("HEAD http://evil.example/", "").head_only, "a refusal of HEAD has no body either");
        assert_eq!(with("GET http://evil.example/metrics", "").page, Err(HttpStatus::Misdirected));
        assert_eq!(asked("GET / HTTP/1.0\r\n\r\n").page, Ok(Page::Index));
        assert_eq!(asked("GET / HTTP/1.0\r\nHost: evil.example\r\n\r\n").page, Err(HttpStatus::Misdirected));
        let unix = read(b"GET / HTTP/1.1\r\nHost: whatever\r\n\r\n", Hosts::Any).unwrap();
        assert_eq!(unix.page, Ok(Page::Index));
        assert_eq!(read(b"GET / HTTP/1.1\r\n\r\n", Hosts::Any).unwrap().page, Err(HttpStatus::BadRequest));
    }

    #[test]
    fn what_has_a_body_is_refused_and_its_connection_closed() {
        for (lines, status) in [
            ("Content-Length: 1\r\n", HttpStatus::HasBody),
            ("Content-Length: 99999999999999999999\r\n", HttpStatus::HasBody),
            ("Transfer-Encoding: chunked\r\n", HttpStatus::HasBody),
            ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", HttpStatus::BadRequest),
            ("Content-Length: 0\r\nContent-Length: 0\r\n", HttpStatus::BadRequest),
            ("Content-Length: -1\r\n", HttpStatus::BadRequest),
            ("Content-Length:\r\n", HttpStatus::BadRequest),
        ] {
            let get = with("GET /metrics", lines);
            assert_eq!((get.page, get.keeps), (Err(status), false), "{lines}");
            let post = with("POST /metrics", lines);
            assert_eq!((post.page, post.keeps), (Err(HttpStatus::NotAllowed), false), "{lines}");
        }
        assert_eq!(with("GET /", "Content-Length: 00\r\n").page, Ok(Page::Index));
    }

    #[test]
    fn heads_are_bounded() {
        let line = format!("X: {}\r\n", "x".repeat(limits::HTTP_HEAD_MAX));
        let whole = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{line}\r\n");
        let part = &whole.as_bytes()[..limits::HTTP_HEAD_MAX];
        assert_eq!(read(&part[..part.len() - 1], Hosts::Any), None);
        for input in [part, whole.as_bytes()] {
            assert_eq!(read(input, Hosts::Any), Some(HttpRequest::refused(HttpStatus::HeadTooLong)));
        }
        let fields = "x: y\r\n".repeat(limits::HTTP_FIELDS_MAX);
        assert_eq!(with("GET /", &fields).page, Err(HttpStatus::HeadTooLong));
    }

    #[test]
    fn what_is_no_http_is_answered_so() {
        for text in [
            "PING\r\n",
            "*1\r\n$4\r\nPING\r\n",
            "\x16\x03\x01\r\n",
            "GET\r\n\r\n",
            "GET / HTTP/1.1\r\nno field\r\n",
        ] {
            assert_eq!(asked(text).page, Err(HttpStatus::BadRequest), "{text}");
        }
        assert_eq!(asked("GET / HTTP/2.0\r\n\r\n").page, Err(HttpStatus::OtherVersion));
        for text in ["", "GET", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: localhost\r\n"] {
            assert_eq!(read(text.as_bytes(), Hosts::Any), None, "{text}");
        }
    }

    /// Whatever bytes there are: no panic, and nothing beyond the input is taken.
    #[test]
    fn arbitrary_bytes_are_read_or_refused() {
        let mut rng = fastrand::Rng::with_seed(7);
        let words: [&[u8]; 12] = [
            b"GET ",
            b"HEAD ",
            b"/metrics",
            b" HTTP/1.1\r\n",
            b" HTTP/1.0\n",
            b"Host: ",
            b"localhost",
            b"http://",
            b"\r\n",
            b": ",
            b"\xff\0",
            b"Content-Length: 0",
        ];
        for _ in 0..20_000 {
            let mut input = Vec::new();
            (0..rng.usize(0..12)).for_each(|_| input.extend_from_slice(words[rng.usize(0..words.len())]));
            (0..rng.usize(0..3)).for_each(|_| {
                let at = rng.usize(0..=input.len());
                input.insert(at, rng.u8(..));
            });
            if let Some(asked) = read(&input, Hosts::Named(&[])) {
                assert!(asked.len <= input.len());
            }
        }
    }
}
