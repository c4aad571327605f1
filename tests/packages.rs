//! The Debian packages: what is in them, that one build gives the same ones again, and what apt does with them in a
//! root of the test's own, beside Zeek's libbroker-dev, over older ones and over those of our former names. Packages
//! of others are empty ones of their names, with files where they matter. Needs no network and changes nothing of
//! the machine's own packages. On a machine of another kind than Debian's: `cargo test -- --skip packages`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::made_library;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// An empty directory of the test's own.
pub(crate) fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages").join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a directory");
    path
}

/// Whether a command succeeds, and all that it says.
fn outcome(command: &mut Command) -> (bool, String) {
    let output = command.env("LC_ALL", "C").output().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

pub(crate) fn run(command: &mut Command) -> String {
    let (succeeds, text) = outcome(command);
    assert!(succeeds, "{command:?}\n{text}");
    text
}

/// Makes the packages of one revision, from the program under test and the library that make builds for an install.
pub(crate) fn make(directory: &Path, revision: u32) {
    made_library();
    let mut make = Command::new("make");
    make.current_dir(env!("CARGO_MANIFEST_DIR")).arg("deb");
    make.arg(format!("DEB={}", directory.display())).arg(format!("REVISION={revision}"));
    make.arg(format!("BUILT_BINARY={}", env!("CARGO_BIN_EXE_broker")));
    make.env("SOURCE_DATE_EPOCH", "1750000000").env("DEBEMAIL", "broker@example.org");
    // Packing takes most of the time otherwise.
    make.env("DPKG_DEB_COMPRESSOR_TYPE", "gzip").env("DPKG_DEB_COMPRESSOR_LEVEL", "1");
    // What an outer make says about its own jobs and variables is not meant for this one.
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"] {
        make.env_remove(variable);
    }
    run(&mut make);
}

/// Those of revision 1.
pub(crate) fn packages() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let directory = directory("made");
        make(&directory, 1);
        directory
    })
}

/// What one interface is good for: a minor version while the major one is 0.
fn series() -> String {
    let (major, minor) = (env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"));
    if major == "0" { format!("0.{minor}") } else { major.to_owned() }
}

fn library() -> String {
    format!("libredis-broker{}", series())
}

fn all_names() -> [String; 5] {
    let (library, program) = (library(), "redis-broker");
    [program.into(), format!("{program}-dbgsym"), library.clone(), format!("{library}-dbgsym"), development()]
}

fn development() -> String {
    "libredis-broker-dev".to_owned()
}

/// The one package of this name in a directory.
pub(crate) fn file(directory: &Path, name: &str) -> PathBuf {
    let mut all = fs::read_dir(directory).expect("packages").flatten().map(|entry| entry.path());
    let found = all.find(|path| {
        path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}_")))
    });
    found.unwrap_or_else(|| panic!("no {name} in {}", directory.display()))
}

fn field(package: &str, name: &str) -> String {
    run(Command::new("dpkg-deb").arg("-f").arg(file(packages(), package)).arg(name)).trim().to_owned()
}

/// A package as it lies on the disk, with its control files, for one test.
fn unpacked(test: &str, package: &str) -> PathBuf {
    let directory = directory(&format!("{test}-{package}"));
    run(Command::new("dpkg-deb").arg("-R").arg(file(packages(), package)).arg(&directory));
    directory
}

/// Every file and link below a directory.
fn contents(root: &Path) -> BTreeSet<String> {
    let listing = run(Command::new("find").arg(root).args(["!", "-type", "d", "-printf", "%P\\n"]));
    listing.lines().map(str::to_owned).collect()
}

fn libdir() -> String {
    format!("usr/lib/{}", run(Command::new("dpkg-architecture").arg("-qDEB_HOST_MULTIARCH")).trim())
}

