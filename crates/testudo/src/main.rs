//! `testudo`: security in every service of a fleet, from one binary.
fn main() {}
