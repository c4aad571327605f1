//! The metrics of a loop: one table of kind, name, labels, meaning and reader, from which the documentation is generated
//! too. Names and labels are only ever added. What labels distinguish is few and known to the operator: kinds, roles and
//! executables, of which there is a bound; never a child or a process.
//!
//! A row is `Metric::one(kind, name, help, |lp| number)`, or `Metric::by(kind, name, &["label"], help, |lp, series| ...)`,
//! where the reader adds each number with the values of its labels, `series.add(&[value], number)`, or each histogram. A
//! row is written in one step, so a reader adds one or two thousand numbers at most: 1,500 take half a millisecond.

use super::Loop;
use crate::base::distribution::Distribution;
use crate::base::limits;
use crate::base::log_limit::{log_lines_dropped, log_lines_left_out};
use crate::core::{LaneRole, LeaseKind, RequestTimes};
use crate::monitor::exposition::MetricKind::{Counter, Gauge, Histogram};
use crate::monitor::exposition::{Exposition, Format, MetricKind, MetricValue, Series};
use std::time::Duration;

/// How the numbers of a row are read.
enum MetricReader {
    One(fn(&Loop) -> MetricValue),
    By(fn(&Loop, &mut Series<'_>)),
}

/// One row of the table.
struct Metric {
    kind: MetricKind,
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    reader: MetricReader,
}

impl Metric {
    const fn one(
        kind: MetricKind,
        name: &'static str,
        help: &'static str,
        read: fn(&Loop) -> MetricValue,
    ) -> Metric {
        Metric { kind, name, labels: &[], help, reader: MetricReader::One(read) }
    }

    const fn by(
        kind: MetricKind,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
        read: fn(&Loop, &mut Series<'_>),
    ) -> Metric {
        Metric { kind, name, labels, help, reader: MetricReader::By(read) }
    }

    fn write(&self, lp: &Loop, text: &mut Exposition) {
        let mut series = text.family(self.kind, self.name, self.labels, self.help);
        match self.reader {
            MetricReader::One(read) => series.one(read(lp)),
            MetricReader::By(read) => read(lp, &mut series),
        }
    }
}

fn seconds(ms: u64) -> MetricValue {
    Duration::from_millis(ms).into()
}

fn add_distribution<const N: usize>(series: &mut Series<'_>, values: &[&str], lengths: &Distribution<N>) {
    series.histogram(values, lengths.buckets(), lengths.longer(), lengths.sum());
}

fn add_times(series: &mut Series<'_>, times: &RequestTimes) {
    series.histogram(&[times.name], times.buckets.iter().copied(), times.longer, times.sum);
}

fn by_lease_kind<V: Into<MetricValue>>(series: &mut Series<'_>, read: impl Fn(LeaseKind) -> V) {
    LeaseKind::ALL.into_iter().for_each(|kind| series.add(&[kind.as_str()], read(kind)));
}

static METRICS: &[Metric] = &[
    Metric::by(
        Gauge,
        "broker_build_info",
        &["version"],
        "1, with the version of the broker.",
        |_, series| {
            series.add(&[env!("CARGO_PKG_VERSION")], 1u64);
        },
    ),
    Metric::one(Gauge, "broker_start_time_seconds", "When the loop was created, since 1970.", |lp| {
        lp.started.into()
    }),
    Metric::one(Gauge, "broker_draining", "1 while the broker drains, else 0.", |lp| {
        u64::from(lp.core.is_draining()).into()
    }),
    Metric::one(
        Gauge,
        "broker_paused",
        "1 while requests are held by BROKER PAUSE or UPSTREAM, else 0.",
        |lp| u64::from(lp.core.paused().is_some()).into(),
    ),
    Metric::one(Gauge, "broker_children", "Children connected now, local and adopted ones too.", |lp| {
        lp.core.children_len().into()
    }),
    Metric::one(Gauge, "broker_children_max", "The setting children_max.", |lp| {
        lp.core.settings().children_max.into()
    }),
    Metric::one(Counter, "broker_children_opened_total", "Children that have connected.", |lp| {
        lp.core.counters().children_opened.into()
    }),
    Metric::one(
        Counter,
        "broker_children_refused_total",
        "Children refused because of children_max, children_per_process_max or children_per_uid_max.",
        |lp| lp.core.counters().children_refused.into(),
    ),
    Metric::by(
        Counter,
        "broker_tls_handshake_failures_total",
        &["side"],
        "TLS handshakes that failed, and why is in the log: of children that connect to a tls:// listener, and with the upstream.",
        |lp, series| {
            let (children, upstream) = lp.handshakes.failed();
            series.add(&["child"], children);
            series.add(&["upstream"], upstream);
        },
    ),
    Metric::one(Gauge, "broker_tls_handshakes", "TLS handshakes of children under way.", |lp| {
        lp.handshakes.guests().into()
    }),
    Metric::one(
        Counter,
        "broker_child_requests_total",
        "Requests of children, each counted once, whoever answers it.",
        |lp| lp.core.counters().requests.into(),
    ),
    Metric::one(
        Gauge,
        "broker_requests_in_flight",
        "Requests on lanes that wait for a reply from Redis.",
        |lp| lp.core.requests_in_flight().into(),
    ),
    Metric::by(
        Counter,
        "broker_request_failures_total",
        &["error"],
        "Requests that the broker answered with an error of its own.",
        |lp, series| {
            let counters = lp.core.counters();
            series.add(&["BROKERLOST"], counters.requests_lost);
            series.add(&["BROKERDOWN"], counters.requests_down);
            series.add(&["BROKERLIMIT"], counters.requests_limited);
            series.add(&["BROKERTIMEOUT"], counters.requests_timed_out);
        },
    ),
    Metric::by(
        Histogram,
        "broker_request_seconds",
        &["family"],
        "From a request's arrival to its reply, for requests that go to Redis, without what waits for an element; of the loop's clock, which is read once a turn.",
        |lp, series| {
            lp.core.request_times(true).for_each(|times| add_times(series, &times));
        },
    ),
    Metric::by(
        Histogram,
        "broker_request_part_seconds",
        &["part"],
        "Where that time goes: input (in the child's input), queue (until written), upstream (until the reply), output (until a child that was slow had taken it). Parts that took no time are not counted.",
        |lp, series| {
            lp.core.request_times(false).for_each(|times| add_times(series, &times));
        },
    ),
    Metric::one(
        Counter,
        "broker_slow_requests_total",
        "Requests that took longer than slowlog_threshold.",
        |lp| lp.core.slow_requests().into(),
    ),
    Metric::by(Gauge, "broker_lanes", &["role"], "Lanes that have a connection to Redis.", |lp, series| {
        LaneRole::ALL.into_iter().for_each(|role| series.add(&[role.as_str()], lp.core.lanes_open(role)));
    }),
    Metric::one(Gauge, "broker_lane_output_bytes", "Bytes of requests not yet written to Redis.", |lp| {
        lp.core.lanes_output().into()
    }),
    Metric::by(Gauge, "broker_leases_in_use", &["kind"], "Leased lanes in use.", |lp, series| {
        by_lease_kind(series, |kind| lp.core.leases_lent_for(kind));
    }),
    Metric::by(Gauge, "broker_leases_max", &["kind"], "The settings leases_..._max.", |lp, series| {
        by_lease_kind(series, |kind| kind.cap(lp.core.settings()));
    }),
    Metric::one(Gauge, "broker_leases_idle", "Leased lanes kept ready and not in use.", |lp| {
        lp.core.leases_idle().into()
    }),
    Metric::by(
        Gauge,
        "broker_lease_waiting_children",
        &["kind"],
        "Children that wait for a lease, alone or in a group that has fewer leases than children.",
        |lp, series| by_lease_kind(series, |kind| lp.core.leases_waiting_for(kind)),
    ),
    Metric::by(
        Gauge,
        "broker_lease_longest_wait_seconds",
        &["kind"],
        "How long the child has waited that waits longest, of those that wait alone or in a group without a lease.",
        |lp, series| by_lease_kind(series, |kind| seconds(lp.core.longest_lease_wait(kind))),
    ),
    Metric::one(Gauge, "broker_lease_wait_timeout_seconds", "The setting lease_wait_timeout.", |lp| {
        seconds(lp.core.settings().lease_wait_timeout)
    }),
    Metric::one(
        Gauge,
        "broker_upstream_up",
        "1 while the control connection to Redis is there, else 0.",
        |lp| u64::from(lp.core.upstream_is_up()).into(),
    ),
    Metric::one(
        Gauge,
        "broker_upstream_busy",
        "1 while Redis answers BUSY, since a script runs that does not end, else 0.",
        |lp| u64::from(lp.core.upstream_delay().0).into(),
    ),
    Metric::one(
        Gauge,
        "broker_upstream_longest_wait_seconds",
        "How long the request has been the next to be answered that is so longest, on shared lanes.",
        |lp| seconds(lp.core.upstream_delay().1),
    ),
    Metric::one(Gauge, "broker_upstream_connections", "Connections to Redis, as Redis counts them.", |lp| {
        lp.core.upstream_connections().into()
    }),
    Metric::one(Gauge, "broker_upstream_connections_max", "The setting upstream_connections_max.", |lp| {
        lp.core.settings().upstream_connections_max.into()
    }),
    Metric::one(Counter, "broker_upstream_connects_total", "Attempts to connect to Redis.", |lp| {
        lp.core.counters().upstream_connects.into()
    }),
    Metric::one(Counter, "broker_upstream_connect_failures_total", "Of these, the failed ones.", |lp| {
        lp.core.counters().upstream_connect_failures.into()
    }),
    Metric::one(
        Counter,
        "broker_upstream_losses_total",
        "Established connections to Redis that broke or had to be closed.",
        |lp| lp.core.counters().upstream_losses.into(),
    ),
    Metric::one(
        Counter,
        "broker_upstream_switches_total",
        "Times that all connections have left a server which is the master no more.",
        |lp| lp.core.counters().upstream_switches.into(),
    ),
    Metric::one(
        Counter,
        "broker_upstream_desyncs_total",
        "Of these, connections closed for replies that violate the protocol.",
        |lp| lp.core.counters().desyncs.into(),
    ),
    Metric::one(Counter, "broker_canaries_total", "Canaries sent (integrity).", |lp| {
        lp.core.counters().canaries.into()
    }),
    Metric::one(
        Counter,
        "broker_canary_failures_total",
        "Of these, those whose reply did not match; each closed a lane.",
        |lp| lp.core.counters().integrity_failures.into(),
    ),
    Metric::one(
        Counter,
        "broker_orphaned_replies_total",
        "Replies that arrived after their child had disconnected.",
        |lp| lp.core.counters().orphaned_replies.into(),
    ),
    Metric::one(
        Counter,
        "broker_children_lost_total",
        "Children closed since what they had asked for was lost with a connection to Redis, or found none.",
        |lp| lp.core.counters().children_lost.into(),
    ),
    Metric::one(
        Counter,
        "broker_subscriber_gaps_total",
        "How often shared subscriptions were made again, with on_subscriber_loss = resubscribe.",
        |lp| lp.core.counters().subscriber_gaps.into(),
    ),
    Metric::one(Gauge, "broker_memory_bytes", "Heap bytes of all queues.", |lp| lp.core.memory().into()),
    Metric::one(Gauge, "broker_memory_max_bytes", "The setting memory_max, which bounds them.", |lp| {
        lp.core.settings().memory_max.into()
    }),
    Metric::by(
        Gauge,
        "broker_suspected_leaks",
        &["kind"],
        "Suspected leaks now: BROKER SHOW LEAKS names them.",
        |lp, series| lp.core.leaks().for_each(|(kind, now, _)| series.add(&[kind], now)),
    ),
    Metric::by(
        Counter,
        "broker_suspected_leaks_found_total",
        &["kind"],
        "Suspected leaks found so far.",
        |lp, series| lp.core.leaks().for_each(|(kind, _, found)| series.add(&[kind], found)),
    ),
    Metric::by(
        Gauge,
        "broker_executable_children",
        &["executable"],
        "Children now, by the program of their process.",
        |lp, series| lp.core.executables().for_each(|(each, now)| series.add(&[each.name()], now)),
    ),
    Metric::by(
        Counter,
        "broker_executable_requests_total",
        &["executable"],
        "Requests of children, by the program of their process, at most a second old.",
        |lp, series| {
            lp.core.executables().for_each(|(each, _)| series.add(&[each.name()], each.done().requests))
        },
    ),
    Metric::by(
        Counter,
        "broker_executable_bytes_total",
        &["executable", "direction"],
        "Bytes that children have sent (in) and taken (out), by the program of their process, at most a second old.",
        |lp, series| {
            for (each, _) in lp.core.executables() {
                series.add(&[each.name(), "in"], each.done().bytes_in);
                series.add(&[each.name(), "out"], each.done().bytes_out);
            }
        },
    ),
    Metric::one(
        Counter,
        "broker_log_lines_dropped_total",
        "Log lines of this program lost because standard error or the journal had no room.",
        |_| log_lines_dropped().into(),
    ),
    Metric::one(
        Counter,
        "broker_log_lines_left_out_total",
        "Log lines of this program that were summed up in one line instead (docs/config.md).",
        |_| log_lines_left_out().into(),
    ),
    Metric::by(
        Histogram,
        "broker_loop_turn_seconds",
        &[],
        "Turns of the loop by processor time, without the wait before them.",
        |lp, series| add_distribution(series, &[], &lp.pace.turns),
    ),
    Metric::by(
        Histogram,
        "broker_loop_lag_seconds",
        &[],
        "How late the loop came to what was due at a time, in whole milliseconds.",
        |lp, series| add_distribution(series, &[], &lp.pace.lags),
    ),
    Metric::one(
        Gauge,
        "broker_loop_longest_turn_seconds",
        "The longest turn since the start, in processor time.",
        |lp| lp.longest_turn().into(),
    ),
    Metric::one(
        Gauge,
        "broker_loop_longest_step_seconds",
        "The longest step since the start, in processor time: what the loop does between two looks at what else is due.",
        |lp| lp.longest_step().0.into(),
    ),
    Metric::one(
        Gauge,
        "broker_http_connections",
        "HTTP connections now, of those who read this page or another.",
        |lp| lp.http.connections_len().into(),
    ),
    Metric::by(
        Counter,
        "broker_http_requests_total",
        &["code"],
        "HTTP requests answered, by status.",
        |lp, series| {
            lp.http.answered().for_each(|(status, count)| series.add(&[status.code()], count));
        },
    ),
];

/// The text of all metrics in the making: some rows in each turn.
#[derive(Debug)]
pub(super) struct Scrape {
    text: Exposition,
    /// The rows that are written.
    written: usize,
}

impl Scrape {
    pub(super) fn new(format: Format) -> Self {
        Scrape { text: Exposition::new(format), written: 0 }
    }
}

impl Loop {
    /// Writes some rows. Once all are written: the type of the text, and the text.
    pub(super) fn go_on_scraping(&self, scrape: &mut Scrape) -> Option<(&'static str, String)> {
        let end = scrape.text.len() + limits::HTTP_SLICE;
        while scrape.text.len() < end {
            let Some(metric) = METRICS.get(scrape.written) else {
                let format = scrape.text.format();
                let text = std::mem::replace(&mut scrape.text, Exposition::new(format));
                return Some((format.media(), text.end()));
            };
            metric.write(self, &mut scrape.text);
            scrape.written += 1;
        }
        None
    }

    /// Every metric with its kind, its labels and its meaning, one line each.
    pub fn metrics()
    -> impl Iterator<Item = (&'static str, &'static str, &'static [&'static str], &'static str)> {
        METRICS.iter().map(|metric| (metric.name, metric.kind.as_str(), metric.labels, metric.help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn idle_loop() -> Loop {
        let mut settings = Settings::default();
        settings.set("upstream", "unix:///nonexistent/redis.sock").unwrap();
        Loop::new(settings).unwrap()
    }

    #[test]
    fn a_text_is_written_in_pieces_that_are_whole_rows() {
        let lp = idle_loop();
        for format in [Format::Text, Format::OpenMetrics] {
            let mut scrape = Scrape::new(format);
            let (mut pieces, mut written) = (0, 0);
            let (media, text) = loop {
                if let Some(whole) = lp.go_on_scraping(&mut scrape) {
                    break whole;
                }
                pieces += 1;
                assert!(scrape.written > written && scrape.text.len() >= pieces * limits::HTTP_SLICE);
                written = scrape.written;
            };
            assert!(pieces > 5 && media == format.media());
            let types: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
            assert_eq!(types.len(), METRICS.len());
            for (line, metric) in types.iter().zip(METRICS) {
                let is_open = format == Format::OpenMetrics;
                let name = if is_open { metric.name.trim_end_matches("_total") } else { metric.name };
                assert_eq!(*line, format!("# TYPE {name} {}", metric.kind.as_str()));
            }
        }
    }

    #[test]
    fn names_are_as_prometheus_has_them() {
        for metric in METRICS {
            let name = metric.name;
            assert!(name.starts_with("broker_"), "{name}");
            for label in metric.labels.iter().chain([&name]) {
                let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
                assert!(label.bytes().all(plain) && !["le", "quantile"].contains(label), "{label}");
            }
            assert_eq!(name.ends_with("_total"), metric.kind == Counter, "{name}");
            let forbidden = ["_count", "_sum", "_bucket", "_created", "_ms", "_us", "_milliseconds"];
            assert!(!forbidden.iter().any(|end| name.ends_with(end)), "{name}");
            // OpenMetrics leaves out the end of a counter's name where it describes it.
            let described = |metric: &Metric| metric.name.trim_end_matches("_total");
            assert_eq!(
                METRICS.iter().filter(|other| described(other) == described(metric)).count(),
                1,
                "{name}"
            );
        }
    }
}
