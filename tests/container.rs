//! The recipe of the image and the example for Kubernetes. No image is built and no cluster is asked: what stands there is
//! run with the program under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use yaml_rust2::{Yaml, YamlLoader};

use crate::support::broker::BINARY;
use crate::support::{Broker, Redis, wait_until};

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/container").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(source(name)).expect("readable")
}

/// The documents of the example: the configuration and the deployment.
fn example() -> (Yaml, Yaml) {
    let documents = YamlLoader::load_from_str(&text("sidecar.yaml")).expect("YAML");
    let [config, deployment] = <[Yaml; 2]>::try_from(documents).expect("two documents");
    assert_eq!(
        (config["kind"].as_str(), deployment["kind"].as_str()),
        (Some("ConfigMap"), Some("Deployment"))
    );
    (config, deployment)
}

fn named<'a>(list: &'a Yaml, name: &str) -> &'a Yaml {
    let all = list.as_vec().expect("a list");
    all.iter().find(|one| one["name"].as_str() == Some(name)).unwrap_or_else(|| panic!("no {name}"))
}

fn words(list: &Yaml) -> Vec<&str> {
    list.as_vec().expect("a list").iter().map(|word| word.as_str().expect("a word")).collect()
}

/// A broker with a configuration of these files, but for where it listens and where Redis is.
fn start(config: &str, redis: &Redis) -> (Broker, TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("broker.toml");
    let own = directory.path().display().to_string();
    assert!(config.contains("unix:///run/broker/broker.sock"));
    fs::write(&path, config.replace("unix:///run/broker/", &format!("unix://{own}/"))).expect("writable");
    let config = path.display().to_string();
    let check = Broker::run(&["serve", "--check", "--config", &config]);
    assert!(check.status.success(), "{check:?}");
    // The port of the file may be in use here.
    let metrics = "metrics_listen=tcp://127.0.0.1:0";
    let args = ["serve", "--config", &config, "--upstream", &redis.url(), "--set", metrics];
    (Broker::start_args(&args, 1), directory)
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_sidecar_starts_before_the_application_serves_it_and_ends_after_it() {
    let (config, deployment) = example();
    let pod = &deployment["spec"]["template"]["spec"];
    let sidecar = named(&pod["initContainers"], "broker");
    assert_eq!(sidecar["restartPolicy"].as_str(), Some("Always"), "what makes it a sidecar");
    let args = words(&sidecar["args"]);
    assert_eq!(args, ["--config", "/etc/broker/broker.toml"]);
    let settings = config["data"]["broker.toml"].as_str().expect("the file");

    // The volume with the socket is the same for both, and made safe before.
    let mount = |container: &Yaml| {
        named(&container["volumeMounts"], "broker-socket")["mountPath"].as_str().map(str::to_owned)
    };
    let first = &pod["initContainers"].as_vec().expect("a list")[0];
    let containers = [first, sidecar, named(&pod["containers"], "web")];
    assert!(containers.iter().all(|container| mount(container).as_deref() == Some("/run/broker")));
    assert!(!named(&pod["volumes"], "broker-socket")["emptyDir"].is_badvalue());
    let directory = tempfile::tempdir().expect("a directory");
    let made = directory.path().join("run");
    fs::create_dir(&made).expect("a directory");
    let made = made.display().to_string();
    let command: Vec<&str> = words(&first["command"])
        .iter()
        .map(|word| if *word == "/run/broker" { &*made } else { *word })
        .collect();
    if rustix::process::geteuid().is_root() {
        assert!(Command::new(command[0]).args(&command[1..]).status().expect("run it").success());
    }
    let url = named(&named(&pod["containers"], "web")["env"], "REDIS_URL")["value"].as_str().expect("a URL");
    assert!(settings.contains(&format!("\"{url}?mode=0660\"")));

    // Every probe is answered by the broker with that configuration, on the port it says.
    let redis = Redis::start();
    let (broker, _directory) = start(settings, &redis);
    let port = named(&sidecar["ports"], "broker-metrics")["containerPort"].as_i64().expect("a port");
    assert!(settings.contains(&format!("tcp://0.0.0.0:{port}?insecure=1")));
    broker.connect().expect("PING", "+PONG\r\n");
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let get = &sidecar[probe]["httpGet"];
        assert_eq!(get["port"].as_str(), Some("broker-metrics"));
        let path = get["path"].as_str().expect("a path");
        assert_eq!(broker.http().get(path).status, 200, "{probe}");
    }
    // Without Redis the pod takes no traffic, and nobody restarts the broker for that.
    redis.kill();
    let status =
        |probe: &str| broker.http().get(sidecar[probe]["httpGet"]["path"].as_str().expect("a path")).status;
    wait_until("it is not ready", || status("readinessProbe") == 503);
    assert_eq!((status("startupProbe"), status("livenessProbe")), (200, 200));

    // There is time for the end of both.
    let mut parsed = broker::config::Settings::default();
    parsed.load_toml(settings, "sidecar.yaml").expect("acceptable");
    let hook = words(&named(&pod["containers"], "web")["lifecycle"]["preStop"]["exec"]["command"]);
    let before: u64 = hook[1].parse().expect("seconds");
    let grace = pod["terminationGracePeriodSeconds"].as_i64().expect("seconds").unsigned_abs();
    assert!(grace * 1000 >= before * 1000 + 30_000 + parsed.drain_timeout, "30 s are an application's own");
    let limit = sidecar["resources"]["limits"]["memory"].as_str().and_then(|text| text.strip_suffix("Mi"));
    let limit: usize = limit.and_then(|text| text.parse().ok()).expect("MiB");
    assert!(limit << 20 > parsed.memory_max);
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_image_runs_the_broker_and_asks_it_whether_it_is_well() {
    let recipe = text("Containerfile");
    let line = |start: &str| {
        let found = recipe.lines().find_map(|line| line.strip_prefix(start));
        found.unwrap_or_else(|| panic!("no {start}"))
    };
    let list = |text: &str| -> Vec<String> { serde_json::from_str(text).expect("a list of words") };
    assert_eq!(list(line("ENTRYPOINT ")), ["broker", "serve"]);
    assert_eq!(list(line("CMD ")), ["--config", "/etc/broker/broker.toml"]);
    assert_ne!(line("USER "), "0:0");
    for copied in recipe.lines().filter_map(|line| line.strip_prefix("COPY dist/")) {
        let path = copied.split(' ').next().expect("a path");
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("dist").join(path).exists(), "{path}");
    }
    let redis = Redis::start();
    let (mut broker, _directory) = start(&text("broker.toml"), &redis);
    let (_, check) = line("HEALTHCHECK ").split_once(" CMD ").expect("a command");
    let check = check.replace("/run/broker/broker.sock", &broker.socket().display().to_string());
    assert!(check.contains("broker status "));
    let programs = Path::new(BINARY).parent().expect("a directory").display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    let is_well = || {
        let mut command = Command::new("sh");
        command.arg("-c").arg(&check).env("PATH", &path).status().expect("run it").code()
    };
    broker.connect().expect("PING", "+PONG\r\n");
    assert_eq!(is_well(), Some(0));
    redis.kill();
    wait_until("the upstream is missed", || broker.http().get("/readyz").status == 503);
    assert_eq!(is_well(), Some(0), "no restart would mend it");
    broker.kill();
    assert_eq!(is_well(), Some(1));
}
