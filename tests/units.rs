//! What systemd is given: the units, the account, the directory, the configuration of the service. `systemd-analyze` and its
//! like read them as systemd would, in a root of the test's own.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::Broker;

const UNITS: [&str; 4] = ["broker.service", "broker@.service", "broker.socket", "broker@.socket"];
/// What `systemd-analyze security` may say of a service, 0 for the best and 10 for the worst. docs/operations.md names it.
const EXPOSURE: &str = "1.7";

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/systemd").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(source(name)).expect("readable")
}

/// A root with the units in it, the targets they name, and a program of the broker's name.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    let units = root.path().join("usr/lib/systemd/system");
    let programs = root.path().join("usr/bin");
    fs::create_dir_all(&units).expect("a directory");
    fs::create_dir_all(&programs).expect("a directory");
    for unit in UNITS {
        fs::copy(source(unit), units.join(unit)).expect("copied");
    }
    for target in [
        "basic",
        "sysinit",
        "shutdown",
        "network",
        "nss-lookup",
        "multi-user",
        "sockets",
        "local-fs",
        "paths",
    ] {
        fs::write(units.join(format!("{target}.target")), "[Unit]\nDescription=a target\n")
            .expect("writable");
    }
    let program = programs.join("broker");
    fs::write(&program, "#!/bin/sh\n").expect("writable");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("settable");
    root
}

/// Everything that a command says, whatever its exit code is.
fn said(command: &mut Command) -> String {
    let output = command.env("LC_ALL", "C").output().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn verified(root: &Path, unit: &str) -> String {
    let mut command = Command::new("systemd-analyze");
    said(command.arg("verify").arg("--man=no").arg(format!("--root={}", root.display())).arg(unit))
}

fn version() -> u32 {
    let text = said(Command::new("systemd-analyze").arg("--version"));
    text.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("systemd 252, say")
}

#[test]
fn systemd_has_nothing_to_say_of_the_units() {
    let root = root();
    for unit in ["broker.service", "broker@name.service", "broker.socket", "broker@name.socket"] {
        assert_eq!(verified(root.path(), unit), "", "{unit}");
    }
    // It would say something.
    let path = root.path().join("usr/lib/systemd/system/broker.service");
    fs::write(&path, text("broker.service").replace("WatchdogSec=", "WatchDogSec=")).expect("writable");
    assert!(verified(root.path(), "broker.service").contains("WatchDogSec"));
    fs::remove_file(root.path().join("usr/bin/broker")).expect("it was there");
    assert!(verified(root.path(), "broker@name.service").contains("/usr/bin/broker"));
}

/// A drop-in for systemd 253 and newer; an older one says that it does not know it.
#[test]
fn a_newer_systemd_reloads_by_a_signal() {
    let root = root();
    let directory = root.path().join("etc/systemd/system/broker.service.d");
    fs::create_dir_all(&directory).expect("a directory");
    fs::copy(source("notify-reload.conf"), directory.join("notify-reload.conf")).expect("copied");
    let said = verified(root.path(), "broker.service");
    if version() >= 253 {
        assert_eq!(said, "");
    } else {
        let unknown: Vec<&str> = said.lines().filter(|line| line.contains("notify-reload.conf")).collect();
        assert_eq!(unknown.len(), 2, "the type and its signal: {said}");
    }
}

#[test]
fn the_exposure_is_what_the_page_says() {
    let root = root();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let page = fs::read_to_string(page).expect("readable");
    for unit in ["broker.service", "broker@name.service"] {
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--no-pager", unit]);
        let said = said(command.arg(format!("--root={}", root.path().display())));
        let score =
            said.lines().find_map(|line| line.split_once("Overall exposure level for ")?.1.split_once(": "));
        let (_, score) = score.unwrap_or_else(|| panic!("{said}"));
        let score: f32 = score.split(' ').next().and_then(|score| score.parse().ok()).expect("a number");
        assert!(score <= EXPOSURE.parse().expect("a number"), "{unit}: {score}");
        if version() == 252 {
            assert_eq!(score.to_string(), EXPOSURE, "{unit}");
        }
    }
    assert!(page.contains(&format!("scores {EXPOSURE}")), "docs/operations.md");
}

/// What a change of one must not forget in the other.
#[test]
fn units_and_templates_say_the_same() {
    for kind in ["service", "socket"] {
        let lines = |name: &str| -> Vec<String> {
            let text = text(name);
            let lines =
                text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("Description="));
            lines.map(|line| line.replace("%i", "broker")).collect()
        };
        assert_eq!(lines(&format!("broker@.{kind}")), lines(&format!("broker.{kind}")));
    }
}

