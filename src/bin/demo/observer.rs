//! The demo's view of Redis: a direct connection that counts the others.

use broker::base::error::{Error, Result};
use redis::{Client, Connection, RedisError, cmd};
use std::time::Duration;

const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Observer {
    connection: Connection,
    own_id: u64,
    version: String,
    connections_max: usize,
}

impl Observer {
    pub(crate) fn new(url: &str) -> Result<Observer> {
        Self::connect(url).map_err(|error| Error::system(format!("cannot connect to Redis: {error}")))
    }

    fn connect(url: &str) -> std::result::Result<Observer, RedisError> {
        let mut connection = Client::open(url)?.get_connection_with_timeout(REPLY_TIMEOUT)?;
        connection.set_read_timeout(Some(REPLY_TIMEOUT))?;
        let own_id = cmd("CLIENT").arg("ID").query(&mut connection)?;
        let info: String = cmd("INFO").arg("server").query(&mut connection)?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        let version = version.unwrap_or("of unknown version").trim().to_owned();
        Ok(Observer { connection, own_id, version, connections_max: 0 })
    }

    /// Counts once; a failure means that Redis has ended.
    pub(crate) fn sample(&mut self) -> Result<()> {
        let list: String = cmd("CLIENT")
            .arg("LIST")
            .query(&mut self.connection)
            .map_err(|error| Error::system(format!("the private Redis gave no answer: {error}")))?;
        self.connections_max = self.connections_max.max(others(&list, self.own_id));
        Ok(())
    }

    /// The most connections any sample counted, without this one.
    pub(crate) fn connections_max(&self) -> usize {
        self.connections_max
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }
}

fn others(list: &str, own_id: u64) -> usize {
    let own = format!("id={own_id} ");
    list.lines().filter(|line| line.starts_with("id=") && !line.starts_with(&own)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_observer_does_not_count_itself() {
        assert_eq!(others("id=1 addr=a\nid=12 addr=b\nid=2 addr=c\n\n", 1), 2);
    }
}
