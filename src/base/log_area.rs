//! The areas of the program that log lines come from, under the names that operators use, and the modules of each. Owns the
//! table; decides nothing about levels.

/// A part of the program whose log lines have a level of their own.
#[derive(Debug)]
pub struct LogArea {
    /// As in the setting `log_areas` and in the lines themselves.
    pub name: &'static str,
    /// Paths of modules below `broker::`, each with all that is in it. The longest that fits decides.
    modules: &'static [&'static str],
}

const fn area(name: &'static str, modules: &'static [&'static str]) -> LogArea {
    LogArea { name, modules }
}

/// Every area, in the order in which it is documented. The last takes what no other has: lines of other crates.
pub static LOG_AREAS: [LogArea; LOG_AREA_COUNT] = [
    area("child", &["core::child"]),
    area("request", &["core::request", "core::route", "command", "resp"]),
    area("transaction", &["core::transaction"]),
    area("lease", &["core::lease"]),
    area("pubsub", &["core::pubsub"]),
    area("user", &["core::user"]),
    area("questions", &["core::questions"]),
    area("upstream", &["core::connection", "core::janitor", "core::reply", "reactor::dial"]),
    area("leak", &["core::host"]),
    area("console", &["core::console"]),
    area("core", &["core"]),
    area(
        "listener",
        &[
            "reactor::accept",
            "reactor::adopt",
            "reactor::handshakes",
            "reactor::inherit",
            "transport::listener",
        ],
    ),
    area("resolver", &["transport::resolver"]),
    area("reactor", &["reactor", "transport"]),
    area("config", &["config", "core::reload", "reactor::reload"]),
    area("client", &["client"]),
    area("ffi", &["ffi"]),
    area("program", &["serve", "takeover", "layers", "logger", "shared", "systemd", "fd_store"]),
    area("other", &[]),
];

/// How many there are.
pub const LOG_AREA_COUNT: usize = 19;

const OTHER: usize = LOG_AREA_COUNT - 1;

/// The index in `LOG_AREAS` of the area that a record with this target belongs to: the path of its module.
pub fn index_of(target: &str) -> usize {
    let Some(module) = target.strip_prefix("broker::") else { return OTHER };
    let places = LOG_AREAS.iter().enumerate();
    let prefixes = places.flat_map(|(index, area)| area.modules.iter().map(move |prefix| (*prefix, index)));
    let fitting = prefixes.filter(|(prefix, _)| is_within(module, prefix));
    fitting.max_by_key(|(prefix, _)| prefix.len()).map_or(OTHER, |(_, index)| index)
}

/// The name of that area.
pub fn name_of(target: &str) -> &'static str {
    LOG_AREAS[index_of(target)].name
}

/// The index of the area with this name.
pub fn find(name: &str) -> Option<usize> {
    LOG_AREAS.iter().position(|area| area.name == name)
}

fn is_within(module: &str, prefix: &str) -> bool {
    module.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_longest_path_decides() {
        assert_eq!(name_of("broker::core::child::closing"), "child");
        assert_eq!(name_of("broker::core::broker"), "core");
        assert_eq!(name_of("broker::reactor::dial"), "upstream");
        assert_eq!(name_of("broker::reactor::turn"), "reactor");
        // No module of ours has such a name, though it begins as one.
        assert_eq!(name_of("broker::clients"), "other");
        assert_eq!(name_of("another_crate::poll"), "other");
        assert_eq!(name_of("broker"), "other");
    }

    #[test]
    fn names_are_unique_and_found() {
        for (index, area) in LOG_AREAS.iter().enumerate() {
            assert_eq!(find(area.name), Some(index));
            assert!(area.name.bytes().all(|byte| byte.is_ascii_lowercase()), "{}", area.name);
        }
        assert_eq!(find("childs"), None);
    }

    /// A row that names nothing would send the lines of a module that has moved elsewhere.
    #[test]
    fn every_row_names_modules_that_are_there() {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for module in LOG_AREAS.iter().flat_map(|area| area.modules) {
            let path = module.replace("::", "/");
            let is_there =
                |root: &Path| root.join(format!("{path}.rs")).exists() || root.join(&path).is_dir();
            let homes = [src.clone(), src.join("bin"), src.join("bin/broker")];
            assert!(homes.iter().any(|root| is_there(root)), "{module}");
        }
    }
}
