//! Headless Chromium: loads one page, lets its script run for some seconds of its own clock, and hands over the document as
//! it is then, what the browser has said of it, and what the page has asked for. Ends in time, with all its processes.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::end_within;

/// A page after its script has run.
pub(crate) struct RenderedPage {
    /// The document, as HTML, without the text of the page's own script: that has all that could ever be shown.
    pub(crate) dom: String,
    /// What the browser has logged; lines of the page's console among it.
    pub(crate) log: String,
    /// The URLs that scripts of the page's origin have asked for.
    pub(crate) asked: Vec<String>,
}

/// The machine may be busy with ten other things.
const LIMIT: Duration = Duration::from_secs(60);

/// Loads `http://HOST:PORT/`, and gives its script five seconds of its own clock, which does not wait for ours.
pub(crate) fn render(origin: &str) -> RenderedPage {
    let directory = tempfile::Builder::new().prefix("chromium-").tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let mut command = Command::new("chromium");
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-extensions"])
        // The browser's own questions lead nowhere.
        .args(["--proxy-server=direct://", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"])
        .args(["--virtual-time-budget=5000", "--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--user-data-dir={}", path("profile").display()))
        .arg(format!("--log-net-log={}", path("net").display()))
        .arg(format!("{origin}/"))
        .env("HOME", directory.path())
        .stdin(Stdio::null())
        .stdout(File::create(path("dom")).expect("a file"))
        .stderr(File::create(path("log")).expect("a file"))
        .process_group(0);
    let mut browser = command.spawn().expect("run chromium; scripts/deps installs it");
    let status = end_within(&mut browser, LIMIT);
    // Its helpers are of its group, and some may outlive it.
    let _ = kill_process_group(Pid::from_child(&browser), Signal::KILL);
    let text =
        |name: &str| String::from_utf8_lossy(&std::fs::read(path(name)).unwrap_or_default()).into_owned();
    let (dom, log) = (text("dom"), text("log"));
    if status.is_none() {
        let _ = browser.wait();
    }
    assert!(status.is_some_and(|status| status.success()), "chromium: {status:?}\n{log}");
    let dom = without_script(&dom);
    RenderedPage { dom, log, asked: asked_by(origin, &text("net")) }
}

/// The element stays.
fn without_script(dom: &str) -> String {
    let start = "<script>\"use strict\";";
    let Some((before, rest)) = dom.split_once(start) else { return dom.to_owned() };
    let end = rest.find("</script>").unwrap_or(rest.len());
    format!("{before}<script>{}", &rest[end..])
}

/// One event stands on each line of the log.
fn asked_by(origin: &str, log: &str) -> Vec<String> {
    let by = format!("\"initiator\":\"{origin}\"");
    let of_page = log.lines().filter(|line| line.contains(&by));
    of_page.filter_map(|line| Some(line.split("\"url\":\"").nth(1)?.split('"').next()?.to_owned())).collect()
}

impl RenderedPage {
    pub(crate) fn shows(&self, text: &str) -> bool {
        self.dom.contains(text)
    }

    /// The title, which a script may change.
    pub(crate) fn title(&self) -> &str {
        let rest = self.dom.split("<title>").nth(1).unwrap_or_default();
        rest.split("</title>").next().unwrap_or_default()
    }
}