#[test]
fn each_file_is_in_one_package_and_each_package_says_what_it_needs() {
    let mut seen = BTreeSet::new();
    for name in all_names() {
        assert_eq!(field(&name, "Version"), format!("{VERSION}-1"), "{name}");
        let root = unpacked("files", &name);
        for path in contents(&root).into_iter().filter(|path| !path.starts_with("DEBIAN/")) {
            assert!(seen.insert(path.clone()), "{path} is in two packages");
        }
        let sums = fs::read_to_string(root.join("DEBIAN/md5sums")).expect("in every package");
        fs::write(root.join("sums"), sums).expect("writable");
        run(Command::new("md5sum").current_dir(&root).args(["--check", "--quiet", "--strict", "sums"]));
    }
    let libdir = libdir();
    for path in [
        "usr/bin/broker".to_owned(),
        "usr/share/man/man1/broker.1.gz".to_owned(),
        "usr/include/broker.h".to_owned(),
        "usr/share/doc/libredis-broker-dev/docs/c-api.md".to_owned(),
        "usr/share/doc/redis-broker/docs/config.md".to_owned(),
        "usr/share/doc/redis-broker/docs/operations.md".to_owned(),
        "usr/share/doc/redis-broker/dist/prometheus/alerts.yml".to_owned(),
        "usr/share/doc/redis-broker/dist/grafana/broker.json".to_owned(),
        "usr/share/doc/redis-broker/dist/systemd/notify-reload.conf".to_owned(),
        "usr/share/doc/redis-broker/dist/container/sidecar.yaml".to_owned(),
        "usr/lib/systemd/system/broker.service".to_owned(),
        "usr/lib/systemd/system/broker@.service".to_owned(),
        "usr/lib/systemd/system/broker.socket".to_owned(),
        "usr/lib/systemd/system/broker@.socket".to_owned(),
        "usr/lib/sysusers.d/redis-broker.conf".to_owned(),
        "usr/lib/tmpfiles.d/redis-broker.conf".to_owned(),
        "etc/broker/broker.toml".to_owned(),
        "usr/share/doc/redis-broker/changelog.Debian.gz".to_owned(),
        format!("usr/share/doc/{}/copyright", library()),
        format!("{libdir}/libbroker.so"),
        format!("{libdir}/libbroker.so.{}", series()),
        format!("{libdir}/libbroker.so.{VERSION}"),
        format!("{libdir}/libbroker.a"),
        format!("{libdir}/pkgconfig/broker.pc"),
        format!("{libdir}/cmake/broker/brokerConfig.cmake"),
    ] {
        assert!(seen.contains(&path), "{path} is in no package");
    }
    let dashboards: Vec<&String> = seen.iter().filter(|path| path.ends_with("grafana/broker.json")).collect();
    assert_eq!(dashboards.len(), 1, "it is for the program");
    for name in ["redis-broker", &library()] {
        assert!(field(name, "Depends").contains("libc6 (>= 2."), "{name}");
        assert_eq!(field(&format!("{name}-dbgsym"), "Depends"), format!("{name} (= {VERSION}-1)"));
    }
    assert_eq!(field(&development(), "Depends"), format!("{} (= {VERSION}-1)", library()));
    assert_eq!(field(&development(), "Multi-Arch"), "same");
}

/// Programs' packages ask for the version that has what they use. That each symbol is in the file, and no other, is
/// what `make deb` and `make abi-check` look at.
#[test]
fn a_program_depends_on_the_library_by_its_symbols() {
    let root = unpacked("symbols", &library());
    let read =
        |name: &str| fs::read_to_string(root.join("DEBIAN").join(name)).expect("in the library's package");
    let (series, library) = (series(), library());
    assert_eq!(read("shlibs"), format!("libbroker {series} {library} (>= {VERSION})\n"));
    assert_eq!(read("triggers"), "activate-noawait ldconfig\n");
    let symbols = read("symbols");
    assert!(symbols.starts_with(&format!("libbroker.so.{series} {library} #MINVER#\n")), "{symbols}");
    let header = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("include/broker.h"));
    let header = header.expect("readable");
    let node = format!("@BROKER_{series} ");
    let functions: Vec<&str> = symbols
        .lines()
        .filter_map(|line| line.trim_start().split_once(&node))
        .map(|(name, _)| name)
        .collect();
    assert!(functions.len() > 1);
    for name in functions.iter().filter(|name| name.starts_with("broker_")) {
        assert!(header.contains(&format!("{name}(")), "{name}");
    }
}

