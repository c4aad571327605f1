//! Metrics as text: version 0.0.4 of Prometheus' text format, and OpenMetrics 1.0. Owns the text that is being written,
//! family by family; knows no metric.
//!
//! Written here rather than by the crate `prometheus-client`: that one writes OpenMetrics alone, for which 0.0.4 cannot
//! stand in, and its `Collector` must be `Sync` and own what it reads, while every number here is read from a loop that
//! only its own thread may touch. Two formats from one table are a hundred lines; two libraries would have to agree.

use std::fmt::Write;
use std::time::Duration;

/// How the text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Version 0.0.4 of Prometheus' own, which browsers show.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The type of the whole text.
    pub(crate) fn media(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What kind of numbers a family has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetricKind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// As it is now.
    Gauge,
    /// How often something was how long, in seconds.
    Histogram,
}

impl MetricKind {
    /// Its name in both formats.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        }
    }
}

/// A number as it is written: whole ones exactly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum MetricValue {
    /// A count.
    Whole(u64),
    /// Anything else, such as seconds.
    Real(f64),
}

impl From<u64> for MetricValue {
    fn from(number: u64) -> Self {
        MetricValue::Whole(number)
    }
}

impl From<usize> for MetricValue {
    fn from(number: usize) -> Self {
        MetricValue::Whole(number as u64)
    }
}

impl From<Duration> for MetricValue {
    fn from(time: Duration) -> Self {
        MetricValue::Real(time.as_secs_f64())
    }
}

/// The text, as far as it is written.
#[derive(Debug)]
pub(crate) struct Exposition {
    format: Format,
    text: String,
}

impl Exposition {
    /// Nothing yet.
    pub(crate) fn new(format: Format) -> Self {
        Exposition { format, text: String::new() }
    }

    /// How it is written.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Begins a family. Each name is begun once. A counter's name ends in `_total`.
    pub(crate) fn family<'t>(
        &'t mut self,
        kind: MetricKind,
        name: &'t str,
        labels: &'t [&'t str],
        help: &str,
    ) -> Series<'t> {
        debug_assert_eq!(kind == MetricKind::Counter, name.ends_with("_total"), "{name}");
        let is_open = self.format == Format::OpenMetrics;
        // OpenMetrics describes a counter by what it counts.
        let described = if is_open { name.trim_end_matches("_total") } else { name };
        let text = &mut self.text;
        text.extend(["# HELP ", described, " "]);
        escape(text, help, is_open);
        text.extend(["\n# TYPE ", described, " ", kind.as_str(), "\n"]);
        if let Some(unit) = ["seconds", "bytes"].into_iter().find(|unit| is_open && described.ends_with(unit))
        {
            text.extend(["# UNIT ", described, " ", unit, "\n"]);
        }
        Series { text, format: self.format, kind, name, labels }
    }

    /// The whole text; nothing is added to it.
    pub(crate) fn end(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// The numbers of one family.
#[derive(Debug)]
pub(crate) struct Series<'t> {
    text: &'t mut String,
    format: Format,
    kind: MetricKind,
    name: &'t str,
    labels: &'t [&'t str],
}

