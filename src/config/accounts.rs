//! The users of `auth = users`, read once from `auth_file` and checked as a whole. Holds hashes, never a child's
//! password; does not decide who is authenticated.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};
use toml::de::{DeTable, DeValue};

use super::Settings;
use super::endpoint::Secret;
use super::load::{line_of, one_line};
use super::value::{Auth, ParseResult, show};
use crate::base::error::{Error, Result};
use crate::base::peer_certificate::PeerCertificate;

/// Largest `auth_file`, bytes.
pub(super) const FILE_MAX: u64 = 16 * 1024 * 1024;

/// SHA-256 of a password. `Debug` prints `***`, because a weak password can be found from its hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Hash {
    /// The hash of a password as a child sends it.
    pub fn of(password: &[u8]) -> Hash {
        Hash(Sha256::digest(password).into())
    }

    /// In hexadecimal digits.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn from_hex(text: &str) -> Option<Hash> {
        digest_from_hex(text).map(Hash)
    }
}

fn digest_from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

/// One user of `auth_file`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// The name, as in AUTH.
    pub name: String,
    /// Each of these passwords is accepted.
    pub passwords: Vec<Hash>,
    /// Every password is accepted.
    pub nopass: bool,
    /// Whoever shows a certificate with one of these keys is this user: SHA-256 of its SubjectPublicKeyInfo.
    pub certificate_keys: Vec<[u8; 32]>,
    /// The same of one with one of these URIs among its subject alternative names.
    pub certificate_uris: Vec<String>,
    /// The upstream user of its requests; the broker's own user when `None`.
    pub upstream: Option<(String, Secret)>,
    /// If not empty, the only commands it may run.
    pub commands_allow: Vec<String>,
    /// Commands it may not run.
    pub commands_deny: Vec<String>,
    /// Its scripts may call commands that it may not run itself.
    pub scripts_trusted: bool,
}

impl Account {
    /// Whether this password is one of the user's. Takes the same time whatever part of it is right.
    pub fn accepts(&self, password: &Hash) -> bool {
        let matches =
            self.passwords.iter().fold(Choice::from(0), |any, hash| any | hash.0.ct_eq(&password.0));
        self.nopass || bool::from(matches)
    }

    /// Whether the key of the certificate is one of the user's.
    pub fn has_key_of(&self, certificate: &PeerCertificate) -> bool {
        self.certificate_keys.contains(&certificate.spki_sha256)
    }

    /// Whether a name of the certificate is one of the user's, byte for byte.
    pub fn is_in(&self, certificate: &PeerCertificate) -> bool {
        certificate.uris.iter().any(|uri| self.certificate_uris.contains(uri))
    }

    /// Whether everybody who could say to be `former` could say to be this one, and is the same user upstream.
    pub fn takes_all_of(&self, former: &Account) -> bool {
        let has_all = |mine: &[[u8; 32]], theirs: &[[u8; 32]]| theirs.iter().all(|key| mine.contains(key));
        let passwords = self.nopass || former.passwords.iter().all(|hash| self.passwords.contains(hash));
        passwords
            && (self.nopass || !former.nopass)
            && has_all(&self.certificate_keys, &former.certificate_keys)
            && former.certificate_uris.iter().all(|uri| self.certificate_uris.contains(uri))
            && self.upstream == former.upstream
    }

    /// Whether a certificate could name both.
    fn shares_a_certificate_with(&self, other: &Account) -> bool {
        self.certificate_keys.iter().any(|key| other.certificate_keys.contains(key))
            || self.certificate_uris.iter().any(|uri| other.certificate_uris.contains(uri))
    }

    /// Whether the user may run the command of this full name in lower case, `config|get`. A container names
    /// all its subcommands.
    pub fn may_run(&self, name: &str) -> bool {
        !self.denies(name) && (self.commands_allow.is_empty() || names(&self.commands_allow, name))
    }

    /// Whether `commands_deny` names the command, or its container.
    pub fn denies(&self, name: &str) -> bool {
        names(&self.commands_deny, name)
    }
}

fn names(list: &[String], name: &str) -> bool {
    let container = name.split('|').next().unwrap_or(name);
    list.iter().any(|item| *item == name || *item == container)
}

impl Settings {
    /// The users of `auth_file`; none unless `auth = users`. Reads the file, blocking.
    pub fn accounts(&self) -> Result<Vec<Account>> {
        if self.auth != Auth::Users {
            return Ok(Vec::new());
        }
        let none = || Error::config("auth = \"users\": allowed only with auth_file");
        let path = self.auth_file.as_ref().ok_or_else(none)?;
        let refuse = |why: String| Error::config(format!("auth_file = {path:?}: {why}"));
        parse(&read(path).map_err(&refuse)?).map_err(refuse)
    }
}

