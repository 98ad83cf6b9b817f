#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    // The storage catches what redb panics with on a damaged file; libFuzzer's hook would abort first.
    // A panic that nobody catches still counts.
    init: std::panic::set_hook(Box::new(|info| eprintln!("{info}"))),
    |data: &[u8]| flowstream::fuzzing::run("file", data)
);
