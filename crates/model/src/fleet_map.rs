//! Maps of what the fleet declares.

use std::collections::HashMap;

/// A map whose keys only an administrator adds: names of services, routes and groups, SPIFFE ids, upstreams. It hashes
/// several times faster than the standard library's, which guards against keys that strangers choose so that they
/// collide. A stranger who merely looks something up cannot make it slow.
pub type FleetMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
