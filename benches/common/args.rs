//! The command line, and what is said before the table.

use crate::common::support;

#[derive(Default)]
pub(crate) struct Args {
    pub(crate) is_quick: bool,
    /// Run by `cargo test`: nothing is measured.
    pub(crate) is_test: bool,
    pub(crate) json: Option<String>,
    pub(crate) dir: Option<String>,
    pub(crate) filter: Option<String>,
}

impl Args {
    /// Ends the process where it is told something that it does not know.
    pub(crate) fn of_process() -> Self {
        match Self::parse(std::env::args().skip(1)) {
            Ok(args) => args,
            Err(problem) => {
                eprintln!("{problem}");
                std::process::exit(2);
            }
        }
    }

    fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self::default();
        let mut is_bench = false;
        let mut args = args;
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => parsed.is_quick = true,
                "--json" => parsed.json = Some(args.next().ok_or("--json needs a file")?),
                "--dir" => parsed.dir = Some(args.next().ok_or("--dir needs a directory")?),
                "--bench" => is_bench = true,
                "--test" | "--list" => parsed.is_test = true,
                // What libtest knows.
                "--test-threads" | "--skip" | "--format" | "--color" | "-Z" => drop(args.next()),
                _ if arg.starts_with('-') => {}
                _ => parsed.filter = Some(arg),
            }
        }
        // cargo says `--bench` for `cargo bench`, and nothing for `cargo test --benches`.
        parsed.is_test |= !is_bench && !parsed.is_quick;
        Ok(parsed)
    }
}

/// Says what the machine is, and what may spoil the figures.
pub(crate) fn describe_machine() {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let file_system = support::file_system();
    println!(
        "{processors} processors; files on {}",
        file_system.as_deref().unwrap_or("an unknown file system")
    );
    if file_system.as_deref() == Some("tmpfs") {
        println!("WARNING: a tmpfs syncs nothing; give a directory on a disk with --dir");
    }
    if let Some(load) = support::load().filter(|load| *load > 0.5) {
        println!("WARNING: the machine is busy (load {load}): a sync may wait for a processor");
    }
}
