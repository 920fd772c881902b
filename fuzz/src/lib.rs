//! What the fuzz targets run. `cargo +nightly fuzz run <target>`; see `README.md`.

pub mod parsers;
