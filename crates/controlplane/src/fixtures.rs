//! What unit tests start from.

use std::{path::Path, sync::Arc};

use testudo_testkit::{FakeClock, SeededEntropy};
use testudo_trust::RootKey;

use crate::plane::{Plane, PlaneOptions};

/// A plane on a new store in `folder`, today.
pub fn plane(folder: &Path) -> Arc<Plane> {
    let plane = Plane::open(PlaneOptions {
        data: folder.to_owned(),
        root_key: RootKey::from_bytes([1; 32]),
        trust_domain: "bookshop.example".parse().unwrap(),
        issuer: "https://localhost:9443".to_owned(),
        grpc_address: "127.0.0.1:9444".to_owned(),
        clock: FakeClock::today(),
        entropy: SeededEntropy::new(1),
    });
    Arc::new(plane.unwrap())
}