#[test]
fn debug_symbols_are_found_by_the_build_id() {
    let library_file = format!("{}/libbroker.so.{VERSION}", libdir());
    for (package, path) in [("redis-broker", "usr/bin/broker"), (&*library(), &*library_file)] {
        let (root, debug) = (unpacked("debug", package), unpacked("debug", &format!("{package}-dbgsym")));
        let sections = |path: &Path| run(Command::new("readelf").args(["-S", "-n", "--wide"]).arg(path));
        let stripped = sections(&root.join(path));
        assert!(!stripped.contains(".debug_info") && stripped.contains(".gnu_debuglink"), "{stripped}");
        let id = stripped.split("Build ID: ").nth(1).and_then(|rest| rest.split_whitespace().next());
        let (first, rest) = id.expect("a build id").split_at(2);
        let symbols = sections(&debug.join(format!("usr/lib/debug/.build-id/{first}/{rest}.debug")));
        assert!(symbols.contains(".debug_line") && symbols.contains(".symtab"), "{symbols}");
        assert_eq!(field(&format!("{package}-dbgsym"), "Build-Ids"), format!("{first}{rest}"));
    }
}

#[test]
fn one_build_gives_the_same_packages_again() {
    let (first, again) = (packages(), directory("again"));
    make(&again, 1);
    assert_eq!(contents(&again), contents(first));
    for name in all_names() {
        run(Command::new("cmp").arg(file(&again, &name)).arg(file(first, &name)));
    }
}

/// A root with nothing in it, and a place that apt fetches packages from.
struct Machine {
    directory: PathBuf,
}

impl Machine {
    fn new(name: &str) -> Machine {
        let directory = directory(name);
        let root = directory.join("root");
        for part in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/apt/lists/partial", "var/log/apt"]
        {
            fs::create_dir_all(root.join(part)).expect("a directory");
        }
        for part in ["var/cache/apt/archives/partial", "etc/apt/sources.list.d", "etc/apt/preferences.d"] {
            fs::create_dir_all(root.join(part)).expect("a directory");
        }
        fs::create_dir(directory.join("archive")).expect("a directory");
        fs::write(root.join("var/lib/dpkg/status"), "").expect("writable");
        let archive = format!("deb [trusted=yes] file:{}/archive ./\n", directory.display());
        fs::write(root.join("etc/apt/sources.list"), archive).expect("writable");
        let conf = format!(
            "Dir \"{root}\"; Dir::State::status \"{root}/var/lib/dpkg/status\";\n\
             Dir::Bin::methods \"/usr/lib/apt/methods\"; Dir::Bin::dpkg \"/usr/bin/dpkg\";\n\
             DPkg::Options {{ \"--root={root}\"; \"--force-not-root\"; \"--force-bad-path\"; \"--log=/dev/null\"; \
             \"--force-script-chrootless\"; }};\n\
             DPkg::Use-Pty \"false\"; APT::Sandbox::User \"\"; APT::Get::Assume-Yes \"true\"; APT::Color \"false\";\n",
            root = root.display()
        );
        fs::write(directory.join("apt.conf"), conf).expect("writable");
        let machine = Machine { directory };
        // What ours need of the system.
        machine.stranger("libc6", "9999", "", &[]);
        machine.stranger("libgcc-s1", "9999", "", &[]);
        machine.stranger("systemd", "9999", "", &[]);
        machine
    }

    /// Puts packages of ours into the archive.
    fn offer(&self, packages: &Path) {
        run(Command::new("cp").arg("-r").arg(packages.join(".")).arg(self.directory.join("archive")));
        self.look();
    }

