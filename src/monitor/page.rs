//! The status page: one HTML file with its style and script in it, made of the files beside this one. Owns the page and the
//! policy under which a browser shows it. The script asks for `/status.json` and for nothing else; no figure is in the page.

use super::answer::Content;
use sha2::{Digest, Sha256};

const HTML: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// Where they stand in the page.
const STYLE_MARK: &str = "/* page.css */";
const SCRIPT_MARK: &str = "/* page.js */";

/// The page, whole.
#[derive(Debug)]
pub(crate) struct StatusPage {
    html: String,
    policy: String,
}

impl StatusPage {
    /// Puts it together, which takes a moment: the hashes are made here.
    pub(crate) fn new() -> StatusPage {
        let html = HTML.replacen(STYLE_MARK, STYLE, 1).replacen(SCRIPT_MARK, SCRIPT, 1);
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
            base64(&Sha256::digest(SCRIPT)),
            base64(&Sha256::digest(STYLE))
        );
        StatusPage { html, policy }
    }

    /// What is answered to who asks for it.
    pub(crate) fn content(&self) -> Content<'_> {
        Content { media: "text/html; charset=utf-8", policy: &self.policy, body: &self.html }
    }
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= chunk.len() { digit as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }

    /// What a browser hashes is the text between the tags, so the files must not end one, and must stand there as they are.
    #[test]
    fn the_page_is_whole_and_its_parts_are_those_that_are_hashed() {
        for mark in [STYLE_MARK, SCRIPT_MARK] {
            assert_eq!(HTML.matches(mark).count(), 1, "{mark}");
        }
        assert!(HTML.contains(&format!("<style>{STYLE_MARK}</style>")));
        assert!(HTML.contains(&format!("<script>{SCRIPT_MARK}</script>")));
        for part in [STYLE, SCRIPT] {
            assert!(!part.to_lowercase().contains("</s") && !part.contains("<!--"));
        }
        let page = StatusPage::new();
        let Content { body, policy, media } = page.content();
        assert!(body.contains(STYLE) && body.contains(SCRIPT) && media.starts_with("text/html"));
        assert!(policy.contains(&format!("script-src 'sha256-{}'", base64(&Sha256::digest(SCRIPT)))));
        assert!(!policy.contains("-inline") && !policy.contains("-eval"), "{policy}");
    }

    /// Nothing is loaded, nothing is written as HTML, and no style or handler stands in an attribute.
    #[test]
    fn the_page_holds_to_its_policy() {
        for word in
            ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "import(", "XMLHttp"]
        {
            assert!(!SCRIPT.contains(word), "{word}");
        }
        assert_eq!(SCRIPT.matches("fetch(").count(), 1);
        for word in ["style=", "src=", "http:", "https:", " on"] {
            let found = HTML.find(word).map(|at| &HTML[at..HTML.len().min(at + 30)]);
            // The words of the page may contain "on".
            assert!(found.is_none_or(|found| !found.contains('=') || found.starts_with(" on ")), "{found:?}");
        }
        assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
    }
}
