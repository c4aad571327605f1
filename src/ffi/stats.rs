//! The names of a loop's statistics as C strings. Owns nothing else: the values are the loop's.

use crate::reactor::Loop;
use std::ffi::{CStr, CString};
use std::sync::OnceLock;

/// The name of statistic `i`.
pub(super) fn name(i: usize) -> Option<&'static CStr> {
    static NAMES: OnceLock<Vec<CString>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        Loop::stat_names().iter().map(|name| CString::new(*name).unwrap_or_default()).collect()
    });
    names.get(i).map(CString::as_c_str)
}