    /// Puts a package that is not of this build into the archive.
    fn stranger(&self, name: &str, version: &str, fields: &str, files: &[&str]) {
        let package = self.directory.join("strangers").join(name);
        fs::create_dir_all(package.join("DEBIAN")).expect("a directory");
        let architecture = run(Command::new("dpkg").arg("--print-architecture"));
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: {}\nMaintainer: nobody <nobody@example.org>\n\
             Description: only the name of a package\n{fields}",
            architecture.trim()
        );
        fs::write(package.join("DEBIAN/control"), control).expect("writable");
        for path in files {
            fs::create_dir_all(package.join(path).parent().expect("a directory")).expect("a directory");
            fs::write(package.join(path), name).expect("writable");
        }
        let mut build = Command::new("dpkg-deb");
        run(build.args(["--root-owner-group", "-b"]).arg(&package).arg(self.directory.join("archive")));
    }

    /// Zeek's messaging library, as Debian has it.
    fn zeeks(&self) {
        let libdir = libdir();
        let (file, link) = (format!("{libdir}/libbroker.so.2"), format!("{libdir}/libbroker.so"));
        self.stranger("libbroker2", "1.4.0+ds1-1", "Multi-Arch: same\n", &[&file]);
        let fields = "Multi-Arch: same\nDepends: libbroker2\n";
        self.stranger("libbroker-dev", "1.4.0+ds1-1", fields, &[&link, "usr/include/broker/broker.hh"]);
        self.look();
    }

    /// Has apt read what the archive holds.
    fn look(&self) {
        let archive = self.directory.join("archive");
        let mut scan = Command::new("dpkg-scanpackages");
        let list = scan.current_dir(&archive).args(["--multiversion", "."]).output().expect("run it").stdout;
        fs::write(archive.join("Packages"), list).expect("writable");
        self.apt(&["update"]);
    }

    fn try_apt(&self, words: &[&str]) -> (bool, String) {
        outcome(Command::new("apt-get").env("APT_CONFIG", self.directory.join("apt.conf")).args(words))
    }

    fn apt(&self, words: &[&str]) -> String {
        let (succeeds, text) = self.try_apt(words);
        assert!(succeeds, "{words:?}: {text}");
        text
    }

    /// What is installed, whole, less what the system has to have.
    fn installed(&self) -> Vec<String> {
        let mut query = Command::new("dpkg-query");
        query.arg(format!("--admindir={}", self.root().join("var/lib/dpkg").display()));
        let list = run(query.args(["-W", "-f", "${Package} ${Version} ${db:Status-Abbrev}\\n"]));
        let whole = list.lines().filter_map(|line| line.trim_end().strip_suffix(" ii"));
        let mut names: Vec<String> =
            whole.filter(|line| !line.ends_with(" 9999")).map(str::to_owned).collect();
        names.sort();
        names
    }

    fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// Every file that belongs to a package, and what their scripts have made, but for the accounts, which stay.
    fn files(&self) -> BTreeSet<String> {
        let mut all = contents(&self.root());
        let accounts = ["etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/.pwd.lock"];
        all.retain(|path| !path.starts_with("var/") && !path.starts_with("etc/apt/"));
        all.retain(|path| !accounts.iter().any(|account| path.trim_end_matches('-') == *account));
        all
    }
}

fn ours(revision: u32, names: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = names.iter().map(|name| format!("{name} {VERSION}-{revision}")).collect();
    all.sort();
    all
}

#[test]
fn beside_zeeks_library_both_stay_and_of_the_development_files_apt_says_why_not() {
    let machine = Machine::new("zeek");
    machine.zeeks();
    machine.offer(packages());
    let (library, theirs) = (library(), ["libbroker-dev 1.4.0+ds1-1", "libbroker2 1.4.0+ds1-1"]);

    // The program and the libraries are no matter to each other.
    machine.apt(&["install", "libbroker-dev"]);
    machine.apt(&["install", "redis-broker", &library]);
    let both = [theirs.map(str::to_owned).to_vec(), ours(1, &[&library, "redis-broker"])].concat();
    assert_eq!(machine.installed(), both);
    let (succeeds, said) = machine.try_apt(&["install", "libredis-broker-dev", "libbroker-dev"]);
    assert!(!succeeds && said.contains("libredis-broker-dev : Conflicts: libbroker-dev"), "{said}");
    assert_eq!(machine.installed(), both);
    let mut dpkg = Command::new("dpkg");
    dpkg.arg(format!("--root={}", machine.root().display())).args([
        "--force-not-root",
        "--force-bad-path",
        "-i",
    ]);
    let (succeeds, said) = outcome(dpkg.arg(file(packages(), "libredis-broker-dev")));
    assert!(!succeeds && said.contains("libredis-broker-dev conflicts with libbroker-dev"), "{said}");

    // Ours stay ours when all is upgraded, though theirs has the higher version.
    machine.apt(&["install", "libredis-broker-dev", "libbroker-dev-"]);
    machine.apt(&["dist-upgrade"]);
    let expected =
        [vec![theirs[1].to_owned()], ours(1, &[&library, "libredis-broker-dev", "redis-broker"])].concat();
    assert_eq!(machine.installed(), expected);
}

