//! Several servers of which one is the master: each has its own data and its own role, may hang, go and come back. What had
//! been sent to one that hangs is executed once it goes on, whoever has hung up since.

use super::Sim;
use super::redis::{Redis, ServerDb, Value};
use super::weather::{Role, Weather};

impl Redis {
    /// There are so many servers; the first one is the master.
    pub(super) fn have_servers(&mut self, count: usize) {
        let patience = self.servers[0].patience;
        while self.servers.len() < count {
            self.servers.push(Weather::new(Role::Replica, patience));
        }
        self.witness();
    }

    /// A replica has all that its master has, and nothing else.
    pub(super) fn copy_data(&mut self, from: usize, to: usize) {
        let is_old = |((server, _), _): &(ServerDb, Vec<u8>)| *server == to;
        let old: Vec<_> = self.keys.keys().filter(|key| is_old(key)).cloned().collect();
        for (place, key) in old {
            self.keys.remove(&(place, key.clone()));
            self.ledger.truth.list_is_empty(place, &key, true);
        }
        let of_master = self.keys.iter().filter(|(((server, _), _), _)| *server == from);
        let copies: Vec<_> =
            of_master.map(|(((_, db), key), value)| ((to, *db), key.clone(), value.clone())).collect();
        for (place, key, value) in copies {
            let is_list = matches!(value, Value::List(_));
            self.keys.insert((place, key.clone()), value);
            if is_list {
                self.ledger.truth.list_is_empty(place, &key, false);
            }
        }
        let watches = self.clients.values().filter(|client| client.server == to);
        let watched: Vec<_> = watches.flat_map(|client| client.watched.clone()).collect();
        watched.into_iter().for_each(|(db, key)| self.touch((to, db), &key));
    }

    /// It hangs: the connection is closed by the broker, and the server will find out when it goes on.
    pub(super) fn orphan(&mut self, link: usize, unread: Vec<u8>) {
        let Some(mut client) = self.clients.remove(&link) else { return };
        self.ledger.closed.insert(link);
        client.input.extend(unread);
        self.orphans.push((link, client));
    }

    /// It goes on where it was.
    pub(super) fn wake(&mut self, server: usize) {
        self.servers[server].hangs = false;
        let (own, others) =
            std::mem::take(&mut self.orphans).into_iter().partition(|(_, client)| client.server == server);
        self.orphans = others;
        let own: Vec<_> = own;
        for (link, client) in own {
            self.clients.insert(link, client);
            self.clients.values_mut().for_each(|client| client.frozen = false);
            self.serve(link);
            self.disconnect(link);
        }
        self.witness();
    }
}

impl Sim {
    fn links_to(&self, server: usize) -> Vec<usize> {
        let of = self.conns.iter().filter(|(_, conn)| conn.server == server && conn.dialling.is_none());
        of.map(|(link, _)| *link).collect()
    }

    /// The server closes its connections; what has been sent to it is lost.
    pub(super) fn close_all_to(&mut self, server: usize) {
        for link in self.links_to(server) {
            let Some(conn) = self.conns.get_mut(&link) else { continue };
            conn.to_redis.clear();
            conn.ended = true;
            self.redis.disconnect(link);
            self.end_leaving(link);
        }
    }

    /// Its process is gone.
    pub(super) fn crash(&mut self, server: usize) {
        self.close_all_to(server);
        self.redis.orphans.retain(|(_, client)| client.server != server);
        self.redis.servers[server].crash();
        self.redis.witness();
    }

    pub(super) fn hang(&mut self, server: usize) {
        self.redis.servers[server].hangs = true;
        self.redis.witness();
    }

    /// It becomes what it is to be: a replica has the data of this master. `closes`: its connections end, as when a sentinel
    /// has told it so.
    pub(super) fn demote(&mut self, server: usize, master: usize, closes: bool) {
        self.redis.set_role(server, Role::Replica);
        self.redis.copy_data(master, server);
        if closes {
            self.close_all_to(server);
        }
    }

    /// The last state of its master is the first of its own.
    pub(super) fn promote(&mut self, server: usize, closes: bool) {
        self.redis.set_role(server, Role::Master);
        if closes {
            self.close_all_to(server);
        }
    }
}
