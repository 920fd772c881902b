//! What `./test.sh` installs for some of these tests, and how to do without.

use std::{env, fs};

use crate::fleet::repository;

/// Whether the developer asked for the short run, without what would be installed.
pub fn left_out() -> bool {
    let fast = env::var_os("TESTUDO_TEST_FAST").is_some();
    if fast {
        eprintln!("left out: TESTUDO_TEST_FAST is set");
    }
    fast
}

/// Something that `./test.sh` installs: the first of `places` (in the repository, or absolute) that exists.
pub fn tool(places: &[&str]) -> String {
    let found = places
        .iter()
        .map(|place| repository().join(place))
        .find(|path| path.exists());
    let found = found.unwrap_or_else(|| {
        panic!("none of {places:?} is there: run ./test.sh, which installs it, or set TESTUDO_TEST_FAST=1")
    });
    fs::canonicalize(found.parent().unwrap())
        .unwrap()
        .join(found.file_name().unwrap())
        .display()
        .to_string()
}
