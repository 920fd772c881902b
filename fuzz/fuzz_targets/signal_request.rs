#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| testudo_fuzz::parsers::signal_request(data));