fn read(path: &Path) -> std::result::Result<String, String> {
    let failed = |error: std::io::Error| format!("cannot be read: {error}");
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length > FILE_MAX {
        return Err(format!("has {length} bytes; allowed are {FILE_MAX}"));
    }
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Errors name the line, the user and the key, and quote no value.
fn parse(text: &str) -> ParseResult<Vec<Account>> {
    let at = |offset: usize, why: String| format!("line {}: {why}", line_of(text, offset));
    let document = DeTable::parse(text)
        .map_err(|error| at(error.span().map_or(0, |span| span.start), one_line(error.message())))?;
    let mut accounts: Vec<Account> = Vec::new();
    for (key, value) in document.get_ref() {
        let start = key.span().start;
        if key.get_ref() != "user" {
            return Err(at(start, format!("unknown key {}; allowed is [[user]]", show(key.get_ref()))));
        }
        let no_list = |start| at(start, "user: allowed is [[user]]".into());
        for user in value.get_ref().as_array().ok_or_else(|| no_list(start))? {
            let start = user.span().start;
            let fields = user.get_ref().as_table().ok_or_else(|| no_list(start))?;
            let account = account(fields).map_err(|why| at(start, why))?;
            if accounts.iter().any(|other| other.name == account.name) {
                return Err(at(start, format!("user {}: named twice", show(&account.name))));
            }
            if let Some(other) = accounts.iter().find(|other| other.shares_a_certificate_with(&account)) {
                let (user, other) = (show(&account.name), show(&other.name));
                return Err(at(start, format!("user {user}: has a certificate of user {other}")));
            }
            accounts.push(account);
        }
    }
    if accounts.is_empty() {
        return Err("names no user; allowed is at least one [[user]]".into());
    }
    Ok(accounts)
}

fn account(fields: &DeTable<'_>) -> ParseResult<Account> {
    let name = fields.get("name").ok_or("a user without a name")?.get_ref();
    let name = name.as_str().filter(|name| is_name(name)).ok_or("name: not a user name")?;
    let refuse = |key: &str, why: &str| format!("user {}: {key}: {why}", show(name));
    let mut account = Account { name: name.to_owned(), ..Account::default() };
    let (mut username, mut password) = (None, None);
    for (key, value) in fields {
        let (key, value) = (&**key.get_ref(), value.get_ref());
        let text = || value.as_str().map(str::to_owned).ok_or_else(|| refuse(key, "not text"));
        let flag = || value.as_bool().ok_or_else(|| refuse(key, "not true or false"));
        let list = || texts(value).ok_or_else(|| refuse(key, "neither text nor a list of texts"));
        match key {
            "name" => {}
            "password_sha256" => {
                let hashes = list()?.iter().map(|text| Hash::from_hex(text)).collect::<Option<_>>();
                account.passwords = hashes.ok_or_else(|| refuse(key, "not 64 hexadecimal digits"))?;
            }
            "certificate_spki_sha256" => {
                let keys = list()?.iter().map(|text| digest_from_hex(text)).collect::<Option<_>>();
                account.certificate_keys = keys.ok_or_else(|| refuse(key, "not 64 hexadecimal digits"))?;
            }
            "certificate_uri" => {
                account.certificate_uris = list()?;
                if account.certificate_uris.iter().any(|uri| !uri.contains(':')) {
                    return Err(refuse(key, "not a URI"));
                }
            }
            "nopass" => account.nopass = flag()?,
            "upstream_username" => username = Some(text()?).filter(|name| is_name(name)),
            "upstream_password" => password = Some(Secret::new(text()?)),
            "commands_allow" => account.commands_allow = lower(list()?),
            "commands_deny" => account.commands_deny = lower(list()?),
            "scripts_trusted" => account.scripts_trusted = flag()?,
            other => return Err(refuse(other, "unknown key")),
        }
    }
    let is_certified = !account.certificate_keys.is_empty() || !account.certificate_uris.is_empty();
    let has_password = !account.passwords.is_empty();
    if account.nopass && has_password || !account.nopass && !has_password && !is_certified {
        let why = "allowed is either this or nopass = true, unless a certificate names the user";
        return Err(refuse("password_sha256", why));
    }
    account.upstream = match (username, password) {
        (Some(name), Some(password)) => Some((name, password)),
        (None, None) if !fields.contains_key("upstream_username") => None,
        _ => return Err(refuse("upstream_username", "allowed only together with upstream_password")),
    };
    Ok(account)
}

/// The rule of Redis: not empty, no space, no NUL.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.bytes().any(|byte| byte == 0 || byte.is_ascii_whitespace())
}

fn lower(names: Vec<String>) -> Vec<String> {
    names.into_iter().map(|name| name.to_ascii_lowercase()).collect()
}