/// The broker reads of its children what these would hide.
#[test]
fn no_unit_hides_who_the_children_are() {
    for unit in ["broker.service", "broker@.service"] {
        let text = text(unit);
        let lines: BTreeSet<&str> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        for hiding in
            ["ProtectProc", "ProcSubset", "PrivateUsers", "PrivatePIDs", "PrivateNetwork", "DynamicUser"]
        {
            assert!(!lines.contains(hiding), "{unit}: {hiding}");
        }
        for hardening in ["NoNewPrivileges", "ProtectSystem", "SystemCallFilter", "CapabilityBoundingSet"] {
            assert!(lines.contains(hardening), "{unit}: {hardening}");
        }
    }
}

/// Its own words, in a directory that the test has.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_configuration_of_the_service_is_taken_and_the_commands_of_the_units_exist() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("broker.toml");
    let own = directory.path().display().to_string();
    let text = text("broker.toml");
    fs::write(&config, text.replace("unix:///run/broker/", &format!("unix://{own}/"))).expect("writable");
    let config = config.display().to_string();
    let output = Broker::run(&["serve", "--check", "--config", &config]);
    assert!(output.status.success(), "{output:?}");
    for unit in ["broker.service", "broker@.service"] {
        let unit = self::text(unit);
        let start =
            unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/broker ")).expect("a start");
        let words: Vec<&str> = start.split(' ').collect();
        assert_eq!(words[..2], ["serve", "--config"]);
        // The one key that both have to agree on.
        let socket = unit.lines().find_map(|line| line.strip_prefix("ExecReload=")).expect("a reload");
        let name = words[2].trim_start_matches("/etc/broker/").trim_end_matches(".toml");
        assert!(socket.ends_with(&format!(" --socket /run/broker/{name}.sock")), "{socket}");
    }
    assert!(text.contains("\nlisten = [\"unix:///run/broker/broker.sock\"]\n"));
    assert!(self::text("broker.socket").contains("\nListenStream=/run/broker/broker.sock\n"));
}

/// The limit of open files is enough for the defaults, and the store for all listeners there may be.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_limits_of_the_units_are_enough() {
    let unit = text("broker.service");
    let value = |key: &str| -> u64 {
        let value = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{key}"))
    };
    let directory = tempfile::tempdir().expect("a directory");
    let listen = format!("unix://{}/b.sock", directory.path().display());
    let check = |limit: u64| {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -n {limit}; exec \"$0\" \"$@\""));
        command.arg(crate::support::broker::BINARY).args([
            "serve",
            "--check",
            "--upstream",
            "redis://localhost",
        ]);
        command.args(["--listen", &listen]).output().expect("run it")
    };
    let output = check(value("LimitNOFILE").min(ulimit()));
    assert!(output.status.success(), "{output:?}");
    assert!(!check(1000).status.success(), "it would say so");
    // listen, admin_listen, metrics_listen.
    let key = |name: &str| broker::config::rows().iter().find(|row| row.key == name).expect("a key").max;
    let all = key("listen") + key("admin_listen") + key("metrics_listen");
    assert!(value("FileDescriptorStoreMax") >= all, "{all} listeners");
    assert!(unit.contains(&format!("\nEnvironment=FDSTORE={}\n", value("FileDescriptorStoreMax"))));
}

fn ulimit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

#[test]
fn the_account_and_the_directory_are_made() {
    let root = tempfile::tempdir().expect("a directory");
    fs::create_dir_all(root.path().join("etc")).expect("a directory");
    let made = |program: &str, words: &[&str], file: &str| {
        let mut command = Command::new(program);
        command.args(words).arg(format!("--root={}", root.path().display())).arg(source(file));
        let output = command.output().unwrap_or_else(|why| panic!("{program}: {why}"));
        assert!(output.status.success(), "{output:?}");
    };
    if rustix::process::geteuid().is_root() {
        made("systemd-sysusers", &[], "sysusers.conf");
        let users = fs::read_to_string(root.path().join("etc/passwd")).expect("readable");
        let user = users.lines().find(|line| line.starts_with("broker:")).expect("an account");
        assert!(user.ends_with(":/nonexistent:/usr/sbin/nologin"), "{user}");
        made("systemd-tmpfiles", &["--create"], "tmpfiles.conf");
        let mode = fs::metadata(root.path().join("run/broker")).expect("a directory").permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
    } else {
        // Who is not root makes neither; what the lines are is checked all the same.
        made("systemd-sysusers", &["--dry-run"], "sysusers.conf");
        assert!(text("tmpfiles.conf").contains("\nd /run/broker 0755 broker broker -\n"));
    }
}
