//! Which of the two formats of metrics a client wants, by its Accept header (RFC 9110, 12.5.1).

use super::exposition::Format;

/// OpenMetrics for who asks for it by name and does not prefer plain text; the text format for all others, browsers too.
pub(super) fn format_of<'a>(headers: impl Iterator<Item = &'a str>) -> Format {
    let (mut open, mut text) = (0, Best::default());
    for range in headers.flat_map(|header| header.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let (mut quality, mut version) = (1000, None);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim() {
                name if name.eq_ignore_ascii_case("q") => quality = thousandths(value.trim()),
                name if name.eq_ignore_ascii_case("version") => {
                    version = Some(value.trim().trim_matches('"'))
                }
                _ => {}
            }
        }
        if media.eq_ignore_ascii_case("application/openmetrics-text")
            && matches!(version, None | Some("1.0.0"))
        {
            open = open.max(quality);
        } else if media.eq_ignore_ascii_case("text/plain") && matches!(version, None | Some("0.0.4")) {
            text.take(3, quality);
        } else if media.eq_ignore_ascii_case("text/*") {
            text.take(2, quality);
        } else if media == "*/*" {
            text.take(1, quality);
        }
    }
    if open > 0 && open >= text.quality { Format::OpenMetrics } else { Format::Text }
}

/// The quality by the range that names a type most closely.
#[derive(Debug, Default)]
struct Best {
    closeness: u8,
    quality: u32,
}

impl Best {
    fn take(&mut self, closeness: u8, quality: u32) {
        if closeness > self.closeness || closeness == self.closeness && quality > self.quality {
            (self.closeness, self.quality) = (closeness, quality);
        }
    }
}

/// A quality of 0 to 1 in thousandths; what is none counts as nothing.
fn thousandths(text: &str) -> u32 {
    let number = text.parse::<f64>().ok().filter(|number| (0.0..=1.0).contains(number));
    number.map_or(0, |number| (number * 1000.0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: &str = "application/openmetrics-text";

    fn format(header: &str) -> Format {
        format_of([header].into_iter())
    }

    #[test]
    fn open_metrics_is_for_who_asks_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for header in [
            prometheus,
            OPEN,
            "Application/OpenMetrics-Text; Version=\"1.0.0\"",
            "application/openmetrics-text; q=0.5, text/plain; q=0.4",
            "application/openmetrics-text, text/plain",
            "text/plain;q=0.2, */*;q=1, application/openmetrics-text;q=0.3",
        ] {
            assert_eq!(format(header), Format::OpenMetrics, "{header}");
        }
        assert_eq!(format_of(["text/plain;q=0.1", OPEN].into_iter()), Format::OpenMetrics);
    }

    #[test]
    fn all_others_get_text() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for header in [
            browser,
            "",
            "*/*",
            "text/plain",
            "application/*",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=2",
            "application/openmetrics-text;q=-1",
            "application/openmetrics-text;q=x",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;q=0.4, text/plain;q=0.5",
            "application/openmetrics-text;q=0.4, text/*;q=0.5",
            ";;;,,,=;q=;=",
        ] {
            assert_eq!(format(header), Format::Text, "{header}");
        }
        assert_eq!(format_of(std::iter::empty()), Format::Text);
    }
}
