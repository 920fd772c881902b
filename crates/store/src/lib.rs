//! The sealed record store: nothing is readable at rest.
