//! Ports that no other test has.

use std::fs::{self, File};
use std::net::TcpListener;
use std::ops::RangeInclusive;

/// A free port of the loopback, claimed until this is dropped or its process ends: also while its server
/// is down.
pub struct Port {
    number: u16,
    /// Locked.
    _claim: Option<File>,
}

/// Below those that the system gives to whoever asks for any, or connects to somebody.
const PORTS: RangeInclusive<u16> = 20_000..=31_999;

impl Port {
    pub fn claim() -> Self {
        let count = usize::from(*PORTS.end() - *PORTS.start()) + 1;
        // Others begin elsewhere.
        let first = usize::from(any().number) * 31 % count;
        let mut ports = PORTS.cycle().skip(first).take(count);
        ports.find_map(Self::try_claim).unwrap_or_else(any)
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    /// `None` if somebody has it, or had it as another user.
    fn try_claim(number: u16) -> Option<Self> {
        let path = std::env::temp_dir().join("flowstream-ports");
        // Whoever comes first makes it.
        let _ = fs::create_dir(&path);
        let file = File::create(path.join(number.to_string())).ok()?;
        file.try_lock().ok()?;
        TcpListener::bind(("127.0.0.1", number)).ok()?;
        Some(Self {
            number,
            _claim: Some(file),
        })
    }
}

/// One that is free now.
fn any() -> Port {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let number = listener.local_addr().expect("an address").port();
    Port {
        number,
        _claim: None,
    }
}