/// One string or a list of strings.
fn texts(value: &DeValue<'_>) -> Option<Vec<String>> {
    let text = |value: &DeValue<'_>| value.as_str().map(str::to_owned);
    match value.as_array() {
        Some(items) => items.iter().map(|item| text(item.get_ref())).collect(),
        None => text(value).map(|text| vec![text]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of "p".
    const P: &str = "148de9c5a7a44d19e56cd9ae1a554bf67847afb0c58f6e12fa29ac7ddfca9940";

    #[test]
    fn a_user_is_what_its_table_says() {
        let text = format!(
            "[[user]]\nname = 'a'\npassword_sha256 = '{P}'\n\n[[user]]\nname = 'b'\n\
             password_sha256 = ['{P}', '{}']\nupstream_username = 'u'\nupstream_password = 'secret'\n\
             commands_allow = ['GET', 'config']\ncommands_deny = 'config|set'\n\n[[user]]\nname = 'default'\n\
             nopass = true\nscripts_trusted = true\n",
            P.to_uppercase()
        );
        let accounts = parse(&text).unwrap();
        assert_eq!(accounts.iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["a", "b", "default"]);
        assert!(accounts[0].accepts(&Hash::of(b"p")) && !accounts[0].accepts(&Hash::of(b"q")));
        assert!(accounts[1].accepts(&Hash::of(b"p")) && accounts[2].accepts(&Hash::of(b"anything")));
        let may = ["get", "set", "config|get", "config|set"].map(|name| accounts[1].may_run(name));
        assert_eq!(may, [true, false, true, false]);
        assert!(accounts[0].may_run("set"));
        assert_eq!(accounts.iter().map(|a| a.scripts_trusted).collect::<Vec<_>>(), [false, false, true]);
        let debug = format!("{accounts:?}");
        assert!(!debug.contains("secret") && !debug.contains("148"), "{debug}");
    }

    #[test]
    fn a_certificate_may_stand_for_a_password() {
        let text = format!(
            "[[user]]\nname = 'a'\ncertificate_spki_sha256 = '{P}'\n\n[[user]]\nname = 'b'\n\
             certificate_uri = ['x:a', 'x:b']\npassword_sha256 = '{P}'\n"
        );
        let accounts = parse(&text).unwrap();
        let key = digest_from_hex(P).unwrap();
        let shown = |uri: &str| PeerCertificate { spki_sha256: key, uris: vec!["x:c".into(), uri.into()] };
        assert!(accounts[0].has_key_of(&shown("x:a")) && !accounts[1].has_key_of(&shown("x:a")));
        assert!(accounts[1].is_in(&shown("x:b")) && !accounts[1].is_in(&shown("x:bb")));
        assert!(!accounts[0].accepts(&Hash::of(b"")), "no password is one without passwords");
        for (fields, error) in [
            ("certificate_spki_sha256 = 'x'", "line 1: user \"c\": certificate_spki_sha256: not 64"),
            ("certificate_uri = 'here'", "line 1: user \"c\": certificate_uri: not a URI"),
            ("certificate_uri = []", "line 1: user \"c\": password_sha256: allowed is either"),
        ] {
            let found = parse(&format!("[[user]]\nname = 'c'\n{fields}")).unwrap_err();
            assert!(found.starts_with(error), "{found}");
        }
        let twice = format!("{text}\n[[user]]\nname = 'c'\ncertificate_uri = 'x:b'\n");
        assert_eq!(parse(&twice).unwrap_err(), "line 10: user \"c\": has a certificate of user \"b\"");
    }

    #[test]
    fn errors_are_one_line_and_name_user_and_key() {
        let user = |fields: &str| format!("[[user]]\nname = 'a'\n{fields}");
        for (text, error) in [
            (String::new(), "names no user"),
            ("x = 1".into(), "line 1: unknown key \"x\"; allowed is [[user]]"),
            ("user = 1".into(), "line 1: user: allowed is [[user]]"),
            ("[[user]]\nnopass = true".into(), "line 1: a user without a name"),
            ("[[user]]\nname = 'a b'".into(), "line 1: name: not a user name"),
            (user("nopass = 1"), "line 1: user \"a\": nopass: not true or false"),
            (user(""), "line 1: user \"a\": password_sha256: allowed is either this or nopass = true"),
            (user("password_sha256 = 'secret'"), "line 1: user \"a\": password_sha256: not 64 hexadecimal"),
            (user("password_sha256 = [1]"), "line 1: user \"a\": password_sha256: neither text nor"),
            (user("password = 'secret'"), "line 1: user \"a\": password: unknown key"),
            (user("nopass = true\nscripts_trusted = 1"), "line 1: user \"a\": scripts_trusted: not true or"),
            (user("nopass = true\nupstream_password = 'secret'"), "line 1: user \"a\": upstream_username: "),
            (user("nopass = true\n\n[[user]]\nname='a'\nnopass=true"), "line 5: user \"a\": named twice"),
            ("[[user]]\nname = 'secret".into(), "line 2: "),
        ] {
            let found = parse(&text).unwrap_err();
            assert!(found.starts_with(error), "{text}: {found}");
            assert!(!found.contains('\n') && !found.contains("secret"), "{found}");
        }
    }
}
