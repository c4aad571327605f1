//! What the files of TLS say, read before anything is opened or changed, so that a bad one refuses the whole; and whether
//! what stands in any file has changed. Opens no connection.

use crate::base::error::{Error, Result};
use crate::config::accounts::Hash;
use crate::config::value::Auth;
use crate::config::{Address, ListenUrl, Settings, Upstream, UpstreamPlace, print_of_file};
use crate::transport::tls::{ClientTls, ClientTlsFiles, ServerTls};
use std::path::PathBuf;

/// The certificates and keys of a loop.
#[derive(Debug)]
pub(super) struct Secrets {
    /// For connections to the upstream; none if they are plain.
    pub(super) upstream: Option<ClientTls>,
    /// Of each listener with TLS, until it takes them.
    listeners: Vec<(ListenUrl, Option<ServerTls>)>,
    /// What stands in all files that the settings name, to tell later whether it has changed.
    pub(super) prints: FilePrints,
}

/// A file, the key that names it, and what stood in it.
#[derive(Debug, Default)]
pub(super) struct FilePrints(Vec<(&'static str, PathBuf, Option<Hash>)>);

impl FilePrints {
    fn of(settings: &Settings) -> FilePrints {
        let files = settings.named_files().into_iter();
        FilePrints(files.map(|(key, path)| (key, path.to_owned(), print_of_file(path))).collect())
    }

    /// One line for each file in both in which something else stands now.
    /// What stood in the file that this key names, as a hash; empty where it names none.
    pub(super) fn print_of(&self, key: &str) -> String {
        let found = self.0.iter().find(|(known, ..)| *known == key);
        found.and_then(|(_, _, print)| print.as_ref()).map(Hash::to_hex).unwrap_or_default()
    }

    pub(super) fn changes_to(&self, new: &FilePrints) -> Vec<String> {
        let former =
            |path: &PathBuf| self.0.iter().find(|(_, other, _)| other == path).map(|(.., print)| print);
        let changed =
            new.0.iter().filter(|(_, path, print)| former(path).is_some_and(|former| former != print));
        changed.map(|(key, path, _)| format!("{key}: something else stands in {path:?}")).collect()
    }
}

impl Secrets {
    /// Blocks meanwhile.
    pub(super) fn read(settings: &Settings) -> Result<Secrets> {
        let prints = FilePrints::of(settings);
        let upstream = settings.upstream.as_ref().filter(|upstream| upstream.tls);
        let upstream = upstream.map(|upstream| for_upstream(settings, upstream)).transpose()?;
        let with_tls = settings.listen.iter().filter_map(|url| Some((url, url.tls()?)));
        let load = |(url, tls): (&ListenUrl, &crate::config::endpoint::ListenTls)| {
            let loaded = ServerTls::load(&tls.cert, &tls.key, tls.client_ca.as_deref());
            Ok((url.clone(), loaded.map(Some).map_err(|error| error.within(format!("listen = \"{url}\"")))?))
        };
        Ok(Secrets { upstream, listeners: with_tls.map(load).collect::<Result<_>>()?, prints })
    }

    /// Those of one listener, if it has any.
    pub(super) fn take(&mut self, url: &ListenUrl) -> Option<ServerTls> {
        self.listeners.iter_mut().find(|(of, tls)| of == url && tls.is_some())?.1.take()
    }
}

fn for_upstream(settings: &Settings, upstream: &Upstream) -> Result<ClientTls> {
    let address = match &upstream.place {
        UpstreamPlace::Server(address) => Some(address),
        UpstreamPlace::Watched(watched) => watched.seeds.first(),
    };
    let Some(Address::Tcp { host, .. }) = address else {
        return Err(Error::config(format!("upstream = \"{upstream}\": TLS is for hosts alone")));
    };
    let files = ClientTlsFiles {
        prefix: "tls_",
        ca: settings.tls_ca_file.as_deref(),
        cert: settings.tls_cert_file.as_deref(),
        key: settings.tls_key_file.as_deref(),
        server_name: settings.tls_server_name.as_deref(),
        insecure: settings.tls_insecure,
    };
    ClientTls::load(&files, host)
}

/// Whether a listener lets nobody in who does not show who it is. What is sent in plain over a network is not guarded.
pub(super) fn is_guarded(settings: &Settings, url: &ListenUrl) -> bool {
    url.tls().is_some_and(|tls| tls.client_ca.is_some() || settings.auth != Auth::Broker)
}

/// Said of settings that come into force.
pub(super) fn warn_of_insecurity(settings: &Settings) {
    if let Some(upstream) =
        settings.upstream.as_ref().filter(|upstream| upstream.tls && settings.tls_insecure)
    {
        log::warn!(
            "tls_insecure: the certificate of {upstream} is not checked; whoever stands in between can read and \
             change everything"
        );
    }
}
