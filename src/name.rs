//! Names of streams and groups.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};

/// The name of a stream or of a group: 1 to 255 bytes of UTF-8 without control characters.
///
/// Compared byte for byte: no case folding, no Unicode normalisation. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// Checks a name.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) if it is empty, longer than 255 bytes, or has a
    /// control character in it (NUL and line breaks are some).
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        if name.is_empty() {
            return Err(Error::invalid(
                "a name of a stream or group cannot be empty",
            ));
        }
        if name.len() > Self::MAX_BYTES {
            return Err(Error::invalid(format!(
                "a name has at most {} bytes, this one has {}: {:?}…",
                Self::MAX_BYTES,
                name.len(),
                name.chars().take(32).collect::<String>(),
            )));
        }
        if let Some(control) = name.chars().find(|c| c.is_control()) {
            return Err(Error::invalid(format!(
                "a name cannot have the control character {control:?} in it: {name:?}"
            )));
        }
        Ok(Self(Arc::from(name)))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in [
            "a",
            "orders",
            "Ünï/çødé 🦀",
            "'; DROP TABLE x",
            &"x".repeat(255),
        ] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a\0b", "a\nb", "\u{7f}", "\u{85}", &"x".repeat(256)] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_its_text() {
        let name = Name::new("orders").unwrap();
        assert_eq!(AsRef::<str>::as_ref(&name), "orders");
    }
}
