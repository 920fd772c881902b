//! Configuration, telemetry, readiness, drain and supervised tasks.
