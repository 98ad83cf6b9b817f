//! What stands behind `redb:` in a URL.

use crate::error::{Error, Result};

/// Refuses what looks like the path of a file and is meant as something else, before a file is made
/// of it.
pub(crate) fn check_url(path: &str) -> Result<()> {
    let refuse = |what: &str| Err(Error::invalid(format!("\"redb:{path}\" {what}")));
    if path.is_empty() {
        return refuse("has no path: use a file, as in redb:orders.redb");
    }
    if let Some(rest) = path.strip_prefix("//") {
        let rest = rest.trim_start_matches('/');
        return match rest {
            "" => refuse("has no path: use a file, as in redb:orders.redb"),
            _ => refuse(&format!(
                "names a host, as a URL with two slashes does: use redb:{rest} for a file in the \
                 working directory, or redb:/{rest} for one at the root"
            )),
        };
    }
    if path == ":memory:" {
        return refuse("is not in memory: use memory:");
    }
    if path.contains('?') {
        return refuse(
            "has a question mark, but settings are not part of it: use flowstream::Options",
        );
    }
    if path.trim() != path || path.contains(char::is_control) {
        return Err(Error::invalid(format!(
            "the path {path:?} has white space around it, or control characters in it: remove them"
        )));
    }
    if path.ends_with(std::path::is_separator) {
        return refuse("is a directory: give the path of a file in it");
    }
    Ok(())
}
