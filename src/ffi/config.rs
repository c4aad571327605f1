//! `broker_config_t`: settings by name, checked when set. The keys and rules are those of `crate::config`.

use super::border::{self, EndedHandles, Handle, NotMade, Shell, enter, free, gate};
use super::codes::*;
use super::errno;
use super::head::Number;
use super::text::{copy_out, opt_str, own_words, required_str};
use crate::base::error::{Error, ErrorKind};
use crate::config::{ClientSettings, Settings, load_toml, read_document};
use std::ffi::{CString, c_char, c_int};
use std::path::Path;

/// Settings for loops and clients, by name. One configuration can serve any number of both: broker_loop_new() reads the
/// keys of the broker from it, broker_client_new() the keys that begin with "client_". Both copy it, so it may be
/// changed or freed afterwards. Plain memory, for one thread at a time; usable after a fork.
///
/// Methods: broker_config_new, _free, _set, _get, _load, _error.
#[allow(non_camel_case_types)]
pub struct broker_config_t(
    #[expect(dead_code, reason = "reached through a cast pointer")] Shell<broker_config_t>,
);

#[derive(Default)]
pub(super) struct Config {
    pub(super) broker: Settings,
    pub(super) client: ClientSettings,
    words: CString,
}

impl Handle for broker_config_t {
    const SURVIVES_FORK: bool = true;
    type Inner = Config;
    type Beside = ();
    fn ended() -> &'static EndedHandles<Self> {
        static ENDED: EndedHandles<broker_config_t> = EndedHandles::new();
        &ENDED
    }
}

/// Keeps the text of a failure as an object's last one; returns its code.
pub(super) fn fail(words: &mut CString, error: &Error) -> c_int {
    *words = own_words(&error.to_string());
    code_of(error)
}

/// The code for a configuration error. With BROKER_ESYS, errno is set.
pub(super) fn code_of(error: &Error) -> c_int {
    match error.kind() {
        ErrorKind::Config => BROKER_ECONFIG,
        ErrorKind::Limit => BROKER_ELIMIT,
        ErrorKind::System => {
            // Nothing between this and the return to C changes it.
            errno::set(error.os().unwrap_or(0));
            BROKER_ESYS
        }
    }
}

/// The settings of `pointer`; NULL means the defaults.
pub(super) fn read<R>(
    pointer: *const broker_config_t,
    body: impl FnOnce(&Config) -> R,
) -> Result<R, NotMade> {
    if pointer.is_null() {
        return Ok(body(&Config::default()));
    }
    border::read(pointer, body)
        .map_err(|code| NotMade(code, "the configuration has been freed or is in use".to_owned()))
}

/// Creates a configuration with the defaults. Free it with broker_config_free(). NULL only after an internal error.
#[unsafe(no_mangle)]
pub extern "C" fn broker_config_new() -> *mut broker_config_t {
    gate(|| Ok(Shell::create(Number::next(), Config::default(), -1, ()).pointer()))
}

/// Frees the configuration. NULL is BROKER_OK; BROKER_ESTATE the second time.
#[unsafe(no_mangle)]
pub extern "C" fn broker_config_free(config: *mut broker_config_t) -> c_int {
    free(config, |shell| shell.end().map(drop))
}

/// Sets one key; a NULL value restores its default. Keys and values are those of docs/config.md, as in
/// broker.toml: times are milliseconds or text such as "5s", sizes bytes or text such as "64MiB". On failure
/// nothing has changed, and broker_config_error() says what is allowed.
///
/// BROKER_EINVAL for a NULL handle or key; BROKER_ECONFIG for an unknown key or an unacceptable value.
#[unsafe(no_mangle)]
pub extern "C" fn broker_config_set(
    config: *mut broker_config_t,
    key: *const c_char,
    value: *const c_char,
) -> c_int {
    enter(config, |config| {
        let (key, value) = (required_str(key)?, opt_str(value)?);
        let client = crate::config::client_rows().iter().any(|row| row.key == key);
        let outcome = match (client, value) {
            (true, Some(value)) => config.client.set(key, value),
            (true, None) => config.client.unset(key),
            (false, Some(value)) => config.broker.set(key, value),
            (false, None) => config.broker.unset(key),
        };
        outcome.map(|()| BROKER_OK).map_err(|error| fail(&mut config.words, &error))
    })
}

/// Copies the value of a key into `buf` of `len` bytes like snprintf(): truncated if necessary, with a NUL. Returns its
/// full length without the NUL, or a negative code. Passwords are masked. `buf` may be NULL if `len` is 0.
///
/// BROKER_EINVAL for a NULL handle or key; BROKER_ECONFIG for an unknown key.
#[unsafe(no_mangle)]
pub extern "C" fn broker_config_get(
    config: *const broker_config_t,
    key: *const c_char,
    buf: *mut c_char,
    len: usize,
) -> c_int {
    enter(config, |config| {
        let key = required_str(key)?;
        let text = config.client.get_text(key).or_else(|| config.broker.get_text(key));
        Ok(copy_out(&text.ok_or(BROKER_ECONFIG)?, buf, len))
    })
}

/// Reads a broker.toml, including keys that begin with "client_"; keys it does not name keep their values. Blocks for
/// file I/O, without a limit for a FIFO or an unreachable mount; a fork in another thread does not wait for it. On
/// failure nothing has changed.
///
/// BROKER_EINVAL for a NULL; BROKER_ESYS if the file cannot be read; BROKER_ECONFIG for invalid content, with the
/// line number in broker_config_error(), and for more than 1 MiB.
#[unsafe(no_mangle)]
pub extern "C" fn broker_config_load(config: *mut broker_config_t, path: *const c_char) -> c_int {
    gate(|| {
        Shell::of(config)?.check()?;
        let path = required_str(path)?;
        // Without a claim on the handle: reading may take long.
        let text = read_document(Path::new(path));
        Ok(enter(config, |config| {
            let loaded = text.and_then(|text| load_toml(&mut config.broker, &mut config.client, &text, path));
            loaded.map(|()| BROKER_OK).map_err(|error| fail(&mut config.words, &error))
        }))
    })
}

/// The text of this configuration's last failure; "" before the first. Valid until the next call with it. NULL for a NULL
/// handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_config_error(config: *const broker_config_t) -> *const c_char {
    enter(config, |config| Ok(config.words.as_ptr()))
}