#[test]
fn an_upgrade_takes_all_and_a_purge_leaves_nothing() {
    let machine = Machine::new("upgrade");
    machine.offer(packages());
    let names = all_names();
    let words = |first: &[&'static str], names: &[String]| -> Vec<String> {
        first.iter().map(|word| word.to_string()).chain(names.iter().cloned()).collect()
    };
    let apt = |words: Vec<String>| machine.apt(&words.iter().map(String::as_str).collect::<Vec<_>>());
    apt(words(&["install"], &names));
    let before = machine.files();
    let enabled = "etc/systemd/system/multi-user.target.wants/broker.service".to_owned();
    assert!(before.contains(&enabled) && !before.iter().any(|path| path.contains("sockets.target")));
    let users = fs::read_to_string(machine.root().join("etc/passwd")).expect("readable");
    assert!(users.contains("broker:x:"), "{users}");
    // An administrator's decisions stay: what is in the configuration, and that it does not start.
    let config = machine.root().join("etc/broker/broker.toml");
    fs::write(&config, "upstream = \"redis://elsewhere\"\n").expect("writable");
    fs::remove_file(machine.root().join(&enabled)).expect("it was there");
    let next = directory("next");
    make(&next, 2);
    machine.offer(&next);
    machine.apt(&["upgrade"]);
    assert_eq!(machine.installed(), ours(2, &names.each_ref().map(String::as_str)));
    let mut without = before.clone();
    without.remove(&enabled);
    assert_eq!(machine.files(), without);
    assert_eq!(fs::read_to_string(&config).expect("readable"), "upstream = \"redis://elsewhere\"\n");
    let mut verify = Command::new("dpkg");
    let said = run(verify.arg(format!("--root={}", machine.root().display())).arg("--verify").args(&names));
    assert_eq!(said.trim(), "??5?????? c /etc/broker/broker.toml", "what the administrator has changed");
    // What a broker that was stopped leaves behind, and what the administrator has made.
    let socket = machine.root().join("run/broker/broker.sock");
    fs::write(&socket, "").expect("writable");
    let instance = machine.root().join("etc/broker/other.toml");
    fs::write(&instance, "").expect("writable");
    let wants = machine.root().join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants).expect("a directory");
    let link = wants.join("broker@other.service");
    std::os::unix::fs::symlink("/usr/lib/systemd/system/broker@.service", &link).expect("a link");
    apt(words(&["purge"], &names));
    assert_eq!(machine.installed(), Vec::<String>::new());
    assert_eq!(machine.files(), BTreeSet::from(["etc/broker/other.toml".to_owned()]));
}

#[test]
fn the_packages_of_the_former_names_give_way() {
    let machine = Machine::new("former");
    let libdir = libdir();
    machine.stranger("broker", "0.1.0-1", "", &["usr/bin/broker", "usr/share/man/man1/broker.1.gz"]);
    let (file, link) = (format!("{libdir}/libbroker.so.0.1.0"), format!("{libdir}/libbroker.so.0"));
    machine.stranger("libbroker0", "0.1.0-1", "Multi-Arch: same\n", &[&file, &link]);
    let fields = "Multi-Arch: same\nDepends: libbroker0 (= 0.1.0-1)\n";
    let link = format!("{libdir}/libbroker.so");
    machine.stranger("libbroker-dev", "0.1.0-1", fields, &[&link, "usr/include/broker.h"]);
    machine.look();
    machine.apt(&["install", "broker", "libbroker-dev"]);
    assert_eq!(machine.installed(), ["broker 0.1.0-1", "libbroker-dev 0.1.0-1", "libbroker0 0.1.0-1"]);

    machine.offer(packages());
    machine.apt(&["install", "redis-broker", "libredis-broker-dev"]);
    assert_eq!(machine.installed(), ours(1, &[&library(), "libredis-broker-dev", "redis-broker"]));
    machine.apt(&["purge", "redis-broker", "libredis-broker-dev", &library()]);
    assert_eq!(machine.files(), BTreeSet::new());
}
