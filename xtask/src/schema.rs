//! `gen-schema`: writes the JSON schema of the fleet file that editors use.

use std::{fs, io, path::Path};

/// Where the schema is committed, from the workspace root.
const SCHEMA: &str = "docs/fleet.schema.json";

/// Writes the schema of the code as it is. A test of `runtime` fails while the two differ.
pub fn run() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::write(root.join(SCHEMA), testudo_runtime::fleet::schema_text())
}
