//! Answers as bytes. Every one says how long it is, that it may not be kept, guessed at or used by pages from elsewhere.

use std::fmt::Write;

/// What may be answered, with its words and what is said about it where there is nothing else to say.
macro_rules! statuses {
    ($( $name:ident = $code:literal $reason:literal $about:literal; )+) => {
        /// The status of an answer.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum HttpStatus { $( $name, )+ }

        impl HttpStatus {
            /// Every status, in the order of their discriminants.
            pub(crate) const ALL: &[HttpStatus] = &[$( HttpStatus::$name, )+];

            /// Its number, as text.
            pub(crate) fn code(self) -> &'static str {
                match self { $( HttpStatus::$name => stringify!($code), )+ }
            }

            fn reason(self) -> &'static str {
                match self { $( HttpStatus::$name => $reason, )+ }
            }

            fn about(self) -> &'static str {
                match self { $( HttpStatus::$name => $about, )+ }
            }
        }
    };
}

statuses! {
    Fine = 200 "OK" "ok";
    BadRequest = 400 "Bad Request" "this is no HTTP request, or one that can be read in two ways";
    Forbidden = 403 "Forbidden" "only the status page may read this in a browser";
    NotFound = 404 "Not Found" "there is no such page; / lists them";
    NotAllowed = 405 "Method Not Allowed" "only GET and HEAD are allowed";
    TooSlow = 408 "Request Timeout" "the request has not arrived in time";
    HasBody = 413 "Content Too Large" "no request has a body here";
    Misdirected = 421 "Misdirected Request" "Host must be an IP address, localhost or one of metrics_hosts";
    HeadTooLong = 431 "Request Header Fields Too Large" "the head of the request is too long";
    Unavailable = 503 "Service Unavailable" "there are too many connections";
    OtherVersion = 505 "HTTP Version Not Supported" "only HTTP/1.0 and HTTP/1.1 are understood";
}

/// The type of plain text.
pub(crate) const PLAIN: &str = "text/plain; charset=utf-8";

/// The type of JSON.
pub(crate) const JSON: &str = "application/json";

/// What a browser may do with an answer that is no page: nothing.
const NO_POLICY: &str = "default-src 'none'; frame-ancestors 'none'";

/// What is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Content<'t> {
    /// Its type.
    pub(crate) media: &'t str,
    /// Its Content-Security-Policy.
    pub(crate) policy: &'t str,
    pub(crate) body: &'t str,
}

impl<'t> Content<'t> {
    /// Of what is no page.
    pub(crate) fn new(media: &'t str, body: &'t str) -> Content<'t> {
        Content { media, policy: NO_POLICY, body }
    }
}

/// An answer in full; of one to HEAD, all but the body.
pub(crate) fn answer(status: HttpStatus, content: Content<'_>, head_only: bool, keeps: bool) -> Vec<u8> {
    let Content { media, policy, body } = content;
    let mut out = String::with_capacity(400 + policy.len() + if head_only { 0 } else { body.len() });
    let allow = if status == HttpStatus::NotAllowed { "Allow: GET, HEAD\r\n" } else { "" };
    let connection = if keeps { "keep-alive" } else { "close" };
    // A String takes everything.
    let _ = write!(
        out,
        "HTTP/1.1 {} {}\r\nContent-Type: {media}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nCross-Origin-Resource-Policy: same-origin\r\n\
         Content-Security-Policy: {policy}\r\nReferrer-Policy: no-referrer\r\n{allow}\
         Connection: {connection}\r\n\r\n",
        status.code(),
        status.reason(),
        body.len()
    );
    if !head_only {
        out.push_str(body);
    }
    out.into_bytes()
}

/// An answer that says no more than its status.
pub(crate) fn plain(status: HttpStatus, head_only: bool, keeps: bool) -> Vec<u8> {
    let body = format!("{}\n", status.about());
    answer(status, Content::new(PLAIN, &body), head_only, keeps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_length_and_says_what_may_not_be_done_with_it() {
        for (index, status) in HttpStatus::ALL.iter().copied().enumerate() {
            assert_eq!(status as usize, index);
            let text = String::from_utf8(plain(status, false, true)).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {} ", status.code())), "{head}");
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
            for field in [
                "Cache-Control: no-store",
                "X-Content-Type-Options: nosniff",
                "Cross-Origin-Resource-Policy: same-origin",
                "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'",
                "Referrer-Policy: no-referrer",
            ] {
                assert!(head.contains(&format!("\r\n{field}\r\n")), "{head}");
            }
            assert_eq!(head.contains("Allow: GET, HEAD\r\n"), status == HttpStatus::NotAllowed);
            assert!(!head.contains("Access-Control") && head.ends_with("Connection: keep-alive"));
            let head_only = String::from_utf8(plain(status, true, false)).unwrap();
            assert_eq!(head_only, format!("{}\r\n\r\n", head.replace("keep-alive", "close")));
        }
    }
}