impl Series<'_> {
    /// The number of a family without labels.
    pub(crate) fn one(&mut self, number: impl Into<MetricValue>) {
        self.add(&[], number);
    }

    /// One number, by the values of the family's labels. No two have the same.
    pub(crate) fn add(&mut self, values: &[&str], number: impl Into<MetricValue>) {
        debug_assert_ne!(self.kind, MetricKind::Histogram, "{}", self.name);
        self.sample("", values, None, number.into());
    }

    /// One histogram, by the same: how many were at most as long as each bound, which grow, and longer than the one before
    /// it; how many were longer than all; and how long all took together.
    pub(crate) fn histogram(
        &mut self,
        values: &[&str],
        buckets: impl Iterator<Item = (Duration, u64)>,
        longer: u64,
        sum: Duration,
    ) {
        debug_assert_eq!(self.kind, MetricKind::Histogram, "{}", self.name);
        let mut count = 0;
        for (bound, in_bucket) in buckets {
            count += in_bucket;
            let mut le = bound.as_secs_f64().to_string();
            if self.format == Format::OpenMetrics && !le.contains('.') {
                le.push_str(".0");
            }
            self.sample("_bucket", values, Some(&le), MetricValue::Whole(count));
        }
        count += longer;
        self.sample("_bucket", values, Some("+Inf"), MetricValue::Whole(count));
        self.sample("_sum", values, None, sum.into());
        self.sample("_count", values, None, MetricValue::Whole(count));
    }

    fn sample(&mut self, suffix: &str, values: &[&str], le: Option<&str>, number: MetricValue) {
        debug_assert_eq!(values.len(), self.labels.len(), "{}", self.name);
        self.text.extend([self.name, suffix]);
        let pairs = self.labels.iter().copied().zip(values.iter().copied()).chain(le.map(|le| ("le", le)));
        let mut separator = "{";
        for (label, value) in pairs {
            self.text.extend([separator, label, "=\""]);
            escape(self.text, value, true);
            self.text.push('"');
            separator = ",";
        }
        if separator == "," {
            self.text.push('}');
        }
        // A String takes everything.
        let _ = match number {
            MetricValue::Whole(number) => writeln!(self.text, " {number}"),
            MetricValue::Real(number) => writeln!(self.text, " {number}"),
        };
    }
}

/// Appends text of one line; the value of a label has quotes besides.
fn escape(out: &mut String, text: &str, quotes: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format) -> String {
        let mut text = Exposition::new(format);
        text.family(MetricKind::Gauge, "memory_bytes", &[], "A \\ and\na \"quote\".").one(7u64);
        let mut series = text.family(MetricKind::Counter, "lost_total", &["why", "who"], "Lost.");
        series.add(&["a\\b\"c\nd", "é"], u64::MAX);
        series.add(&["", "x"], 0u64);
        let mut series = text.family(MetricKind::Histogram, "wait_seconds", &["kind"], "Waits.");
        let buckets = [(Duration::from_micros(250), 2), (Duration::from_secs(1), 3)];
        series.histogram(&["k"], buckets.into_iter(), 4, Duration::from_millis(1500));
        text.end()
    }

    #[test]
    fn the_text_format_is_written_as_prometheus_reads_it() {
        let expected = r#"# HELP memory_bytes A \\ and\na "quote".
# TYPE memory_bytes gauge
memory_bytes 7
# HELP lost_total Lost.
# TYPE lost_total counter
lost_total{why="a\\b\"c\nd",who="é"} 18446744073709551615
lost_total{why="",who="x"} 0
# HELP wait_seconds Waits.
# TYPE wait_seconds histogram
wait_seconds_bucket{kind="k",le="0.00025"} 2
wait_seconds_bucket{kind="k",le="1"} 5
wait_seconds_bucket{kind="k",le="+Inf"} 9
wait_seconds_sum{kind="k"} 1.5
wait_seconds_count{kind="k"} 9
"#;
        assert_eq!(written(Format::Text), expected);
    }

    #[test]
    fn open_metrics_describes_counters_without_their_suffix_and_has_an_end() {
        let expected = r#"# HELP memory_bytes A \\ and\na \"quote\".
# TYPE memory_bytes gauge
# UNIT memory_bytes bytes
memory_bytes 7
# HELP lost Lost.
# TYPE lost counter
lost_total{why="a\\b\"c\nd",who="é"} 18446744073709551615
lost_total{why="",who="x"} 0
# HELP wait_seconds Waits.
# TYPE wait_seconds histogram
# UNIT wait_seconds seconds
wait_seconds_bucket{kind="k",le="0.00025"} 2
wait_seconds_bucket{kind="k",le="1.0"} 5
wait_seconds_bucket{kind="k",le="+Inf"} 9
wait_seconds_sum{kind="k"} 1.5
wait_seconds_count{kind="k"} 9
# EOF
"#;
        assert_eq!(written(Format::OpenMetrics), expected);
    }
}
